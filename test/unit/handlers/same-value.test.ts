import { deserialize, serialize } from 'node:v8';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isSame } from '../../../src/handlers/same-value.js';

const clone = (value: unknown): unknown => deserialize(serialize(value));

describe('isSame', () => {
  it('says yes of a clone of what it understands', () => {
    const value = fc.jsonValue({ maxDepth: 3 });
    fc.assert(
      fc.property(value, (one) => {
        const size = JSON.stringify(one).length;
        fc.pre(size < 200);
        expect(isSame(one, clone(one))).toBe(true);
      }),
    );
    for (const one of [
      undefined,
      Number.NaN,
      -0,
      1n,
      'x',
      { a: undefined },
      new Array(3),
      new Uint8Array(4),
    ]) {
      expect(isSame(one, clone(one))).toBe(true);
    }
  });

  it('says yes only of what a clone cannot tell apart', () => {
    const value = fc.jsonValue({ maxDepth: 2 });
    fc.assert(
      fc.property(value, value, (one, other) => {
        if (isSame(one, clone(other))) expect(JSON.stringify(clone(one))).toBe(JSON.stringify(other));
      }),
    );
  });

  it('sees one property more, less, renamed, or in another order', () => {
    const before = clone({ a: 1, b: { c: [1, 2] } });
    for (const now of [
      { a: 1 },
      { a: 1, b: { c: [1, 2] }, d: undefined },
      { b: { c: [1, 2] }, a: 1 },
      { a: 1, b: { c: [1, 2, 3] } },
      { a: 1, b: { c: { 0: 1, 1: 2 } } },
      { a: 1, b: { d: [1, 2] } },
      { a: -1, b: { c: [1, 2] } },
      { a: 0, b: { c: [1, 2] } },
    ]) {
      expect(isSame(now, before)).toBe(false);
    }
    expect(isSame({ a: 0 }, { a: -0 })).toBe(false);
    expect(isSame([undefined], [null])).toBe(false);
  });

  it('sees bytes that changed, and bytes of another kind', () => {
    const bytes = Buffer.from('abc');
    const before = clone({ bytes });
    expect(isSame({ bytes }, before)).toBe(true);
    expect(isSame({ bytes: new Uint8Array(bytes) }, before)).toBe(false);
    bytes[1] = 0;
    expect(isSame({ bytes }, before)).toBe(false);
  });

  it('sees whether two places hold one object', () => {
    const shared = { n: 1 };
    const before = clone({ a: shared, b: shared });
    expect(isSame({ a: shared, b: shared }, before)).toBe(true);
    expect(isSame({ a: { n: 1 }, b: { n: 1 } }, before)).toBe(false);
    expect(isSame({ a: shared, b: shared }, clone({ a: { n: 1 }, b: { n: 1 } }))).toBe(false);
    const loop: { self?: unknown } = {};
    loop.self = loop;
    expect(isSame(loop, clone(loop))).toBe(true);
  });

  it('does not understand other objects, and says so by a no', () => {
    for (const value of [new Date(0), new Map(), new Set([1]), /x/, new Float64Array(1), new Error('x')]) {
      expect(isSame(value, clone(value))).toBe(false);
    }
    const many = Array.from({ length: 100 }, () => ({}));
    expect(isSame(many, clone(many))).toBe(false);
  });
});
