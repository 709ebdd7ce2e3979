/** A luod that serves: how long it takes to answer, and how much memory each file and each session costs it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { LuodClient } from '../../build/index.js';
import { createMemfd } from '../../build/linux/index.js';
import { median } from './measure.mjs';

const LUOD = fileURLToPath(new URL('../../dist/cli/luod.js', import.meta.url));
const HELD = [1000, 5000, 10_000];
const ASKS = 2000;
/** Requests under way at one time. */
const PARALLEL = 50;

/** Runs `use` with a luod of its own. */
async function withLuod(use) {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-micro-'));
  const socket = join(folder, 'luod.sock');
  const luod = spawn(process.execPath, [LUOD, 'serve', '--socket', socket], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  try {
    const lines = createInterface({ input: luod.stderr });
    await new Promise((resolve, reject) => {
      lines.on('line', (line) => /listens at/.test(line) && resolve());
      luod.once('exit', () => reject(new Error('luod ended')));
    });
    const client = await LuodClient.connect(socket);
    try {
      return await use({ pid: luod.pid, client });
    } finally {
      client.close();
    }
  } finally {
    luod.kill('SIGTERM');
    if (luod.exitCode === null) await once(luod, 'exit');
    rmSync(folder, { recursive: true, force: true });
  }
}

function residentKib(pid) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
}

async function each(count, work) {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, count) }, worker));
}

async function files(pid, client, count) {
  const session = await client.createSession('files', { custody: 'release' });
  const before = residentKib(pid);
  await each(count, async (number) => {
    const fd = createMemfd('f', 64);
    try {
      await session.preserve(fd, BigInt(number));
    } finally {
      closeSync(fd);
    }
  });
  const grown = residentKib(pid) - before;
  session.close();
  return grown;
}

async function sessions(pid, client, count) {
  const made = [];
  const before = residentKib(pid);
  await each(count, async (number) => {
    made.push(await client.createSession(`s${number}`));
  });
  const grown = residentKib(pid) - before;
  for (const session of made) session.close();
  return grown;
}

/** What luod's resident memory grows by, in KiB for each. */
async function memory(repetitions) {
  const kinds = { 'a held file': files, 'a session': sessions };
  const samples = new Map(Object.keys(kinds).map((name) => [name, new Map(HELD.map((size) => [size, []]))]));
  for (let round = 0; round < repetitions; round++) {
    for (const size of HELD) {
      for (const [name, kind] of Object.entries(kinds)) {
        const kib = await withLuod(({ pid, client }) => kind(pid, client, size));
        samples
          .get(name)
          .get(size)
          .push(kib / size);
      }
    }
  }
  return {
    title: 'Resident memory of luod, by what it holds',
    unit: 'KiB for each',
    sizes: HELD,
    from: HELD[0],
    rows: new Map(
      Array.from(samples, ([name, bySize]) => [
        name,
        Array.from(bySize, ([size, kib]) => ({ size, median: median(kib), least: Math.min(...kib) })),
      ]),
    ),
  };
}

async function roundTrips() {
  return await withLuod(async ({ client }) => {
    const session = await client.createSession('one');
    const time = async (ask) => {
      const times = [];
      for (let i = 0; i < ASKS; i++) {
        const start = performance.now();
        await ask();
        times.push((performance.now() - start) * 1000);
      }
      return median(times.slice(ASKS / 4));
    };
    const hello = await time(() => client.hello());
    const list = await time(() => session.list());
    session.close();
    return `A round trip to luod and back, median of ${(ASKS * 3) / 4} one after the other: \`hello\` ${hello.toFixed(0)} µs, \`list\` of an empty session ${list.toFixed(0)} µs (elapsed time)`;
  });
}

/** @returns the tables and facts of this part. */
export async function measureLuod(repetitions) {
  return { facts: [await roundTrips()], tables: [await memory(Math.min(repetitions, 3))] };
}
