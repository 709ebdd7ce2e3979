/**
 * The index: an open hash table with linear probing whose slots are pointers to entries.
 *
 * Each of its changes is one aligned atomic store into one slot, or a row of such stores after each of which every key is
 * found that ought to be. Whoever is killed between two of them leaves at worst a pointer that stands in two slots, the earlier of
 * which is found; `isLeftover` tells the later one, and taking that out goes on where the dead left off.
 */
import { UNIT } from './layout.mjs';

/** Stands in a slot whose entry was damaged: nothing is there, and keys behind it are still found. */
const DAMAGED = -1;

export class Slots {
  #slots;
  #mask;
  #entries;

  constructor(layout, entries) {
    this.#slots = layout.slots;
    this.#mask = layout.slots.length - 1;
    this.#entries = entries;
  }

  get length() {
    return this.#slots.length;
  }

  /** Where the entry in a slot is; 0 for none. */
  at(slot) {
    const pointer = this.#slots[slot];
    return pointer > 0 ? pointer * UNIT : 0;
  }

  /** Whether nothing was ever put here, so that a row of slots ends. */
  isEnd(slot) {
    return this.#slots[slot] === 0;
  }

  /** The slot of a key, or ~slot (negative) of where it would go. */
  find(hash, key) {
    const slots = this.#slots;
    for (let slot = hash & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const pointer = slots[slot];
      if (pointer === 0) return ~slot;
      if (pointer > 0 && this.#entries.hasKey(pointer * UNIT, hash, key)) return slot;
    }
  }

  /** The first slot that points to an entry, or -1 when it is dead. */
  slotOf(at) {
    const slots = this.#slots;
    const wanted = at / UNIT;
    for (let slot = this.#entries.hash(at) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const pointer = slots[slot];
      if (pointer === wanted) return slot;
      if (pointer === 0) return -1;
    }
  }

  /** The one step by which an entry becomes what its key has. */
  publish(slot, at) {
    Atomics.store(this.#slots, slot, at / UNIT);
  }

  /**
   * Takes a slot out. Entries behind it that probed past it move up, each into the hole that the one before left: the first
   * step replaces what is taken out, the last one empties a slot that nobody needs any more.
   */
  remove(slot) {
    const slots = this.#slots;
    const mask = this.#mask;
    let hole = slot;
    for (let next = (hole + 1) & mask; slots[next] !== 0; next = (next + 1) & mask) {
      const pointer = slots[next];
      if (pointer < 0) continue;
      const home = this.#entries.hash(pointer * UNIT) & mask;
      const isFromBeforeHole = ((next - home) & mask) >= ((next - hole) & mask);
      if (!isFromBeforeHole) continue;
      Atomics.store(slots, hole, pointer);
      hole = next;
    }
    Atomics.store(slots, hole, 0);
  }

  /** Whether a slot is what a `remove` that was not completed left. */
  isLeftover(slot) {
    const at = this.at(slot);
    return at !== 0 && this.slotOf(at) !== slot;
  }

  giveUp(slot) {
    Atomics.store(this.#slots, slot, DAMAGED);
  }

  clear() {
    this.#slots.fill(0);
  }
}
