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
  hold(session: string, held: Held): void;
  release(session: string): void;
}

export class Custody {
  readonly #held = new Map<string, Held>();
  readonly #store: CustodyStore | undefined;

  /** @param store Undefined for what is not in charge yet: its image will say it again. */
  constructor(store?: CustodyStore) {
    this.#store = store;
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
    if (isSame(this.#held.get(session), held)) {
      for (const fd of held.fds) closeFd(fd);
      return;
    }
    this.restore(session, held);
    this.#store?.hold(session, held);
  }

  /** As `hold`, of what the store has already. */
  restore(session: string, held: Held): void {
    this.#close(session);
    this.#held.set(session, held);
  }

  /** @returns false when nothing is held under the name. */
  release(session: string): boolean {
    if (!this.#close(session)) return false;
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
    for (const [session, held] of this.#held) this.#store?.hold(session, held);
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

/** Whether it is what is held already, said again to a luod that took over. */
function isSame(known: Held | undefined, held: Held): boolean {
  if (known === undefined || known.compatible !== held.compatible) return false;
  if (Buffer.compare(known.bytes, held.bytes) !== 0 || known.fds.length !== held.fds.length) return false;
  return known.fds.every((fd, index) => compareOpenFiles(fd, held.fds[index] as number) === 0);
}
