import { describe, expect, it } from 'vitest';
import { KeptTimer, timerHandler } from '../../../src/handlers/timer.js';
import { Crossing } from './crossing.js';

function started(ms: number, callback: () => void, options = {}): KeptTimer {
  const timer = KeptTimer.create(ms, options);
  timer.bind(callback);
  timer.start();
  return timer;
}

describe('a timer', () => {
  it('is called once, and not again; or again, in step', async () => {
    let calls = 0;
    await new Promise<void>((resolve) => {
      const timer = started(1, () => {
        calls++;
        expect(timer.remaining).toBeUndefined();
        resolve();
      });
    });
    expect(calls).toBe(1);
    let timer: KeptTimer | undefined;
    await new Promise<void>((resolve) => {
      timer = started(1, () => (++calls === 4 ? resolve() : undefined), { interval: 1 });
    });
    timer?.cancel();
    expect([calls, timer?.remaining]).toEqual([4, undefined]);
  });

  it('that comes due in the cut is called by the next image, once', async () => {
    const calls: string[] = [];
    const old = started(3_600_000, () => calls.push('old'));
    const crossing = await Crossing.begin(timerHandler, old);
    const next = crossing.object as KeptTimer;
    expect(next.remaining).toBeGreaterThan(3_500_000);
    old.set(0);
    const called = new Promise<void>((resolve) => {
      next.bind(() => {
        calls.push('next');
        resolve();
      });
    });
    // No turn of the loop from here to the commit, as in a halted image.
    await crossing.freeze();
    await crossing.commit();
    await called;
    await new Promise((resolve) => setImmediate(resolve));
    expect([calls, next.remaining]).toEqual([['next'], undefined]);
  });

  it('that was called, or cancelled, is not called by the next image, until it is set again', async () => {
    for (const end of ['called', 'cancelled']) {
      let old: KeptTimer | undefined;
      await new Promise<void>((resolve) => {
        old = started(0, resolve);
        if (end === 'cancelled') {
          old.cancel();
          resolve();
        }
      });
      const next = (await Crossing.all(timerHandler, old)) as KeptTimer;
      expect(next.remaining).toBeUndefined();
      await new Promise<void>((resolve) => {
        next.bind(resolve);
        next.set(0);
      });
    }
  });

  it('keeps its interval and its step', async () => {
    const old = started(10_000, () => expect.unreachable(), { interval: 20_000 });
    const crossing = await Crossing.begin(timerHandler, old);
    await crossing.freeze();
    await crossing.commit();
    const next = crossing.object as KeptTimer;
    const record = JSON.parse(String(next.toRecord())) as { interval: number };
    expect(record.interval).toBe(20_000);
    next.cancel();
  });

  it('is the old image’s before the commit, and when the update is called off', async () => {
    let resolve: () => void = () => undefined;
    const called = new Promise<void>((done) => {
      resolve = done;
    });
    const old = started(3_600_000, () => resolve());
    const crossing = await Crossing.begin(timerHandler, old);
    const next = crossing.object as KeptTimer;
    next.bind(() => expect.unreachable());
    for (const touch of [() => next.set(1), () => next.cancel()]) {
      expect(touch).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    }
    await crossing.freeze();
    await crossing.rollback();
    old.set(0);
    await called;
  });

  it('goes by the wall clock when the kernel is another one', () => {
    const saved = { due: '1', interval: null, wall: Date.now() + 100_000, boot: 'another' };
    const timer = KeptTimer.adopt(Buffer.from(JSON.stringify(saved)));
    expect(timer.remaining).toBeGreaterThan(90_000);
    expect(timer.remaining).toBeLessThanOrEqual(100_000);
  });

  it('can be far off, and refuses what is no time', () => {
    const timer = started(2 ** 40, () => expect.unreachable());
    expect(timer.remaining).toBeGreaterThan(2 ** 39);
    timer.cancel();
    for (const [ms, options] of [
      [-1, {}],
      [Number.NaN, {}],
      [Number.POSITIVE_INFINITY, {}],
      [1, { interval: 0 }],
      [1, { interval: -1 }],
    ] as const) {
      expect(() => KeptTimer.create(ms, options)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    for (const bytes of ['', '{}', '{"due":"x"}']) {
      expect(() => KeptTimer.adopt(Buffer.from(bytes))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
  });
});
