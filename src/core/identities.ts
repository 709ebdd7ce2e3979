/**
 * Identities: one file is preserved once in the whole system.
 *
 * An identity is held by the file that was preserved, or retrieved and not finished. Preserving asks for it; retrieving only
 * has to make sure that a later preserve is refused. So a retrieved identity is noted, which costs next to
 * nothing while the world waits, and entered when somebody preserves: nobody else looks.
 */

/** A file that can hold an identity. */
export interface Holder {
  identity: unknown;
  /** A handler can retrieve a file whose identity somebody else holds; then it never holds it itself. */
  hold: 'none' | 'noted' | 'held';
}

export class Identities {
  readonly #held = new Set<unknown>();
  /** Retrieved files whose identity was not entered yet, a list for each session that has some. */
  readonly #noted = new Set<Holder[]>();

  /** A file is being preserved. False when its identity is held already. */
  claim(holder: Holder, identity: unknown): boolean {
    if (this.#noted.size > 0) this.#enterNoted();
    const before = this.#held.size;
    this.#held.add(identity);
    if (this.#held.size === before) return false;
    holder.identity = identity;
    holder.hold = 'held';
    return true;
  }

  /** A file was retrieved; `list` is its session's, if that has one already. Returns the session's list. */
  note(holder: Holder, identity: unknown, list: Holder[] | undefined): Holder[] {
    holder.identity = identity;
    holder.hold = 'noted';
    if (list === undefined || list.length === 0) {
      // Anew, for its one file: an array that grows makes room for seventeen.
      const first = [holder];
      this.#noted.add(first);
      return first;
    }
    list.push(holder);
    return list;
  }

  /** The session is finished: what is still in its list is nobody's any more. */
  forget(list: Holder[]): void {
    this.#noted.delete(list);
    list.length = 0;
  }

  release(holder: Holder): void {
    if (holder.hold === 'held') this.#held.delete(holder.identity);
    holder.hold = 'none';
  }

  #enterNoted(): void {
    for (const list of this.#noted) {
      for (const holder of list) {
        // Finished meanwhile, by a finish that is still at work on the others of its session.
        if (holder.hold !== 'noted') continue;
        if (this.#held.has(holder.identity)) {
          holder.hold = 'none';
        } else {
          this.#held.add(holder.identity);
          holder.hold = 'held';
        }
      }
      list.length = 0;
    }
    this.#noted.clear();
  }
}
