import { describe, expect, it } from 'vitest';
import { LiveUpdate } from '../../../src/core/index.js';
import { create, errnoOf, errorOf, fail, next, now, started, World } from './world.js';

function setUp(behaviour = {}) {
  const world = new World();
  const [a, b, flb] = [world.handler('a-v1'), world.handler('b-v1'), world.flb('f', behaviour)];
  const begin = () => {
    const liveupdate = started([a, b]);
    liveupdate.registerFlb(a, flb);
    liveupdate.registerFlb(b, flb);
    return liveupdate;
  };
  const after = (old: LiveUpdate) => {
    const liveupdate = begin();
    liveupdate.deserialize(now(old.reboot())!);
    world.calls();
    return liveupdate;
  };
  return { world, a, b, flb, begin, after };
}

describe('an outgoing FLB', () => {
  it('lives from the first dependent file to the last, over handlers and sessions', () => {
    const { world, flb, begin } = setUp();
    const liveupdate = begin();
    expect(errnoOf(() => liveupdate.getOutgoing(flb))).toBe('ENOENT');
    const one = create(liveupdate, 'one', ['a1', 1n]);
    const two = create(liveupdate, 'two', ['b1', 1n]);
    expect(world.calls()).toEqual(['f.preserve', 'a-v1.preserve(a1)', 'b-v1.preserve(b1)']);
    expect(now(liveupdate.getOutgoing(flb))).toBe('f:out');
    liveupdate.putOutgoing(flb);
    one.close();
    expect(world.calls()).toEqual(['a-v1.unpreserve(a1)']);
    two.close();
    expect(world.calls()).toEqual(['b-v1.unpreserve(b1)', 'f.unpreserve']);
    expect(errnoOf(() => liveupdate.getOutgoing(flb))).toBe('ENOENT');
    create(liveupdate, 'three', ['a1', 1n]);
    expect(world.calls()).toEqual(['f.preserve', 'a-v1.preserve(a1)']);
  });

  it('is not taken away while it is lent: the last put unpreserves it', () => {
    const { world, flb, begin } = setUp();
    const liveupdate = begin();
    const session = create(liveupdate, 's', ['a1', 1n]);
    liveupdate.getOutgoing(flb);
    liveupdate.getOutgoing(flb);
    session.close();
    world.calls();
    expect(now(liveupdate.reboot())?.flbs).toEqual([]);
    liveupdate.cancelReboot();
    create(liveupdate, 't', ['a2', 1n]).close();
    now(liveupdate.putOutgoing(flb));
    expect(world.calls()).toEqual(['a-v1.preserve(a2)', 'a-v1.unpreserve(a2)']);
    now(liveupdate.putOutgoing(flb));
    expect(world.calls()).toEqual(['f.unpreserve']);
    expect(errnoOf(() => liveupdate.putOutgoing(flb))).toBe('EINVAL');
  });

  it('can be asked for by a handler in preserve and freeze', () => {
    const world = new World();
    const flb = world.flb('f');
    const liveupdate = new LiveUpdate();
    const seen: unknown[] = [];
    const look = () => {
      seen.push(liveupdate.getOutgoing(flb));
      liveupdate.putOutgoing(flb);
    };
    const handler = world.handler('a-v1', { preserve: look, freeze: look });
    liveupdate.registerFileHandler(handler);
    liveupdate.registerFlb(handler, flb);
    create(liveupdate, 's', ['a1', 1n]);
    liveupdate.reboot();
    expect(seen).toEqual(['f:out', 'f:out']);
  });

  it('takes itself back and gives EINVAL when its data is no u64', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    const preserve = (args: { data: bigint }) => {
      args.data = -1n;
    };
    liveupdate.registerFlb(handler, world.flb('f', {}, { preserve }));
    expect(errnoOf(() => create(liveupdate, 's', ['a1', 1n]))).toBe('EINVAL');
    expect(world.calls()).toEqual(['f.unpreserve']);
  });

  it('is not written once it is registered with nobody, and is given back all the same', () => {
    const { world, a, b, flb, begin } = setUp();
    const liveupdate = begin();
    const session = create(liveupdate, 's', ['a1', 1n]);
    liveupdate.unregisterFlb(a, flb);
    liveupdate.unregisterFlb(b, flb);
    expect(now(liveupdate.reboot())?.flbs).toEqual([]);
    liveupdate.cancelReboot();
    world.calls();
    session.close();
    expect(world.calls()).toEqual(['a-v1.unpreserve(a1)', 'f.unpreserve']);
  });
});

