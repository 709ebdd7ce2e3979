import { describe, expect, it } from 'vitest';
import { type FileHandler, type Flb, LiveUpdate } from '../../../src/core/index.js';
import { create, errnoOf, next, now, started, type Thing, World } from './world.js';

const world = new World();

describe('registerFileHandler', () => {
  it.each(['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish'])(
    'gives EINVAL without %s',
    (name) => {
      const { compatible, ops } = world.handler('a-v1');
      const handler = { compatible, ops: { ...ops, [name]: undefined } } as unknown as FileHandler;
      expect(errnoOf(() => new LiveUpdate().registerFileHandler(handler))).toBe('EINVAL');
    },
  );

  it('does without freeze, unfreeze, canFinish and getId', () => {
    const { compatible, ops } = world.handler('a-v1');
    const { canPreserve, preserve, unpreserve, retrieve, finish } = ops;
    const handler = { compatible, ops: { canPreserve, preserve, unpreserve, retrieve, finish } };
    const old = started([handler]);
    create(old, 's', ['a1', 1n]);
    const session = now(next(old, [handler]).retrieveSession('s'));
    expect(now(session.retrieve<Thing>(1n)).name).toBe('a1');
    now(session.finish());
  });

  it.each([
    ['', 'empty'],
    ['x'.repeat(48), '48 bytes'],
    [`${'é'.repeat(23)}xy`, '48 bytes of UTF-8 in 25 characters'],
    ['a\0b', 'NUL inside'],
    ['\ud800', 'no UTF-8'],
  ])('gives EINVAL for the compatible %j (%s)', (compatible) => {
    const { ops } = world.handler('a-v1');
    expect(errnoOf(() => new LiveUpdate().registerFileHandler({ compatible, ops }))).toBe('EINVAL');
  });

  it('takes a compatible of 47 bytes', () => {
    const { ops } = world.handler('a-v1');
    new LiveUpdate().registerFileHandler({ compatible: `${'é'.repeat(23)}x`, ops });
  });

  it('gives EEXIST for a second handler of the same compatible, and for the same one again', () => {
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    expect(errnoOf(() => liveupdate.registerFileHandler(world.handler('a-v1')))).toBe('EEXIST');
    expect(errnoOf(() => liveupdate.registerFileHandler(handler))).toBe('EEXIST');
  });

  it('checks the callbacks before the compatible is looked for', () => {
    const liveupdate = started([world.handler('a-v1')]);
    const handler = { compatible: 'a-v1', ops: {} } as unknown as FileHandler;
    expect(errnoOf(() => liveupdate.registerFileHandler(handler))).toBe('EINVAL');
  });

  it('works while sessions exist', () => {
    const liveupdate = started([world.handler('a-v1')]);
    create(liveupdate, 's', ['a1', 1n]);
    liveupdate.registerFileHandler(world.handler('b-v1'));
  });

  it('gives EBUSY after a reboot', () => {
    const liveupdate = new LiveUpdate();
    liveupdate.reboot();
    expect(errnoOf(() => liveupdate.registerFileHandler(world.handler('a-v1')))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.registerFileHandler({ ...world.handler('a-v1'), compatible: '' }))).toBe(
      'EINVAL',
    );
  });
});

