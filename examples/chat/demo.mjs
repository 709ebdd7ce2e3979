/**
 * The main job, live: the chat server under `luod run`, clients that stay connected, and one update after another, told in
 * a line each.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Clients } from './clients.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const CLI = join(HERE, '..', '..', 'dist', 'cli');
const HELP = `npm start -- [options]

Runs a chat server under luod, connects clients, and updates it again and again.

  --updates N       end after N updates, with a summary (default: until Ctrl-C)
  --connections N   clients (default 200)
  --every MS        time between updates (default 1000)
  --help
`;

function options(args) {
  const { values } = parseArgs({
    args,
    options: {
      updates: { type: 'string' },
      connections: { type: 'string', default: '200' },
      every: { type: 'string', default: '1000' },
      help: { type: 'boolean', default: false },
    },
  });
  const whole = (name, least) => {
    const text = values[name];
    if (text === undefined) return Number.POSITIVE_INFINITY;
    if (!/^\d+$/.test(text) || Number(text) < least)
      throw new Error(`--${name} takes a whole number from ${least}, not '${text}'`);
    return Number(text);
  };
  return {
    updates: whole('updates', 1),
    connections: whole('connections', 1),
    every: whole('every', 0),
    help: values.help,
  };
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

function luoctl(socket, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(CLI, 'luoctl.js'), ...args, '--json', '--socket', socket], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    });
    let out = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      out += text;
    });
    child.on('error', reject);
    child.on('close', () => {
      try {
        resolve(JSON.parse(out));
      } catch (cause) {
        reject(new Error('luoctl gave no answer', { cause }));
      }
    });
  });
}

async function serving(socket, luod) {
  for (;;) {
    if (luod.exitCode !== null) throw new Error(`luod ended with code ${luod.exitCode}`);
    const status = await luoctl(socket, 'status');
    if (status.ok && status.services[0]?.state === 'serving') return;
  }
}

/** @returns the exit code: 0 only if nothing was lost. */
export async function demo(args) {
  let wanted;
  try {
    wanted = options(args);
  } catch (error) {
    process.stderr.write(`${error.message}\n\n${HELP}`);
    return 2;
  }
  if (wanted.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-demo-'));
  const socket = join(folder, 'luod.sock');
  const port = await freePort();
  const luod = spawn(
    process.execPath,
    [
      join(CLI, 'luod.js'),
      'run',
      '--name',
      'chat',
      '--socket',
      socket,
      '--',
      process.execPath,
      join(HERE, 'server.mjs'),
    ],
    // A group of its own: Ctrl-C reaches this program alone, which ends luod in order.
    { stdio: ['ignore', 'inherit', 'pipe'], detached: true, env: { ...process.env, PORT: String(port) } },
  );
  let luodSaid = '';
  luod.stderr.setEncoding('utf8').on('data', (text) => {
    luodSaid += text;
  });
  let interrupted = false;
  let wake = () => undefined;
  const interrupt = () => {
    interrupted = true;
    wake();
  };
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', interrupt);
  let failed = 0;
  let done = 0;
  let clients;
  try {
    await serving(socket, luod);
    clients = await Clients.open(port, wanted.connections, 100);
    process.stdout.write(
      `chat server on port ${port}, ${clients.size} clients counting; an update every ${wanted.every} ms${wanted.updates === Number.POSITIVE_INFINITY ? ', Ctrl-C ends' : ''}\n`,
    );
    while (!interrupted && done < wanted.updates) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, wanted.every);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (interrupted) break;
      clients.takeLongest();
      const result = await luoctl(socket, 'update');
      done++;
      if (!result.ok) failed++;
      process.stdout.write(line(result, clients));
    }
  } catch (error) {
    failed++;
    process.stderr.write(`${error.message}\n${luodSaid}`);
  }
  await clients?.stop(5000);
  luod.kill('SIGTERM');
  if (luod.exitCode === null && luod.signalCode === null) await once(luod, 'exit');
  rmSync(folder, { recursive: true, force: true });
  process.off('SIGINT', interrupt);
  process.off('SIGTERM', interrupt);
  if (clients === undefined) return 1;
  const lost = clients.bytesLost + clients.closed + failed;
  process.stdout.write(
    `${done} updates, ${failed} failed; ${clients.size} connections, ${clients.closed} closed; ${clients.answered} numbers counted, ${clients.bytesLost} bytes lost\n`,
  );
  if (lost > 0) process.stderr.write(luodSaid);
  return lost === 0 ? 0 : 1;
}

function line(result, clients) {
  if (!result.ok) return `update failed: ${result.error.message}\n`;
  const { generation, connections, blackoutMs, toPid } = result;
  return `generation ${generation}  pid ${toPid}  ${connections} connections moved  blackout ${blackoutMs.toFixed(1)} ms  longest answer ${clients.takeLongest().toFixed(1)} ms  ${clients.bytesLost} bytes lost\n`;
}
