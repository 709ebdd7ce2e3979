/** Counters of the kernel's, read and added to as 8 bytes: eventfd(2); timerfds (timerfd.ts) are read in the same way. */
import { readSync, writeSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { errno, failure, libc } from './libc.js';

const EFD_SEMAPHORE = 1;
const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

/** The largest that can be added, and the largest a counter holds. */
export const MAX_COUNT = 0xffff_ffff_ffff_fffen;

const bytes = Buffer.alloc(8);

/**
 * A counter, non-blocking, close-on-exec; the caller's.
 * @param initial 0 to 2^32 - 1.
 * @param options.semaphore Each read takes 1, and not all.
 * @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM.
 */
export function createEventfd(initial: number, options: { semaphore: boolean }): number {
  const fd = libc.eventfd(initial, EFD_NONBLOCK | EFD_CLOEXEC | (options.semaphore ? EFD_SEMAPHORE : 0));
  const error = errno();
  if (fd === -1) throw failure('eventfd', error);
  return fd;
}

/** Takes the count. @returns undefined when it is 0. @throws {LiveUpdateError} EBADF; ECANCELED of a timer whose clock was set. */
export function takeCount(fd: number): bigint | undefined {
  try {
    readSync(fd, bytes, 0, 8, null);
    return bytes.readBigUInt64LE();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw LiveUpdateError.from(error, { operation: 'read' });
  }
}

/** Adds to the count. @returns false when it would pass the largest: nothing was added. @throws {LiveUpdateError} EBADF. */
export function addCount(fd: number, count: bigint): boolean {
  bytes.writeBigUInt64LE(count);
  try {
    writeSync(fd, bytes, 0, 8, null);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false;
    throw LiveUpdateError.from(error, { operation: 'write' });
  }
}
