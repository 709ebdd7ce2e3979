import { describe, expect, it } from 'vitest';
import { IMAGE_COMPATIBLE, type Image, LiveUpdate, type SerializedFile } from '../../../src/core/index.js';
import { create, errnoLater, errnoOf, errorOf, fail, next, now, started, Thing, World } from './world.js';

/** A retrieved session 's' with files a1, a2, a3 under tokens 1, 2, 3, in a new image with this behaviour. */
function retrieved(behaviour: Record<string, () => unknown> = {}, more = {}) {
  const world = new World();
  const old = started([world.handler('a-v1')]);
  create(old, 's', ['a1', 1n], ['a2', 2n], ['a3', 3n]);
  const handler = world.handler('a-v1', behaviour, more);
  const liveupdate = next(old, [handler]);
  const session = now(liveupdate.retrieveSession('s'));
  world.calls();
  return { world, liveupdate, session, handler };
}

describe('retrieve', () => {
  it('gives EINVAL on an outgoing session', () => {
    const session = create(started([new World().handler('a-v1')]), 's', ['a1', 1n]);
    expect(errnoOf(() => session.retrieve(1n))).toBe('EINVAL');
  });

  it('gives ENOENT for an unknown token, EINVAL for none', () => {
    const { session } = retrieved();
    expect(errnoOf(() => session.retrieve(4n))).toBe('ENOENT');
    expect(errnoOf(() => session.retrieve(1 as unknown as bigint))).toBe('EINVAL');
  });

  it('goes in any order and returns the same file again without a second call', () => {
    const { session, world } = retrieved();
    const third = now(session.retrieve<Thing>(3n));
    expect(third.name).toBe('a3');
    expect(now(session.retrieve<Thing>(1n)).name).toBe('a1');
    expect(now(session.retrieve<Thing>(3n))).toBe(third);
    expect(world.calls()).toEqual(['a-v1.retrieve(#3)', 'a-v1.retrieve(#1)']);
  });

  it('repeats the same error without a second call', () => {
    const { session, world, liveupdate } = retrieved({ retrieve: fail('gone') });
    const error = errorOf(() => session.retrieve(2n));
    expect(error).toMatchObject({
      code: 'EIO',
      operation: 'retrieve',
      session: 's',
      token: 2n,
      handler: 'a-v1',
    });
    expect(errorOf(() => session.retrieve(2n))).toBe(error);
    expect(world.calls()).toEqual(['a-v1.retrieve(#2)']);
    expect(liveupdate.sessions()[0]?.files[1]?.state).toBe('failed');
  });

  it('gives EIO when the handler makes no file', () => {
    const { session } = retrieved({}, { retrieve: () => undefined });
    expect(errnoOf(() => session.retrieve(1n))).toBe('EIO');
  });

  it('fails when getId does, and leaves the file for finish to clean up', () => {
    const { session, world } = retrieved({}, { getId: fail() });
    expect(errnoOf(() => session.retrieve(1n))).toBe('EIO');
    world.calls();
    session.finish();
    expect(world.calls()).toContain('a-v1.canFinish(a1,-5)');
    expect(world.trace).toEqual([]);
  });
});

describe('finish', () => {
  it('gives EINVAL on an outgoing session and when reserved is not 0', () => {
    const outgoing = create(started([]), 's');
    expect(errnoOf(() => outgoing.finish())).toBe('EINVAL');
    const { session, world } = retrieved();
    expect(errnoOf(() => session.finish({ reserved: 1 }))).toBe('EINVAL');
    expect(world.calls()).toEqual([]);
  });

  it('asks canFinish in order with the status of the retrieve, then finishes in reverse', () => {
    let calls = 0;
    const retrieve = () => {
      if (++calls === 2) throw Object.assign(new Error('no'), { code: 'ENOMEM' });
    };
    const { session, world } = retrieved({ retrieve });
    session.retrieve(1n);
    expect(errnoOf(() => session.retrieve(2n))).toBe('ENOMEM');
    world.calls();
    now(session.finish());
    expect(world.calls()).toEqual([
      'a-v1.canFinish(a1,1)',
      'a-v1.canFinish(#2,-12)',
      'a-v1.canFinish(#3,0)',
      'a-v1.finish(#3)',
      'a-v1.finish(#2)',
      'a-v1.finish(a1)',
    ]);
  });

  it('gives EBUSY and finishes nothing when one canFinish says no; it may be tried again', () => {
    let answer = false;
    const { session, world } = retrieved({ canFinish: () => answer });
    session.retrieve(1n);
    world.calls();
    expect(errorOf(() => session.finish())).toMatchObject({ code: 'EBUSY', token: 1n });
    expect(now(session.canFinish())).toBe(false);
    expect(world.calls()).toEqual(['a-v1.canFinish(a1,1)', 'a-v1.canFinish(a1,1)']);
    answer = true;
    expect(now(session.canFinish())).toBe(true);
    session.finish();
    expect(world.calls().filter((call) => call.includes('.finish'))).toHaveLength(3);
  });

  it('fails with what a canFinish throws, and finishes nothing', () => {
    const { session, world } = retrieved({ canFinish: fail('dunno') });
    expect(errorOf(() => session.finish())).toMatchObject({ code: 'EIO', session: 's', token: 1n });
    expect(world.calls()).toEqual(['a-v1.canFinish(#1,0)']);
    expect(session.state).toBe('retrieved');
  });

  it('leaves the file with its owner, finds no token after it, and has nothing to do again', () => {
    const { session, world, liveupdate } = retrieved();
    const file = now(session.retrieve<Thing>(1n));
    session.finish();
    world.calls();
    expect(errnoOf(() => session.retrieve(1n))).toBe('ENOENT');
    session.finish();
    expect(world.calls()).toEqual([]);
    expect(file.name).toBe('a1');
    expect(liveupdate.sessions()).toMatchObject([{ state: 'finished', files: [] }]);
  });

  it('has nothing to do in an empty session', () => {
    const old = started([]);
    create(old, 's');
    now(now(next(old, []).retrieveSession('s')).finish());
  });
});

