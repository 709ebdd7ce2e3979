/** The service with us. The same file under luod, and without it, where SIGHUP replaces it in place. */
import net from 'node:net';
import { liveupdate } from 'liveupdate';
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

const { httpPort, tcpPort, cacheBytes } = settings();
const version = deployedVersion();
const lu = await liveupdate();
const counter = await lu.state('counter', () => ({ count: 0 }));
const cache = new Uint8Array(await lu.memory('cache', cacheBytes));
if (lu.origin === 'fresh') stamp(cache);
const listen = (name, server, port) => lu.listen(name, server, { host: '127.0.0.1', port, backlog: BACKLOG });
const events = new EventStreams(version);
if (httpPort > 0) {
  // Each with the number that it was told last, so that the next version goes on behind it.
  const openStream = lu.streams('events', (response) => {
    const connection = lu.connection(response);
    connection.state ??= {};
    events.add(response, connection.state);
  });
  await listen('http', createHttpServer({ version, counter, cache, openStream }), httpPort);
}
if (tcpPort > 0) {
  const server = net.createServer((socket) => {
    const connection = lu.connection(socket);
    connection.state ??= { offset: 0 };
    talk(socket, connection.state, version);
  });
  await listen('tcp', server, tcpPort);
}
await lu.ready();
sayServing(version);
