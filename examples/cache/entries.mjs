/**
 * Entries in the heap: a key, its value, and when it expires. An entry is written once, before anything points to it, and never
 * changed: a new value is a new entry. So whatever moment the program is killed at, an entry that something points to is whole.
 */
import { crc32 } from 'node:zlib';
import { ENTRY_HEAD, UNIT } from './layout.mjs';

const CRC = 0;
const HASH = 1;
const KEY_LENGTH = 4;
const VALUE_LENGTH = 5;
const EXPIRES = 1;

export function entrySize(keyLength, valueLength) {
  return Math.ceil((ENTRY_HEAD + keyLength + valueLength) / UNIT) * UNIT;
}

/** FNV-1a with a seed, its bits mixed at the end since the index takes the lowest. */
export function hashOf(key, seed) {
  let hash = seed ^ 0x811c9dc5;
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key[i], 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** Addresses (`at`) are in bytes from the start of the memory. */
export class Entries {
  #layout;

  constructor(layout) {
    this.#layout = layout;
  }

  hash(at) {
    return this.#layout.words[at / 4 + HASH];
  }

  /** Milliseconds since 1970; 0 for never. */
  expiresAt(at) {
    return this.#layout.doubles[at / 8 + EXPIRES];
  }

  isExpired(at, now) {
    const expiresAt = this.expiresAt(at);
    return expiresAt !== 0 && expiresAt <= now;
  }

  #keyLength(at) {
    return this.#layout.words[at / 4 + KEY_LENGTH];
  }

  #valueLength(at) {
    return this.#layout.words[at / 4 + VALUE_LENGTH];
  }

  size(at) {
    return entrySize(this.#keyLength(at), this.#valueLength(at));
  }

  /** A view, good until the next change of the cache. */
  key(at) {
    const start = at + ENTRY_HEAD;
    return this.#layout.bytes.subarray(start, start + this.#keyLength(at));
  }

  /** A view, good until the next change of the cache. */
  value(at) {
    const start = at + ENTRY_HEAD + this.#keyLength(at);
    return this.#layout.bytes.subarray(start, start + this.#valueLength(at));
  }

  hasKey(at, hash, key) {
    if (this.hash(at) !== hash || this.#keyLength(at) !== key.length) return false;
    const start = at + ENTRY_HEAD;
    return this.#layout.bytes.compare(key, 0, key.length, start, start + key.length) === 0;
  }

  write(at, hash, key, value, expiresAt) {
    const { words, doubles, bytes } = this.#layout;
    words[at / 4 + HASH] = hash;
    doubles[at / 8 + EXPIRES] = expiresAt;
    words[at / 4 + KEY_LENGTH] = key.length;
    words[at / 4 + VALUE_LENGTH] = value.length;
    bytes.set(key, at + ENTRY_HEAD);
    bytes.set(value, at + ENTRY_HEAD + key.length);
    words[at / 4 + CRC] = this.#checksum(at, ENTRY_HEAD + key.length + value.length);
  }

  copy(from, to, size) {
    this.#layout.bytes.copyWithin(to, from, from + size);
  }

  /** Whether a whole entry is there: within a segment, and as it was written. */
  isSound(at) {
    const { heapStart, segmentBytes, maxEntryBytes, words } = this.#layout;
    const segment = this.#layout.segmentOf(at);
    if (at < heapStart || segment >= this.#layout.used.length) return false;
    const room = this.#layout.segmentStart(segment) + segmentBytes - at;
    if (room < ENTRY_HEAD) return false;
    const length = ENTRY_HEAD + this.#keyLength(at) + this.#valueLength(at);
    if (length > maxEntryBytes || length > room) return false;
    return words[at / 4 + CRC] === this.#checksum(at, length);
  }

  #checksum(at, length) {
    return crc32(this.#layout.bytes.subarray(at + 4, at + length));
  }
}