describe('unregisterFileHandler', () => {
  it('gives ENOENT for a handler that is not registered, also under a known compatible', () => {
    const liveupdate = started([world.handler('a-v1')]);
    expect(errnoOf(() => liveupdate.unregisterFileHandler(world.handler('a-v1')))).toBe('ENOENT');
  });

  it('gives EBUSY while FLBs are registered with it', () => {
    const handler = world.handler('a-v1');
    const flb = world.flb('f-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, flb);
    expect(errnoOf(() => liveupdate.unregisterFileHandler(handler))).toBe('EBUSY');
    liveupdate.unregisterFlb(handler, flb);
    liveupdate.unregisterFileHandler(handler);
  });

  it('gives EBUSY while an outgoing file belongs to it', () => {
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    const session = create(liveupdate, 's', ['a1', 1n]);
    expect(errnoOf(() => liveupdate.unregisterFileHandler(handler))).toBe('EBUSY');
    session.close();
    liveupdate.unregisterFileHandler(handler);
    expect(errnoOf(() => create(liveupdate, 's', ['a1', 1n]))).toBe('ENOENT');
  });

  it('gives EBUSY while an incoming file belongs to it', () => {
    const handler = world.handler('a-v1');
    const old = started([handler]);
    create(old, 's', ['a1', 1n]);
    const liveupdate = next(old, [handler]);
    expect(errnoOf(() => liveupdate.unregisterFileHandler(handler))).toBe('EBUSY');
    now(liveupdate.retrieveSession('s')).finish();
    liveupdate.unregisterFileHandler(handler);
  });

  it('lets the next handler of the same compatible in, at the end of the order', () => {
    const first = world.handler('a-v1');
    const liveupdate = started([first, world.handler('a-v2')]);
    liveupdate.unregisterFileHandler(first);
    liveupdate.registerFileHandler(first);
    create(liveupdate, 's', ['a1', 1n]);
    expect(liveupdate.sessions()[0]?.files[0]?.handler).toBe('a-v2');
  });
});

describe('registerFlb', () => {
  it.each(['preserve', 'unpreserve', 'retrieve', 'finish'])('gives EINVAL without %s', (name) => {
    const handler = world.handler('a-v1');
    const { compatible, ops } = world.flb('f-v1');
    const flb = { compatible, ops: { ...ops, [name]: undefined } } as unknown as Flb;
    expect(errnoOf(() => started([handler]).registerFlb(handler, flb))).toBe('EINVAL');
  });

  it('gives EINVAL for a compatible of 48 bytes', () => {
    const handler = world.handler('a-v1');
    expect(errnoOf(() => started([handler]).registerFlb(handler, world.flb('f'.repeat(48))))).toBe('EINVAL');
  });

  it('gives EINVAL when the handler is not registered', () => {
    expect(errnoOf(() => new LiveUpdate().registerFlb(world.handler('a-v1'), world.flb('f-v1')))).toBe(
      'EINVAL',
    );
  });

  it('gives EEXIST when it is with this handler already, and serves a second handler', () => {
    const [a, b, flb] = [world.handler('a-v1'), world.handler('b-v1'), world.flb('f-v1')];
    const liveupdate = started([a, b]);
    liveupdate.registerFlb(a, flb);
    expect(errnoOf(() => liveupdate.registerFlb(a, flb))).toBe('EEXIST');
    liveupdate.registerFlb(b, flb);
    expect(liveupdate.flbs()).toMatchObject([{ compatible: 'f-v1', users: 2 }]);
  });

  it('gives EEXIST when another FLB has the compatible', () => {
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f-v1'));
    expect(errnoOf(() => liveupdate.registerFlb(handler, world.flb('f-v1')))).toBe('EEXIST');
  });

  it('gives ENOSPC for the 64th FLB, before EEXIST, but not to one that is there', () => {
    const [a, b] = [world.handler('a-v1'), world.handler('b-v1')];
    const liveupdate = started([a, b]);
    const flbs = Array.from({ length: 63 }, (_, i) => world.flb(`f${i}`));
    for (const flb of flbs) liveupdate.registerFlb(a, flb);
    expect(errnoOf(() => liveupdate.registerFlb(a, world.flb('more')))).toBe('ENOSPC');
    expect(errnoOf(() => liveupdate.registerFlb(a, world.flb('f0')))).toBe('ENOSPC');
    liveupdate.registerFlb(b, flbs[0]!);
    liveupdate.unregisterFlb(a, flbs[1]!);
    liveupdate.registerFlb(a, world.flb('more'));
  });
});

describe('unregisterFlb', () => {
  it('gives ENOENT when it is not with this handler', () => {
    const [a, b, flb] = [world.handler('a-v1'), world.handler('b-v1'), world.flb('f-v1')];
    const liveupdate = started([a, b]);
    liveupdate.registerFlb(a, flb);
    expect(errnoOf(() => liveupdate.unregisterFlb(b, flb))).toBe('ENOENT');
    expect(errnoOf(() => liveupdate.unregisterFlb(a, world.flb('f-v1')))).toBe('ENOENT');
  });

  it('takes it out of the list with its last handler', () => {
    const [a, b, flb] = [world.handler('a-v1'), world.handler('b-v1'), world.flb('f-v1')];
    const liveupdate = started([a, b]);
    liveupdate.registerFlb(a, flb);
    liveupdate.registerFlb(b, flb);
    liveupdate.unregisterFlb(a, flb);
    expect(liveupdate.flbs()).toHaveLength(1);
    liveupdate.unregisterFlb(b, flb);
    expect(liveupdate.flbs()).toHaveLength(0);
  });
});

describe('when live update is off', () => {
  const off = new LiveUpdate({ enabled: false });
  const handler = world.handler('a-v1');
  const flb = world.flb('f-v1');

  it.each<[string, () => unknown]>([
    ['registerFileHandler', () => off.registerFileHandler({} as FileHandler)],
    ['unregisterFileHandler', () => off.unregisterFileHandler(handler)],
    ['registerFlb', () => off.registerFlb(handler, flb)],
    ['unregisterFlb', () => off.unregisterFlb(handler, flb)],
    ['getIncoming', () => off.getIncoming(flb)],
    ['putIncoming', () => off.putIncoming(flb)],
    ['getOutgoing', () => off.getOutgoing(flb)],
    ['putOutgoing', () => off.putOutgoing(flb)],
    ['createSession', () => off.createSession('')],
    ['retrieveSession', () => off.retrieveSession('')],
    ['open', () => off.open()],
    ['deserialize', () => off.deserialize({ compatible: '?', liveupdateNumber: 0n, sessions: [], flbs: [] })],
  ])('%s gives EOPNOTSUPP before anything else', (_name, call) => {
    expect(errnoOf(call)).toBe('EOPNOTSUPP');
  });

  it('reboot does nothing, and there is none to cancel', () => {
    expect(off.enabled).toBe(false);
    expect(off.reboot()).toBeUndefined();
    expect(errnoOf(() => off.cancelReboot())).toBe('EINVAL');
  });
});
