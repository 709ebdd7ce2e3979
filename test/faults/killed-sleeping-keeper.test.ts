/**
 * A process whose keeper sleeps is killed at generated points: at any of its words to the keeper, also while it writes everything anew. The
 * keeper wakes up, and the next process finds everything as it was before the change under way or after it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { processesWith, programPath } from '../e2e/luod-process.js';
import { after, type Change, changes, type Kept, keptOf, plain, random } from './store-model.js';

const KILLS = 40;

let folder: string;
let child: ChildProcess;
let said: string[];
let heard: () => void;
let isOver: boolean;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-sleeping-'));
});

afterEach(async () => {
  await kill();
  for (const pid of processesWith(folder)) process.kill(pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function start(): void {
  const words = [programPath('sleeping-keeper.mjs'), join(folder, 'keeper')];
  const process_ = spawn(process.execPath, words, {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  process_.stdin.on('error', () => undefined);
  child = process_;
  said = [];
  isOver = false;
  heard = () => undefined;
  createInterface({ input: process_.stdout })
    .on('line', (line) => {
      said.push(line);
      heard();
    })
    .on('close', () => {
      isOver = true;
      heard();
    });
}

/** The next line; undefined when it is dead. */
async function hear(): Promise<string | undefined> {
  for (;;) {
    const line = said.shift();
    if (line !== undefined || isOver) return line;
    await new Promise<void>((resolve) => {
      heard = resolve;
    });
  }
}

async function kill(): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

/** Starts it. @returns what it found. */
async function found(): Promise<Kept | undefined> {
  start();
  for (let line = await hear(); line !== undefined; line = await hear())
    if (line.includes('items')) return keptOf(line);
  return undefined;
}

/** @returns whether it said that it is done; what it says of sleeping is passed over. */
async function does(change: object): Promise<boolean> {
  child.stdin?.write(`${JSON.stringify(change)}\n`);
  for (let line = await hear(); line !== undefined; line = await hear())
    if (line.includes('done')) return true;
  return false;
}

it(`has everything after ${KILLS} deaths at generated points`, { timeout: 600_000 }, async () => {
  const next = random(20_261_128);
  const below = (limit: number) => Math.floor(next() * limit);
  const change = changes(next, ['a', 'b', 'c']);
  let kept = (await found()) as Kept;
  expect(plain(kept)).toEqual([]);
  expect(await hear()).toContain('asleep');
  for (let kills = 0; kills < KILLS; kills++) {
    for (let quiet = below(20); quiet > 0; quiet--) {
      const one = change();
      expect(await does(one)).toBe(true);
      kept = after(kept, one);
    }
    child.stdin?.write(`${JSON.stringify({ does: 'die', at: 1 + below(12) })}\n`);
    let last: Change = change();
    for (; await does(last); last = change()) kept = after(kept, last);
    const possible = [plain(kept), plain(after(kept, last))];
    const now = (await found()) as Kept;
    expect(possible, `after ${kills + 1} deaths, the last in ${JSON.stringify(last)}`).toContainEqual(
      plain(now),
    );
    kept = now;
    expect(await hear()).toContain('asleep');
  }
});
