import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { PlayedLuod } from './played-luod.js';

/** Bits of an entry's `detail.flags`: somebody asked for it. */
const FORCED = 4;

let luod: PlayedLuod;
afterEach(() => luod.end());

/** How often the young objects are collected on demand while so many connections cross. */
async function collections(connections: number): Promise<number> {
  luod = await PlayedLuod.start();
  luod.connect(connections);
  let forced = 0;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries() as unknown as { detail: { flags: number } }[])
      if ((entry.detail.flags & FORCED) !== 0) forced++;
  });
  observer.observe({ entryTypes: ['gc'] });
  luod.begin();
  expect(await luod.comes('preserved', 'failed')).toMatchObject({ type: 'preserved' });
  // Each comes at a turn of its own.
  for (let turn = 0; turn < 100; turn++) await nextTurn();
  observer.disconnect();
  return forced;
}

it('what many connections leave is collected as they cross', async () => {
  const few = await collections(100);
  luod.end();
  expect(await collections(2100)).toBe(few + 2);
});
