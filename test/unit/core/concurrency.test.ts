import { describe, expect, it } from 'vitest';
import { LiveUpdate, type Session } from '../../../src/core/index.js';
import { create, errnoLater, errnoOf, gate, next, now, started, Thing, turns, World } from './world.js';

describe('synchronous callbacks', () => {
  it('make no promise and cost no microtask, from registration to finish', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const old = started([handler]);
    const flb = world.flb('f');
    old.registerFlb(handler, flb);
    const session = now(old.createSession('s'));
    expect(session.preserve(new Thing('a1'), 1n)).toBeUndefined();
    expect(session.preserve(new Thing('a2'), 2n)).toBeUndefined();
    expect(session.unpreserve(2n)).toBeUndefined();
    const image = now(old.reboot())!;
    expect(old.cancelReboot()).toBeUndefined();
    expect(session.close()).toBeUndefined();
    const after = started([handler]);
    expect(after.deserialize(image)).toBeUndefined();
    const incoming = now(now(after.open()).retrieveSession('s'));
    expect(now(incoming.retrieve<Thing>(1n))).toBeInstanceOf(Thing);
    expect(incoming.finish()).toBeUndefined();
    expect(incoming.close()).toBeUndefined();
  });

  it('throw synchronously; an asynchronous callback makes a promise that rejects', async () => {
    const world = new World();
    let slow = false;
    const preserve = () => {
      if (slow) return Promise.reject(new Error('later'));
      throw new Error('now');
    };
    const session = create(started([world.handler('a-v1', { preserve })]), 's');
    expect(errnoOf(() => session.preserve(new Thing('a1'), 1n))).toBe('EIO');
    slow = true;
    expect(await errnoLater(session.preserve(new Thing('a1'), 1n))).toBe('EIO');
    expect(errnoOf(() => session.preserve(undefined, 1n))).toBe('EBADF');
  });

  it('may be thenables that are no promises', async () => {
    // biome-ignore lint/suspicious/noThenProperty: a thenable is what this is about
    const preserve = () => ({ then: (resolve: () => void) => resolve() });
    const session = create(started([new World().handler('a-v1', { preserve })]), 's');
    const pending = session.preserve(new Thing('a1'), 1n);
    expect(pending).toBeInstanceOf(Promise);
    await pending;
    expect(session.serialized(1n)).toBeDefined();
  });
});

describe('operations on one session', () => {
  it('take turns, first come first served', async () => {
    const world = new World();
    const slow = gate();
    const session = create(
      started([world.handler('a-v1', { preserve: slow.wait }), world.handler('b-v1')]),
      's',
    );
    const first = session.preserve(new Thing('a1'), 1n);
    const second = session.preserve(new Thing('b1'), 2n);
    const third = session.preserve(new Thing('b2'), 1n);
    const fourth = session.unpreserve(2n);
    expect(world.calls()).toEqual(['a-v1.preserve(a1)']);
    slow.go();
    await Promise.all([first, second, fourth]);
    expect(await errnoLater(third)).toBe('EEXIST');
    expect(world.calls()).toEqual(['b-v1.preserve(b1)', 'b-v1.unpreserve(b1)']);
    expect(session.preserve(new Thing('b3'), 3n)).toBeUndefined();
  });

  it('find it closed when they waited for the close: EBADF', async () => {
    const world = new World();
    const slow = gate();
    const session = create(started([world.handler('a-v1', { unpreserve: slow.wait })]), 's', ['a1', 1n]);
    const closing = session.close();
    const late = session.preserve(new Thing('a2'), 2n);
    const again = session.close();
    slow.go();
    await closing;
    expect(await errnoLater(late)).toBe('EBADF');
    expect(await errnoLater(again)).toBe('EBADF');
  });

  it('keep the name until the close is done', async () => {
    const slow = gate();
    const liveupdate = started([new World().handler('a-v1', { unpreserve: slow.wait })]);
    const closing = create(liveupdate, 's', ['a1', 1n]).close();
    expect(errnoOf(() => liveupdate.createSession('s'))).toBe('EEXIST');
    slow.go();
    await closing;
    create(liveupdate, 's');
  });
});

