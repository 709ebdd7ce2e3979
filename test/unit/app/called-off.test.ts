import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { PlayedLuod } from './played-luod.js';

let luod: PlayedLuod;
beforeEach(async () => {
  luod = await PlayedLuod.start();
});
afterEach(() => luod.end());

it('an update that is called off between two parts of a set leaves nothing to the next', async () => {
  luod.connect(20);
  // Each look at the clock is a millisecond later than the one before: a connection takes a turn of the loop.
  const real = performance.now.bind(performance);
  let later = 0;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => real() + later++);
  luod.begin();
  for (let turn = 0; turn < 8; turn++) await nextTurn();
  luod.say({ type: 'unfreeze', reason: { code: 'ETIMEDOUT', message: 'late' } });
  await luod.comes('unfrozen');
  clock.mockRestore();

  luod.begin();
  expect(await luod.comes('preserved', 'failed')).toMatchObject({ type: 'preserved' });
});
