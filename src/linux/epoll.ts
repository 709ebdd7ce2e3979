/** Readiness of many descriptors: epoll(7). And what libuv's own epoll watches, taken away from under it. */
import { close, readdirSync, readlinkSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd, F_GETFD, fcntl, OwnedFd } from './fd.js';
import { errno, failure, libc } from './libc.js';

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
const EPOLLRDHUP = 0x2000;
const EPOLLONESHOT = 1 << 30;

/** struct epoll_event: u32 events, u64 data; packed on x86-64 alone. */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const DATA_AT = process.arch === 'x64' ? 4 : 8;
/** Events of one call. */
const MAX_EVENTS = 1024;
/** So many entries take the kernel longer than to ask a thread. */
const MANY = 256;

const event = Buffer.alloc(EVENT_BYTES);

/**
 * Tells once of each descriptor that has something to read, an end, or an error. Nothing is read; a descriptor whose bytes another
 * process has taken meanwhile is not told of.
 */
export class Readiness implements Disposable {
  readonly #epoll: OwnedFd;
  readonly #events = Buffer.alloc(EVENT_BYTES * MAX_EVENTS);
  #added = 0;

  /** @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM. */
  constructor() {
    const fd = libc.epollCreate1(EPOLL_CLOEXEC);
    const error = errno();
    if (fd === -1) throw failure('epoll_create1', error);
    this.#epoll = new OwnedFd(fd);
  }

  /** Readable itself when there is something to `take`. */
  get fd(): number {
    return this.#epoll.fd;
  }

  /**
   * @param id What `take` says for it, a u32.
   * @throws {LiveUpdateError} EBADF, EEXIST, ENOMEM, ENOSPC (fs.epoll.max_user_watches); EPERM for a file that cannot be waited for.
   */
  add(fd: number, id: number): void {
    event.writeUInt32LE((EPOLLIN | EPOLLRDHUP | EPOLLONESHOT) >>> 0, 0);
    event.writeUInt32LE(id, DATA_AT);
    event.writeUInt32LE(0, DATA_AT + 4);
    const result = libc.epollCtl(this.fd, EPOLL_CTL_ADD, fd, event);
    const error = errno();
    if (result === -1) throw failure('epoll_ctl', error);
    this.#added++;
  }

  /** Those that are ready now, each once. */
  take(): number[] {
    const ids: number[] = [];
    for (;;) {
      const count = libc.epollWait(this.fd, this.#events, MAX_EVENTS, 0);
      const error = errno();
      if (count === -1) throw failure('epoll_wait', error);
      for (let i = 0; i < count; i++) ids.push(this.#events.readUInt32LE(i * EVENT_BYTES + DATA_AT));
      if (count < MAX_EVENTS) return ids;
    }
  }

  close(): void {
    this.#epoll.close();
  }

  /**
   * Closes it; one of many descriptors on a thread of libuv's, whenever that has time: the kernel takes each entry out by itself, and the
   * loop would stand still for 8 ms with ten thousand of them, for 30 while another process with the same sockets ends.
   * @throws {LiveUpdateError} EBADF when it was closed.
   */
  closeApart(): void {
    const fd = this.#epoll.take();
    if (this.#added < MANY) closeFd(fd);
    else
      close(fd, (error) => {
        if (error !== null) process.emitWarning(LiveUpdateError.from(error, { operation: 'close' }));
      });
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Has no epoll of this process report `fd` any more, though it stays open. For descriptors whose owner in libuv cannot be stopped
 * and must not be closed.
 * @throws {LiveUpdateError} EBADF.
 */
export function stopWatching(fd: number): void {
  // Throws when it is `fd` that is closed.
  fcntl(fd, F_GETFD, 0);
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
    // Another loop's, which does not watch it; or one that another thread has closed since it was looked at.
    if (problem.code !== 'ENOENT' && problem.code !== 'EBADF') throw problem;
  }
}
