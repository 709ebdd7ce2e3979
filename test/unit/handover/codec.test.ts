import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LiveUpdateError } from '../../../src/core/errors.js';
import { IMAGE_COMPATIBLE } from '../../../src/core/index.js';
import { checksum, decodeHandover, encodeHandover, type Handover } from '../../../src/handover/codec.js';
import { ROOT } from '../../../src/handover/layout.js';

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

function text(bytes: number) {
  return fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: bytes })
    .filter(
      (value) =>
        Buffer.byteLength(value) < bytes && !value.includes('\0') && Buffer.from(value).toString() === value,
    );
}

const handover: fc.Arbitrary<{ handover: Handover; fdCount: number }> = fc
  .record({
    liveupdateNumber: u64,
    sessions: fc.array(
      fc.record({
        name: text(64),
        files: fc.array(
          fc.record({ compatible: fc.oneof(fc.constant('memfd-v2'), text(48)), data: u64, token: u64 }),
          { maxLength: 20 },
        ),
      }),
      { maxLength: 8 },
    ),
    flbData: fc.array(fc.record({ compatible: text(48), data: u64 }), { maxLength: 4 }),
    records: fc.array(fc.record({ bytes: fc.uint8Array({ maxLength: 50 }), fdCount: fc.nat(3) }), {
      maxLength: 20,
    }),
  })
  .map(({ liveupdateNumber, sessions, flbData, records }) => {
    const fileCount = sessions.reduce((sum, { files }) => sum + files.length, 0);
    let fdStart = 0;
    return {
      handover: {
        image: {
          compatible: IMAGE_COMPATIBLE,
          liveupdateNumber,
          sessions,
          flbs: flbData.map((flb) => ({ ...flb, count: fileCount })),
        },
        records: records.map(({ bytes, fdCount }, i) => {
          const record = { handle: i + 1, bytes, fdStart, fdCount };
          fdStart += fdCount;
          return record;
        }),
      },
      fdCount: records.reduce((sum, { fdCount }) => sum + fdCount, 0),
    };
  });

const SMALL: Handover = {
  image: {
    compatible: IMAGE_COMPATIBLE,
    liveupdateNumber: 3n,
    sessions: [
      { name: 'memory:cache', files: [{ compatible: 'memfd-v2', data: 1n, token: 0n }] },
      { name: 'empty', files: [] },
    ],
    flbs: [{ compatible: 'tickets-v1', data: 5n, count: 1 }],
  },
  records: [{ handle: 1, bytes: Buffer.from('abc'), fdStart: 0, fdCount: 1 }],
};

/** EINVAL or a decode; anything else is a failure of the reader. */
function read(bytes: Uint8Array, fdCount: number): Handover | undefined {
  try {
    return decodeHandover(bytes, { fdCount });
  } catch (error) {
    expect(error).toBeInstanceOf(LiveUpdateError);
    expect((error as LiveUpdateError).code).toBe('EINVAL');
    return undefined;
  }
}

