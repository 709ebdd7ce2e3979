import { describe, expect, it } from 'vitest';
import { LiveUpdate } from '../../../src/core/index.js';
import { create, errnoOf, errorOf, fail, next, now, started, Thing, World } from './world.js';

function setUp() {
  const world = new World();
  const handler = world.handler('a-v1');
  return { world, handler, liveupdate: started([handler]) };
}

describe('createSession', () => {
  it.each(['', 'x'.repeat(64), 'é'.repeat(32), 'a\0', '\udc00'])('gives EINVAL for the name %j', (name) => {
    expect(errnoOf(() => new LiveUpdate().createSession(name))).toBe('EINVAL');
  });

  it('takes a name of 63 bytes', () => {
    expect(now(new LiveUpdate().createSession(`${'é'.repeat(31)}x`)).state).toBe('outgoing');
  });

  it('gives EEXIST for the name of an outgoing session, until that is closed', () => {
    const liveupdate = new LiveUpdate();
    const session = now(liveupdate.createSession('s'));
    expect(errnoOf(() => liveupdate.createSession('s'))).toBe('EEXIST');
    session.close();
    expect(now(liveupdate.createSession('s')).isIncoming).toBe(false);
  });

  it('takes the name of an incoming session', () => {
    const { liveupdate, handler } = setUp();
    create(liveupdate, 's');
    const after = next(liveupdate, [handler]);
    create(after, 's');
    expect(after.sessions()).toMatchObject([
      { name: 's', direction: 'incoming', state: 'incoming' },
      { name: 's', direction: 'outgoing', state: 'outgoing' },
    ]);
  });

  it('has no limit at 2,000 sessions of 500 files', () => {
    const { liveupdate, handler } = setUp();
    const flat = { ...handler, ops: { ...handler.ops, preserve: () => undefined } };
    delete flat.ops.freeze;
    const fresh = started([flat]);
    for (let s = 0; s < 2000; s++) {
      const session = now(fresh.createSession(`s${s}`));
      if (s === 7) for (let f = 0; f < 500; f++) session.preserve(new Thing(`a${f}`), BigInt(f));
    }
    expect(fresh.sessions()).toHaveLength(2000);
    expect(fresh.sessions()[7]?.files).toHaveLength(500);
    expect(liveupdate.sessions()).toHaveLength(0);
  });
});

describe('retrieveSession', () => {
  it('gives ENOENT for a name that did not come in, also if an outgoing session has it', () => {
    const liveupdate = new LiveUpdate();
    create(liveupdate, 's');
    expect(errnoOf(() => liveupdate.retrieveSession('s'))).toBe('ENOENT');
  });

  it('gives EINVAL when it was retrieved already, also when it is finished, and ENOENT when that one is closed', () => {
    const { liveupdate, handler } = setUp();
    create(liveupdate, 's');
    const after = next(liveupdate, [handler]);
    const session = now(after.retrieveSession('s'));
    expect(errnoOf(() => after.retrieveSession('s'))).toBe('EINVAL');
    session.finish();
    expect(errnoOf(() => after.retrieveSession('s'))).toBe('EINVAL');
    session.close();
    expect(errnoOf(() => after.retrieveSession('s'))).toBe('ENOENT');
  });

  it('gives ENOENT for a session that was closed before the reboot', () => {
    const { liveupdate, handler } = setUp();
    create(liveupdate, 's', ['a1', 1n]).close();
    expect(errnoOf(() => next(liveupdate, [handler]).retrieveSession('s'))).toBe('ENOENT');
  });
});

describe('getName', () => {
  it('works on either kind of session; reserved must be 0', () => {
    const { liveupdate, handler } = setUp();
    const outgoing = create(liveupdate, 's');
    expect(outgoing.getName()).toBe('s');
    expect(errnoOf(() => outgoing.getName({ reserved: 1 }))).toBe('EINVAL');
    const incoming = now(next(liveupdate, [handler]).retrieveSession('s'));
    expect(incoming.getName({ reserved: 0 })).toBe('s');
  });
});

