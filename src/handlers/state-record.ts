/**
 * How a state is written into its record, byte by byte. There are two forms, each with a `compatible` of its own, and a
 * program reads both:
 *
 *     liveupdate-state-v1   a structured clone; the version of its shape is 1
 *     liveupdate-state-v2   version u32 · 0 u32 · a structured clone          (little endian)
 *
 * A state of version 1 is written in the first form, so that whatever reads no versions can take it over, and a program
 * can go back to it. Any later version is written in the second, which such an image refuses before anything freezes: it
 * has no handler of that name. The version stands in front, to be judged before anything is made of the clone.
 */
import { LiveUpdateError } from '../core/errors.js';
import { serializeValue } from '../handover/values.js';

/** The largest version that its field holds. */
export const MAX_STATE_VERSION = 0xffff_ffff;

const HEAD_BYTES = 8;

/** What a record says. */
export interface SavedState {
  readonly version: number;
  /** A structured clone of the value. */
  readonly clone: Uint8Array;
}

export interface StateForm {
  readonly compatible: string;
  /** Whether states of this version are written in this form. */
  writes(version: number): boolean;
  /** @throws {LiveUpdateError} EINVAL when the value cannot be cloned. */
  encode(value: object, version: number): Buffer;
  /** @throws {LiveUpdateError} EINVAL when the record is damaged. */
  decode(record: Uint8Array): SavedState;
}

export const UNVERSIONED: StateForm = {
  compatible: 'liveupdate-state-v1',
  writes: (version) => version === 1,
  encode: (value) => serializeValue(value),
  decode: (record) => ({ version: 1, clone: record }),
};

export const VERSIONED: StateForm = {
  compatible: 'liveupdate-state-v2',
  writes: (version) => version > 1,
  encode(value, version) {
    const head = Buffer.alloc(HEAD_BYTES);
    head.writeUInt32LE(version);
    return serializeValue(value, head);
  },
  decode(record) {
    const head = Buffer.from(record.buffer, record.byteOffset, Math.min(record.length, HEAD_BYTES));
    if (head.length < HEAD_BYTES || head.readUInt32LE(4) !== 0 || head.readUInt32LE() === 0) {
      throw new LiveUpdateError('EINVAL', 'the record of a state is damaged', {
        handler: VERSIONED.compatible,
      });
    }
    return { version: head.readUInt32LE(), clone: record.subarray(HEAD_BYTES) };
  },
};
