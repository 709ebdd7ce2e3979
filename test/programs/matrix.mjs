/**
 * A program that holds one file of every built-in handler, whose callbacks fail as fault-injection.mjs is told. It echoes at PORT, answers
 * HTTP at WEB (a unix path) with who it is, and each datagram with its own counts, which are one for all images: a state's and a counter's.
 * For each datagram it says a byte on a connection of its own to UPSTREAM. At CONTROL it tells what it knows of itself. At SIGUSR1 it keeps
 * one thing more, which the next version does not ask for, and tells on stderr how that went.
 */
import './fault-injection.mjs';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { constants, openSync, readFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import tls from 'node:tls';
import { Eventfd, FdFile, KeptChild, liveupdate, OpenFile, Timerfd } from 'liveupdate';
import { createMemfd } from 'liveupdate/linux';

const { PORT, WEB, CONTROL, UPSTREAM, FIFO, LOG } = process.env;
const STEP = 2654435761;
const local = { host: '127.0.0.1' };
const pem = (name) => readFileSync(new URL(`tls/${name}.pem`, import.meta.url));

const lu = await liveupdate();
const total = await lu.state('total', () => ({ datagrams: 0 }));
await lu.state('versioned', () => ({ name: 'two' }), { version: 2 });
const words = new Uint32Array(await lu.memory('cache', 65536));
const datagrams = lu.counter('datagrams');

const upstream = await lu.keep('upstream', async () => {
  const made = net.connect(UPSTREAM);
  await once(made, 'connect');
  return made;
});
const udp = await lu.keep('udp', async () => {
  const made = createSocket('udp4');
  made.bind(0, local.host);
  await once(made, 'listening');
  return made;
});
udp.on('message', (bytes, { port, address }) => {
  total.datagrams++;
  datagrams.add();
  upstream.write('.');
  udp.send(`${bytes} ${total.datagrams} ${datagrams.value}`, port, address);
});
await lu.keep(
  'fifo',
  () => new net.Socket({ fd: openSync(FIFO, constants.O_RDWR | constants.O_NONBLOCK), writable: false }),
);
await lu.keep('eventfd', () => Eventfd.create(1));
await lu.keep('timerfd', () => Timerfd.create());
await lu.keep('memfd', () => new FdFile(createMemfd('matrix', 4096)));
await lu.keep('log', () => OpenFile.open(LOG, 'a'));
const child = await lu.keep('child', () =>
  KeptChild.spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore'] }),
);
await lu.timer('timer', 2 ** 30, () => undefined);

const echo = net.createServer((socket) => {
  socket.on('data', (bytes) => socket.write(bytes));
  socket.on('error', () => socket.destroy());
});
await lu.listen('echo', echo, { ...local, port: Number(PORT) });
const web = http.createServer(({ url }, response) =>
  response.end(JSON.stringify({ generation: lu.generation, pid: process.pid, word: url.split('/')[2] })),
);
await lu.listen('web', web, { path: WEB });
const secret = tls.createServer({ key: pem('key'), cert: pem('cert') });
await lu.listen('tls', secret, { ...local, port: 0 });
const control = net.createServer((socket) => {
  const damaged = words.filter((word, i) => word !== (i * STEP) >>> 0).length;
  const { generation, origin } = lu;
  const report = { pid: process.pid, generation, origin, damaged, udp: udp.address().port, child: child.pid };
  socket.on('error', () => socket.destroy());
  socket.end(JSON.stringify(report));
});
await lu.listen('control', control, { path: CONTROL });
process.on('SIGUSR1', () => {
  const said = (word) => process.stderr.write(`extra: ${word}\n`);
  lu.keep('extra', () => Eventfd.create()).then(
    () => said('kept'),
    ({ code }) => said(code),
  );
});
await lu.ready();
if (lu.origin === 'fresh') for (let i = 0; i < words.length; i++) words[i] = i * STEP;