describe('operations on different sessions', () => {
  it('do not wait for each other, but never preserve one file twice', async () => {
    const world = new World();
    const slow = gate();
    const liveupdate = started([world.handler('a-v1', { preserve: slow.wait }), world.handler('b-v1')]);
    const [one, two] = [create(liveupdate, 'one'), create(liveupdate, 'two')];
    const file = new Thing('a1');
    const first = one.preserve(file, 1n);
    expect(errnoOf(() => two.preserve(file, 1n))).toBe('EBUSY');
    expect(two.preserve(new Thing('b1'), 1n)).toBeUndefined();
    slow.fail(new Error('no'));
    expect(await errnoLater(first)).toBe('EIO');
    two.preserve(new Thing('b2'), 2n);
  });

  it('cannot both be the first file of an FLB', async () => {
    const world = new World();
    const slow = gate();
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f', { preserve: slow.wait }));
    const pending = ['one', 'two'].map((name, i) =>
      create(liveupdate, name).preserve(new Thing(`a${i}`), 1n),
    );
    expect(world.calls()).toEqual(['f.preserve']);
    slow.go();
    await Promise.all(pending);
    expect(world.calls()).toEqual(['a-v1.preserve(a0)', 'a-v1.preserve(a1)']);
    expect(liveupdate.flbs()[0]?.outgoing.count).toBe(2);
  });

  it('try the FLB again when the first file failed with it', async () => {
    const world = new World();
    const behaviours = [() => Promise.reject(new Error('once')), () => undefined];
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f', { preserve: () => behaviours.shift()!() }));
    const first = create(liveupdate, 'one').preserve(new Thing('a1'), 1n);
    const second = create(liveupdate, 'two').preserve(new Thing('a2'), 1n);
    expect(await errnoLater(first)).toBe('EIO');
    await second;
    expect(world.calls()).toEqual(['f.preserve', 'f.preserve', 'a-v1.preserve(a2)']);
  });

  it('hold their handler while a preserve is under way', async () => {
    const slow = gate();
    const handler = new World().handler('a-v1', { preserve: slow.wait });
    const liveupdate = started([handler]);
    const session = create(liveupdate, 's');
    const pending = session.preserve(new Thing('a1'), 1n);
    expect(errnoOf(() => liveupdate.unregisterFileHandler(handler))).toBe('EBUSY');
    slow.fail(new Error('no'));
    expect(await errnoLater(pending)).toBe('EIO');
    liveupdate.unregisterFileHandler(handler);
  });

  it('release what a slow finish is done with, and hold the rest', async () => {
    const world = new World();
    const slow = gate();
    const old = started([world.handler('a-v1')]);
    create(old, 's', ['a1', 1n], ['a2', 2n]);
    let calls = 0;
    const handler = world.handler('a-v1', { finish: () => (++calls === 2 ? slow.wait() : undefined) });
    const after = next(old, [handler]);
    const session = now(after.retrieveSession('s'));
    const [one, two] = [now(session.retrieve<Thing>(1n)), now(session.retrieve<Thing>(2n))];
    const finishing = session.finish();
    const out = create(after, 'out');
    expect(errnoOf(() => out.preserve(one, 1n))).toBe('EBUSY');
    out.preserve(two, 2n);
    slow.go();
    await finishing;
    out.preserve(one, 1n);
    out.unpreserve(2n);
    out.preserve(two, 3n);
  });
});

describe('a reboot', () => {
  it('waits for mutations in progress, and those that come after it wait behind it', async () => {
    const world = new World();
    const slow = gate();
    const liveupdate = started([world.handler('a-v1', { preserve: slow.wait }), world.handler('b-v1')]);
    const [one, two] = [create(liveupdate, 'one'), create(liveupdate, 'two')];
    const preserving = one.preserve(new Thing('a1'), 1n);
    const rebooting = liveupdate.reboot();
    const late = two.preserve(new Thing('b1'), 1n);
    const creating = liveupdate.createSession('three');
    await turns();
    expect(world.calls()).toEqual(['a-v1.preserve(a1)']);
    slow.go();
    await preserving;
    expect((await rebooting)?.sessions).toMatchObject([{ files: [{ token: 1n }] }, { files: [] }]);
    expect(await errnoLater(late)).toBe('EBUSY');
    expect(await errnoLater(creating)).toBe('EBUSY');
    expect(world.calls()).toEqual(['a-v1.freeze(a1)']);
  });

  it('lets those who waited in when it fails', async () => {
    const world = new World();
    const slow = gate();
    const liveupdate = started([world.handler('a-v1', { freeze: slow.wait }), world.handler('b-v1')]);
    create(liveupdate, 'one', ['a1', 1n]);
    const rebooting = liveupdate.reboot();
    const creating = liveupdate.createSession('two');
    const second = liveupdate.reboot();
    expect(errnoOf(() => liveupdate.registerFileHandler(world.handler('c-v1')))).toBe('EBUSY');
    expect(errnoOf(() => liveupdate.cancelReboot())).toBe('EINVAL');
    slow.fail(new Error('no'));
    expect(await errnoLater(rebooting)).toBe('EIO');
    expect((await creating).state).toBe('outgoing');
    expect(await errnoLater(second)).toBe('EIO');
    now(liveupdate.createSession('three'));
  });

  it('keeps everybody waiting while it is called off slowly', async () => {
    const slow = gate();
    const liveupdate = started([new World().handler('a-v1', { unfreeze: slow.wait })]);
    create(liveupdate, 'one', ['a1', 1n]);
    liveupdate.reboot();
    const cancelling = liveupdate.cancelReboot();
    expect(errnoOf(() => liveupdate.cancelReboot())).toBe('EINVAL');
    const creating = liveupdate.createSession('two');
    expect(creating).toBeInstanceOf(Promise);
    slow.go();
    await cancelling;
    expect((await creating).name).toBe('two');
  });

  it('lets FLBs be used meanwhile', async () => {
    const world = new World();
    const slow = gate();
    const handler = world.handler('a-v1', { freeze: slow.wait });
    const flb = world.flb('f');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, flb);
    create(liveupdate, 's', ['a1', 1n]);
    const rebooting = liveupdate.reboot();
    expect(now(liveupdate.getOutgoing(flb))).toBe('f:out');
    slow.go();
    await rebooting;
    liveupdate.putOutgoing(flb);
  });
});

