/** A service of every kind at once, for long runs: TCP and WebSocket and UDP echo, HTTP, memory, a state, a counter and a timer. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { liveupdate } from 'liveupdate';
import { WebSocketServer } from 'ws';

const { TCP, WEB, UDP } = process.env;

const lu = await liveupdate();
const total = await lu.state('total', () => ({ bytes: 0, ticks: 0 }));
const memory = new Uint32Array(await lu.memory('memory', 1 << 20));
const requests = lu.counter('requests');

const tcp = net.createServer((socket) => {
  const conn = lu.connection(socket);
  conn.state ??= { bytes: 0 };
  socket.on('data', (bytes) => {
    conn.state.bytes += bytes.length;
    total.bytes += bytes.length;
    socket.write(bytes);
  });
  socket.on('error', () => socket.destroy());
});

const web = http.createServer((request, response) => {
  requests.add();
  const [, what, word] = request.url.split('/');
  const answer = () => response.end(JSON.stringify({ generation: lu.generation, pid: process.pid, word }));
  if (what === 'slow') setTimeout(answer, 30);
  else if (what === 'report') response.end(JSON.stringify(report()));
  else answer();
});
const wss = new WebSocketServer({ server: web });
wss.on('connection', (ws) => ws.on('message', (bytes, isBinary) => ws.send(bytes, { binary: isBinary })));

const udp = await lu.keep('udp', async () => {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 1 << 20 });
  socket.bind(Number(UDP), '127.0.0.1');
  await once(socket, 'listening');
  return socket;
});
udp.on('message', (bytes, { port, address }) => udp.send(bytes, port, address));

await lu.timer('ticks', 100, () => total.ticks++, { interval: 100 });

function report() {
  let damaged = 0;
  for (let i = 0; i < memory.length; i++) if (memory[i] !== i) damaged++;
  const { rss, heapUsed } = process.memoryUsage();
  return {
    generation: lu.generation,
    requests: requests.value,
    bytes: total.bytes,
    ticks: total.ticks,
    damaged,
    fds: readdirSync('/proc/self/fd').length,
    rss,
    heapUsed,
  };
}

lu.webSockets('ws', wss);
await lu.listen('tcp', tcp, { port: Number(TCP), host: '127.0.0.1' });
await lu.listen('web', web, { port: Number(WEB), host: '127.0.0.1' });
await lu.ready();
if (lu.origin === 'fresh') for (let i = 0; i < memory.length; i++) memory[i] = i;
