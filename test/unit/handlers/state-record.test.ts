import { inspect } from 'node:util';
import { deserialize, serialize } from 'node:v8';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_STATE_VERSION, UNVERSIONED, VERSIONED } from '../../../src/handlers/state-record.js';

const value = fc.object({
  withMap: true,
  withSet: true,
  withDate: true,
  withTypedArray: true,
  withBigInt: true,
});

const shown = (of: unknown) => inspect(of, { depth: null, maxArrayLength: null, maxStringLength: null });

describe('a versioned record', () => {
  it('gives back version and value', () => {
    fc.assert(
      fc.property(value, fc.integer({ min: 2, max: MAX_STATE_VERSION }), (saved, version) => {
        const read = VERSIONED.decode(VERSIONED.encode(saved, version));
        expect(read.version).toBe(version);
        expect(shown(deserialize(read.clone))).toBe(shown(deserialize(serialize(saved))));
      }),
    );
  });

  it('is laid out as documented', () => {
    const record = VERSIONED.encode({ a: 1 }, 0x01020304);
    expect(record.subarray(0, 8)).toEqual(Buffer.from([4, 3, 2, 1, 0, 0, 0, 0]));
    expect(record.subarray(8)).toEqual(serialize({ a: 1 }));
  });

  it('is refused when it is damaged', () => {
    const record = VERSIONED.encode({ a: 1 }, 2);
    const zero = Buffer.concat([Buffer.alloc(8), record.subarray(8)]);
    const reserved = Buffer.from(record);
    reserved[6] = 1;
    for (const bytes of [Buffer.alloc(0), record.subarray(0, 7), zero, reserved]) {
      expect(() => VERSIONED.decode(bytes)).toThrow(
        expect.objectContaining({ code: 'EINVAL', handler: 'liveupdate-state-v2' }),
      );
    }
  });
});

describe('each version', () => {
  it('is written in one form', () => {
    expect([1, 2, MAX_STATE_VERSION].map((version) => UNVERSIONED.writes(version))).toEqual([
      true,
      false,
      false,
    ]);
    expect([1, 2, MAX_STATE_VERSION].map((version) => VERSIONED.writes(version))).toEqual([
      false,
      true,
      true,
    ]);
  });
});
