/** How much memory luod keeps for each user: what his memfds had when they were kept. */
import { type ErrorContext, LiveUpdateError } from '../core/errors.js';

export class MemoryUse {
  readonly #bytes = new Map<number, number>();
  readonly #limit: number;

  /** @param limit Bytes of one user. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @throws {LiveUpdateError} ENOSPC when `bytes` more are too many. */
  requireRoom(uid: number, bytes: number, context: ErrorContext): void {
    const used = this.#bytes.get(uid) ?? 0;
    if (bytes === 0 || used + bytes <= this.#limit) return;
    const text = `uid ${uid} has ${used} bytes of memory kept, and may have ${this.#limit}`;
    throw new LiveUpdateError('ENOSPC', text, context);
  }

  /** @param bytes Negative for what was let go. */
  add(uid: number, bytes: number): void {
    const used = (this.#bytes.get(uid) ?? 0) + bytes;
    if (used === 0) this.#bytes.delete(uid);
    else this.#bytes.set(uid, used);
  }
}
