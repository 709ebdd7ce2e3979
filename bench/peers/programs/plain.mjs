/**
 * The service in plain Node, for those that restart it: alone, as a worker of cluster or pm2, or behind a proxy. It leaves as
 * gracefully as Node can: no new connections, replies under way are finished, connections are closed in between, and
 * TCP connections, which have no in between, are ended. So are event streams, which have no end of their own: they would hold
 * the process up to its deadline.
 */
import net from 'node:net';
import {
  BACKLOG,
  createHttpServer,
  deployedVersion,
  sayServing,
  settings,
  stamp,
  talk,
} from './application.mjs';
import { EventStreams } from './event-streams.mjs';

/** How long replies that are under way may take. */
const GRACE_MS = 3000;

const { httpPort, tcpPort, cacheBytes } = settings();
const version = deployedVersion();
const cache = new Uint8Array(cacheBytes);
stamp(cache);
const events = new EventStreams(version);
const openStream = (_, response) => {
  response.flushHeaders();
  events.add(response, {});
};
const http = createHttpServer({ version, counter: { count: 0 }, cache, openStream });
const sockets = new Set();
const tcp = net.createServer((socket) => {
  sockets.add(socket);
  socket.on('close', () => sockets.delete(socket));
  talk(socket, { offset: 0 }, version);
});
const listen = (server, port) =>
  port > 0 ? new Promise((resolve) => server.listen(port, '127.0.0.1', BACKLOG, resolve)) : undefined;

let leaving = false;
function leave() {
  if (leaving) return;
  leaving = true;
  const closed = (server, port) => (port > 0 ? new Promise((resolve) => server.close(resolve)) : undefined);
  void Promise.all([closed(http, httpPort), closed(tcp, tcpPort)]).then(() => process.exit());
  http.closeIdleConnections();
  // Its client would keep the connection for another request.
  events.end(() => http.closeIdleConnections());
  for (const socket of sockets) socket.end();
  setTimeout(() => process.exit(), GRACE_MS);
}
// TERM of a supervisor, INT of pm2.
process.on('SIGTERM', leave);
process.on('SIGINT', leave);

await listen(http, httpPort);
await listen(tcp, tcpPort);
// pm2's wait_ready.
process.send?.('ready');
sayServing(version);
