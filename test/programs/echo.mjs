/**
 * The program under test: an echo server that keeps everything. Each connection counts its bytes in its state, the program
 * counts all of them in a state, and the memory holds a pattern. A second listener, on a unix path, answers each connection
 * with one line of JSON: what the program knows of itself.
 *
 * PORT (or ECHO_PATH, a unix path) and CONTROL say where, MEMORY how much. At HEALTH, a unix path that is not carried, it says by HTTP
 * whether it is healthy. FAULT is what goes wrong on purpose, in this image.
 */
import { readdirSync, readFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const { FAULT, PORT, ECHO_PATH, CONTROL, HEALTH, MEMORY = '65536' } = process.env;
const STEP = 2654435761;

if (FAULT === 'exits-at-start') process.exit(7);
// luod is killed by the image that gets there: by its parent, so long as luod is that.
const killLuodAt = (stage) => {
  if (FAULT !== `kills-luod-at-${stage}` || process.ppid === 1) return;
  process.kill(process.ppid, 'SIGKILL');
};
killLuodAt('start');
if (FAULT === 'never-says-hello') await new Promise((resolve) => setTimeout(resolve, 2 ** 30));

const lu = await liveupdate();
killLuodAt('hello');

const total = await lu.state('total', () => ({ bytes: 0, connections: 0, generations: [], ...extra() }));
const memory = await lu.memory('cache', Number(MEMORY));
const words = new Uint32Array(memory);
const live = new Set();
const events = [];

function extra() {
  return FAULT === 'state-cannot-be-cloned' ? { f: () => 0 } : {};
}

if (FAULT === 'writes-memory-early') words[0] = 1;

const server = net.createServer((socket) => {
  const conn = lu.connection(socket);
  if (conn.state === undefined) conn.state = { bytes: 0, id: total.connections++ };
  live.add(socket);
  socket.on('data', (chunk) => {
    conn.state.bytes += chunk.length;
    total.bytes += chunk.length;
    socket.write(chunk);
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => live.delete(socket));
});

const control = net.createServer((socket) => {
  socket.on('error', () => socket.destroy());
  socket.end(`${JSON.stringify(report())}\n`);
});

function report() {
  let damaged = 0;
  for (let i = 0; i < words.length; i++) if (words[i] !== (i * STEP) >>> 0) damaged++;
  const states = [...live].map((socket) => lu.connection(socket).state);
  return {
    pid: process.pid,
    generation: lu.generation,
    origin: lu.origin,
    total,
    damaged,
    live: live.size,
    ids: new Set(states.map(({ id }) => id)).size,
    bytes: states.reduce((sum, { bytes }) => sum + bytes, 0),
    fds: readdirSync('/proc/self/fd').length,
    luod: Number(/PPid:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]),
    events,
  };
}

process.on('SIGUSR1', () => {
  lu.update().catch(({ code }) => events.push(`update: ${code}`));
});
for (const name of ['freeze', 'unfreeze', 'rollback', 'orphaned']) lu.on(name, () => events.push(name));

const where = ECHO_PATH ? { path: ECHO_PATH } : { host: '127.0.0.1', port: Number(PORT ?? 0) };
await lu.listen('echo', server, { ...where, backlog: 4096, cut: process.env.CUT });
await lu.listen('control', control, { path: CONTROL });

let isHealthy = FAULT !== 'unhealthy';
if (HEALTH) {
  const health = http.createServer((_, response) => response.writeHead(isHealthy ? 200 : 503).end());
  await new Promise((resolve) => health.listen(HEALTH, resolve));
  health.unref();
}

killLuodAt('claimed');
if (FAULT === 'never-ready') await new Promise((resolve) => setTimeout(resolve, 2 ** 30));
if (FAULT === 'throws-before-ready') throw new Error('this version does not work');
if (FAULT === 'asks-for-more-memory') await lu.memory('other', 2 ** 40);
// From here on records are read by retrieve alone, in the cut.
const { incoming } = lu.handover;
if (FAULT === 'retrieve-throws') {
  incoming.bytes = () => {
    throw new Error('the record was eaten');
  };
}
if (FAULT === 'killed-in-the-cut') incoming.bytes = () => process.kill(process.pid, 'SIGKILL');
if (FAULT === 'freeze-throws') {
  lu.on('freeze', () => {
    throw new Error('not now');
  });
}
if (FAULT === 'freeze-hangs') lu.on('freeze', () => new Promise(() => undefined));

// The old image is halted by the time that its records are read.
const killInTheCut = (pid) => {
  const bytes = incoming.bytes.bind(incoming);
  incoming.bytes = (handle) => {
    incoming.bytes = bytes;
    process.kill(Number(pid), 'SIGKILL');
    return bytes(handle);
  };
};
if (FAULT === 'kills-the-old-in-the-cut') killInTheCut(process.env.OLD_PID);
if (FAULT === 'kills-luod-in-the-cut') killInTheCut(process.env.LUOD_PID);
if (FAULT === 'kills-luod-at-cut' && lu.origin === 'update') killInTheCut(process.ppid);
if (lu.origin === 'fresh') lu.on('freeze', () => killLuodAt('freeze'));
if (lu.origin === 'fresh') lu.on('finish', () => killLuodAt('finish'));
// Well behind the rehearsal, which is part of ready().
if (FAULT === 'dies-after-ready') setTimeout(() => process.exit(9), 2000);
await lu.ready();
if (lu.origin === 'update') {
  if (FAULT === 'dies-after-commit') process.exit(3);
  if (FAULT === 'unhealthy-after-commit') isHealthy = false;
  if (FAULT === 'hangs-after-commit') for (;;);
}
if (lu.origin === 'update') killLuodAt('commit');
if (lu.origin === 'fresh') for (let i = 0; i < words.length; i++) words[i] = i * STEP;
total.generations.push(lu.generation);
