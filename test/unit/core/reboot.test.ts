import { describe, expect, it } from 'vitest';
import { IMAGE_COMPATIBLE, type Image, LiveUpdate } from '../../../src/core/index.js';
import { create, errnoOf, errorOf, fail, next, now, started, Thing, World } from './world.js';

function threeSessions(world: World, behaviour: Record<string, () => unknown> = {}) {
  const handler = world.handler('a-v1', behaviour);
  const liveupdate = started([handler]);
  create(liveupdate, 'one', ['a1', 1n], ['a2', 2n]);
  create(liveupdate, 'two', ['a3', 1n], ['a4', 2n]);
  create(liveupdate, 'three', ['a5', 1n], ['a6', 2n], ['a7', 3n]);
  world.calls();
  return { handler, liveupdate };
}

describe('reboot', () => {
  it('freezes sessions in order of creation and files in order of preservation, and writes the image', () => {
    const world = new World();
    const { liveupdate } = threeSessions(world);
    const image = now(liveupdate.reboot());
    expect(world.calls()).toEqual([1, 2, 3, 4, 5, 6, 7].map((i) => `a-v1.freeze(a${i})`));
    const file = (i: number, token: number) => ({
      compatible: 'a-v1',
      data: BigInt(i),
      token: BigInt(token),
    });
    expect(image).toEqual({
      compatible: IMAGE_COMPATIBLE,
      liveupdateNumber: 1n,
      sessions: [
        { name: 'one', files: [file(1, 1), file(2, 2)] },
        { name: 'two', files: [file(3, 1), file(4, 2)] },
        { name: 'three', files: [file(5, 1), file(6, 2), file(7, 3)] },
      ],
      flbs: [],
    });
  });

  it('writes what freeze made of serializedData, and the FLBs that files depend on', () => {
    const world = new World();
    const a = world.handler(
      'a-v1',
      {},
      {
        freeze(args) {
          args.serializedData = 99n;
        },
      },
    );
    const b = world.handler('b-v1');
    const liveupdate = started([a, b]);
    liveupdate.registerFlb(b, world.flb('unused'));
    liveupdate.registerFlb(a, world.flb('used'));
    create(liveupdate, 's', ['a1', 1n], ['a2', 2n]);
    expect(now(liveupdate.reboot())).toMatchObject({
      sessions: [{ files: [{ data: 99n }, { data: 99n }] }],
      flbs: [{ compatible: 'used', data: 7n, count: 2 }],
    });
  });

  it('carries empty sessions, and an image of nothing', () => {
    const liveupdate = new LiveUpdate();
    create(liveupdate, 'empty');
    expect(now(liveupdate.reboot())?.sessions).toEqual([{ name: 'empty', files: [] }]);
    expect(now(new LiveUpdate().reboot())).toMatchObject({ sessions: [], flbs: [] });
  });

  it('counts live updates, and leaves incoming sessions behind', () => {
    const handler = new World().handler('a-v1');
    const first = started([handler]);
    create(first, 's', ['a1', 1n]);
    const second = next(first, [handler]);
    expect([first.liveupdateNumber, second.liveupdateNumber]).toEqual([0n, 1n]);
    expect(now(second.reboot())).toMatchObject({ liveupdateNumber: 2n, sessions: [] });
  });

  it('undoes a failed freeze: files before it in order, then earlier sessions, newest first', () => {
    const world = new World();
    let calls = 0;
    const freeze = () => {
      if (++calls === 7) throw new Error('not now');
    };
    const { liveupdate } = threeSessions(world, { freeze });
    const error = errorOf(() => liveupdate.reboot());
    expect(error).toMatchObject({
      code: 'EIO',
      operation: 'freeze',
      session: 'three',
      token: 3n,
      handler: 'a-v1',
    });
    expect(world.calls()).toEqual([
      ...[1, 2, 3, 4, 5, 6, 7].map((i) => `a-v1.freeze(a${i})`),
      'a-v1.unfreeze(a5)',
      'a-v1.unfreeze(a6)',
      'a-v1.unfreeze(a3)',
      'a-v1.unfreeze(a4)',
      'a-v1.unfreeze(a1)',
      'a-v1.unfreeze(a2)',
    ]);
  });

  it('works as before after a failed freeze, and the next one can succeed', () => {
    const world = new World();
    const behaviour = { freeze: fail() as () => void };
    const { liveupdate } = threeSessions(world, behaviour);
    expect(errnoOf(() => liveupdate.reboot())).toBe('EIO');
    create(liveupdate, 'four', ['a8', 1n]).close();
    expect(errnoOf(() => liveupdate.cancelReboot())).toBe('EINVAL');
    behaviour.freeze = () => undefined;
    expect(now(liveupdate.reboot())?.sessions).toHaveLength(3);
  });

  it('unfreezes a file whose freeze left data that is no u64', () => {
    const world = new World();
    const handler = world.handler(
      'a-v1',
      {},
      {
        freeze(args) {
          if (args.file?.name === 'a2') args.serializedData = 2n ** 64n;
        },
      },
    );
    const liveupdate = started([handler]);
    create(liveupdate, 's', ['a1', 1n], ['a2', 2n], ['a3', 3n]);
    world.calls();
    expect(errorOf(() => liveupdate.reboot())).toMatchObject({ code: 'EINVAL', token: 2n });
    expect(world.calls()).toEqual(['a-v1.unfreeze(a1)', 'a-v1.unfreeze(a2)']);
  });

  it('locks every mutation out after success: EBUSY', () => {
    const world = new World();
    const { liveupdate, handler } = threeSessions(world);
    const flb = world.flb('f');
    const session = create(liveupdate, 'four');
    liveupdate.reboot();
    world.calls();
    expect(errnoOf(() => session.preserve(new Thing('a8'), 1n))).toBe('EBUSY');
    expect(errnoOf(() => session.unpreserve(1n))).toBe('EBUSY');
    expect(errnoOf(() => session.retrieve(1n))).toBe('EBUSY');
    expect(errnoOf(() => session.finish())).toBe('EBUSY');
    expect(errnoOf(() => session.close())).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.createSession(''))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.retrieveSession('x'))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.unregisterFileHandler(handler))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.registerFlb(handler, flb))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.unregisterFlb(handler, flb))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.deserialize({} as Image))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.open())).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.reboot())).toBe('EBUSY');
    expect(session.getName()).toBe('four');
    expect(errnoOf(() => liveupdate.getOutgoing(flb))).toBe('ENOENT');
    expect(world.calls()).toEqual([]);
    liveupdate.cancelReboot();
    now(now(liveupdate.open()).createSession('five'));
  });
});

describe('cancelReboot', () => {
  it('unfreezes newest session first, files in order of preservation, and unlocks', () => {
    const world = new World();
    const { liveupdate } = threeSessions(world);
    liveupdate.reboot();
    expect(liveupdate.sessions()[0]?.files[0]?.state).toBe('frozen');
    world.calls();
    now(liveupdate.cancelReboot());
    expect(world.calls()).toEqual([5, 6, 7, 3, 4, 1, 2].map((i) => `a-v1.unfreeze(a${i})`));
    expect(liveupdate.sessions()[0]?.files[0]?.state).toBe('preserved');
    create(liveupdate, 'four', ['a8', 1n]);
    expect(now(liveupdate.reboot())?.sessions).toHaveLength(4);
  });

  it('gives EINVAL when no successful reboot is pending', () => {
    const liveupdate = new LiveUpdate();
    expect(errnoOf(() => liveupdate.cancelReboot())).toBe('EINVAL');
    liveupdate.reboot();
    liveupdate.cancelReboot();
    expect(errnoOf(() => liveupdate.cancelReboot())).toBe('EINVAL');
  });
});
