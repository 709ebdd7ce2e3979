import { inspect } from 'node:util';
import { deserialize, serialize } from 'node:v8';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { reconcile } from '../../../src/handlers/reconcile.js';

const value = fc.object({
  withMap: true,
  withSet: true,
  withDate: true,
  withTypedArray: true,
  withBigInt: true,
  withNullPrototype: true,
  withSparseArray: true,
  maxDepth: 3,
});

const clone = <T>(source: T): T => deserialize(serialize(source)) as T;

/** Everything, in order; unlike isDeepStrictEqual, one invalid date is like another. */
const shown = (value: unknown) =>
  inspect(value, { depth: null, maxArrayLength: null, maxStringLength: null });

describe('reconcile', () => {
  it('makes any object equal to any other, and keeps the object', () => {
    fc.assert(
      fc.property(value, value, (target, source) => {
        const before = clone(target);
        const result = reconcile(before, clone(source));
        expect(result).toBe(before);
        expect(shown(result)).toBe(shown(clone(source)));
      }),
      { numRuns: 1000 },
    );
  });

  it('keeps the identity of what is still of its kind at its place', () => {
    const target = { users: new Map([['a', { n: 1 }]]), list: [{ n: 1 }, { n: 2 }], gone: 1 };
    const { users, list } = target;
    const [a, first] = [users.get('a'), list[0]];
    reconcile(target, {
      users: new Map([
        ['b', { n: 9 }],
        ['a', { n: 5 }],
      ]),
      list: [{ n: 7 }],
      fresh: true,
    });
    expect(target).toEqual({
      users: new Map([
        ['b', { n: 9 }],
        ['a', { n: 5 }],
      ]),
      list: [{ n: 7 }],
      fresh: true,
    });
    expect([target.users, target.list]).toEqual([users, list]);
    expect(target.users).toBe(users);
    expect(users.get('a')).toBe(a);
    expect(target.list[0]).toBe(first);
    expect([...users.keys()]).toEqual(['b', 'a']);
  });

  it('keeps cycles and shared references of the source, and never merges two into one', () => {
    const shared = { n: 1 };
    const target: Record<string, unknown> = { one: shared, two: shared };
    reconcile(target, { one: { n: 1 }, two: { n: 2 } });
    expect(target).toEqual({ one: { n: 1 }, two: { n: 2 } });
    const ring: Record<string, unknown> = { n: 3 };
    ring.self = ring;
    reconcile(target, { ring, again: ring });
    const made = target.ring as Record<string, unknown>;
    expect(made.self).toBe(made);
    expect(target.again).toBe(made);
  });

  it('takes a key called __proto__ as data', () => {
    const target = {};
    reconcile(target, JSON.parse('{"__proto__": {"polluted": true}}'));
    expect(Object.keys(target)).toEqual(['__proto__']);
    expect((target as { polluted?: boolean }).polluted).toBeUndefined();
  });
});
