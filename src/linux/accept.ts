/** The next connection of a listening socket: accept4(2). */
import { ERRNO } from '../core/errors.js';
import { errno, failure, libc } from './libc.js';

const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
/** The client left before it was accepted, or a signal came: there may be another one behind it. */
const NEXT: ReadonlySet<number> = new Set([4, 103]);

/**
 * @param fd A listening socket that does not block.
 * @returns a descriptor, close-on-exec and non-blocking, the caller's to close; undefined when nobody waits.
 * @throws {LiveUpdateError} EMFILE, ENFILE, EBADF, EINVAL for a socket that does not listen.
 */
export function acceptNow(fd: number): number | undefined {
  for (;;) {
    const accepted = libc.accept4(fd, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK);
    const error = errno();
    if (accepted !== -1) return accepted;
    if (error === ERRNO.EAGAIN) return undefined;
    if (!NEXT.has(error)) throw failure('accept', error);
  }
}
