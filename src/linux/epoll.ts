/** What libuv's event loop watches, taken away from under it: epoll_ctl(2). */
import { readdirSync, readlinkSync } from 'node:fs';
import { errno, failure, libc } from './libc.js';

const EPOLL_CTL_DEL = 2;

/**
 * Has no epoll of this process report `fd` any more, though it stays open. For descriptors whose owner in libuv cannot be stopped
 * and must not be closed.
 * @throws {LiveUpdateError} EBADF.
 */
export function stopWatching(fd: number): void {
  for (const name of readdirSync('/proc/self/fd')) {
    let target: string;
    try {
      target = readlinkSync(`/proc/self/fd/${name}`);
    } catch {
      // The descriptor by which the folder was read.
      continue;
    }
    if (target !== 'anon_inode:[eventpoll]') continue;
    const result = libc.epollCtl(Number(name), EPOLL_CTL_DEL, fd, null);
    const error = errno();
    if (result === 0) continue;
    const problem = failure('epoll_ctl', error);
    // Another loop's, which does not watch it.
    if (problem.code !== 'ENOENT') throw problem;
  }
}
