import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import type { CountFd } from '../../../src/handlers/count-fd.js';
import { Eventfd, eventfdHandler } from '../../../src/handlers/eventfd.js';
import { Timerfd, timerfdHandler } from '../../../src/handlers/timerfd.js';
import { dupFd } from '../../../src/linux/fd.js';
import { countDescriptors } from '../linux/descriptors.js';
import { Crossing, restored } from './crossing.js';

countDescriptors();

let counters: CountFd[] = [];
afterEach(async () => {
  for (const counter of counters) counter.close();
  counters = [];
  await new Promise((resolve) => setImmediate(resolve));
});

function own<T extends CountFd>(counter: T): T {
  counters.push(counter);
  return counter;
}

async function count(counter: CountFd): Promise<bigint> {
  return ((await once(counter, 'count')) as [bigint])[0];
}

describe('an eventfd', () => {
  it('counts, tells, and is empty when it was told', async () => {
    const eventfd = own(Eventfd.create(2));
    eventfd.add(3);
    expect(await count(eventfd)).toBe(5n);
    expect(eventfd.take()).toBeUndefined();
    eventfd.add(7n);
    expect(eventfd.take()).toBe(7n);
    const one = own(Eventfd.create(2, { semaphore: true }));
    expect([one.take(), one.take(), one.take()]).toEqual([1n, 1n, undefined]);
  });

  it('says what is wrong, and closes', async () => {
    const eventfd = own(Eventfd.create());
    for (const bad of [0, -1, 1.5, Number.NaN, 2n ** 64n]) {
      expect(() => eventfd.add(bad)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    expect(() => Eventfd.create(-1)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    eventfd.add(2n ** 64n - 2n);
    expect(() => eventfd.add()).toThrow(expect.objectContaining({ code: 'EOVERFLOW' }));
    const closed = once(eventfd, 'close');
    eventfd.close();
    eventfd.close();
    await closed;
    expect(() => eventfd.take()).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  it('crosses with its count; each is told by one image', async () => {
    const old = own(Eventfd.create());
    const told: string[] = [];
    old.on('count', (n) => told.push(`old ${n}`));
    // As another process would add.
    const other = own(new Eventfd(dupFd(old.fd), { held: false }));
    other.add(1);
    await once(old, 'count');
    const crossing = await Crossing.begin(eventfdHandler, old);
    const next = own(crossing.object as Eventfd);
    next.on('count', (n) => told.push(`next ${n}`));
    other.add(2);
    await once(old, 'count');
    await crossing.freeze();
    other.add(3);
    other.add(4);
    await crossing.commit();
    await once(next, 'count');
    other.add(5);
    await once(next, 'count');
    expect(told).toEqual(['old 1', 'old 2', 'next 7', 'next 5']);
  });

  it('is not the next image’s before the commit, and the old one’s when it is called off', async () => {
    const old = own(Eventfd.create());
    const crossing = await Crossing.begin(eventfdHandler, old);
    const next = own(crossing.object as Eventfd);
    next.on('count', () => expect.unreachable());
    for (const touch of [() => next.take(), () => next.add()]) {
      expect(touch).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    }
    await crossing.freeze();
    old.add(9);
    await new Promise((resolve) => setImmediate(resolve));
    next.close();
    await crossing.rollback();
    expect(await count(old)).toBe(9n);
  });

  it('that was closed on the way is closed in the next image; unclaimed, it is given up', async () => {
    const old = own(Eventfd.create());
    const crossing = await Crossing.begin(eventfdHandler, old);
    old.close();
    await crossing.freeze();
    await crossing.commit();
    expect((crossing.object as Eventfd).isOpen).toBe(false);
    const other = await Crossing.begin(eventfdHandler, own(Eventfd.create()));
    await other.freeze();
    await other.drop();
    expect(other.adopted.isOpen).toBe(false);
  });

  it('outlives a crash; another kind of descriptor is refused', async () => {
    const old = own(Eventfd.create(3));
    const { file, start } = restored(eventfdHandler, old);
    start();
    old.close();
    expect(own(file).take()).toBe(3n);
    const timer = own(Timerfd.create());
    const handler = () =>
      restored<CountFd>(
        (handover) => ({ ...eventfdHandler(handover), custody: timerfdHandler(handover).custody }) as never,
        timer,
      );
    expect(handler).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

describe('a timerfd', () => {
  it('expires once, or again and again, and stops', async () => {
    const timer = own(Timerfd.create());
    expect(timer.remaining).toBeUndefined();
    timer.set(0);
    expect(await count(timer)).toBe(1n);
    expect(timer.remaining).toBeUndefined();
    timer.set(1, { interval: 1 });
    expect(timer.interval).toBe(1);
    expect(await count(timer)).toBeGreaterThanOrEqual(1n);
    expect(await count(timer)).toBeGreaterThanOrEqual(1n);
    timer.stop();
    expect([timer.remaining, timer.interval]).toEqual([undefined, 0]);
    for (const bad of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => timer.set(bad)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    expect(() => Timerfd.create('noon' as never)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('can be set to a time of its clock', async () => {
    const timer = own(Timerfd.create('realtime'));
    timer.set(Date.now() + 60_000, { at: true });
    expect(timer.remaining).toBeGreaterThan(50_000);
    timer.set(Date.now() - 1, { at: true });
    expect(await count(timer)).toBe(1n);
  });

  it('runs on while it crosses, and tells what expired in between to the next image', async () => {
    const old = own(Timerfd.create('boottime'));
    old.on('count', () => expect.unreachable());
    old.set(3_600_000);
    const crossing = await Crossing.begin(timerfdHandler, old);
    const next = own(crossing.object as Timerfd);
    expect(next.remaining).toBeLessThanOrEqual(3_600_000);
    expect(next.remaining).toBeGreaterThan(3_500_000);
    const told = count(next);
    await crossing.freeze();
    old.set(0);
    await crossing.commit();
    expect(await told).toBe(1n);
  });
});
