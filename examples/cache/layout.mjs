/**
 * Where things are in the cache's memory. All of it is one ArrayBuffer, so that all of it crosses an update, and outlives the
 * program, as one memory.
 *
 *     0         header       words of 32 bits, below
 *     512       segments     for each segment: bytes written, bytes of them still in use (derived)
 *     1024      index        a word for each slot: where an entry is, in units of 8 bytes; 0 for none
 *     heap      32 segments  entries one behind the other
 *
 *     entry     crc32 u32 · hash u32 · expires f64 · key length u32 · value length u32 · key · value · padding to 8 bytes
 *
 * The index alone says what is in the cache. Everything that is marked as derived can be told from it, is exact while the
 * program lives, and is rebuilt when the one before was killed in the midst of a change (`Store.recover`).
 */

export const MAGIC = 0x63_61_63_68;
/** Changes with anything on this page. */
export const VERSION = 1;

/** Words of the header. */
export const HEADER = {
  /** Written last, when the rest is there. */
  magic: 0,
  version: 1,
  seed: 2,
  /** 1 while everything is being thrown away. */
  flushing: 3,
  /** Entries (derived). */
  count: 4,
  /** The segment that is written to (derived). */
  head: 5,
  /** The segment that was evicted last. */
  hand: 6,
  evicted: 7,
  expired: 8,
};

export const SEGMENTS = 32;
const SEGMENT_TABLE = 512;
const INDEX = 1024;
const SLOT_BYTES = 4;
/** A slot for so many bytes of memory. */
const BYTES_PER_SLOT = 64;
const PAGE = 4096;

export const ENTRY_HEAD = 24;
/** Pointers count these. */
export const UNIT = 8;

/** The least memory of which anything remains for entries. */
export const MIN_BYTES = 32 * 1024;

/** The parts of a memory. */
export class Layout {
  constructor(buffer) {
    const bytes = buffer.byteLength;
    if (bytes < MIN_BYTES) throw new RangeError(`a cache takes at least ${MIN_BYTES} bytes, not ${bytes}`);
    const slots = 2 ** Math.floor(Math.log2(bytes / BYTES_PER_SLOT));
    this.header = new Int32Array(buffer, 0, SEGMENT_TABLE / 4);
    this.used = new Int32Array(buffer, SEGMENT_TABLE, SEGMENTS);
    this.live = new Int32Array(buffer, SEGMENT_TABLE + SEGMENTS * 4, SEGMENTS);
    this.slots = new Int32Array(buffer, INDEX, slots);
    this.heapStart = Math.ceil((INDEX + slots * SLOT_BYTES) / PAGE) * PAGE;
    this.segmentBytes = Math.floor((bytes - this.heapStart) / SEGMENTS / UNIT) * UNIT;
    /** So that at most an eighth of a segment stays empty at its end. */
    this.maxEntryBytes = Math.floor(this.segmentBytes / 8 / UNIT) * UNIT;
    this.bytes = Buffer.from(buffer);
    this.words = new Uint32Array(buffer, 0, Math.floor(bytes / 4));
    this.doubles = new Float64Array(buffer, 0, Math.floor(bytes / 8));
  }

  segmentStart(segment) {
    return this.heapStart + segment * this.segmentBytes;
  }

  segmentOf(at) {
    return Math.floor((at - this.heapStart) / this.segmentBytes);
  }
}
