/**
 * A process is killed at generated points while it changes what stands in the service manager's descriptor store: in the middle of a
 * change, at one of its words to the manager, or between two. The next one finds everything as it was before that change or after it.
 */
import { once } from 'node:events';
import { fstatSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { programPath } from '../e2e/luod-process.js';
import { TestManager } from '../e2e/service-manager.js';
import { random } from './random.js';
import { after, type Change, changes, countOf, type Kept, keptOf, plain } from './store-model.js';

/** The log, room to write it anew, and ten descriptors. */
const STORE = 12;
const ROOM = STORE - 2;
const KILLS = 60;
/** Names so long that the log is written anew every hundred changes, at drops as often as at puts. */
const LONG = 'x'.repeat(9000);

let manager: TestManager;
let lines: Interface;

beforeEach(() => {
  manager = new TestManager(STORE);
});

afterEach(async () => {
  await manager.kill();
  manager.close();
});

/** Starts the program. @returns what it found. */
async function start(): Promise<Kept> {
  const keeper = join(manager.folder, 'keeper');
  const started = manager.launch([process.execPath, programPath('fd-store.mjs'), keeper]);
  lines = createInterface({ input: manager.child.stdout as NodeJS.ReadableStream });
  const [[first]] = await Promise.all([once(lines, 'line') as Promise<[string]>, started]);
  return keptOf(first);
}

function tell(change: Change): Promise<{ done?: boolean; error?: string } | undefined> {
  const answer = new Promise<string | undefined>((resolve) => {
    const done = (line?: string) => {
      lines.off('line', done).off('close', done);
      resolve(line);
    };
    lines.on('line', done).on('close', done);
  });
  manager.child.stdin?.write(`${JSON.stringify(change)}\n`);
  return answer.then((line) => (line === undefined ? undefined : JSON.parse(line)));
}

describe('the descriptor store', () => {
  it(`is whole after ${KILLS} deaths at generated points`, { timeout: 600_000 }, async () => {
    const next = random(20_261_125);
    const below = (limit: number) => Math.floor(next() * limit);
    let kept = await start();
    let full = 0;
    const change = changes(
      next,
      [0, 1, 2].map((name) => `group ${name} ${LONG}`),
    );
    for (let kills = 0; kills < KILLS; kills++) {
      for (let quiet = below(30); quiet > 0; quiet--) {
        const one = change();
        const answer = await tell(one);
        if (answer?.error !== undefined) {
          expect(answer.error).toBe('EMFILE');
          expect(countOf(kept) + (one.contents?.length ?? 0)).toBeGreaterThan(ROOM);
          full++;
        } else kept = after(kept, one);
      }
      const last = change();
      const atWord = next() < 0.7;
      if (atWord) manager.killAt(1 + below(4));
      const answer = tell(last);
      if (!atWord) {
        for (let turns = below(4); turns > 0; turns--) await nextTurn();
        await manager.kill();
      }
      const said = await answer;
      manager.killAt(undefined);
      await manager.kill();
      const found = await start();
      const possible = said?.error === undefined ? [plain(kept), plain(after(kept, last))] : [plain(kept)];
      if (said?.done === true) possible.shift();
      expect(
        possible,
        `after ${kills + 1} deaths, the last in ${JSON.stringify(last).replaceAll(LONG, '')}`,
      ).toContainEqual(plain(found));
      kept = found;
      // Nothing else stands there: the log, and what it tells of.
      expect(manager.stored.length).toBe(countOf(kept) + 1);
    }
    expect(full).toBeGreaterThan(0);
  });

  it('is whole when it is full and its log is written anew', async () => {
    let kept = await start();
    const fill: Change[] = Array.from({ length: ROOM }, (_, index) => ({
      does: 'put',
      group: 'full',
      item: `item ${index}`,
      record: {},
      contents: [`content ${index}`],
    }));
    for (const one of fill) {
      expect(await tell(one)).toEqual({ done: true });
      kept = after(kept, one);
    }
    expect(await tell({ does: 'put', group: 'more', item: 'i', record: {}, contents: ['c'] })).toEqual({
      error: 'EMFILE',
    });
    const log = () => manager.stored.find(({ name }) => name.startsWith('luod-state-'))?.name;
    const before = log();
    for (let count = 0; log() === before; count++) {
      const one: Change = { does: 'amend', group: 'full', item: 'item 0', record: { count, LONG } };
      expect(await tell(one)).toEqual({ done: true });
      kept = after(kept, one);
    }
    await manager.kill();
    expect(plain(await start())).toEqual(plain(kept));
  });

  it('does not bring back what is dropped as the log is written anew', async () => {
    let kept = await start();
    const does = async (change: Change) => {
      expect(await tell(change)).toEqual({ done: true });
      kept = after(kept, change);
    };
    const log = () => manager.stored.find(({ name }) => name.startsWith('luod-state-'));
    const group = `dropped ${LONG}`;
    await does({ does: 'put', group, item: 'i', record: {}, contents: ['c'] });
    await does({ does: 'put', group: 'stays', item: 'i', record: {}, contents: ['d'] });
    // Up to where the next long entry, which is the drop's, is one too many.
    const before = log();
    const record = { text: LONG.slice(0, 5000) };
    while ((1 << 20) - fstatSync(before?.fd as number).size > 6000) {
      await does({ does: 'amend', group: 'stays', item: 'i', record });
    }
    expect(log()).toBe(before);
    await does({ does: 'drop', group });
    expect(log()).not.toBe(before);
    await manager.kill();
    expect(plain(await start())).toEqual(plain(kept));
  });
});