describe('deserialize', () => {
  const file: SerializedFile = { compatible: 'a-v1', data: 1n, token: 1n };
  const good: Image = {
    compatible: IMAGE_COMPATIBLE,
    liveupdateNumber: 5n,
    sessions: [{ name: 's', files: [file, { ...file, token: 2n }] }],
    flbs: [{ compatible: 'f', data: 1n, count: 2 }],
  };
  const fresh = () => started([new World().handler('a-v1')]);

  it('restores sessions, files and FLBs, and knows how many updates there were', () => {
    const liveupdate = fresh();
    now(liveupdate.deserialize(good));
    expect(liveupdate.liveupdateNumber).toBe(5n);
    expect(liveupdate.sessions()).toEqual([
      {
        name: 's',
        direction: 'incoming',
        state: 'incoming',
        files: [
          { token: 1n, handler: 'a-v1', state: 'incoming' },
          { token: 2n, handler: 'a-v1', state: 'incoming' },
        ],
      },
    ]);
    expect(liveupdate.flbs()).toEqual([
      {
        compatible: 'f',
        users: 0,
        outgoing: { count: 0, references: 0 },
        incoming: { count: 2, references: 0, finished: false },
      },
    ]);
  });

  it('gives EINVAL for an unknown form and switches live update off', () => {
    const liveupdate = fresh();
    const outgoing = create(liveupdate, 'out', ['a1', 1n]);
    expect(errnoOf(() => liveupdate.deserialize({ ...good, compatible: 'luo-v9' }))).toBe('EINVAL');
    expect(liveupdate.enabled).toBe(false);
    expect(errnoOf(() => liveupdate.createSession('x'))).toBe('EOPNOTSUPP');
    expect(errnoOf(() => outgoing.preserve(new Thing('a2'), 2n))).toBe('EOPNOTSUPP');
    expect(liveupdate.reboot()).toBeUndefined();
    expect(errnoOf(() => liveupdate.open())).toBe('EIO');
    now(outgoing.close());
  });

  it.each<[string, Partial<Image>]>([
    ['a number that is no u64', { liveupdateNumber: -1n }],
    ['sessions that are no list', { sessions: 3 as unknown as [] }],
    ['a session without a name', { sessions: [{ name: '', files: [] }] }],
    ['a name of 64 bytes', { sessions: [{ name: 'x'.repeat(64), files: [] }] }],
    ['files that are no list', { sessions: [{ name: 's', files: undefined as unknown as [] }] }],
    ['a session that came twice', { sessions: [...good.sessions, ...good.sessions] }],
    ['a token that came twice', { sessions: [{ name: 's', files: [file, file] }] }],
    ['a token that is no u64', { sessions: [{ name: 's', files: [{ ...file, token: -1n }] }] }],
    ['data that is no u64', { sessions: [{ name: 's', files: [{ ...file, data: 1n << 64n }] }] }],
    [
      'a compatible of 48 bytes',
      { sessions: [{ name: 's', files: [{ ...file, compatible: 'x'.repeat(48) }] }] },
    ],
    ['an FLB without files', { flbs: [{ compatible: 'f', data: 1n, count: 0 }] }],
    ['an FLB with more files than there are', { flbs: [{ compatible: 'f', data: 1n, count: 3 }] }],
    ['an FLB with half a file', { flbs: [{ compatible: 'f', data: 1n, count: 1.5 }] }],
    ['an FLB that came twice', { flbs: [...good.flbs, ...good.flbs] }],
    ['an FLB with a bad name', { flbs: [{ compatible: '', data: 1n, count: 1 }] }],
    ['an FLB with bad data', { flbs: [{ compatible: 'f', data: -1n, count: 1 }] }],
    [
      '64 FLBs',
      { flbs: Array.from({ length: 64 }, (_, i) => ({ compatible: `f${i}`, data: 1n, count: 1 })) },
    ],
  ])('gives EINVAL for %s, and stays failed', (_what, part) => {
    const liveupdate = fresh();
    expect(errnoOf(() => liveupdate.deserialize({ ...good, ...part }))).toBe('EINVAL');
    expect(liveupdate.enabled).toBe(true);
    expect(errnoOf(() => liveupdate.deserialize(good))).toBe('EIO');
    expect(errnoOf(() => liveupdate.open())).toBe('EIO');
    expect(errnoOf(() => liveupdate.createSession('x'))).toBe('EIO');
    expect(errnoOf(() => liveupdate.retrieveSession('s'))).toBe('EIO');
  });

  it('gives ENOENT when a handler is not registered, and leaves what was restored before', () => {
    const liveupdate = fresh();
    const image = {
      ...good,
      sessions: [...good.sessions, { name: 't', files: [{ ...file, compatible: 'b-v1' }] }],
    };
    expect(errorOf(() => liveupdate.deserialize(image))).toMatchObject({
      code: 'ENOENT',
      session: 't',
      handler: 'b-v1',
    });
    expect(liveupdate.sessions().map(({ name }) => name)).toEqual(['s', 't']);
    expect(errnoOf(() => liveupdate.retrieveSession('s'))).toBe('EIO');
  });

  it('gives EBUSY the second time, also after an open that found nothing', () => {
    const liveupdate = fresh();
    liveupdate.deserialize(good);
    expect(errnoOf(() => liveupdate.deserialize(good))).toBe('EBUSY');
    const opened = new LiveUpdate();
    now(opened.open());
    expect(errnoOf(() => opened.deserialize(good))).toBe('EBUSY');
  });
});