describe('a callback that calls back', () => {
  function calling(operation: string, call: (session: Session, liveupdate: LiveUpdate) => unknown) {
    const world = new World();
    const answers: string[] = [];
    let session: Session | undefined;
    const behaviour = () => {
      answers.push(errnoOf(() => call(session!, liveupdate)));
    };
    const liveupdate = started([world.handler('a-v1', { [operation]: behaviour }), world.handler('b-v1')]);
    session = create(liveupdate, 's');
    return { liveupdate, session, answers };
  }

  it('into its own session gets EBUSY instead of waiting for itself', () => {
    const { session, answers } = calling('preserve', (session) => session.preserve(new Thing('b1'), 2n));
    session.preserve(new Thing('a1'), 1n);
    expect(answers).toEqual(['EBUSY']);
    session.preserve(new Thing('b1'), 2n);
  });

  it('gets EBUSY also before the first await of an asynchronous callback', async () => {
    const world = new World();
    const answers: string[] = [];
    const preserve = async () => {
      answers.push(errnoOf(() => session.close()));
      await undefined;
    };
    const session = create(started([world.handler('a-v1', { preserve })]), 's');
    await session.preserve(new Thing('a1'), 1n);
    expect(answers).toEqual(['EBUSY']);
    now(session.close());
  });

  it('from freeze into any session, or from preserve into reboot, gets EBUSY', () => {
    const freezing = calling('freeze', (_session, liveupdate) => liveupdate.createSession('t'));
    freezing.session.preserve(new Thing('a1'), 1n);
    freezing.liveupdate.reboot();
    expect(freezing.answers).toEqual(['EBUSY']);
    const preserving = calling('preserve', (_session, liveupdate) => liveupdate.reboot());
    preserving.session.preserve(new Thing('a1'), 1n);
    expect(preserving.answers).toEqual(['EBUSY']);
  });

  it('into another session is let in, even while a reboot waits for it', async () => {
    const world = new World();
    const slow = gate();
    const handler = world.handler('a-v1', { preserve: () => two.preserve(new Thing('b1'), 1n) });
    const liveupdate: LiveUpdate = started([handler, world.handler('b-v1')]);
    liveupdate.registerFlb(handler, world.flb('f', { preserve: slow.wait }));
    const [one, two] = [create(liveupdate, 'one'), create(liveupdate, 'two')];
    const preserving = one.preserve(new Thing('a1'), 1n);
    const rebooting = liveupdate.reboot();
    slow.go();
    await preserving;
    expect((await rebooting)?.sessions.map(({ files }) => files.length)).toEqual([1, 1]);
  });

  it('of an FLB into that FLB gets EBUSY', () => {
    const world = new World();
    const answers: string[] = [];
    const liveupdate = new LiveUpdate();
    const handler = world.handler('a-v1');
    const flb = world.flb('f', {
      preserve: () => {
        answers.push(errnoOf(() => liveupdate.getOutgoing(flb)));
      },
    });
    liveupdate.registerFileHandler(handler);
    liveupdate.registerFlb(handler, flb);
    create(liveupdate, 's', ['a1', 1n]);
    expect(answers).toEqual(['EBUSY']);
  });
});
