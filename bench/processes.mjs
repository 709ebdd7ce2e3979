/** Processes of a benchmark: all end with it, whatever ends it; and what every benchmark has to know about its machine. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { cpus, release, totalmem } from 'node:os';

// 34 ms of each start on Node 20, and nothing to do with what is measured.
const { NODE_EXTRA_CA_CERTS: _, ...rest } = process.env;
export const environment = rest;

const running = new Set();

/** Ends with this process. */
export function own(child) {
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

/** Ends a child and waits for its end. */
export async function end(child, signal = 'SIGTERM') {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await inTime(`${child.spawnargs.join(' ')} to end`, exited);
}

process.once('exit', () => {
  for (const child of running) child.kill('SIGTERM');
});

/** On INT and TERM: leaves, and so ends everything. */
export function endOnSignals() {
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
}

const WORD_MS = 60_000;

/** What `promise` comes to, if it does in time: a benchmark that stands still says what for. */
export async function inTime(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${WORD_MS} ms for ${what}`)), WORD_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Everything a command prints, whatever it exits with. */
export async function output(file, args, options = {}) {
  const child = own(
    spawn(file, args, { env: environment, stdio: ['ignore', 'pipe', 'inherit'], ...options }),
  );
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    text += chunk;
  });
  await inTime(`${file} ${args.join(' ')}`, once(child, 'close'));
  return text;
}

export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

export function machine() {
  const [{ model }] = cpus();
  return `${model}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.versions.node}`;
}

export function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}
