/** The service manager's socket: sd_notify(3), sd_pid_notify_with_fds(3), sd_notify_barrier(3). */
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from './fd.js';
import { errno, failure, libc } from './libc.js';
import { sendFds, waitReadable, waitWritable } from './scm-rights.js';
import { socketPair } from './socketpair.js';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
/** sun_path with its NUL: unix(7). */
const PATH_BYTES = 108;

/** A connection to NOTIFY_SOCKET. */
export class NotifySocket {
  readonly #fd: number;
  readonly #timeoutMs: number;

  /**
   * @param address A path, or a name in the abstract namespace after '@'.
   * @param timeoutMs How long the manager may take.
   * @throws {LiveUpdateError} EINVAL for another kind of address; ENOENT, ECONNREFUSED when nobody listens there.
   */
  constructor(address: string, timeoutMs: number) {
    const path = Buffer.from(address);
    if (!/^[/@]./.test(address) || path.length >= PATH_BYTES) {
      throw new LiveUpdateError('EINVAL', `NOTIFY_SOCKET is no address of a unix socket: ${address}`);
    }
    if (address.startsWith('@')) path[0] = 0;
    const sockaddr = Buffer.alloc(2 + PATH_BYTES);
    sockaddr.writeUInt16LE(AF_UNIX);
    path.copy(sockaddr, 2);
    // An abstract name is as long as it is said to be; a path ends at its NUL.
    const length = 2 + path.length + (address.startsWith('@') ? 0 : 1);
    const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const noSocket = errno();
    if (fd === -1) throw failure('socket', noSocket);
    const connected = libc.connect(fd, sockaddr, length);
    const notConnected = errno();
    if (connected === -1) {
      closeFd(fd);
      throw failure('connect', notConnected);
    }
    this.#fd = fd;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Sends assignments, one a line, as sd_notify(3) has them.
   * @param fds Borrowed.
   * @throws {LiveUpdateError} ETIMEDOUT when the manager does not read; ECONNREFUSED when it is gone.
   */
  send(assignments: Readonly<Record<string, string | number>>, fds: readonly number[] = []): void {
    const lines = Object.entries(assignments).map(([name, value]) => `${name}=${value}`);
    const bytes = Buffer.from(lines.join('\n'));
    while (sendFds(this.#fd, bytes, fds) === undefined) {
      if (!waitWritable(this.#fd, this.#timeoutMs)) {
        throw new LiveUpdateError('ETIMEDOUT', 'the service manager does not read what it is told', {
          operation: 'notify',
        });
      }
    }
  }

  /**
   * Waits until the manager has dealt with everything that was sent: it closes what came with the word.
   * @throws {LiveUpdateError} ETIMEDOUT.
   */
  barrier(): void {
    const [own, theirs] = socketPair();
    try {
      try {
        this.send({ BARRIER: 1 }, [theirs]);
      } finally {
        closeFd(theirs);
      }
      if (waitReadable([own], this.#timeoutMs).length === 0) {
        throw new LiveUpdateError('ETIMEDOUT', 'the service manager does not deal with what it was told', {
          operation: 'notify',
        });
      }
    } finally {
      closeFd(own);
    }
  }

  close(): void {
    closeFd(this.#fd);
  }
}
