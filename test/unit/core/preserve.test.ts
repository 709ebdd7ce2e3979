import { describe, expect, it } from 'vitest';
import { LiveUpdateError, U64_MAX } from '../../../src/core/index.js';
import { create, errnoOf, errorOf, fail, next, now, started, Thing, World } from './world.js';

describe('preserve', () => {
  it('gives EINVAL on a retrieved session, before anything else', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const old = started([handler]);
    create(old, 's', ['a1', 1n]);
    const session = now(next(old, [handler]).retrieveSession('s'));
    expect(errnoOf(() => session.preserve(null, 1n))).toBe('EINVAL');
  });

  it.each([-1n, U64_MAX + 1n, 1 as unknown as bigint, '1' as unknown as bigint])(
    'gives EINVAL for token %s',
    (token) => {
      const session = create(started([new World().handler('a-v1')]), 's');
      expect(errnoOf(() => session.preserve(new Thing('a1'), token))).toBe('EINVAL');
    },
  );

  it('takes the tokens 0, 2^53, 2^53+1 and 2^64-1 and keeps them apart', () => {
    const tokens = [0n, 2n ** 53n, 2n ** 53n + 1n, U64_MAX];
    const session = create(started([new World().handler('a-v1')]), 's');
    for (const token of tokens) session.preserve(new Thing('a1'), token);
    for (const token of tokens)
      expect(errnoOf(() => session.preserve(new Thing('a1'), token))).toBe('EEXIST');
    expect(session.serialized(U64_MAX)).toEqual({ compatible: 'a-v1', data: 1n, token: U64_MAX });
  });

  it('gives EEXIST for a used token before it looks at the file', () => {
    const session = create(started([new World().handler('a-v1')]), 's', ['a1', 1n]);
    expect(errnoOf(() => session.preserve(undefined, 1n))).toBe('EEXIST');
  });

  it('gives EBADF for no file', () => {
    const session = create(started([new World().handler('a-v1')]), 's');
    expect(errnoOf(() => session.preserve(undefined, 1n))).toBe('EBADF');
    expect(errnoOf(() => session.preserve(null, 1n))).toBe('EBADF');
  });

  it('gives ENOENT when no handler takes the file', () => {
    const session = create(started([new World().handler('a-v1')]), 's');
    expect(errnoOf(() => session.preserve(new Thing('b1'), 1n))).toBe('ENOENT');
    expect(errnoOf(() => session.preserve(12, 1n))).toBe('ENOENT');
  });

  it('gives the file to the first registered handler that takes it', () => {
    const world = new World();
    const session = create(
      started([world.handler('b-v1'), world.handler('a-v1'), world.handler('a-v2')]),
      's',
    );
    session.preserve(new Thing('a1'), 1n);
    expect(world.calls()).toEqual(['a-v1.preserve(a1)']);
  });

  it('gives EBUSY when the file is preserved in the same session under another token, and in another session', () => {
    const liveupdate = started([new World().handler('a-v1')]);
    const file = new Thing('a1');
    const session = create(liveupdate, 's');
    session.preserve(file, 1n);
    expect(errnoOf(() => session.preserve(file, 2n))).toBe('EBUSY');
    expect(errnoOf(() => create(liveupdate, 't').preserve(file, 1n))).toBe('EBUSY');
  });

  it('tells files apart by getId where the handler has one', () => {
    const getId = (file: Thing) => file.name;
    const session = create(started([new World().handler('a-v1', {}, { getId })]), 's', ['a1', 1n]);
    expect(errnoOf(() => session.preserve(new Thing('a1'), 2n))).toBe('EBUSY');
    session.preserve(new Thing('a2'), 2n);
  });

  it('gives EBUSY for a file that was retrieved and not finished; after finish it is preserved', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const old = started([handler]);
    create(old, 's', ['a1', 1n], ['a2', 2n]);
    const after = next(old, [handler]);
    const incoming = now(after.retrieveSession('s'));
    const file = now(incoming.retrieve<Thing>(1n));
    const outgoing = create(after, 'out');
    expect(errnoOf(() => outgoing.preserve(file, 1n))).toBe('EBUSY');
    const later = now(incoming.retrieve<Thing>(2n));
    expect(errnoOf(() => outgoing.preserve(later, 1n))).toBe('EBUSY');
    incoming.finish();
    outgoing.preserve(file, 1n);
    outgoing.preserve(later, 2n);
  });

  it('calls the FLBs of the first dependent file in order, then the handler; only counts for the next ones', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f'));
    liveupdate.registerFlb(handler, world.flb('g'));
    create(liveupdate, 's', ['a1', 1n]);
    create(liveupdate, 't', ['a2', 1n]);
    expect(world.calls()).toEqual(['f.preserve', 'g.preserve', 'a-v1.preserve(a1)', 'a-v1.preserve(a2)']);
    expect(liveupdate.flbs()).toMatchObject([
      { compatible: 'f', outgoing: { count: 2, references: 0 }, incoming: undefined },
      { compatible: 'g', outgoing: { count: 2 } },
    ]);
  });

  it('gives the counted FLBs back in reverse when one fails, and its error', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f'));
    liveupdate.registerFlb(handler, world.flb('g'));
    liveupdate.registerFlb(handler, world.flb('h', { preserve: fail('no room') }));
    const session = create(liveupdate, 's');
    const file = new Thing('a1');
    const error = errorOf(() => session.preserve(file, 5n));
    expect(error).toMatchObject({
      code: 'EIO',
      operation: 'preserve',
      session: 's',
      token: 5n,
      handler: 'h',
    });
    expect(error.message).toContain('no room');
    expect(world.calls()).toEqual(['f.preserve', 'g.preserve', 'h.preserve', 'g.unpreserve', 'f.unpreserve']);
    expect(liveupdate.flbs().map(({ outgoing }) => outgoing.count)).toEqual([0, 0, 0]);
    expect(liveupdate.sessions()[0]?.files).toEqual([]);
  });

  it('leaves nothing when the handler fails: FLBs given back in reverse, identity and token free', () => {
    const world = new World();
    const behaviour = { preserve: fail('broken') as () => void };
    const handler = world.handler('a-v1', behaviour);
    const liveupdate = started([handler]);
    const [f, g] = [world.flb('f'), world.flb('g')];
    liveupdate.registerFlb(handler, f);
    liveupdate.registerFlb(handler, g);
    const session = create(liveupdate, 's');
    const file = new Thing('a1');
    expect(errorOf(() => session.preserve(file, 1n)).message).toContain(
      "session 's', token 1, handler 'a-v1'",
    );
    expect(world.calls()).toEqual([
      'f.preserve',
      'g.preserve',
      'a-v1.preserve(a1)',
      'g.unpreserve',
      'f.unpreserve',
    ]);
    behaviour.preserve = () => undefined;
    session.preserve(file, 1n);
    session.unpreserve(1n);
    liveupdate.unregisterFlb(handler, f);
    liveupdate.unregisterFlb(handler, g);
    liveupdate.unregisterFileHandler(handler);
  });

  it('keeps the errno and the cause of what a callback throws', () => {
    const enomem = new LiveUpdateError('ENOMEM', 'full', { operation: 'memfd_create' });
    const system = Object.assign(new Error('EMFILE: too many'), { code: 'EMFILE' });
    for (const [thrown, code] of [
      [enomem, 'ENOMEM'],
      [system, 'EMFILE'],
      ['text', 'EIO'],
    ] as const) {
      const preserve = () => {
        throw thrown;
      };
      const session = create(started([new World().handler('a-v1', { preserve })]), 's');
      const error = errorOf(() => session.preserve(new Thing('a1'), 3n));
      expect(error).toMatchObject({ code, cause: thrown, session: 's', token: 3n, handler: 'a-v1' });
    }
  });

  it('fails when canPreserve or getId throw, without a trace', () => {
    const world = new World();
    const liveupdate = started([
      world.handler('a-v1', {}, { getId: fail('id') }),
      world.handler('b-v1', {}, { canPreserve: fail('can') }),
    ]);
    const session = create(liveupdate, 's');
    expect(errorOf(() => session.preserve(new Thing('a1'), 1n)).message).toContain('id');
    expect(errorOf(() => session.preserve(new Thing('c1'), 1n)).message).toContain('can');
    expect(world.calls()).toEqual([]);
  });

  it('takes a file back and gives EINVAL when its data is no u64', () => {
    const world = new World();
    const handler = world.handler(
      'a-v1',
      {},
      {
        preserve(args) {
          world.trace.push('preserve');
          args.serializedData = -1n;
        },
      },
    );
    const session = create(started([handler]), 's');
    expect(errnoOf(() => session.preserve(new Thing('a1'), 1n))).toBe('EINVAL');
    expect(world.calls()).toEqual(['preserve', 'a-v1.unpreserve(a1)']);
  });

  it('gives one args object to every callback of a file', () => {
    const seen = new Set<unknown>();
    const note = (args: unknown) => {
      seen.add(args);
    };
    const world = new World();
    const handler = world.handler(
      'a-v1',
      {},
      { preserve: note, freeze: note, unfreeze: note, unpreserve: note },
    );
    const liveupdate = started([handler]);
    const session = create(liveupdate, 's', ['a1', 1n]);
    liveupdate.reboot();
    liveupdate.cancelReboot();
    session.close();
    expect(seen.size).toBe(1);
    expect([...seen][0]).toMatchObject({ handler, retrieveStatus: 0 });
  });
});

