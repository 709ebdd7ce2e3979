/**
 * What kind of server one is, by what only that kind has. For TLS it is not asked by its class, since loading node:tls takes 8 ms of each start,
 * and only a program that has such a server needs it. Of HTTP/2 servers without TLS Node exports no class.
 */
import type { Server as HttpsServer } from 'node:https';
import type { Server } from 'node:net';
import type { Server as TlsServer } from 'node:tls';

/** HTTPS and secure HTTP/2 included. */
export function isTls(server: Server): server is TlsServer {
  return has(server, 'setSecureContext');
}

export function isHttps(server: Server): server is HttpsServer {
  return isTls(server) && has(server, 'closeIdleConnections') && !isHttp2(server);
}

/** With TLS or without. */
export function isHttp2(server: Server): boolean {
  return has(server, 'updateSettings');
}

function has(server: Server, method: string): boolean {
  return typeof (server as unknown as Record<string, unknown>)[method] === 'function';
}
