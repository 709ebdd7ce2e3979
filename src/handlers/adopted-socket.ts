/**
 * A `net.Socket` for a connected stream socket that another image opened.
 *
 * `new Socket({ fd })` finds out what the descriptor is with several system calls, which is half of what a socket costs, and ten thousand are
 * built while the old image's clients want the processor. So Node's way is gone once for each kind of socket; the class of the handle that it
 * chose makes the others. A Node whose handles cannot be made like that is asked every time.
 */
import { Socket } from 'node:net';
import { errnoName, LiveUpdateError } from '../core/errors.js';
import { socketDomain, socketProtocol, socketType } from '../linux/socket-facts.js';

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
/** Node's own switch for a socket that must not read yet. It and `handle` are absent from the public types. */
const UNREAD: object = { manualStart: true };

/** What Node calls SOCKET in both classes, as against a server's handle. */
const SOCKET = 0;
const IPPROTO_TCP = 6;

const classes = new Map<'tcp' | 'unix', HandleClass>();

/**
 * Reads nothing yet. Owns `fd` when it returns.
 * @param directions Of a pipe, or whatever a child has for one; undefined for a socket.
 * @throws {LiveUpdateError} EBADF, ENOTSOCK; the errno of libuv. {TypeError} for one that is no stream.
 */
export function adoptSocket(fd: number, directions?: Directions): Socket {
  if (directions !== undefined) return new Socket({ fd, ...directions, ...UNREAD });
  const kind = kindOf(fd);
  const known = kind === undefined ? undefined : classes.get(kind);
  if (known === undefined) {
    const socket = new Socket({ fd, ...BOTH, ...UNREAD });
    const handle = (socket as unknown as { _handle: Handle | null })._handle;
    if (kind !== undefined && typeof handle?.open === 'function')
      classes.set(kind, handle.constructor as HandleClass);
    return socket;
  }
  const handle = new known(SOCKET);
  const error = handle.open(fd);
  if (error !== 0) {
    handle.close();
    throw new LiveUpdateError(errnoName(error), 'cannot open the socket', { operation: 'adopt' });
  }
  // Each property by its name: to spread them costs as much as the stream does.
  const options = { handle, readable: true, writable: true, manualStart: true };
  return new Socket(options);
}

/** Of a stream socket, which of Node's classes it takes. One system call for TCP. */
function kindOf(fd: number): 'tcp' | 'unix' | undefined {
  if (socketProtocol(fd) === IPPROTO_TCP) return 'tcp';
  return socketDomain(fd) === 'unix' && socketType(fd) === 'stream' ? 'unix' : undefined;
}
