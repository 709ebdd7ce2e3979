/**
 * A live TCP or unix stream connection, with every byte that is on its way.
 *
 * What the kernel holds crosses with the descriptor: received bytes that nobody read, sent bytes that nobody acknowledged.
 * What user space holds is saved at the freeze: bytes read but not consumed, bytes written but not yet taken by the
 * kernel, whether the program had ended its side, and the program's own `state` for this connection.
 *
 * Life in the old image: preserved (the descriptor crosses while the connection is served) → frozen (the rest). If the
 * connection ends in between, the new image, whose duplicate would keep the peer waiting, is told; and the peer itself
 * is told by shutdown(2) at once.
 *
 * Life in the new image: adopted (a socket is built that reads nothing) → restored (the rest is put in place) → armed, after
 * the commit (the kernel may deliver) → announced (the program gets it). Arming ten thousand takes a fraction of
 * what ten thousand 'connection' listeners take, so all are armed at once, inside the blackout; a connection is
 * announced when its first bytes come, and the silent ones a few at a time.
 */
import { type Server, Socket } from 'node:net';
import { errnoName, LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { closeFd, isPipe } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { SHUT_RDWR, shutdown } from '../linux/socket-facts.js';
import { adoptSocket, type Directions } from './adopted-socket.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { reconcile } from './reconcile.js';
import {
  detach,
  isDrained,
  ownerOf,
  park,
  type SocketOwner,
  sever,
  track,
  unpark,
  unreadBytes,
  unwrittenBytes,
} from './socket-hooks.js';

const COMPATIBLE = 'liveupdate-connection-v1';

/** The freeze's record: u32 flags, u32 bytes unread, then those bytes, then the unwritten ones. */
const HEADER_BYTES = 8;
const FLAG_ENDED = 1;

/** Duplicates that another image holds of connections which this one serves, as long as an end has to be told for their sake. */
export interface Duplicates {
  exist: boolean;
}

type Push = (this: Socket, chunk: unknown, encoding?: BufferEncoding) => boolean;

const plainPush = Socket.prototype.push as Push;

/** Stands in for `push` of a socket that the program has not seen yet: whatever arrives, the program is told first. */
const announcingPush: Push = function (chunk, encoding) {
  Connection.from(this)?.announceBytes();
  return plainPush.call(this, chunk, encoding);
};

/** What a program gets a connection that crossed by: its server's protocol, for one that came through a listener. */
export interface Receiver {
  receive(connection: Connection): void;
  /**
   * Before the commit: builds what it can of `connection.ahead`, which nobody sees, and which `receive` finds. The socket may be given
   * listeners, and must not be written to.
   */
  prepare?(connection: Connection): void;
  /** Before the cut: does what `receive` will, with nothing at stake, so that it finds the code compiled. */
  rehearse?(): void;
}

/**
 * What a connection became by an upgrade, if that can cross: a WebSocket, say. Its server's protocol knows nothing of it any
 * more.
 */
export interface UpgradedProtocol {
  /** By which the next image knows who takes the connection: see `Receiver`. */
  readonly name: string;
  /** Whether it can cross as it is now. Asked in the halted image, and in a lingering one. */
  isMovable(): boolean;
  /** Whether it cannot cross now, and will soon if nothing more comes. */
  isSettling(): boolean;
  /** Optional. What of `save` is known while the program still serves, a structured clone; what changes after it is for `save` to tell. */
  ahead?(): unknown;
  /** About how many bytes that is. */
  readonly aheadBytes?: number;
  /**
   * Its own part of what crosses, a structured clone. Changes nothing: the cut may be called off.
   * @param hasAhead Whether the next image has what `ahead` told last; then only the rest is needed.
   */
  save(hasAhead: boolean): unknown;
  /** From now on it takes in nothing more. */
  hold(): void;
  /** Undoes `hold`. */
  release(): void;
  /** In a lingering image: holds it, and calls back, in another turn of the loop, when it can cross; never if it ends first. */
  whenMovable(callback: () => void): void;
  /** In a lingering image whose successor is gone: it is to end in the way of its protocol. */
  end(): void;
}

/** One connection and what the program keeps about it. `lu.connection(socket)` returns it. */
export class Connection<S = unknown> implements SocketOwner {
  readonly socket: Socket;
  /**
   * The program's own value for this connection: undefined on a new one, the saved value on one that crossed. Anything
   * that a structured clone takes; saved at the freeze.
   */
  state: S | undefined = undefined;
  /** Whether it came from the image before. */
  readonly crossed: boolean;
  /** A clone of `state` as it was sent ahead of the freeze, in `hasSent`; the next image has it. */
  sent: unknown;
  hasSent = false;
  /** What told `ahead` to the next image. */
  sentAhead: UpgradedProtocol | undefined;
  /** In the next image, before the freeze: what `upgraded` told ahead of it. */
  ahead: { readonly name: string; readonly value: unknown } | undefined;
  /** In the next image: what `upgraded` saved, and told ahead of it if `value` needs that, until the connection is received. */
  saved: { readonly name: string; readonly value: unknown; readonly ahead?: unknown } | undefined;
  #unread: Buffer | undefined;
  #unwritten: Buffer | undefined;
  #ended = false;
  #armed = false;
  #announced: boolean;
  #receiver: Receiver | undefined;
  #server: Server | undefined;
  #hasBytes = false;
  #id = 0;
  #onEnd: ((id: number) => void) | undefined;
  #duplicates: Duplicates | undefined;
  #onGone: ((id: number) => void) | undefined;
  #onFlow: (() => void) | undefined;
  #held: (() => void)[] | undefined;
  #upgraded: UpgradedProtocol | undefined;
  #onUpgraded: (() => void) | undefined;

  private constructor(socket: Socket, crossed: boolean) {
    this.socket = socket;
    this.crossed = crossed;
    this.#announced = !crossed;
    track(socket, this);
  }

  /** The connection that a socket belongs to, if it is one. */
  static from(socket: Socket): Connection | undefined {
    const owner = ownerOf(socket);
    return owner instanceof Connection ? owner : undefined;
  }

  /** The connection of a socket that this image opened or accepted. */
  static of(socket: Socket): Connection {
    return new Connection(socket, false);
  }

  /**
   * The connection of a descriptor that another image opened: of a socket, or with `directions` of a pipe or whatever a child has for one. Nothing
   * is read. Owns `fd` also when it throws.
   */
  static adopt(fd: number, directions?: Directions): Connection {
    let socket: Socket;
    try {
      socket = adoptSocket(fd, directions);
    } catch (error) {
      closeFd(fd);
      throw LiveUpdateError.from(error, { operation: 'adopt', handler: COMPATIBLE });
    }
    (socket as { push: Push }).push = announcingPush;
    return new Connection(socket, true);
  }

  /**
   * Holds back what the program does with the socket before the commit, when the old image still reads and writes it: a
   * 'data' listener starts no reading, and what is written waits behind what the old image has yet to write.
   */
  hold(): void {
    const { socket } = this;
    const held: (() => void)[] = [];
    this.holdReading();
    socket.write = (...args: unknown[]) => {
      held.push(() => Reflect.apply(Socket.prototype.write, socket, args));
      return false;
    };
    socket.end = (...args: unknown[]) => {
      held.push(() => Reflect.apply(Socket.prototype.end, socket, args));
      return socket;
    };
    this.#held = held;
  }

  /** The same for a socket that nobody writes to. */
  holdReading(): void {
    (this.socket as ReadingSocket)._read = () => undefined;
  }

  /** Undoes `hold`; what was held back is the caller's to do. */
  #release(): (() => void)[] | undefined {
    const socket = this.socket as ReadingSocket;
    // Not deleted: V8 makes a slow dictionary of an object that loses properties.
    if (Object.hasOwn(socket, '_read')) socket._read = Socket.prototype._read;
    const held = this.#held;
    if (held === undefined) return undefined;
    this.#held = undefined;
    socket.write = Socket.prototype.write;
    socket.end = Socket.prototype.end;
    return held;
  }

  /** What it became by an upgrade; undefined for what its server speaks. */
  get upgraded(): UpgradedProtocol | undefined {
    return this.#upgraded;
  }

  set upgraded(upgraded: UpgradedProtocol | undefined) {
    this.#upgraded = upgraded;
    this.#onUpgraded?.();
  }

  /** Calls back when it is upgraded. */
  onUpgraded(onUpgraded: () => void): void {
    this.#onUpgraded = onUpgraded;
  }

  get isOpen(): boolean {
    return !this.socket.destroyed;
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
   * After the commit: lets bytes flow. `server` (if it came through one) will have it as its own connection, and `receiver` gives
   * it to the program (by default it is emitted on `server`). What the old image still had to write goes first, so that nothing the new one writes can pass it.
   * `onFlow` is called when the program gets the connection.
   */
  arm(server?: Server, receiver?: Receiver, onFlow?: () => void): void {
    const { socket } = this;
    this.#onFlow = onFlow;
    this.#server = server;
    this.#receiver = receiver;
    this.#armed = true;
    const held = this.#release();
    if (this.#unwritten !== undefined) socket.write(this.#unwritten);
    if (held !== undefined) for (const act of held) act();
    // To a writer whose write() was held back it returned false, upon which 'drain' is owed.
    if (held !== undefined && held.length > 0 && !socket.writableNeedDrain)
      process.nextTick(() => socket.emit('drain'));
    if (this.#ended) socket.end();
    this.#unwritten = undefined;
    try {
      if (this.#unread !== undefined || server === undefined) this.announce();
    } finally {
      // Also after an announcement: Readable counts a read that was held back as one under way.
      startReading(socket);
    }
  }

  /** Whether bytes flow. */
  get isArmed(): boolean {
    return this.#armed;
  }

  /** Whether the program has it. */
  get isAnnounced(): boolean {
    return this.#announced;
  }

  /** Whether it crossed, and no byte has come since. */
  get isSilent(): boolean {
    return this.crossed && !this.#hasBytes;
  }

  /** The first bytes are there: the program gets the connection before them. */
  announceBytes(): void {
    this.#hasBytes = true;
    this.announce();
  }

  /** Gives the connection to the program, once: its receiver does, then what was unread. */
  announce(): void {
    if (this.#announced) return;
    this.#announced = true;
    this.#onFlow?.();
    this.#onFlow = undefined;
    const { socket } = this;
    (socket as { push: Push }).push = plainPush;
    if (this.#unread !== undefined) {
      this.#hasBytes = true;
      socket.unshift(this.#unread);
    }
    this.#unread = undefined;
    const server = this.#server;
    if (server !== undefined) {
      // What Node's own accept does with a new socket, so that close(), getConnections() and half-open rules hold.
      const owned = socket as Socket & { server?: Server; _server?: Server };
      owned.allowHalfOpen = (server as unknown as { allowHalfOpen: boolean }).allowHalfOpen;
      owned.server = server;
      owned._server = server;
      (server as unknown as { _connections: number })._connections++;
    }
    if (this.#receiver !== undefined) this.#receiver.receive(this);
    else server?.emit('connection', socket);
    this.saved = undefined;
    this.ahead = undefined;
    socket.read(0);
  }

  /** Calls back when the socket has closed; at a later turn of the loop if it had before. */
  whenClosed(callback: () => void): void {
    if (this.socket.closed) setImmediate(callback);
    else this.socket.once('close', callback);
  }

  /**
   * Makes it the number `id` of a set. `onGone` is called with it when the socket is destroyed; as `watchEnd`'s, it is one function for all of
   * a set, since ten thousand of their own are ten thousand objects to make, and to move at each collection of garbage.
   */
  enter(id: number, onGone: (id: number) => void): void {
    this.#id = id;
    this.#onGone = onGone;
  }

  /**
   * While the connection is preserved: calls `onEnd`, with its number in its set (0 without one), when it ends in this image, after telling the
   * peer, which close(2) alone would not as long as the next image holds a duplicate. `undefined` goes back to plain closing.
   */
  watchEnd(onEnd: ((id: number) => void) | undefined): void {
    this.#onEnd = onEnd;
  }

  /** As long as these exist, the peer is told of an end as `watchEnd` does it. Ten thousand connections share the word that ends it. */
  endAloudWhile(duplicates: Duplicates): void {
    this.#duplicates = duplicates;
  }

  destroyed(): void {
    // An error before the program has seen the socket would find no 'error' listener, and end the process.
    if (this.#armed) this.announce();
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    if (onEnd !== undefined || this.#duplicates?.exist === true) {
      const fd = handleFd(this.socket);
      // A reset is sent by the last close, through SO_LINGER, and must not be preceded by a FIN.
      // A pipe has no such word: its other end hears of it when the next image, which is told, closes its duplicate.
      if (fd !== undefined && !isResetting(this.socket) && !isPipe(fd)) shutdown(fd, SHUT_RDWR);
      onEnd?.(this.#id);
    }
    this.#onGone?.(this.#id);
  }

  /** Whether it can be parked: user space holds nothing of it, and the program has it, with both sides open. */
  get isQuiet(): boolean {
    return this.#announced && isDrained(this.socket) && !this.socket.writableEnded;
  }

  /**
   * In an old image whose connections move in batches: the next image serves it from now on, and may yet give it back. What the program does
   * with the socket reaches nobody.
   */
  park(): void {
    park(this.socket);
  }

  /** The next image gave it back, with what it knows of it. */
  unpark(state: S | undefined, record: Uint8Array | undefined): void {
    const { socket } = this;
    unpark(socket);
    this.state = reconcile(this.state, state) as S | undefined;
    if (record !== undefined) {
      this.restore(record);
      if (this.#unwritten !== undefined) socket.write(this.#unwritten);
      if (this.#ended) socket.end();
      if (this.#unread !== undefined) socket.unshift(this.#unread);
      this.#unwritten = undefined;
      this.#unread = undefined;
      this.#ended = false;
    }
    startReading(socket);
  }

  /** The next image took it with it: its peer learns of the end. */
  lose(): void {
    unpark(this.socket);
    this.socket.destroy();
  }

  /** Whether user space holds no byte of it. */
  get isDrained(): boolean {
    return isDrained(this.socket);
  }

  /** The freeze's record, or undefined when user space holds nothing. */
  pending(): Buffer | undefined {
    const { socket } = this;
    if (this.#announced && isDrained(socket) && !socket.writableEnded) return undefined;
    const unread = this.#unread ?? unreadBytes(socket);
    const unwritten = this.#unwritten ?? unwrittenBytes(socket);
    const ended = socket.writableEnded || this.#ended;
    if (unread.length === 0 && unwritten.length === 0 && !ended) return undefined;
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(ended ? FLAG_ENDED : 0, 0);
    header.writeUInt32LE(unread.length, 4);
    return Buffer.concat([header, unread, unwritten]);
  }

  /** After the commit, in an old image that ends: it can no longer write into, read from or close the connection. */
  sever(): void {
    sever(this.socket);
  }

  /** Until `wake`: no byte is read, what comes waits in the kernel. The program does not notice. */
  rest(): void {
    handleOfSocket(this.socket)?.readStop();
  }

  wake(): void {
    const handle = handleOfSocket(this.socket);
    // The program may have paused it meanwhile.
    if (handle?.reading === true) handle.readStart();
  }

  /**
   * After the commit, in an old image that lingers: this image's descriptor is closed, without a word to the peer or the program.
   * What the program still writes to the socket, or however it ends it, reaches nobody.
   */
  detach(): void {
    this.#onEnd = undefined;
    detach(this.socket);
    this.#onGone?.(this.#id);
  }
}

interface ReadingSocket extends Socket {
  _read(size: number): void;
}

interface ReadableHandle {
  reading: boolean;
  readStart(): number;
  readStop(): number;
}

function handleOfSocket(socket: Socket): ReadableHandle | null {
  return (socket as unknown as { _handle: ReadableHandle | null })._handle;
}

/** What Node's own read(0) comes down to for a socket that has buffered nothing; at the cut it is done ten thousand times. */
function startReading(socket: Socket): void {
  const handle = handleOfSocket(socket);
  if (handle === null || handle.reading || !socket.readable) return;
  handle.reading = true;
  const error = handle.readStart();
  if (error !== 0)
    socket.destroy(new LiveUpdateError(errnoName(error), 'cannot read', { operation: 'read' }));
}

function isResetting(socket: Socket): boolean {
  return (socket as unknown as { resetAndClosing?: boolean }).resetAndClosing === true;
}

/** The freeze's record of a single connection. */
interface Saved {
  readonly state: unknown;
  readonly isOpen: boolean;
  readonly pending: Uint8Array | undefined;
}

/** A single connection, outside of any listener, for `keep()`: a client's, say. */
export function connectionHandler(handover: Handover): CarriedFileHandler<Connection> {
  const adopt = (handle: number): Connection =>
    handover.incoming.adopt(handle, () => {
      const connection = Connection.adopt(handover.incoming.takeFd(handle));
      // keep() gives the socket to the program before the commit.
      connection.hold();
      return connection;
    });
  return {
    compatible: COMPATIBLE,
    adopt,
    toFile: (value) => (value instanceof Socket ? Connection.of(value) : undefined),
    toObject: ({ socket }) => socket,
    start(connection, onFlow) {
      if (connection.crossed) connection.arm(undefined, undefined, onFlow);
    },
    sever: (connection) => connection.detach(),
    onGone: (connection, callback) => connection.whenClosed(callback),
    ops: {
      canPreserve: (_handler, file) => file instanceof Connection,
      preserve(args: FileOpArgs<Connection>) {
        const fd = handleFd(args.file!.socket);
        if (fd === undefined) throw new LiveUpdateError('EBADF', 'the connection is closed');
        args.serializedData = toSerializedData(handover.outgoing.put(undefined, [fd]));
        // Its peer learns of its end at once; the next image learns of it from the freeze.
        args.file!.watchEnd(() => undefined);
      },
      unpreserve(args) {
        args.file!.watchEnd(undefined);
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      freeze(args) {
        const { state, isOpen } = args.file!;
        const saved: Saved = { state, isOpen, pending: isOpen ? args.file!.pending() : undefined };
        handover.outgoing.update(handleOf(args.serializedData), serializeValue(saved));
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const connection = adopt(handle);
        const saved = deserializeValue(handover.incoming.bytes(handle)) as Saved;
        connection.state = saved.state;
        if (saved.pending !== undefined) connection.restore(saved.pending);
        if (!saved.isOpen) connection.socket.destroy();
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
