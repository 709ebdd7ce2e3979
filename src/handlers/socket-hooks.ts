/**
 * What Node does not tell about its sockets, asked of them by two small hooks on `net.Socket.prototype`.
 *
 * `_writeGeneric`: libuv knows how many bytes of the chunk in flight are unwritten, but the chunk itself is no longer
 * within reach; the hook remembers it while there is a rest. `_destroy`: a connection whose descriptor also lives in the next
 * image does not end when this one closes it, so the end has to be told before the handle is gone.
 *
 * Both act only on sockets that were `track()`ed. They are present in every Node from 20 to 26 and are checked at
 * installation: a Node without them is refused with ENOSYS rather than trusted.
 */
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { LiveUpdateError } from '../core/errors.js';

/** libuv's handle below a socket, as far as it is used here. */
interface StreamHandle {
  readonly writeQueueSize: number;
  onread: unknown;
  reading: boolean;
  readStop(): number;
  close(): void;
}

interface InFlight {
  readonly isVector: boolean;
  readonly data: unknown;
  readonly encoding: BufferEncoding;
}

/** Who is told that a tracked socket is being destroyed, while its descriptor is still open. */
export interface SocketOwner {
  destroyed(): void;
}

interface Tracked {
  readonly owner: SocketOwner;
  inFlight: InFlight | undefined;
}

interface BufferedChunk {
  readonly chunk: string | Uint8Array;
  readonly encoding: BufferEncoding;
}

interface ReadableState {
  readonly length: number;
  readonly buffer: Iterable<string | Uint8Array | null>;
  readonly encoding: BufferEncoding | null;
  readonly decoder: { lastChar: Buffer; lastNeed: number; lastTotal: number } | null;
}

interface WritableState {
  readonly length: number;
  getBuffer(): BufferedChunk[];
}

type WriteGeneric = (
  this: Socket,
  isVector: boolean,
  data: unknown,
  encoding: BufferEncoding,
  callback: (error?: Error | null) => void,
) => void;
type Destroy = (this: Socket, error: Error | null, callback: (error?: Error | null) => void) => void;

const kTracked = Symbol('liveupdate.tracked');

interface Internals {
  _handle: StreamHandle | null;
  _readableState: ReadableState;
  _writableState: WritableState;
  [kTracked]?: Tracked;
}

interface SocketPrototype {
  _writeGeneric: WriteGeneric;
  _destroy: Destroy;
}

function internals(socket: Socket): Internals {
  return socket as unknown as Internals;
}

let installed = false;

function install(): void {
  if (installed) return;
  const prototype = Socket.prototype as unknown as SocketPrototype;
  const { _writeGeneric: writeGeneric, _destroy: destroy } = prototype;
  if (typeof writeGeneric !== 'function' || typeof destroy !== 'function') {
    throw new LiveUpdateError(
      'ENOSYS',
      `Node ${process.versions.node} hides what a socket still has to write`,
    );
  }
  prototype._writeGeneric = function (isVector, data, encoding, callback) {
    const tracked = internals(this)[kTracked];
    if (tracked === undefined) return writeGeneric.call(this, isVector, data, encoding, callback);
    writeGeneric.call(this, isVector, data, encoding, (error) => {
      tracked.inFlight = undefined;
      callback(error);
    });
    // Most writes are done when the call returns; only a rest has to be remembered, and only while it is one.
    if ((internals(this)._handle?.writeQueueSize ?? 0) > 0) tracked.inFlight = { isVector, data, encoding };
  };
  prototype._destroy = function (error, callback) {
    internals(this)[kTracked]?.owner.destroyed();
    destroy.call(this, error, callback);
  };
  installed = true;
}

/** Makes `unwrittenBytes` exact for everything that is written to `socket` from now on, and tells `owner` of its end. */
export function track(socket: Socket, owner: SocketOwner): void {
  install();
  internals(socket)[kTracked] = { owner, inFlight: undefined };
}

/** Who tracks `socket`. */
export function ownerOf(socket: Socket): SocketOwner | undefined {
  return internals(socket)[kTracked]?.owner;
}

/** Whether the socket holds no byte in user space: nothing read that was not consumed, nothing unwritten. */
export function isDrained(socket: Socket): boolean {
  const { _readableState: readable, _writableState: writable } = internals(socket);
  return readable.length === 0 && writable.length === 0 && readable.decoder === null;
}

