/** Memory as a file: memfd_create(2) and its seals, fcntl(2). */
import { fstatSync, ftruncateSync } from 'node:fs';
import { ERRNO, LiveUpdateError } from '../core/errors.js';
import { closeFd, fcntl } from './fd.js';
import { errno, failure, libc } from './libc.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_NOEXEC_SEAL = 8;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;

export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;
export const F_SEAL_WRITE = 8;
export const F_SEAL_FUTURE_WRITE = 16;
export const F_SEAL_EXEC = 32;

/** memfd_create(2) takes names up to this many bytes; they are for people, in /proc. */
const MAX_NAME_BYTES = 249;

/**
 * A new memfd of `size` zero bytes, close-on-exec, open for sealing and never executable. The caller owns it.
 * @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM; EFBIG or EINVAL for a size that no file can have.
 */
export function createMemfd(name: string, size: number): number {
  const label = Buffer.from(name.replaceAll('\0', '')).subarray(0, MAX_NAME_BYTES).toString();
  const fd = create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (size === 0) return fd;
  try {
    ftruncateSync(fd, size);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw LiveUpdateError.from(error, { operation: 'ftruncate' });
  }
}

function create(name: string, flags: number): number {
  const fd = libc.memfdCreate(name, flags);
  const error = errno();
  if (fd >= 0) return fd;
  // Linux before 6.3 does not know MFD_NOEXEC_SEAL.
  if (error === ERRNO.EINVAL && (flags & MFD_NOEXEC_SEAL) !== 0)
    return create(name, flags & ~MFD_NOEXEC_SEAL);
  throw failure('memfd_create', error);
}

/** @throws {LiveUpdateError} EPERM when it is sealed against seals, EBUSY, EINVAL when it is no memfd. */
export function sealMemfd(fd: number, seals: number): void {
  fcntl(fd, F_ADD_SEALS, seals);
}

/** The seals of a memfd. @throws {LiveUpdateError} EINVAL when `fd` is none. */
export function memfdSeals(fd: number): number {
  return fcntl(fd, F_GET_SEALS, 0);
}

/**
 * Refuses a memfd that came from elsewhere without these seals.
 * @throws {LiveUpdateError} EINVAL when `fd` is no memfd or a seal is missing.
 */
export function requireSeals(fd: number, seals: number): void {
  const missing = seals & ~memfdSeals(fd);
  if (missing !== 0)
    throw new LiveUpdateError('EINVAL', `the memfd lacks the seals 0x${missing.toString(16)}`, {
      operation: 'F_GET_SEALS',
    });
}

/** Bytes. */
export function memfdSize(fd: number): number {
  return fstatSync(fd).size;
}
