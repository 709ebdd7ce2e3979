// npm run bench:host: what luod serve costs with many clients, sessions and files: memory, time per operation, and the time of a
// self-update as the clients see it; in a series of growing size, so that what grows faster than its cause is seen.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { LuodClient } from '../dist/index.js';
import { createMemfd } from '../dist/linux/index.js';

const { values } = parseArgs({
  options: { series: { type: 'string', default: '100:200:1500,1000:2000:15000' }, json: { type: 'boolean' } },
});
const LUOD = fileURLToPath(new URL('../dist/cli/luod.js', import.meta.url));
/** At one time: an answer each. */
const PARALLEL = 50;

async function start(socket) {
  const child = spawn(process.execPath, [LUOD, 'serve', '--socket', socket], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const lines = createInterface({ input: child.stderr });
  await new Promise((resolve) => lines.on('line', (line) => /listens at/.test(line) && resolve()));
  return child;
}

/** Runs `work` for 0 to count - 1; microseconds for each. */
async function each(count, work) {
  const started = performance.now();
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, count) }, worker));
  return ((performance.now() - started) * 1000) / count;
}

const residentMb = (pid) =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024;

async function measure(clients, sessions, files) {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-bench-'));
  const socket = join(folder, 'run', 'host.sock');
  const luod = await start(socket);
  try {
    const result = { clients, sessions, files, emptyMb: residentMb(luod.pid) };
    const connected = [];
    result.connectUs = await each(clients, async (number) => {
      connected[number] = await LuodClient.connect(socket);
    });
    const made = [];
    result.createUs = await each(sessions, async (number) => {
      made[number] = await connected[number % clients].createSession(`s${number}`, { custody: 'hold' });
    });
    result.preserveUs = await each(files, async (number) => {
      const fd = createMemfd('f', 64);
      await made[number % sessions].preserve(fd, BigInt(number));
      closeSync(fd);
    });
    result.listUs = await each(sessions, (number) => made[number].list());
    result.fullMb = residentMb(luod.pid);
    const begun = performance.now();
    await connected[0].selfUpdate();
    result.selfUpdateMs = performance.now() - begun;
    // As the last of all clients sees it.
    await Promise.all(made.map((session) => session.getName()));
    result.allAnswerMs = performance.now() - begun;
    const { held, code } = await fill(made, files);
    result.heldWhenFull = held;
    result.fullIs = code;
    result.unpreserveUs = await each(files, async (number) => {
      const session = made[number % sessions];
      await session.unpreserve(BigInt(number));
    });
    for (const session of made) session.close();
    for (const client of connected) client.close();
    return result;
  } finally {
    luod.kill('SIGTERM');
    await once(luod, 'exit');
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Keeps on until luod has no room: what is refused is refused with a name, and what was kept is kept.
 * @returns how many files luod holds then, and the error's name.
 */
async function fill(sessions, files) {
  const tokens = [];
  let refused;
  while (refused === undefined && tokens.length < 20_000) {
    const fd = createMemfd('f', 1);
    const token = BigInt(files + tokens.length);
    try {
      await sessions[tokens.length % sessions.length].preserve(fd, token);
      tokens.push(token);
    } catch (error) {
      refused = error;
    } finally {
      closeSync(fd);
    }
  }
  let held = 0;
  for (const session of sessions) held += (await session.list()).length;
  if (held !== files + tokens.length) throw new Error(`${held} files are held, not ${files + tokens.length}`);
  for (const [number, token] of tokens.entries()) await sessions[number % sessions.length].unpreserve(token);
  return { held, code: refused?.code ?? 'never full' };
}

const results = [];
for (const cell of values.series.split(',')) results.push(await measure(...cell.split(':').map(Number)));
if (values.json) console.log(JSON.stringify(results));
else {
  for (const name of Object.keys(results[0])) {
    const cells = results.map((result) => {
      const value = result[name];
      return (
        typeof value !== 'number' || Number.isInteger(value) ? String(value) : value.toFixed(1)
      ).padStart(12);
    });
    const isRatio = results.length > 1 && typeof results[0][name] === 'number';
    const ratio = isRatio ? (results.at(-1)[name] / results[0][name]).toFixed(2) : '';
    console.log(`${name.padEnd(14)}${cells.join('')}${(ratio === '' ? '' : `x${ratio}`).padStart(10)}`);
  }
}
