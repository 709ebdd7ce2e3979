/**
 * The primary of node:cluster. SIGHUP replaces its workers one after the other: the next one serves before the one that it
 * replaces is told to leave.
 */
import cluster from 'node:cluster';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { settings } from './application.mjs';

const { httpPort, tcpPort } = settings();
const PORTS = [httpPort, tcpPort].filter((port) => port > 0).length;

cluster.setupPrimary({ exec: fileURLToPath(new URL('plain.mjs', import.meta.url)) });

async function start() {
  const worker = cluster.fork();
  for (let listening = 0; listening < PORTS; listening++) await once(worker, 'listening');
  return worker;
}

let workers = await Promise.all(Array.from({ length: availableParallelism() }, start));

async function replaceAll() {
  const old = workers;
  workers = [];
  for (const worker of old) {
    workers.push(await start());
    const left = once(worker, 'exit');
    worker.process.kill('SIGTERM');
    await left;
  }
  process.stdout.write(`${JSON.stringify({ replaced: old.length })}\n`);
}

process.on('SIGHUP', () => void replaceAll());
process.on('SIGTERM', () => {
  for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM');
  process.exit();
});
process.stdout.write(`${JSON.stringify({ primary: process.pid })}\n`);
