// What the guest's scripts share: luod with the cache service under it, luoctl, and a client.

import { spawn, spawnSync } from 'node:child_process';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const stage = Number(process.env.LIVEUPDATE_GUEST_STAGE);
export const PORT = 7700;
const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const CACHE = path('../../programs/kernel-cache.mjs');

/** Told to the host, which notes when. */
export function mark(name, value = {}) {
  process.stdout.write(`@${JSON.stringify({ stage, name, ...value })}\n`);
}

/** luod with one program under it; `line` resolves with the first line of its output that matches. */
export function startLuod({ program = [process.execPath, CACHE], env = {}, args = [] } = {}) {
  const child = spawn(
    process.execPath,
    [path('../../../dist/cli/luod.js'), 'run', '--name', 'cache', ...args, '--', ...program],
    { env: { ...process.env, PORT: String(PORT), ...env }, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const waiting = new Set();
  const lines = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      process.stdout.write(`  ${line}\n`);
      lines.push(line);
      for (const one of waiting) if (one.pattern.test(line)) one.resolve(line);
    });
  }
  const line = (pattern) =>
    new Promise((resolve) => {
      const seen = lines.find((one) => pattern.test(one));
      if (seen !== undefined) resolve(seen);
      else waiting.add({ pattern, resolve });
    });
  return { child, line, lines };
}

/** Runs luoctl; its JSON objects and exit code. */
export function luoctl(...args) {
  const child = spawnSync(process.execPath, [path('../../../dist/cli/luoctl.js'), ...args, '--json'], {
    encoding: 'utf8',
  });
  const objects = child.stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  return { code: child.status, objects, reply: objects.at(-1), stderr: child.stderr };
}

/** luoctl kexec into the next stage, with what the guest was given for it. */
export function kexec(...more) {
  const {
    LIVEUPDATE_GUEST_KERNEL: kernel,
    LIVEUPDATE_GUEST_INITRD: initrd,
    LIVEUPDATE_GUEST_CMDLINE: cmdline,
  } = process.env;
  return luoctl('kexec', '--kernel', kernel, '--initrd', initrd, '--cmdline', cmdline, ...more);
}

/** A connection to the service. */
export async function client(to = { port: PORT, host: '127.0.0.1' }) {
  const socket = connect(to);
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  return {
    async ask(line) {
      socket.write(`${line}\n`);
      const { value } = await lines.next();
      if (value === undefined) throw new Error('the service closed the connection');
      return JSON.parse(value);
    },
    async close() {
      socket.end();
      await new Promise((resolve) => socket.once('close', resolve));
    },
  };
}
