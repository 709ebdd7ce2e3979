/** Memory as a file: memfd_create(2) and its seals, fcntl(2). */
import { fchmodSync, fstatSync, ftruncateSync, statfsSync, statSync } from 'node:fs';
import { ERRNO, LiveUpdateError } from '../core/errors.js';
import { closeFd, fcntl } from './fd.js';
import { errno, failure, libc } from './libc.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_NOEXEC_SEAL = 8;
const MFD_EXEC = 16;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;

export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;
export const F_SEAL_WRITE = 8;
export const F_SEAL_FUTURE_WRITE = 16;
export const F_SEAL_EXEC = 32;

const TMPFS_MAGIC = 0x01021994;

/** memfd_create(2) takes names up to this many bytes; they are for people, in /proc. */
const MAX_NAME_BYTES = 249;

/**
 * A new memfd of `size` zero bytes, close-on-exec and open for sealing. The caller owns it.
 *
 * Its mode has no x, and a seal keeps it so; but for one that shall cross a kexec: Linux 7.3 gives what comes back its
 * executable mode before its seals, and sealing an executable file against chmod seals it against writing as well.
 * @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM; EFBIG or EINVAL for a size that no file can have.
 */
export function createMemfd(name: string, size: number, options: { crossesKernel?: boolean } = {}): number {
  const label = Buffer.from(name.replaceAll('\0', '')).subarray(0, MAX_NAME_BYTES).toString();
  const fd = create(label, options.crossesKernel === true ? [MFD_EXEC, MFD_NOEXEC_SEAL] : [MFD_NOEXEC_SEAL]);
  try {
    if (options.crossesKernel === true) fchmodSync(fd, 0o600);
    if (size !== 0) ftruncateSync(fd, size);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw LiveUpdateError.from(error, { operation: 'memfd_create' });
  }
}

/** Tries the wanted kinds in turn, and then without any: Linux before 6.3 knows none, vm.memfd_noexec=2 forbids MFD_EXEC. */
function create(name: string, [kind = 0, ...others]: readonly number[]): number {
  const fd = libc.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kind);
  const error = errno();
  if (fd >= 0) return fd;
  if (kind !== 0 && (error === ERRNO.EINVAL || error === ERRNO.EACCES)) return create(name, others);
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

/** Whether `fd` is an anonymous file in memory: memfd_create(2), without huge pages. */
export function isMemfd(fd: number): boolean {
  try {
    memfdSeals(fd);
    // The path leads to the open file itself, whatever its name was.
    const path = `/proc/self/fd/${fd}`;
    return statSync(path).nlink === 0 && statfsSync(path).type === TMPFS_MAGIC;
  } catch {
    // Whatever cannot be asked for its seals, an open descriptor or not, is no memfd.
    return false;
  }
}
