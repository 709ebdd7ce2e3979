/**
 * A process whose keeper sleeps is killed at generated points: at any of its words to the keeper, also while it writes everything anew. The
 * keeper wakes up, and the next process finds everything as it was before the change under way or after it.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { processesWith, programPath } from '../e2e/luod-process.js';
import { random } from './random.js';
import { after, type Change, changes, type Kept, keptOf, plain } from './store-model.js';

const KILLS = 40;

let folder: string;
let child: ChildProcessByStdio<Writable, Readable, null>;
let lines: AsyncIterator<string>;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-sleeping-'));
});

afterEach(async () => {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  for (const pid of processesWith(folder)) process.kill(pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

/** The next line; undefined when it is dead. */
async function hear(): Promise<string | undefined> {
  const { value } = await lines.next();
  return value;
}

/** Starts the program. @returns what it found. */
async function start(): Promise<Kept> {
  child = spawn(process.execPath, [programPath('sleeping-keeper.mjs'), join(folder, 'keeper')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  // What is told to one that has died.
  child.stdin.on('error', () => undefined);
  lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const found = keptOf((await hear()) as string);
  expect(await hear()).toContain('asleep');
  return found;
}

function tell(change: object): void {
  child.stdin.write(`${JSON.stringify(change)}\n`);
}

/** @returns whether it said that it is done. */
async function does(change: Change): Promise<boolean> {
  tell(change);
  return (await hear())?.includes('done') === true;
}

it(`has everything after ${KILLS} deaths at generated points`, { timeout: 600_000 }, async () => {
  const next = random(20_261_128);
  const below = (limit: number) => Math.floor(next() * limit);
  const change = changes(next, ['a', 'b', 'c']);
  let kept = await start();
  expect(plain(kept)).toEqual([]);
  for (let kills = 0; kills < KILLS; kills++) {
    for (let quiet = below(20); quiet > 0; quiet--) {
      const one = change();
      expect(await does(one)).toBe(true);
      kept = after(kept, one);
    }
    tell({ does: 'die', at: 1 + below(12) });
    let last = change();
    for (; await does(last); last = change()) kept = after(kept, last);
    const possible = [plain(kept), plain(after(kept, last))];
    const now = await start();
    expect(possible, `after ${kills + 1} deaths, the last in ${JSON.stringify(last)}`).toContainEqual(
      plain(now),
    );
    kept = now;
  }
});
