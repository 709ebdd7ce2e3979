/**
 * The cache's keys, in memory that outlives the program that writes it.
 *
 * An entry's bytes are written first; then one aligned atomic store makes it what its key has (slots.mjs). A program that is killed,
 * at whatever instruction, leaves every key with the value that it had before or the one that it was about to get, and no key
 * with half a value. Whoever was answered was answered after that store. One process writes at a time, which is what an update of the atomic
 * kind makes sure of.
 *
 * After an update everything is as it was left, and nothing is to be done. After a crash `recover()` first checks every entry's
 * checksum, completes what was cut short, and tells the derived numbers anew.
 */
import { randomInt } from 'node:crypto';
import { Entries, entrySize, hashOf } from './entries.mjs';
import { Heap } from './heap.mjs';
import { HEADER, Layout, MAGIC, VERSION } from './layout.mjs';
import { Slots } from './slots.mjs';

/** A change that the store refuses: nothing has changed. `code` is how Redis calls it. */
export class StoreError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export class Store {
  #layout;
  #header;
  #entries;
  #slots;
  #heap;
  #evicts;

  /**
   * @param {ArrayBuffer} buffer All zero for a new cache. Of one that is there only the header is read, never written.
   * @param {{ evicts?: boolean }} options Whether a full cache throws old entries away, instead of refusing new ones.
   */
  constructor(buffer, { evicts = false } = {}) {
    this.#layout = new Layout(buffer);
    this.#header = this.#layout.header;
    this.#entries = new Entries(this.#layout);
    this.#slots = new Slots(this.#layout, this.#entries);
    this.#heap = new Heap(this.#layout, this.#entries, this.#slots, evicts);
    this.#evicts = evicts;
    const header = this.#header;
    if (header[HEADER.magic] === 0) {
      header[HEADER.version] = VERSION;
      header[HEADER.seed] = randomInt(1, 2 ** 31);
      Atomics.store(header, HEADER.magic, MAGIC);
    }
    if (header[HEADER.magic] !== MAGIC || header[HEADER.version] !== VERSION)
      throw new Error(
        `the memory is no cache of version ${VERSION}, but ${header[HEADER.magic]}, ${header[HEADER.version]}`,
      );
  }

  /**
   * Keys that are there, those included that have expired and were not asked for since.
   * @returns {number}
   */
  get size() {
    return this.#header[HEADER.count];
  }

  /** @returns {number} */
  get evicted() {
    return this.#header[HEADER.evicted];
  }

  /** @returns {number} */
  get expired() {
    return this.#header[HEADER.expired];
  }

  /** Bytes of entries. */
  get liveBytes() {
    return this.#heap.liveBytes;
  }

  /** Bytes that entries and what is left of old ones may take. */
  get heapBytes() {
    return this.#heap.bytes;
  }

  /** Keys and values of more bytes together are refused. */
  get maxEntryBytes() {
    return this.#layout.maxEntryBytes - entrySize(0, 0);
  }

  /** The slot of a key that is there and has not expired, or -1. */
  #find(key, now) {
    const slot = this.#slots.find(hashOf(key, this.#header[HEADER.seed]), key);
    if (slot < 0) return -1;
    if (!this.#entries.isExpired(this.#slots.at(slot), now)) return slot;
    this.#expire(slot);
    return -1;
  }

