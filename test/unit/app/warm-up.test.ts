import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { PlayedLuod } from './played-luod.js';

let luod: PlayedLuod;
beforeEach(async () => {
  luod = await PlayedLuod.start();
});
afterEach(() => luod.end());

/** The next version asks for nothing more once it has what there was. */
async function preserve(): Promise<void> {
  luod.begin();
  expect(await luod.comes('preserved', 'failed')).toMatchObject({ type: 'preserved', warms: true });
  luod.passed.length = 0;
}

it('what came behind the last pass crosses before the image says that it is warm', async () => {
  luod.connect(2);
  await preserve();
  luod.connect(3);
  luod.say({ type: 'warmUp' });
  const warm = await luod.comes('warm', 'failed');
  expect(warm).toMatchObject({ type: 'warm', bytes: expect.any(Number) });
  expect(warm?.bytes).toBeGreaterThan(0);
  // The record, and three connections.
  expect(luod.passed).toEqual([{ type: 'precopy', fds: 4 }]);

  luod.passed.length = 0;
  luod.say({ type: 'warmUp' });
  expect(await luod.comes('warm', 'failed')).toEqual({ type: 'warm', bytes: 0 });
  expect(luod.passed).toEqual([]);
});

it('without an update, or before everything is preserved, there is nothing to warm up', async () => {
  luod.say({ type: 'warmUp' });
  luod.begin();
  luod.say({ type: 'warmUp' });
  expect(await luod.comes('preserved', 'warm', 'failed')).toMatchObject({ type: 'preserved' });
});

it('luod may not wait for it: the freeze does', async () => {
  let freezes = 0;
  luod.image.on('freeze', () => {
    freezes++;
  });
  await preserve();
  luod.answers = false;
  luod.connect(300);
  luod.say({ type: 'warmUp' });
  luod.say({ type: 'freeze' });
  for (let turn = 0; turn < 50; turn++) await nextTurn();
  luod.say({ type: 'unfreeze', reason: { code: 'ETIMEDOUT', message: 'late' } });
  await luod.comes('unfrozen');
  expect(freezes).toBe(0);
});

it('of an update that is called off meanwhile nothing more is said', async () => {
  await preserve();
  // Two passes, and a successor that does not answer the first: it waits.
  luod.answers = false;
  luod.connect(300);
  luod.say({ type: 'warmUp' });
  luod.say({ type: 'unfreeze', reason: { code: 'ECANCELED', message: 'called off' } });
  expect(await luod.comes('unfrozen', 'warm', 'failed')).toMatchObject({ type: 'unfrozen' });
  luod.answers = true;
  await preserve();
  luod.say({ type: 'warmUp' });
  expect(await luod.comes('warm', 'failed')).toEqual({ type: 'warm', bytes: 0 });
});
