/** What is kept: records with descriptors, which belong to it, in groups that can be dropped in one word. */
import { closeFd } from '../linux/fd.js';

interface Entry {
  record: unknown;
  readonly fds: readonly number[];
}

export interface ItemName {
  readonly group: string;
  readonly item: string;
}

export class KeptItems {
  readonly #groups = new Map<string, Map<string, Entry>>();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** In the place of what was there. */
  put({ group, item }: ItemName, record: unknown, fds: readonly number[]): void {
    let items = this.#groups.get(group);
    if (items === undefined) {
      items = new Map();
      this.#groups.set(group, items);
    }
    const known = items.get(item);
    if (known === undefined) this.#count++;
    else closeAll(known);
    items.set(item, { record, fds });
  }

  /** A new record for the descriptors that are there, or for `fds` when nothing is. */
  amend(name: ItemName, record: unknown, fds: readonly number[]): void {
    const known = this.#groups.get(name.group)?.get(name.item);
    if (known === undefined) this.put(name, record, fds);
    else known.record = record;
  }

  /** @param item Undefined for the whole group. */
  drop(group: string, item?: string): void {
    const items = this.#groups.get(group);
    if (items === undefined) return;
    for (const [name, entry] of items) {
      if (item !== undefined && name !== item) continue;
      closeAll(entry);
      items.delete(name);
      this.#count--;
    }
    if (items.size === 0) this.#groups.delete(group);
  }

  clear(): void {
    for (const group of [...this.#groups.keys()]) this.drop(group);
  }

  *[Symbol.iterator](): Generator<ItemName & Readonly<Entry>> {
    for (const [group, items] of this.#groups)
      for (const [item, { record, fds }] of items) yield { group, item, record, fds };
  }
}

function closeAll({ fds }: Entry): void {
  for (const fd of fds) closeFd(fd);
}
