/** Descriptors as such: duplicate, close, count, and own. */
import { fstatSync, readdirSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { errno, failure, libc } from './libc.js';

export const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const FD_CLOEXEC = 1;
const O_NONBLOCK = 0o4000;
const O_ACCMODE = 3;
const O_CLOEXEC = 0o2000000;
const RLIMIT_NOFILE = 7;
const SEEK_SET = 0;
const SEEK_CUR = 1;

/** A duplicate, close-on-exec. @throws {LiveUpdateError} EBADF, EMFILE. fcntl(2) */
export function dupFd(fd: number): number {
  return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/** Duplicates of all or of none, close-on-exec. @throws {LiveUpdateError} EBADF, EMFILE. */
export function dupFds(fds: readonly number[]): number[] {
  const duplicates: number[] = [];
  try {
    for (const fd of fds) duplicates.push(dupFd(fd));
    return duplicates;
  } catch (error) {
    for (const fd of duplicates) closeFd(fd);
    throw error;
  }
}

/** Puts a duplicate of `from` in the place of `to`, which is closed; close-on-exec. @throws {LiveUpdateError} EBADF. dup3(2) */
export function replaceFd(from: number, to: number): void {
  const result = libc.dup3(from, to, O_CLOEXEC);
  const error = errno();
  if (result === -1) throw failure('dup3', error);
}

/** @throws {LiveUpdateError} EBADF. close(2): the descriptor is gone whatever else is reported. */
export function closeFd(fd: number): void {
  const result = libc.close(fd);
  const error = errno();
  if (result === -1 && failure('close', error).code === 'EBADF') throw failure('close', error);
}

/** @throws {LiveUpdateError} EBADF. */
export function setCloseOnExec(fd: number, on: boolean): void {
  const flags = fcntl(fd, F_GETFD, 0);
  fcntl(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC);
}

/** @throws {LiveUpdateError} EBADF. */
export function isCloseOnExec(fd: number): boolean {
  return (fcntl(fd, F_GETFD, 0) & FD_CLOEXEC) !== 0;
}

/** The flag belongs to the open file, so every duplicate sees it. @throws {LiveUpdateError} EBADF. */
export function setNonBlocking(fd: number, on: boolean): void {
  const flags = fcntl(fd, F_GETFL, 0);
  fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

/** @throws {LiveUpdateError} EBADF. */
export function isNonBlocking(fd: number): boolean {
  return (fcntl(fd, F_GETFL, 0) & O_NONBLOCK) !== 0;
}

export function fcntl(fd: number, command: number, argument: number): number {
  const result = libc.fcntl(fd, command, argument);
  const error = errno();
  if (result === -1) throw failure('fcntl', error);
  return result;
}

/** 0: for reading, 1: for writing, 2: for both. @throws {LiveUpdateError} EBADF. */
export function accessMode(fd: number): number {
  return fcntl(fd, F_GETFL, 0) & O_ACCMODE;
}

/** Whether it is an end of a pipe or an open fifo. @throws EBADF, as Node's own error. fstat(2) */
export function isPipe(fd: number): boolean {
  return fstatSync(fd).isFIFO();
}

/** The position of an open file, in bytes. @throws {LiveUpdateError} EBADF; ESPIPE (as EIO) for a pipe or socket. lseek(2) */
export function tell(fd: number): number {
  return lseek(fd, 0, SEEK_CUR);
}

/** Sets the position of an open file. @throws {LiveUpdateError} EBADF, EINVAL; ESPIPE (as EIO). lseek(2) */
export function seek(fd: number, position: number): void {
  lseek(fd, position, SEEK_SET);
}

function lseek(fd: number, offset: number, whence: number): number {
  const result = libc.lseek(fd, offset, whence);
  const error = errno();
  if (result === -1) throw failure('lseek', error);
  return result;
}

/** Descriptors that this process has open. */
export function countOpenFds(): number {
  // The listing itself holds one open.
  return readdirSync('/proc/self/fd').length - 1;
}

const limit = Buffer.allocUnsafeSlow(4096);

/** Descriptors that this process may still open: the soft RLIMIT_NOFILE less those that are open. */
export function fdHeadroom(): number {
  const result = libc.getrlimit(RLIMIT_NOFILE, limit);
  const error = errno();
  if (result === -1) throw failure('getrlimit', error);
  return Number(limit.readBigUInt64LE(0)) - countOpenFds();
}

/** A descriptor with one owner, who closes it. */
export class OwnedFd implements Disposable {
  #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** @throws {LiveUpdateError} EBADF when it was closed or taken. */
  get fd(): number {
    if (this.#fd === -1) throw new LiveUpdateError('EBADF', 'the descriptor was closed or taken');
    return this.#fd;
  }

  /** Gives up ownership: the caller closes it. @throws {LiveUpdateError} EBADF. */
  take(): number {
    const { fd } = this;
    this.#fd = -1;
    return fd;
  }

  /** Closes it; again is harmless. */
  close(): void {
    if (this.#fd !== -1) closeFd(this.take());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
