/**
 * What luod holds for a service while its program runs: a duplicate of each descriptor that outlives a process (listeners,
 * memory), with the record from which the next image builds the file again. Connections are not held: what a program
 * had read from them dies with it, and a held duplicate would keep their peers waiting.
 *
 * One entry a session, by name. An image that is not in charge yet has its own entries, which join the service's at the
 * commit and are closed with a rollback.
 */

import { IMAGE_COMPATIBLE } from '../core/index.js';
import type { Image, SerializedSession } from '../core/types.js';
import { encodeHandover } from '../handover/codec.js';
import { writeImageFile } from '../handover/image-file.js';
import type { PassRecord } from '../handover/records.js';
import { closeFd } from '../linux/fd.js';
import { compareOpenFiles } from '../linux/kcmp.js';

export interface Held {
  readonly compatible: string;
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
  /** Milliseconds of the wall clock, for people. */
  readonly since: number;
}

/** Where what is held is noted, so that it outlives luod. */
export interface CustodyStore {
  /** @param isKnown The store has these descriptors under the name already, and only the record is new. */
  hold(session: string, held: Held, isKnown?: boolean): void;
  release(session: string): void;
}

export class Custody {
  readonly #held = new Map<string, Held>();
  readonly #store: CustodyStore | undefined;
  readonly #refused: (session: string, error: unknown) => void;
  /** Held here, but not in the store. */
  readonly #unstored = new Set<string>();

  /**
   * @param store Undefined for what is not in charge yet: its image will say it again.
   * @param refused Told when the store did not take something: it is held all the same, as long as this luod lives.
   */
  constructor(store?: CustodyStore, refused: (session: string, error: unknown) => void = () => undefined) {
    this.#store = store;
    this.#refused = refused;
  }

  get size(): number {
    return this.#held.size;
  }

  /** Descriptors held. */
  get fdCount(): number {
    let count = 0;
    for (const held of this.#held.values()) count += held.fds.length;
    return count;
  }

  entries(): Iterable<[string, Held]> {
    return this.#held.entries();
  }

  /** Takes over the descriptors; what was held under the name before is closed. */
  hold(session: string, held: Held): void {
    const known = this.#unstored.has(session) ? undefined : this.#held.get(session);
    const count = known === undefined ? 0 : commonFiles(known, held);
    const isKnown = count > 0 && count === held.fds.length && count === known?.fds.length;
    if (known !== undefined && isKnown && isSame(known, held)) {
      for (const fd of held.fds) closeFd(fd);
      return;
    }
    // A store takes an open file once; so what is partly the same has to leave it first.
    if (count > 0 && !isKnown) this.#store?.release(session);
    this.#put(session, held, isKnown);
    this.restore(session, held);
  }

  #put(session: string, held: Held, isKnown: boolean): void {
    try {
      this.#store?.hold(session, held, isKnown);
      this.#unstored.delete(session);
    } catch (error) {
      if (!isKnown) {
        // What was there before would be given to the next image in its place.
        this.#store?.release(session);
        this.#unstored.add(session);
      }
      this.#refused(session, error);
    }
  }

  /** As `hold`, of what the store has already. */
  restore(session: string, held: Held): void {
    this.#close(session);
    this.#held.set(session, held);
  }

  /** @returns false when nothing is held under the name. */
  release(session: string): boolean {
    if (!this.#close(session)) return false;
    this.#unstored.delete(session);
    this.#store?.release(session);
    return true;
  }

  #close(session: string): boolean {
    const held = this.#held.get(session);
    if (held === undefined) return false;
    this.#held.delete(session);
    for (const fd of held.fds) closeFd(fd);
    return true;
  }

  /** Tells a new store everything. */
  tellAgain(): void {
    for (const [session, held] of this.#held) {
      if (!this.#unstored.has(session)) this.#store?.hold(session, held);
    }
  }

  /** Moves everything that `other` holds here. */
  absorb(other: Custody): void {
    for (const [session, held] of other.#held) this.hold(session, held);
    other.#held.clear();
  }

  clear(): void {
    for (const session of [...this.#held.keys()]) this.release(session);
  }

  /**
   * Everything as a handover for a new image: descriptors to send, the first of which is the image file and the caller's
   * to close; the others stay luod's.
   */
  toHandover(liveupdateNumber: bigint): number[] {
    const sessions: SerializedSession[] = [];
    const records: PassRecord[] = [];
    const fds: number[] = [];
    for (const [name, { compatible, bytes, fds: own }] of this.#held) {
      const handle = records.length + 1;
      sessions.push({ name, files: [{ compatible, data: BigInt(handle), token: 0n }] });
      records.push({ handle, bytes, fdStart: fds.length, fdCount: own.length });
      fds.push(...own);
    }
    const image: Image = { compatible: IMAGE_COMPATIBLE, liveupdateNumber, sessions, flbs: [] };
    return [writeImageFile(encodeHandover({ image, records })), ...fds];
  }
}

/** Open files that both have, in the same places. */
function commonFiles(known: Held, held: Held): number {
  return known.fds.filter((fd, index) => {
    const other = held.fds[index];
    return other !== undefined && compareOpenFiles(fd, other) === 0;
  }).length;
}

/** Whether it is what is held already, said again to a luod that took over. */
function isSame(known: Held, held: Held): boolean {
  return known.compatible === held.compatible && Buffer.compare(known.bytes, held.bytes) === 0;
}