describe('unpreserve', () => {
  it('undoes one file: handler, its FLBs in reverse, identity, token; the order of the others stays', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    liveupdate.registerFlb(handler, world.flb('f'));
    liveupdate.registerFlb(handler, world.flb('g'));
    const session = create(liveupdate, 's', ['a1', 1n], ['a2', 2n], ['a3', 3n]);
    session.unpreserve(2n);
    session.preserve(new Thing('a4'), 2n);
    world.calls();
    session.close();
    expect(world.calls()).toEqual([
      'a-v1.unpreserve(a4)',
      'a-v1.unpreserve(a3)',
      'a-v1.unpreserve(a1)',
      'g.unpreserve',
      'f.unpreserve',
    ]);
  });

  it('gives ENOENT for an unknown token, EINVAL for none and on a retrieved session', () => {
    const handler = new World().handler('a-v1');
    const old = started([handler]);
    const session = create(old, 's', ['a1', 1n]);
    expect(errnoOf(() => session.unpreserve(2n))).toBe('ENOENT');
    expect(errnoOf(() => session.unpreserve(1 as unknown as bigint))).toBe('EINVAL');
    expect(errnoOf(() => now(next(old, [handler]).retrieveSession('s')).unpreserve(1n))).toBe('EINVAL');
  });

  it('gives back the FLBs that the file was counted for, whatever is registered since', () => {
    const world = new World();
    const handler = world.handler('a-v1');
    const liveupdate = started([handler]);
    const [f, g] = [world.flb('f'), world.flb('g')];
    liveupdate.registerFlb(handler, f);
    const session = create(liveupdate, 's', ['a1', 1n]);
    liveupdate.registerFlb(handler, g);
    liveupdate.unregisterFlb(handler, f);
    world.calls();
    session.unpreserve(1n);
    expect(world.calls()).toEqual(['a-v1.unpreserve(a1)', 'f.unpreserve']);
  });
});
