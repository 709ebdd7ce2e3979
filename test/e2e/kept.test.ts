/** A timerfd, an eventfd, a file and timers through five updates: every expiry is counted, written down and added once. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LuodProcess, programPath } from './luod-process.js';

const MS = 1_000_000;

let luod: LuodProcess;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-kept-'));
});
afterEach(async () => {
  await luod?.stop();
  rmSync(folder, { recursive: true, force: true });
});

interface Told {
  ticks: number;
  lines: number;
  added: number;
  counted: number;
  once: number[];
  often: number;
  before: number;
  after: number;
  generation: number;
  from: number;
  to: number;
}

async function told(generation: number): Promise<Told> {
  luod.signal('SIGUSR2');
  const pattern = new RegExp(`told (.*"generation":${generation},.*)\\n`);
  await luod.says(pattern);
  return JSON.parse(pattern.exec(luod.stderr)?.[1] as string) as Told;
}

it('are counted by one image each, whatever comes due in a cut', { timeout: 120_000 }, async () => {
  const log = join(folder, 'log');
  const command = [process.execPath, programPath('kept.mjs')];
  luod = await LuodProcess.start({ command, env: { LOG: log } });
  await luod.serves(1);
  for (let generation = 2; generation <= 6; generation++) {
    expect(await luod.update()).toMatchObject({ ok: true, generation });
  }
  const total = await told(6);
  // The kernel counts on, so that its count lies between what it was before and after it was asked.
  expect(total.ticks).toBeGreaterThanOrEqual(Math.floor((total.from - total.after) / MS));
  expect(total.ticks).toBeLessThanOrEqual(Math.floor((total.to - total.before) / MS));
  expect(total.counted).toBe(total.added);
  expect(total.often).toBeGreaterThan(10);
  // Once when it was made, and once for each of five freezes, by either image.
  expect(total.once).toHaveLength(6);
  const lines = readFileSync(log, 'utf8').trim().split('\n').map(Number);
  expect(lines.slice(0, total.lines)).toEqual(Array.from({ length: total.lines }, (_, i) => i + 1));

  // After a crash the state begins anew, and what luod holds does not.
  const { services } = (await luod.status()) as unknown as { services: { pid: number }[] };
  process.kill(services[0]!.pid, 'SIGKILL');
  await luod.serves(7);
  const after = await told(7);
  expect(after.ticks).toBeGreaterThan(0);
  expect(after.before).toBe(0);
  expect(readFileSync(log, 'utf8').startsWith('1\n2\n3\n')).toBe(true);
});
