/**
 * A `net.Socket` for a connected stream socket that another image opened.
 *
 * `new Socket({ fd })` finds out what the descriptor is with several system calls and throws an object for libuv's answer away, which is
 * half of what a socket costs, and ten thousand are built while the old image's clients want the processor. So Node's way is gone once for each kind of
 * socket; the class of the handle that it chose makes the others. A Node whose handles cannot be made like that is asked every time.
 */
import { Socket } from 'node:net';
import { errnoName, LiveUpdateError } from '../core/errors.js';
import { socketDomain, socketType } from '../linux/socket-facts.js';

/** libuv's handle below a socket: `TCP` or `Pipe` of Node's own. */
interface Handle {
  /** @returns Zero, or a negative errno; the descriptor is still the caller's then. */
  open(fd: number): number;
  close(): void;
}
type HandleClass = new (type: number) => Handle;

/** Which ways bytes of a pipe go. */
export interface Directions {
  readonly readable: boolean;
  readonly writable: boolean;
}

const BOTH: Directions = { readable: true, writable: true };

/** What Node calls SOCKET in both classes, as against a server's handle. */
const SOCKET = 0;

const classes = new Map<ReturnType<typeof socketDomain>, HandleClass>();

/**
 * Reads nothing yet. Owns `fd` when it returns.
 * @param directions Of a pipe, or whatever a child has for one; undefined for a socket.
 * @throws {LiveUpdateError} EBADF, ENOTSOCK; the errno of libuv. {TypeError} for one that is no stream.
 */
export function adoptSocket(fd: number, directions?: Directions): Socket {
  if (directions !== undefined) return unread({ fd }, directions);
  const domain = socketDomain(fd);
  const known = socketType(fd) === 'stream' ? classes.get(domain) : undefined;
  if (known === undefined) {
    const socket = unread({ fd }, BOTH);
    const handle = (socket as unknown as { _handle: Handle | null })._handle;
    if (typeof handle?.open === 'function') classes.set(domain, handle.constructor as HandleClass);
    return socket;
  }
  const handle = new known(SOCKET);
  const error = handle.open(fd);
  if (error !== 0) {
    handle.close();
    throw new LiveUpdateError(errnoName(error), 'cannot open the socket', { operation: 'adopt' });
  }
  return unread({ handle }, BOTH);
}

function unread(what: { fd: number } | { handle: Handle }, directions: Directions): Socket {
  // manualStart is Node's own switch for a socket that must not read yet. It and `handle` are absent from the public types.
  const options: Directions & { manualStart: boolean } = { ...what, ...directions, manualStart: true };
  return new Socket(options);
}