  #remove(slot) {
    const at = this.#slots.at(slot);
    this.#slots.remove(slot);
    this.#heap.release(at);
    this.#header[HEADER.count]--;
  }

  #expire(slot) {
    this.#remove(slot);
    this.#header[HEADER.expired]++;
  }

  /** The value of a key, as a view that is good until the next change; undefined when there is none. */
  get(key, now = Date.now()) {
    const slot = this.#find(key, now);
    return slot === -1 ? undefined : this.#entries.value(this.#slots.at(slot));
  }

  has(key, now = Date.now()) {
    return this.#find(key, now) !== -1;
  }

  /** When a key expires, in milliseconds since 1970; 0 for never; undefined when there is no such key. */
  expiresAt(key, now = Date.now()) {
    const slot = this.#find(key, now);
    return slot === -1 ? undefined : this.#entries.expiresAt(this.#slots.at(slot));
  }

  /**
   * @param {Uint8Array} value Not a view of this store's memory.
   * @throws {StoreError} OOM when there is no room and nothing may be evicted; ERR for more than one entry may have.
   */
  set(key, value, expiresAt = 0, now = Date.now()) {
    const size = entrySize(key.length, value.length);
    if (size > this.#layout.maxEntryBytes)
      throw new StoreError('ERR', `key and value are more than ${this.maxEntryBytes} bytes`);
    const hash = hashOf(key, this.#header[HEADER.seed]);
    this.#makeRoomInIndex(hash, key);
    const at = this.#heap.reserve(size, now);
    if (at === 0) throw new StoreError('OOM', 'the cache is full');
    this.#entries.write(at, hash, key, value, expiresAt);
    const slot = this.#slots.find(hash, key);
    const before = slot < 0 ? 0 : this.#slots.at(slot);
    this.#slots.publish(slot < 0 ? ~slot : slot, at);
    this.#heap.commit(size);
    if (before !== 0) this.#heap.release(before);
    else this.#header[HEADER.count]++;
  }

  /** A table that is three quarters full is slow, and one that is full has no end. */
  #makeRoomInIndex(hash, key) {
    while (this.size >= this.#slots.length * 0.75 && this.#slots.find(hash, key) < 0)
      if (!this.#evicts || !this.#heap.evict()) throw new StoreError('OOM', 'the cache has too many keys');
  }

  /** @returns whether the key was there. */
  delete(key, now = Date.now()) {
    const slot = this.#find(key, now);
    if (slot !== -1) this.#remove(slot);
    return slot !== -1;
  }

  /** Sets when a key expires, or 0 for never. @returns whether the key is there. @throws {StoreError} as set(). */
  expire(key, expiresAt, now = Date.now()) {
    const value = this.get(key, now);
    if (value === undefined) return false;
    if (expiresAt !== 0 && expiresAt <= now) return this.delete(key, now);
    // The room that it takes may be made where the value is.
    this.set(key, Buffer.from(value), expiresAt, now);
    return true;
  }

  /**
   * Some of the keys, and where to go on; 0 at the end. Whatever is there from the first call to the last is among them, once
   * or more often: a place is only left behind a slot without a key, beyond which nothing moves back.
   */
  scan(cursor, count, now = Date.now()) {
    const keys = [];
    let slot = cursor;
    for (; slot < this.#slots.length; slot++) {
      if (slot - cursor >= count && this.#slots.isEnd(slot)) return { cursor: slot, keys };
      const at = this.#slots.at(slot);
      if (at !== 0 && !this.#entries.isExpired(at, now)) keys.push(Buffer.from(this.#entries.key(at)));
    }
    return { cursor: 0, keys };
  }

  /** Takes expired keys out of `count` slots from `cursor` on. @returns where to go on. */
  sweep(cursor, count, now = Date.now()) {
    const end = Math.min(cursor + count, this.#slots.length);
    for (let slot = cursor; slot < end; ) {
      const at = this.#slots.at(slot);
      // Another may have moved up into the slot.
      if (at !== 0 && this.#entries.isExpired(at, now)) this.#expire(slot);
      else slot++;
    }
    return end === this.#slots.length ? 0 : end;
  }

  get slots() {
    return this.#slots.length;
  }

  /** Forgets every key: all or, if it was killed before the first step, none. */
  clear() {
    Atomics.store(this.#header, HEADER.flushing, 1);
    this.#slots.clear();
    this.#heap.clear();
    this.#header[HEADER.count] = 0;
    Atomics.store(this.#header, HEADER.flushing, 0);
  }

  /**
   * For memory whose writer was killed. May itself be killed, and begun again.
   * @returns {{ keys: number, damaged: number }} damaged: entries that are not what was written, by whomever, and are given up.
   */
  recover(now = Date.now()) {
    const slots = this.#slots;
    if (this.#header[HEADER.flushing] !== 0) this.clear();
    let damaged = 0;
    for (let slot = 0; slot < slots.length; slot++) {
      const at = slots.at(slot);
      if (at === 0 || this.#entries.isSound(at)) continue;
      slots.giveUp(slot);
      damaged++;
    }
    for (let slot = 0; slot < slots.length; slot++) while (slots.isLeftover(slot)) slots.remove(slot);
    this.#heap.clear();
    let keys = 0;
    for (let slot = 0; slot < slots.length; slot++) {
      const at = slots.at(slot);
      if (at === 0) continue;
      this.#heap.count(at);
      keys++;
    }
    this.#header[HEADER.count] = keys;
    this.#heap.rebuild(now);
    return { keys: this.size, damaged };
  }
}