/** Bytes that were read from the kernel and that nobody has consumed yet. The socket (or any other stream) keeps them. */
export function unreadBytes(socket: Readable): Buffer {
  const state = (socket as unknown as Internals)._readableState;
  const parts: Uint8Array[] = [];
  for (const chunk of state.buffer) {
    // Node 22 keeps consumed places as holes.
    if (chunk !== null)
      parts.push(typeof chunk === 'string' ? Buffer.from(chunk, state.encoding ?? 'utf8') : chunk);
  }
  const { decoder } = state;
  // With an encoding set, the first bytes of a character that is not complete wait inside the decoder.
  if (decoder !== null && decoder.lastNeed > 0) {
    parts.push(Buffer.from(decoder.lastChar.subarray(0, decoder.lastTotal - decoder.lastNeed)));
  }
  return Buffer.concat(parts);
}

/**
 * Bytes that the program wrote and the kernel does not have yet, in order. Exact as long as the event loop does not
 * turn: libuv writes on as soon as the socket takes more.
 */
export function unwrittenBytes(socket: Socket): Buffer {
  const { _handle: handle, _writableState: state, [kTracked]: tracked } = internals(socket);
  const parts: Uint8Array[] = [];
  const rest = handle?.writeQueueSize ?? 0;
  if (rest > 0) {
    if (tracked?.inFlight === undefined) {
      throw new LiveUpdateError(
        'EIO',
        `${rest} bytes are being written that were sent before the socket was known`,
      );
    }
    const bytes = inFlightBytes(tracked.inFlight);
    parts.push(bytes.subarray(bytes.length - rest));
  }
  for (const { chunk, encoding } of state.getBuffer()) parts.push(toBytes(chunk, encoding));
  return Buffer.concat(parts);
}

function inFlightBytes({ isVector, data, encoding }: InFlight): Buffer {
  if (!isVector) return Buffer.from(toBytes(data as string | Uint8Array, encoding));
  const chunks = data as (BufferedChunk[] & { allBuffers?: boolean }) | Uint8Array[];
  return Buffer.concat(
    chunks.map((entry) => (entry instanceof Uint8Array ? entry : toBytes(entry.chunk, entry.encoding))),
  );
}

function toBytes(chunk: string | Uint8Array, encoding: BufferEncoding): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk;
}

/**
 * Takes the handle away from `socket` without closing it: whatever this image still writes fails, and no byte of it gets
 * into a stream that now belongs to another image.
 */
export function sever(socket: Socket): void {
  internals(socket)._handle = null;
}

/** What a muted socket does instead: one object for all of them, since a rolling cut mutes ten thousand. */
const MUTED = {
  write(...args: unknown[]): boolean {
    swallow(args);
    return true;
  },
  end(this: Socket, ...args: unknown[]): Socket {
    swallow(args);
    return this;
  },
  destroy(this: Socket): Socket {
    return this;
  },
};

function swallow(args: readonly unknown[]): void {
  const callback = args.at(-1);
  if (typeof callback === 'function') process.nextTick(callback as () => void);
}

type Muted = Partial<typeof MUTED>;

/** From now on what is written to `socket`, and its end, reach nobody; callbacks are called. */
function mute(socket: Socket): void {
  const muted = socket as unknown as Muted;
  muted.write = MUTED.write;
  muted.end = MUTED.end;
  muted.destroy = MUTED.destroy;
}

/** Undoes `mute`. */
function unmute(socket: Socket): void {
  const muted = socket as unknown as Muted;
  delete muted.write;
  delete muted.end;
  delete muted.destroy;
}

/** Reads and writes nothing more on `socket`, which another image serves for now. */
export function park(socket: Socket): void {
  const { _handle: handle } = internals(socket);
  if (handle === null) return;
  handle.reading = false;
  handle.readStop();
  mute(socket);
}

/** Undoes `park`; reading is the caller's to begin. */
export function unpark(socket: Socket): void {
  unmute(socket);
}

/**
 * Closes the handle of `socket` at once and in silence: no event comes, and the stream above it swallows what is written. libuv's
 * own writes are cancelled; the peer sees no end, since another image has the connection.
 */
export function detach(socket: Socket): void {
  const { _handle: handle } = internals(socket);
  if (handle === null) return;
  internals(socket)._handle = null;
  socket.setTimeout(0);
  mute(socket);
  // Closed without its JavaScript owner: what still waits in libuv ends with ECANCELED, and must not come back as an error.
  handle.onread = () => undefined;
  handle.close();
}
