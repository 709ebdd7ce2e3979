/**
 * One of several workers: an echo server on a port that all share. Each connection remembers which worker it came to. A listener on a unix
 * path of each worker's own (CONTROL, with %w) answers with one line of JSON: what the worker knows of itself.
 *
 * FAULT is what goes wrong on purpose, in the image of worker FAULTY.
 */
import { rmSync } from 'node:fs';
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const { PORT, CONTROL, FAULT, FAULTY, VERSION = '1' } = process.env;

const lu = await liveupdate();
const isFaulty = Number(FAULTY) === lu.worker;
if (isFaulty && FAULT === 'kills-luod') process.kill(process.ppid, 'SIGKILL');

const total = await lu.state('total', () => ({ connections: 0, generations: [] }));
const live = new Set();

const server = net.createServer((socket) => {
  const conn = lu.connection(socket);
  conn.state ??= { worker: lu.worker, id: total.connections++ };
  live.add(socket);
  socket.on('data', (bytes) => socket.write(bytes));
  socket.on('error', () => socket.destroy());
  socket.on('close', () => live.delete(socket));
});

const control = net.createServer((socket) => {
  socket.on('error', () => socket.destroy());
  const { worker, workers, generation, origin } = lu;
  const states = [...live].map((one) => lu.connection(one).state);
  const ids = states.map(({ id }) => id).sort((one, other) => one - other);
  const foreign = states.filter((state) => state.worker !== worker).length;
  const { pid } = process;
  const report = { pid, version: VERSION, worker, workers, generation, origin, ids, foreign, total };
  socket.end(`${JSON.stringify(report)}\n`);
});

await lu.listen('echo', server, { host: '127.0.0.1', port: Number(PORT), backlog: 4096 });
// A worker that was stopped left its path.
if (lu.origin === 'fresh') rmSync(CONTROL.replace('%w', lu.worker), { force: true });
await lu.listen('control', control, { path: CONTROL });
if (isFaulty && FAULT === 'throws') throw new Error('this version does not work');
if (isFaulty && FAULT === 'throws-in-the-cut') {
  lu.handover.incoming.bytes = () => {
    throw new Error('the record was eaten');
  };
}
await lu.ready();
total.generations.push(lu.generation);
