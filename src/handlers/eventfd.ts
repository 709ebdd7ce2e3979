/** eventfd(2): a counter by which processes and threads wake each other. */
import { LiveUpdateError } from '../core/errors.js';
import { addCount, createEventfd, MAX_COUNT } from '../linux/eventfd.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { CountFd, countHandler } from './count-fd.js';

const MAX_INITIAL = 0xffff_ffff;

/** Emits 'count' with what was added since the last; `keep()` takes it. */
export class Eventfd extends CountFd {
  /**
   * A new counter.
   * @param initial What it begins with.
   * @param options.semaphore Each `take()` and each 'count' is 1, and not all.
   * @throws {LiveUpdateError} EINVAL for an `initial` that is no whole number of 32 bits; EMFILE, ENFILE, ENOMEM.
   */
  static create(initial = 0, options: { semaphore?: boolean } = {}): Eventfd {
    if (!Number.isInteger(initial) || initial < 0 || initial > MAX_INITIAL) {
      throw new LiveUpdateError('EINVAL', `a count of 0 to ${MAX_INITIAL}, not ${initial}`, {
        operation: 'eventfd',
      });
    }
    const fd = createEventfd(initial, { semaphore: options.semaphore ?? false });
    return new Eventfd(fd, { held: false });
  }

  /**
   * Adds to the count, and wakes who waits for it.
   * @throws {LiveUpdateError} EINVAL for less than 1 or more than 2^64 - 2; EOVERFLOW when the count would pass that;
   *   EBADF when it was closed; EBUSY in a new image before `ready()`.
   */
  add(count: bigint | number = 1n): void {
    const added = typeof count === 'bigint' || Number.isSafeInteger(count) ? BigInt(count) : 0n;
    if (added < 1n || added > MAX_COUNT) {
      throw new LiveUpdateError('EINVAL', `1 to ${MAX_COUNT} can be added, not ${count}`, {
        operation: 'eventfd',
      });
    }
    if (!addCount(this.ownFd, added))
      throw new LiveUpdateError('EOVERFLOW', 'the count is full', { operation: 'eventfd' });
  }
}

export function eventfdHandler(handover: Handover): CarriedFileHandler<Eventfd> {
  return countHandler(handover, { compatible: 'liveupdate-eventfd-v1', kind: 'eventfd', type: Eventfd });
}