describe('close of an outgoing session', () => {
  it('unpreserves files in reverse order, each followed by its FLBs in reverse', () => {
    const { world, handler, liveupdate } = setUp();
    liveupdate.registerFlb(handler, world.flb('f'));
    liveupdate.registerFlb(handler, world.flb('g'));
    const session = create(liveupdate, 's', ['a1', 1n], ['a2', 2n], ['a3', 3n]);
    world.calls();
    now(session.close());
    expect(world.calls()).toEqual([
      'a-v1.unpreserve(a3)',
      'a-v1.unpreserve(a2)',
      'a-v1.unpreserve(a1)',
      'g.unpreserve',
      'f.unpreserve',
    ]);
    expect(liveupdate.sessions()).toEqual([]);
  });

  it('lets the files be preserved again', () => {
    const { liveupdate } = setUp();
    const file = new Thing('a1');
    const session = now(liveupdate.createSession('s'));
    session.preserve(file, 1n);
    session.close();
    now(now(liveupdate.createSession('s')).preserve(file, 1n));
  });

  it('leaves a handle that gives EBADF for everything, while dispose does nothing', async () => {
    const { liveupdate } = setUp();
    const session = create(liveupdate, 's');
    session.close();
    expect(errnoOf(() => session.preserve(new Thing('a1'), 1n))).toBe('EBADF');
    expect(errnoOf(() => session.unpreserve(1n))).toBe('EBADF');
    expect(errnoOf(() => session.retrieve(1n))).toBe('EBADF');
    expect(errnoOf(() => session.finish({ reserved: 1 }))).toBe('EBADF');
    expect(errnoOf(() => session.getName())).toBe('EBADF');
    expect(errnoOf(() => session.close())).toBe('EBADF');
    await session[Symbol.asyncDispose]();
  });

  it('happens when the handle is disposed of', async () => {
    const { liveupdate } = setUp();
    await create(liveupdate, 's')[Symbol.asyncDispose]();
    expect(liveupdate.sessions()).toEqual([]);
  });
});

describe('close of a retrieved session', () => {
  it('finishes it', () => {
    const { world, liveupdate, handler } = setUp();
    create(liveupdate, 's', ['a1', 1n], ['a2', 2n]);
    const after = next(liveupdate, [handler]);
    const session = now(after.retrieveSession('s'));
    world.calls();
    session.close();
    expect(world.calls()).toEqual([
      'a-v1.canFinish(#1,0)',
      'a-v1.canFinish(#2,0)',
      'a-v1.finish(#2)',
      'a-v1.finish(#1)',
    ]);
    expect(session.state).toBe('closed');
    expect(after.sessions()).toEqual([]);
  });

  it('leaves it with the orchestrator when a canFinish says no', () => {
    const { world, liveupdate } = setUp();
    const file = new Thing('a1');
    now(liveupdate.createSession('s')).preserve(file, 1n);
    const stubborn = world.handler('a-v1', { canFinish: () => false }, { getId: () => 'one' });
    const after = next(liveupdate, [stubborn]);
    const session = now(after.retrieveSession('s'));
    session.retrieve(1n);
    world.calls();
    now(session.close());
    expect(world.calls()).toEqual(['a-v1.canFinish(a1,1)']);
    expect(after.sessions()).toMatchObject([
      { state: 'abandoned', files: [{ token: 1n, state: 'retrieved' }] },
    ]);
    expect(errnoOf(() => after.retrieveSession('s'))).toBe('EINVAL');
    expect(errnoOf(() => session.close())).toBe('EBADF');
    expect(errnoOf(() => session.finish())).toBe('EBADF');
    expect(errnoOf(() => create(after, 'out', ['a1', 1n]))).toBe('EBUSY');
    expect(errnoOf(() => after.unregisterFileHandler(stubborn))).toBe('EBUSY');
  });

  it('abandons it too when a canFinish throws, and says so', () => {
    const { world, liveupdate } = setUp();
    create(liveupdate, 's', ['a1', 1n]);
    const after = next(liveupdate, [world.handler('a-v1', { canFinish: fail('dunno') })]);
    const session = now(after.retrieveSession('s'));
    expect(errorOf(() => session.close()).message).toContain('dunno');
    expect(session.state).toBe('abandoned');
  });
});
