import { describe, expect, it } from 'vitest';
import type { LiveUpdateError } from '../../../src/core/index.js';
import { create, errnoOf, errorOf, fail, next, now, started, World } from './world.js';

/** Callbacks that cannot fail, and do. */
describe('without onError', () => {
  it('close unpreserves every file and FLB, removes the session, then gives EIO with every cause', () => {
    const world = new World();
    const handler = world.handler('a-v1', { unpreserve: fail('file') });
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f', { unpreserve: fail('flb') }));
    const session = create(liveupdate, 's', ['a1', 1n], ['a2', 2n]);
    world.calls();
    const error = errorOf(() => session.close());
    expect(world.calls()).toEqual(['a-v1.unpreserve(a2)', 'a-v1.unpreserve(a1)', 'f.unpreserve']);
    expect(error).toMatchObject({ code: 'EIO', operation: 'close', session: 's' });
    expect((error.cause as AggregateError).errors).toMatchObject([
      { operation: 'unpreserve', token: 2n, handler: 'a-v1' },
      { operation: 'unpreserve', token: 1n, handler: 'a-v1' },
      { operation: 'unpreserve', token: 1n, handler: 'f' },
    ]);
    expect(session.state).toBe('closed');
    expect(liveupdate.sessions()).toEqual([]);
    create(liveupdate, 's');
  });

  it('unpreserve of one file is done, then gives EIO with the cause', () => {
    const liveupdate = started([new World().handler('a-v1', { unpreserve: fail('file') })]);
    const session = create(liveupdate, 's', ['a1', 1n]);
    expect(errorOf(() => session.unpreserve(1n)).cause).toMatchObject({
      token: 1n,
      cause: { message: 'file' },
    });
    expect(errnoOf(() => session.unpreserve(1n))).toBe('ENOENT');
  });

  it('finish finishes every file, then gives EIO; it is finished', () => {
    const world = new World();
    const old = started([world.handler('a-v1')]);
    create(old, 's', ['a1', 1n], ['a2', 2n]);
    const session = now(next(old, [world.handler('a-v1', { finish: fail() })]).retrieveSession('s'));
    world.calls();
    expect(errnoOf(() => session.finish())).toBe('EIO');
    expect(world.calls().slice(2)).toEqual(['a-v1.finish(#2)', 'a-v1.finish(#1)']);
    expect(session.state).toBe('finished');
    session.finish();
  });

  it('finish reports an FLB that cannot be retrieved at the last moment, and does not finish it', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const flb = world.flb('f', { retrieve: fail('lost') });
    const begin = () => {
      const liveupdate = started([handler]);
      liveupdate.registerFlb(handler, flb);
      return liveupdate;
    };
    const old = begin();
    create(old, 's', ['a1', 1n]);
    const after = begin();
    after.deserialize(now(old.reboot())!);
    world.calls();
    const session = now(after.retrieveSession('s'));
    expect(errorOf(() => session.finish()).cause).toMatchObject({ handler: 'f' });
    expect(world.calls()).toEqual(['a-v1.canFinish(#1,0)', 'a-v1.finish(#1)', 'f.retrieve']);
    expect(session.state).toBe('finished');
    expect(errorOf(() => after.getIncoming(flb)).message).toContain('lost');
  });

  it('a failed preserve keeps its errno when undoing it fails too', () => {
    const world = new World();
    const preserve = () => {
      throw Object.assign(new Error('full'), { code: 'ENOMEM' });
    };
    const handler = world.handler('a-v1', { preserve });
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f', { unpreserve: fail('flb') }));
    const error = errorOf(() => create(liveupdate, 's', ['a1', 1n]));
    expect(error).toMatchObject({ code: 'ENOMEM', session: 's', token: 1n });
    expect((error.cause as AggregateError).errors).toMatchObject([
      { code: 'ENOMEM' },
      { code: 'EIO', handler: 'f' },
    ]);
    expect(liveupdate.flbs()[0]?.outgoing.count).toBe(0);
  });

  it('a failed freeze unfreezes all, keeps its errno and unlocks', () => {
    const world = new World();
    let calls = 0;
    const freeze = () => {
      if (++calls === 3) throw Object.assign(new Error('no'), { code: 'ETIME' });
    };
    const liveupdate = started([world.handler('a-v1', { freeze, unfreeze: fail() })]);
    create(liveupdate, 'one', ['a1', 1n]);
    create(liveupdate, 'two', ['a2', 1n], ['a3', 2n]);
    world.calls();
    const error = errorOf(() => liveupdate.reboot());
    expect(error.code).toBe('ETIME');
    expect(error.cause).toBeInstanceOf(AggregateError);
    expect(world.calls().slice(3)).toEqual(['a-v1.unfreeze(a2)', 'a-v1.unfreeze(a1)']);
    create(liveupdate, 'three');
  });

  it('cancelReboot unfreezes all and unlocks, then gives EIO', () => {
    const world = new World();
    const liveupdate = started([world.handler('a-v1', { unfreeze: fail() })]);
    create(liveupdate, 'one', ['a1', 1n], ['a2', 2n]);
    liveupdate.reboot();
    world.calls();
    expect(errorOf(() => liveupdate.cancelReboot())).toMatchObject({
      code: 'EIO',
      operation: 'cancelReboot',
    });
    expect(world.calls()).toEqual(['a-v1.unfreeze(a1)', 'a-v1.unfreeze(a2)']);
    create(liveupdate, 'two');
  });
});

describe('with onError', () => {
  it('operations succeed and each fault is told once, with its circumstances', () => {
    const told: LiveUpdateError[] = [];
    const onError = (error: LiveUpdateError) => {
      told.push(error);
    };
    const handler = new World().handler('a-v1', { unpreserve: fail('one'), unfreeze: fail('two') });
    const liveupdate = started([handler], { onError });
    const session = create(liveupdate, 's', ['a1', 1n]);
    liveupdate.reboot();
    now(liveupdate.cancelReboot());
    now(session.close());
    expect(told).toMatchObject([
      { operation: 'unfreeze', session: 's', token: 1n, handler: 'a-v1' },
      { operation: 'unpreserve', session: 's', token: 1n, handler: 'a-v1' },
    ]);
  });

  it('that throws itself falls back to EIO with both', () => {
    const handler = new World().handler('a-v1', { unpreserve: fail('file') });
    const session = create(started([handler], { onError: fail('listener') }), 's', ['a1', 1n]);
    const { errors } = errorOf(() => session.close()).cause as AggregateError;
    expect(errors.map(String)).toEqual([
      expect.stringContaining('file'),
      expect.stringContaining('listener'),
    ]);
    expect(session.state).toBe('closed');
  });
});
