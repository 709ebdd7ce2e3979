/**
 * The heap: segments that are filled with entries one behind the other, and emptied as a whole.
 *
 * Space comes back by compaction: what is still in use in the segment that has least of it is written again at the head, entry by
 * entry, each with the one atomic store by which its key has the copy. One segment is always free for that. Segments that are in
 * use by more than 13/16 are left alone; with at most 2/16 lost at the end of one, each compaction gains at least a sixteenth. When there
 * is nothing to gain the cache is full, and either refuses, or evicts the segment that was filled longest ago, as a whole.
 *
 * How much of a segment is written and in use is derived: `count` and `rebuild` tell it anew from the index.
 */
import { HEADER, SEGMENTS } from './layout.mjs';

const WORTHWHILE = 13 / 16;

export class Heap {
  #layout;
  #entries;
  #slots;
  #evicts;

  constructor(layout, entries, slots, evicts) {
    this.#layout = layout;
    this.#entries = entries;
    this.#slots = slots;
    this.#evicts = evicts;
  }

  get #head() {
    return this.#layout.header[HEADER.head];
  }

  set #head(segment) {
    this.#layout.header[HEADER.head] = segment;
  }

  get bytes() {
    return SEGMENTS * this.#layout.segmentBytes;
  }

  get liveBytes() {
    return this.#layout.live.reduce((sum, bytes) => sum + bytes, 0);
  }

  /**
   * Where `size` bytes can be written; 0 when the cache is full. Entries may move: what was found before is to be looked up
   * again.
   */
  reserve(size, now) {
    for (;;) {
      const at = this.#atHead(size);
      if (at !== 0) return at;
      const free = this.#free();
      if (free.length >= 2) this.#head = free[0];
      else if (!this.#compact(now) && !(this.#evicts && this.evict())) return 0;
    }
  }

  #atHead(size) {
    const { used, segmentBytes } = this.#layout;
    const head = this.#head;
    return used[head] + size <= segmentBytes ? this.#layout.segmentStart(head) + used[head] : 0;
  }

  #free() {
    const head = this.#head;
    const free = [];
    for (let segment = 0; segment < SEGMENTS; segment++)
      if (segment !== head && this.#layout.used[segment] === 0) free.push(segment);
    return free;
  }

  /** The bytes that were reserved are an entry, and something points to it. */
  commit(size) {
    const head = this.#head;
    this.#layout.used[head] += size;
    this.#layout.live[head] += size;
  }

  /** Nothing points to an entry any more. */
  release(at) {
    this.#layout.live[this.#layout.segmentOf(at)] -= this.#entries.size(at);
  }

  /** Empties the segment with least in use. @returns whether there was one worth it. */
  #compact(now) {
    const { live, used, segmentBytes } = this.#layout;
    let victim = -1;
    for (let segment = 0; segment < SEGMENTS; segment++) {
      if (segment === this.#head || used[segment] === 0) continue;
      if (victim === -1 || live[segment] < live[victim]) victim = segment;
    }
    if (victim === -1 || live[victim] > segmentBytes * WORTHWHILE) return false;
    this.#moveAway(victim, now);
    return true;
  }

  #moveAway(victim, now) {
    this.#empty(victim, (slot, at) => {
      if (this.#entries.isExpired(at, now)) {
        this.#layout.header[HEADER.expired]++;
        this.#takeOut(slot);
        return;
      }
      const size = this.#entries.size(at);
      if (this.#atHead(size) === 0) {
        const [free] = this.#free();
        if (free === undefined) throw new Error('no segment is free for a compaction');
        this.#head = free;
      }
      const to = this.#atHead(size);
      this.#entries.copy(at, to, size);
      this.#slots.publish(slot, to);
      this.commit(size);
    });
  }

  /** Throws the entries of the segment away that was filled longest ago. @returns whether there was one. */
  evict() {
    const { header, used } = this.#layout;
    for (let step = 1; step <= SEGMENTS; step++) {
      const segment = (header[HEADER.hand] + step) % SEGMENTS;
      if (segment === this.#head || used[segment] === 0) continue;
      header[HEADER.hand] = segment;
      this.#empty(segment, (slot) => {
        header[HEADER.evicted]++;
        this.#takeOut(slot);
      });
      return true;
    }
    return false;
  }

  #takeOut(slot) {
    this.#slots.remove(slot);
    this.#layout.header[HEADER.count]--;
  }

  /** `settle` is called for each entry in use, and has to see that it no longer is. */
  #empty(segment, settle) {
    const start = this.#layout.segmentStart(segment);
    const end = start + this.#layout.segmentBytes;
    // By the index: what is in use is known by it alone, and its slots are read one behind the other.
    for (let slot = 0; slot < this.#slots.length; slot++) {
      // Another may have moved up into the slot.
      for (let at = this.#slots.at(slot); at >= start && at < end; at = this.#slots.at(slot))
        settle(slot, at);
    }
    this.#layout.live[segment] = 0;
    this.#layout.used[segment] = 0;
  }

  clear() {
    this.#layout.used.fill(0);
    this.#layout.live.fill(0);
    this.#head = 0;
  }

  /** An entry that the index points to, after `clear`. */
  count(at) {
    const segment = this.#layout.segmentOf(at);
    const size = this.#entries.size(at);
    const end = at + size - this.#layout.segmentStart(segment);
    this.#layout.live[segment] += size;
    if (end > this.#layout.used[segment]) this.#layout.used[segment] = end;
  }

  /**
   * After `count` of every entry: where to write on, and a segment that is free. If there is none, a compaction was cut short. What
   * remains of its victim fits behind what it had moved, so there is a pair of segments of which one can be moved to the other.
   */
  rebuild(now) {
    const { used, live } = this.#layout;
    const inUse = [...used.keys()].filter((segment) => used[segment] !== 0);
    const byRoom = inUse.toSorted((one, other) => used[one] - used[other]);
    this.#head = byRoom[0] ?? 0;
    if (this.#free().length > 0) return;
    const pairs = byRoom.flatMap((head) =>
      inUse.filter((victim) => victim !== head).map((victim) => ({ head, victim })),
    );
    const needed = ({ head, victim }) => used[head] + live[victim];
    const best = pairs.reduce((one, other) => (needed(other) < needed(one) ? other : one));
    this.#head = best.head;
    this.#moveAway(best.victim, now);
  }
}