describe('open', () => {
  const image: Image = {
    compatible: IMAGE_COMPATIBLE,
    liveupdateNumber: 1n,
    sessions: [{ name: 's', files: [] }],
    flbs: [],
  };

  it('gives EBUSY to a second opener until the first one closes', () => {
    const liveupdate = new LiveUpdate();
    const device = now(liveupdate.open());
    expect(errnoOf(() => liveupdate.open())).toBe('EBUSY');
    device.close();
    now(liveupdate.open());
  });

  it('asks for the image once, at the first open', () => {
    let asked = 0;
    const liveupdate = new LiveUpdate({
      incoming() {
        asked++;
        return image;
      },
    });
    expect(asked).toBe(0);
    expect(errnoOf(() => liveupdate.retrieveSession('s'))).toBe('ENOENT');
    const device = now(liveupdate.open());
    expect(now(device.retrieveSession('s')).name).toBe('s');
    device.close();
    now(liveupdate.open());
    expect(asked).toBe(1);
  });

  it('gives EIO with the cause when the image cannot be deserialized or supplied, now and always', () => {
    const broken = new LiveUpdate({ incoming: () => ({ ...image, liveupdateNumber: -1n }) });
    expect(errorOf(() => broken.open())).toMatchObject({ code: 'EIO', cause: { code: 'EINVAL' } });
    expect(errorOf(() => broken.open())).toMatchObject({ code: 'EIO', cause: { code: 'EINVAL' } });
    const unknown = new LiveUpdate({ incoming: () => ({ ...image, compatible: '?' }) });
    expect(errnoOf(() => unknown.open())).toBe('EIO');
    expect(errnoOf(() => unknown.open())).toBe('EIO');
    expect(unknown.enabled).toBe(false);
    const absent = new LiveUpdate({ incoming: fail('lost') });
    expect(errorOf(() => absent.open()).cause).toMatchObject({ code: 'EIO' });
  });

  it('waits for an image that takes its time, and is busy meanwhile', async () => {
    const liveupdate = new LiveUpdate({ incoming: () => Promise.resolve(image) });
    const opening = liveupdate.open();
    expect(opening).toBeInstanceOf(Promise);
    expect(errnoOf(() => liveupdate.open())).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.deserialize(image))).toBe('EBUSY');
    expect(now((await opening).retrieveSession('s')).name).toBe('s');
    const failing = new LiveUpdate({ incoming: () => Promise.reject(new Error('lost')) });
    expect(await errnoLater(failing.open())).toBe('EIO');
    expect(errnoOf(() => failing.open())).toBe('EIO');
  });

  it('leaves sessions to outlive the device; a closed one gives EBADF', async () => {
    const liveupdate = new LiveUpdate();
    const device = now(liveupdate.open());
    const session = now(device.createSession('s'));
    device.close();
    expect(session.getName()).toBe('s');
    expect(errnoOf(() => device.createSession('t'))).toBe('EBADF');
    expect(errnoOf(() => device.retrieveSession('t'))).toBe('EBADF');
    expect(errnoOf(() => device.close())).toBe('EBADF');
    await device[Symbol.asyncDispose]();
    const again = now(liveupdate.open());
    expect(errnoOf(() => again.createSession('s'))).toBe('EEXIST');
    await again[Symbol.asyncDispose]();
    now(liveupdate.open());
  });
});
