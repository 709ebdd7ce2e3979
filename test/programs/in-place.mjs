/**
 * An echo server that replaces itself, without luod. It keeps everything: each connection counts its bytes in its state, the program
 * counts all of them, and the memory holds a pattern. A listener on a unix path takes one line of JSON: { do: 'report' } is
 * answered with what the program knows of itself, { do: 'update', command } by the next image with its report, or by this
 * one with the error. CONTROL says where; FAULT is what goes wrong on purpose.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import net from 'node:net';

const { CONTROL, FAULT } = process.env;
const STEP = 2654435761;
const nonBlockingAtStart = nonBlocking();
// Behind that: since Node 22 loading node:util makes them non-blocking.
const { liveupdate } = await import('liveupdate');
// Node makes them what it wants them to be when they are first asked for.
const { stdin, stdout, stderr } = process;
for (const stream of [stdin, stdout, stderr]) stream.unref?.();
const inherited = Object.keys(process.env).filter((name) => name.startsWith('LIVEUPDATE'));

const lu = await liveupdate();
const total = await lu.state('total', () => ({ bytes: 0, connections: 0, generations: [], events: [] }));
const words = new Uint32Array(await lu.memory('cache', 65536));
const counter = lu.counter('bytes');
const live = new Set();

const server = net.createServer((socket) => {
  const conn = lu.connection(socket);
  conn.state ??= { bytes: 0, id: total.connections++ };
  live.add(socket);
  socket.on('data', (chunk) => {
    conn.state.bytes += chunk.length;
    total.bytes += chunk.length;
    counter.add(chunk.length);
    socket.write(chunk);
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => live.delete(socket));
});

const answer = (socket, value) => socket.end(`${JSON.stringify(value)}\n`);

let serves;
const serving = new Promise((resolve) => {
  serves = resolve;
});

const control = net.createServer((socket) => {
  const conn = lu.connection(socket);
  socket.on('error', () => socket.destroy());
  // It may be announced before ready() has come to its end.
  if (conn.state?.awaits) return serving.then(() => answer(socket, report()));
  let line = '';
  socket.setEncoding('utf8').on('data', (text) => {
    line += text;
    if (!line.endsWith('\n')) return;
    const { do: what, command, umask, title } = JSON.parse(line);
    if (what === 'report') return answer(socket, report());
    if (umask !== undefined) process.umask(umask);
    if (title !== undefined) process.env.TITLE = title;
    conn.state = { awaits: true };
    lu.update(command).catch(({ code, message }) => {
      conn.state = undefined;
      answer(socket, { error: { code, message }, ...report() });
    });
  });
});

function fds() {
  const list = [];
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      const file = readlinkSync(`/proc/self/fd/${name}`);
      // glibc looks into it for a moment, when a thread of V8's gives memory back.
      if (file !== '/proc/sys/vm/overcommit_memory') list.push(file.replace(/\d{3,}/, 'N'));
    } catch {
      // The listing's own.
    }
  }
  return list.sort();
}

function flags(fd) {
  return Number.parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))[1], 8);
}

function nonBlocking() {
  return [0, 1, 2].map((fd) => (flags(fd) & 0o4000) !== 0);
}

function report() {
  let damaged = 0;
  for (let i = 0; i < words.length; i++) if (words[i] !== (i * STEP) >>> 0) damaged++;
  const states = [...live].map((socket) => lu.connection(socket).state);
  const status = readFileSync('/proc/self/status', 'utf8');
  return {
    pid: process.pid,
    port: server.address().port,
    generation: lu.generation,
    origin: lu.origin,
    isManaged: lu.isManaged,
    service: lu.service,
    total,
    counted: counter.value,
    damaged,
    live: live.size,
    bytes: states.reduce((sum, { bytes }) => sum + bytes, 0),
    fds: fds(),
    signals: Object.fromEntries(
      ['SigBlk', 'SigIgn', 'SigCgt'].map((name) => [name, new RegExp(`${name}:\\s+(\\w+)`).exec(status)[1]]),
    ),
    cwd: process.cwd(),
    umask: process.umask(),
    argv: process.argv,
    execArgv: process.execArgv,
    commandLine: readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, -1),
    title: process.env.TITLE,
    inherited,
    leftOver: Object.keys(process.env).filter((name) => name.startsWith('LIVEUPDATE')),
    nonBlocking: nonBlocking(),
    nonBlockingAtStart,
    leaks: readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return Number(fd) > 2 && (flags(fd) & 0o2000000) === 0;
      } catch {
        return false;
      }
    }),
  };
}

for (const name of ['freeze', 'unfreeze', 'rollback', 'finish']) {
  lu.on(name, () => total.events.push(name));
}
process.on('SIGUSR2', () => undefined);

await lu.listen('echo', server, { host: '127.0.0.1', port: 0, backlog: 4096 });
await lu.listen('control', control, { path: CONTROL });
if (FAULT === 'freeze-throws') {
  lu.on('freeze', () => {
    throw Object.assign(new Error('not now'), { code: 'EBUSY' });
  });
}
if (FAULT === 'finish-throws') {
  lu.on('finish', () => {
    throw Object.assign(new Error('not now'), { code: 'EPERM' });
  });
}
await lu.ready();
if (lu.origin === 'fresh') for (let i = 0; i < words.length; i++) words[i] = i * STEP;
total.generations.push(lu.generation);
serves();
stdout.write(`generation ${lu.generation} serves\n`);
