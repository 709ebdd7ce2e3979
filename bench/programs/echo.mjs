/**
 * The service that is measured: echoes, with state for each connection and memory whose pages are all touched; of each 64 bytes the first
 * comes back as the number of the image. A parent that is
 * Node is told of each image: since its predecessor began to freeze, milliseconds until its first line and until it serves.
 */
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const now = () => Number(process.hrtime.bigint() / 1000n) / 1000;
const firstLine = now();
const lu = await liveupdate();
const total = await lu.state('total', () => ({ bytes: 0, connections: 0, frozenAt: 0 }));
lu.on('freeze', () => {
  total.frozenAt = now();
});
const memory = await lu.memory('cache', Number(process.env.MEMORY));
const server = net.createServer((socket) => {
  const conn = lu.connection(socket);
  conn.state ??= { bytes: 0, id: total.connections++ };
  socket.on('data', (chunk) => {
    for (let at = -conn.state.bytes & 63; at < chunk.length; at += 64) chunk[at] = lu.generation;
    conn.state.bytes += chunk.length;
    total.bytes += chunk.length;
    socket.write(chunk);
  });
  socket.on('error', () => socket.destroy());
});
await lu.listen('echo', server, {
  host: '127.0.0.1',
  port: Number(process.env.PORT),
  backlog: 4096,
  cut: process.env.CUT,
});
if (lu.origin === 'fresh') new Uint8Array(memory).fill(1);
await lu.ready();
process.send?.({
  generation: lu.generation,
  boot: firstLine - total.frozenAt,
  serves: now() - total.frozenAt,
});
