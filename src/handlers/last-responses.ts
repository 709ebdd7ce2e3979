import type { Server, ServerResponse } from 'node:http';

/** From now on each response of an HTTP/1 server is the last of its connection, and says so: `Connection: close`. */
export function endAfterResponses(server: Pick<Server, 'prependListener'>): void {
  server.prependListener('request', (_request, response: ServerResponse) => {
    response.shouldKeepAlive = false;
  });
}
