/**
 * The connections of a server that only drains: TLS, whose keys Node gives to nobody, and HTTP/2, whose streams and header tables
 * live in a library. Its listener crosses, so new connections go to the next image. Those that are there stay in the old one, which
 * asks them to end in the way of their protocol: `Connection: close` behind the response under way, GOAWAY for HTTP/2; of
 * other TLS connections only the program knows how, and it is told by 'linger'.
 */
import { Server as HttpServer, type ServerResponse } from 'node:http';
import type { ServerHttp2Session } from 'node:http2';
import type { Server } from 'node:net';
import { endAfterResponses } from './last-responses.js';
import { isHttps } from './server-kinds.js';
import type { ServerProtocol } from './server-protocol.js';

export function drainingProtocol(server: Server): ServerProtocol {
  const sessions = new Set<ServerHttp2Session>();
  server.on('session', (session: ServerHttp2Session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
  });
  const responses = new Set<ServerResponse>();
  const isHttp = server instanceof HttpServer || isHttps(server);
  if (isHttp) {
    server.prependListener('request', (_request, response: ServerResponse) => {
      responses.add(response);
      response.once('close', () => responses.delete(response));
    });
  }
  const end = () => {
    for (const session of sessions) session.close();
    if (!isHttp) return;
    for (const response of responses) response.shouldKeepAlive = false;
    endAfterResponses(server);
    server.closeIdleConnections();
  };
  return {
    crosses: false,
    movable: undefined,
    save: undefined,
    checkUpgrade: undefined,
    receive: () => undefined,
    linger: end,
    lastResponses: () => undefined,
  };
}