describe('the handover layout', () => {
  it('gives back what was written', () => {
    fc.assert(
      fc.property(handover, ({ handover, fdCount }) => {
        const decoded = decodeHandover(encodeHandover(handover), { fdCount });
        expect(decoded.image).toEqual(handover.image);
        expect(
          decoded.records.map((record) => ({ ...record, bytes: Uint8Array.from(record.bytes) })),
        ).toEqual(handover.records.map((record) => ({ ...record, bytes: Uint8Array.from(record.bytes) })));
      }),
    );
  });

  it('may be empty', () => {
    const empty: Handover = { image: { ...SMALL.image, sessions: [], flbs: [] }, records: [] };
    expect(decodeHandover(encodeHandover(empty), { fdCount: 0 })).toEqual(empty);
  });

  it('does not change by accident: these are its bytes', () => {
    const bytes = encodeHandover(SMALL);
    const at = (offset: number, length: number) =>
      bytes
        .subarray(offset, offset + length)
        .toString('latin1')
        .replace(/\0+$/, '');
    expect(bytes.length).toBe(152 + 2 * 72 + 64 + 64 + 32 + 8);
    expect([at(0, 48), at(48, 48)]).toEqual(['liveupdate-handover-v1', IMAGE_COMPATIBLE]);
    expect([...new BigUint64Array(bytes.buffer, 96, 6)]).toEqual([3n, BigInt(bytes.length), 2n, 1n, 1n, 1n]);
    expect([at(152, 64), bytes.readBigUInt64LE(216)]).toEqual(['memory:cache', 1n]);
    expect(at(224, 64)).toBe('empty');
    expect([at(296, 48), bytes.readBigUInt64LE(344), bytes.readBigUInt64LE(352)]).toEqual([
      'memfd-v2',
      1n,
      0n,
    ]);
    expect([at(360, 48), bytes.readBigUInt64LE(408), bytes.readBigUInt64LE(416)]).toEqual([
      'tickets-v1',
      5n,
      1n,
    ]);
    expect([bytes.readBigUInt64LE(424), bytes.readBigUInt64LE(432), bytes.readBigUInt64LE(440)]).toEqual([
      1n,
      456n,
      3n,
    ]);
    expect(at(456, 8)).toBe('abc');
  });

  it('is refused when any single bit is wrong', () => {
    const bytes = encodeHandover(SMALL);
    for (let i = 0; i < bytes.length; i++) {
      for (const bit of [1, 128]) {
        const damaged = Buffer.from(bytes);
        damaged[i] = (damaged[i] as number) ^ bit;
        expect(read(damaged, 1), `byte ${i}`).toBeUndefined();
      }
    }
  });

  it('is refused at every truncation, and with anything behind it', () => {
    const bytes = encodeHandover(SMALL);
    for (let length = 0; length < bytes.length; length++)
      expect(read(bytes.subarray(0, length), 1)).toBeUndefined();
    expect(read(Buffer.concat([bytes, Buffer.alloc(8)]), 1)).toBeUndefined();
  });

  it('is refused when descriptors are missing', () => {
    expect(read(encodeHandover(SMALL), 0)).toBeUndefined();
  });

  it('is refused by name when it is of another version', () => {
    const bytes = encodeHandover(SMALL);
    bytes.write('liveupdate-handover-v9', 0);
    expect(() => decodeHandover(bytes, { fdCount: 1 })).toThrow(
      /"liveupdate-handover-v9"; this version reads 'liveupdate-handover-v1'/,
    );
    const other = encodeHandover({ ...SMALL, image: { ...SMALL.image, compatible: 'luo-v99' } });
    expect(() => decodeHandover(other, { fdCount: 1 })).toThrow(/"luo-v99"/);
  });

  it('survives random bytes, and damage whose checksum is right', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 2000 }), (bytes) => read(bytes, 3) === undefined));
    fc.assert(
      fc.property(
        handover,
        fc.array(fc.tuple(fc.nat(), fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 127, 255))), {
          minLength: 1,
          maxLength: 8,
        }),
        ({ handover, fdCount }, changes) => {
          const bytes = encodeHandover(handover);
          for (const [at, value] of changes) bytes[at % bytes.length] = value;
          const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
          words[ROOT.fields.checksum.offset / 4] = checksum(words);
          read(bytes, fdCount);
        },
      ),
      { numRuns: 3000 },
    );
  });

  it('refuses to write what a field cannot hold', () => {
    const named = (name: string): Handover => ({
      ...SMALL,
      image: { ...SMALL.image, sessions: [{ name, files: SMALL.image.sessions[0]?.files ?? [] }] },
    });
    for (const name of ['', 'x'.repeat(64), 'a\0b']) {
      expect(() => encodeHandover(named(name))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    expect(read(encodeHandover(named('ä'.repeat(31))), 1)?.image.sessions[0]?.name).toBe('ä'.repeat(31));
  });
});