describe('an incoming FLB', () => {
  it('gives ENODATA when nothing came in, ENOENT when the image did not bring it', () => {
    const { flb, begin, after } = setUp();
    expect(errnoOf(() => begin().getIncoming(flb))).toBe('ENODATA');
    expect(errnoOf(() => after(begin()).getIncoming(flb))).toBe('ENOENT');
  });

  it('is retrieved once, by the first who asks, and finished with the last file', () => {
    const { world, flb, begin, after } = setUp();
    const old = begin();
    create(old, 's', ['a1', 1n], ['b2', 2n]);
    create(old, 't', ['a3', 1n]);
    const liveupdate = after(old);
    expect(now(liveupdate.getIncoming(flb))).toBe('f:in:7');
    expect(now(liveupdate.getIncoming(flb))).toBe('f:in:7');
    liveupdate.putIncoming(flb);
    liveupdate.putIncoming(flb);
    expect(world.calls()).toEqual(['f.retrieve']);
    now(liveupdate.retrieveSession('s')).finish();
    expect(liveupdate.flbs()[0]?.incoming).toEqual({ count: 1, references: 0, finished: false });
    world.calls();
    now(liveupdate.retrieveSession('t')).finish();
    expect(world.calls()).toEqual(['a-v1.canFinish(#3,0)', 'a-v1.finish(#3)', 'f.finish']);
    expect(errnoOf(() => liveupdate.getIncoming(flb))).toBe('ENODATA');
    expect(errnoOf(() => liveupdate.putIncoming(flb))).toBe('EINVAL');
  });

  it('is finished in reverse order of registration where a file has several', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const flbs = ['f', 'g', 'h'].map((name) => world.flb(name));
    const begin = () => {
      const liveupdate = started([handler]);
      for (const flb of flbs) liveupdate.registerFlb(handler, flb);
      return liveupdate;
    };
    const old = begin();
    create(old, 's', ['a1', 1n]);
    const liveupdate = begin();
    liveupdate.deserialize(now(old.reboot())!);
    for (const flb of flbs) {
      liveupdate.getIncoming(flb);
      liveupdate.putIncoming(flb);
    }
    world.calls();
    now(liveupdate.retrieveSession('s')).finish();
    expect(world.calls().slice(1)).toEqual(['a-v1.finish(#1)', 'h.finish', 'g.finish', 'f.finish']);
  });

  it('is retrieved before it is finished when nobody asked', () => {
    const { world, begin, after } = setUp();
    const old = begin();
    create(old, 's', ['a1', 1n]);
    now(after(old).retrieveSession('s')).finish();
    expect(world.calls()).toEqual(['a-v1.canFinish(#1,0)', 'a-v1.finish(#1)', 'f.retrieve', 'f.finish']);
  });

  it('is not finished while it is lent: the last put finishes it', () => {
    const { world, flb, begin, after } = setUp();
    const old = begin();
    create(old, 's', ['a1', 1n]);
    const liveupdate = after(old);
    liveupdate.getIncoming(flb);
    now(liveupdate.retrieveSession('s')).finish();
    expect(world.calls()).not.toContain('f.finish');
    expect(now(liveupdate.getIncoming(flb))).toBe('f:in:7');
    liveupdate.putIncoming(flb);
    now(liveupdate.putIncoming(flb));
    expect(world.calls()).toEqual(['f.finish']);
    expect(errnoOf(() => liveupdate.getIncoming(flb))).toBe('ENODATA');
  });

  it('keeps the error of a failed retrieve and is not finished', () => {
    const { world, flb, begin, after } = setUp({ retrieve: fail('bad') });
    const old = begin();
    create(old, 's', ['a1', 1n]);
    const liveupdate = after(old);
    const error = errorOf(() => liveupdate.getIncoming(flb));
    expect(error).toMatchObject({ code: 'EIO', operation: 'getIncoming', handler: 'f' });
    expect(errorOf(() => liveupdate.getIncoming(flb))).toBe(error);
    now(now(liveupdate.retrieveSession('s')).finish());
    expect(world.calls()).toEqual(['f.retrieve', 'a-v1.canFinish(#1,0)', 'a-v1.finish(#1)']);
    expect(errorOf(() => liveupdate.getIncoming(flb))).toBe(error);
  });

  it('lives apart from the outgoing one', () => {
    const { world, flb, begin, after } = setUp();
    const old = begin();
    create(old, 's', ['a1', 1n]);
    const liveupdate = after(old);
    expect(errnoOf(() => liveupdate.getOutgoing(flb))).toBe('ENOENT');
    create(liveupdate, 's', ['a2', 1n], ['a3', 2n]);
    expect(liveupdate.flbs()).toMatchObject([{ outgoing: { count: 2 }, incoming: { count: 1 } }]);
    now(liveupdate.getIncoming(flb));
    expect(now(liveupdate.getOutgoing(flb))).toBe('f:out');
    expect(world.calls()).toEqual(['f.preserve', 'a-v1.preserve(a2)', 'a-v1.preserve(a3)', 'f.retrieve']);
  });

  it('leaves alone an FLB that a handler gained since', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const old = started([handler]);
    create(old, 's', ['a1', 1n]);
    const liveupdate = next(old, [handler]);
    liveupdate.registerFlb(handler, world.flb('new'));
    world.calls();
    now(liveupdate.retrieveSession('s')).finish();
    expect(world.calls()).toEqual(['a-v1.canFinish(#1,0)', 'a-v1.finish(#1)']);
  });
});
