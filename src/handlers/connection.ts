/**
 * A live TCP or unix stream connection, with every byte that is on its way.
 *
 * What the kernel holds crosses with the descriptor: received bytes that nobody read, sent bytes that nobody acknowledged.
 * What user space holds is saved at the freeze: bytes read but not consumed, bytes written but not yet taken by the
 * kernel, whether the program had ended its side, and the program's own `state` for this connection.
 *
 * Life in the old image: preserve (the descriptor crosses while the connection is served) → freeze (the rest). If the
 * connection ends in between, it is unpreserved on the spot, and its end is told to the new image, whose duplicate would
 * keep the peer waiting; the peer itself is told by shutdown(2) at once.
 * Life in the new image: adopt (a socket is built that reads nothing) → retrieve (the rest is put in place) → `resume`,
 * which the owner calls after the commit: only then does the first byte move.
 */
import { type Server, Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { closeFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { SHUT_RDWR, shutdown } from '../linux/socket-facts.js';
import { type CarriedFileHandler, extraOf, type Handover, handleOf, toSerializedData } from './carried.js';
import { isDrained, setOnDestroy, sever, track, unreadBytes, unwrittenBytes } from './socket-hooks.js';

const COMPATIBLE = 'liveupdate-connection-v1';

/** The freeze's record: u32 flags, u32 bytes unread, then those bytes, then the unwritten ones. */
const HEADER_BYTES = 8;
const FLAG_ENDED = 1;

/** One connection and what the program keeps about it. `lu.connection(socket)` returns it. */
export class Connection<S = unknown> {
  readonly socket: Socket;
  /**
   * The program's own value for this connection: undefined on a new one, the saved value on one that crossed. Anything
   * that a structured clone takes; saved at the freeze.
   */
  state: S | undefined = undefined;
  /** Whether it came from the image before. */
  readonly crossed: boolean;
  #unread: Buffer | undefined;
  #unwritten: Buffer | undefined;
  #ended = false;

  private constructor(socket: Socket, crossed: boolean) {
    this.socket = socket;
    this.crossed = crossed;
    track(socket);
  }

  /** The connection of a socket that this image opened or accepted. */
  static of(socket: Socket): Connection {
    return new Connection(socket, false);
  }

  /** The connection of a descriptor that another image opened; nothing is read. Owns `fd` also when it throws. */
  static adopt(fd: number): Connection {
    let socket: Socket;
    try {
      // manualStart is Node's own switch for a socket that must not read yet; it is absent from the public types.
      socket = new Socket({ fd, readable: true, writable: true, manualStart: true } as { fd: number });
    } catch (error) {
      closeFd(fd);
      throw LiveUpdateError.from(error, { operation: 'adopt', handler: COMPATIBLE });
    }
    return new Connection(socket, true);
  }

  get isOpen(): boolean {
    return !this.socket.destroyed && handleFd(this.socket) !== undefined;
  }

  /** What `freeze` found in user space, from its record. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore(record: Uint8Array): void {
    const bytes = Buffer.from(record.buffer, record.byteOffset, record.byteLength);
    const unread = bytes.length < HEADER_BYTES ? -1 : bytes.readUInt32LE(4);
    if (unread < 0 || HEADER_BYTES + unread > bytes.length) {
      throw new LiveUpdateError('EINVAL', 'a damaged connection record', { handler: COMPATIBLE });
    }
    this.#ended = (bytes.readUInt32LE(0) & FLAG_ENDED) !== 0;
    if (unread > 0) this.#unread = bytes.subarray(HEADER_BYTES, HEADER_BYTES + unread);
    if (HEADER_BYTES + unread < bytes.length) this.#unwritten = bytes.subarray(HEADER_BYTES + unread);
  }

  /**
   * Lets the connection flow: first the unwritten bytes of the old image, so that nothing the new one writes can pass
   * them; then `server` (if it came through one) gives it to the program as its own; then what was unread, and whatever
   * the kernel holds.
   */
  resume(server?: Server): void {
    const { socket } = this;
    if (this.#unwritten !== undefined) socket.write(this.#unwritten);
    if (this.#ended) socket.end();
    if (this.#unread !== undefined) socket.unshift(this.#unread);
    this.#unread = undefined;
    this.#unwritten = undefined;
    if (server !== undefined) {
      // What Node's own accept does with a new socket, so that close(), getConnections() and half-open rules hold.
      const owned = socket as Socket & { server?: Server; _server?: Server };
      owned.allowHalfOpen = (server as unknown as { allowHalfOpen: boolean }).allowHalfOpen;
      owned.server = server;
      owned._server = server;
      (server as unknown as { _connections: number })._connections++;
      server.emit('connection', socket);
    }
    socket.read(0);
  }

  /** The freeze's record, or undefined when user space holds nothing. */
  pending(): Buffer | undefined {
    const { socket } = this;
    if (isDrained(socket) && !socket.writableEnded) return undefined;
    const unread = unreadBytes(socket);
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(socket.writableEnded ? FLAG_ENDED : 0, 0);
    header.writeUInt32LE(unread.length, 4);
    return Buffer.concat([header, unread, unwrittenBytes(socket)]);
  }
}

export function connectionHandler(handover: Handover): CarriedFileHandler<Connection> {
  const adopt = (handle: number): Connection => Connection.adopt(handover.incoming.takeFd(handle));
  return {
    compatible: COMPATIBLE,
    adopt,
    abandon: (adopted) => (adopted as Connection).socket.destroy(),
    ops: {
      canPreserve: (_handler, file) => file instanceof Connection,
      preserve(args: FileOpArgs<Connection>) {
        const fd = handleFd(args.file!.socket);
        if (fd === undefined) throw new LiveUpdateError('EBADF', 'the connection is closed');
        args.serializedData = toSerializedData(handover.outgoing.put(undefined, [fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      freeze(args) {
        const connection = args.file!;
        const handle = handleOf(args.serializedData);
        const pending = connection.pending();
        if (pending !== undefined) handover.outgoing.update(handle, pending);
        if (connection.state !== undefined) {
          args.serializedData = toSerializedData(
            handle,
            handover.outgoing.values.write(connection.state) + 1,
          );
        }
      },
      unfreeze(args) {
        handover.outgoing.values.reset();
        args.serializedData = toSerializedData(handleOf(args.serializedData));
      },
      retrieve(args) {
        const { incoming } = handover;
        const handle = handleOf(args.serializedData);
        const connection = incoming.adopt(handle, () => adopt(handle));
        const record = incoming.bytes(handle);
        if (record.length > 0) connection.restore(record);
        const value = extraOf(args.serializedData);
        if (value > 0) connection.state = incoming.value(value - 1);
        args.file = connection;
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined) handover.incoming.adopted<Connection>(handle)?.socket.destroy();
        handover.incoming.drop(handle);
      },
    },
  };
}

/**
 * Calls `onEnd` when the preserved `connection` ends in this image, after telling the peer: close(2) alone would not,
 * while the next image holds a duplicate. `undefined` goes back to plain closing.
 */
export function watchEnd(connection: Connection, onEnd: (() => void) | undefined): void {
  const { socket } = connection;
  if (onEnd === undefined) {
    setOnDestroy(socket, undefined);
    return;
  }
  setOnDestroy(socket, () => {
    setOnDestroy(socket, undefined);
    const fd = handleFd(socket);
    // A reset is sent by the last close, through SO_LINGER, and must not be preceded by a FIN.
    if (fd !== undefined && !isResetting(socket)) shutdown(fd, SHUT_RDWR);
    onEnd();
  });
}

function isResetting(socket: Socket): boolean {
  return (socket as unknown as { resetAndClosing?: boolean }).resetAndClosing === true;
}

/** After the commit, in the old image: it can no longer write into, read from or close the connection. */
export function severConnection(connection: Connection): void {
  sever(connection.socket);
}
