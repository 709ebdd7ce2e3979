/**
 * One end of a conversation between images, or between an image and luod: JSON objects, one a line, on a unix stream
 * socket, with descriptors beside them.
 *
 * A line whose object has `"fds": n` owns the next n descriptors that came by SCM_RIGHTS. The kernel attaches
 * descriptors to the first byte of the message that carried them and takes at most 253 a message, so a line with more
 * is sent in several pieces, each with its share; the last of them is there when the line's newline is.
 *
 * Reading and writing are plain non-blocking system calls, so the same wire also works while the event loop is
 * halted: `receiveNow()` and `flushNow()` are what a frozen image uses.
 *
 * Unhappy paths: a line that is too long (EMSGSIZE), no JSON, or claims descriptors that did not come, or leaves some unclaimed
 * (EPROTO), closes the wire; nothing that arrived half is ever delivered, and every undelivered descriptor is closed.
 */
import { LiveUpdateError } from '../core/errors.js';
import { closeFd, dupFds } from '../linux/fd.js';
import { type FdWatch, watchFd } from '../linux/poll.js';
import { MAX_FDS_PER_MESSAGE, recvFds, sendFds, waitReadable, waitWritable } from '../linux/scm-rights.js';

/** A message: any JSON object with a `type`. */
export interface WireMessage {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** Limits of a wire; passing one closes it with EMSGSIZE, EPROTO or ETIMEDOUT, or, for a full send queue, throws ENOBUFS. */
export interface WireLimits {
  /** Bytes of one line that comes, newline included. */
  lineBytes: number;
  /** Bytes of one line that is sent: what the other end takes. */
  sentLineBytes: number;
  /** Descriptors of one line. */
  lineFds: number;
  /** Bytes queued because the peer does not read. */
  queuedBytes: number;
  /** Milliseconds from the first byte of a message to its last; 0 for no limit. */
  stallMs: number;
}

export const WIRE_LIMITS: Readonly<WireLimits> = {
  lineBytes: 1 << 20,
  sentLineBytes: 1 << 20,
  lineFds: 4096,
  queuedBytes: 16 << 20,
  stallMs: 0,
};

export interface WireEvents {
  /** A whole message. Its descriptors belong to the receiver from now on. */
  message(message: WireMessage, fds: number[]): void;
  /** The end: without an error when the peer closed in good order. Called once; not called after `close()`. */
  closed(error: LiveUpdateError | undefined): void;
}

interface Piece {
  bytes: Uint8Array;
  fds: number[];
}

const NEWLINE = 0x0a;
const READ_BYTES = 64 << 10;
/** A peer that writes without a pause must not keep the event loop from everybody else, nor its own answers from being sent. */
const READS_PER_TURN = 16;

export class Wire {
  readonly #fd: number;
  readonly #events: WireEvents;
  readonly #limits: Readonly<WireLimits>;
  readonly #watch: FdWatch;
  #queue: Piece[] = [];
  #queuedBytes = 0;
  #line: Uint8Array[] = [];
  #lineBytes = 0;
  #fds: number[] = [];
  #open = true;
  #reading = false;
  #stall: NodeJS.Timeout | undefined;
  /** The type of the message up to which everything is thrown away; undefined when everything is delivered. */
  #skippingTo: string | undefined;
  readonly #refuses: boolean;
  readonly #hearsLastWord: boolean;

  /**
   * @param fd A connected unix stream socket; the wire owns it from now on.
   * @param options.skipTo For a socket that another process has read from, maybe to the middle of a line: everything is thrown
   *   away up to a message of this type, which is delivered.
   * @param options.hearsLastWord Whether a send that finds the peer gone delivers first what it had said, as why it left.
   * @param options.begun For a socket that another process has read from in good order: what that had of a message (`Wire.begun`).
   * @param options.refuses Whether the peer is told, by a last message 'refused', why the wire is closed when it broke a rule.
   */
  constructor(
    fd: number,
    events: WireEvents,
    limits: Partial<WireLimits> = {},
    options: {
      skipTo?: string | undefined;
      refuses?: boolean;
      hearsLastWord?: boolean;
      begun?: { readonly bytes: Uint8Array; readonly fds: readonly number[] };
    } = {},
  ) {
    if (options.begun !== undefined) {
      const { bytes, fds } = options.begun;
      if (bytes.length > 0) this.#line.push(bytes);
      this.#lineBytes = bytes.length;
      this.#fds.push(...fds);
    }
    this.#skippingTo = options.skipTo;
    this.#refuses = options.refuses ?? false;
    this.#hearsLastWord = options.hearsLastWord ?? false;
    this.#fd = fd;
    this.#events = events;
    this.#limits = { ...WIRE_LIMITS, ...limits };
    this.#watch = watchFd(fd, { readable: true }, (event) => {
      if (event.error !== undefined) {
        // libuv says EBADF for any POLLERR, as after a reset; reading tells what it is, behind what can still be read.
        this.receiveNow();
        if (this.#open) this.#fail(event.error);
      } else {
        if (event.writable) this.#drain();
        if (event.readable || event.disconnect) this.#receive(READS_PER_TURN);
      }
    });
  }

  /** The socket's descriptor, for waiting on it; reading it directly would tear a line. */
  get fd(): number {
    return this.#fd;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** What has come of a message that is not complete (copied, and its descriptors borrowed), for another process that reads on. */
  get begun(): { readonly bytes: Buffer; readonly fds: readonly number[] } {
    return { bytes: Buffer.concat(this.#line), fds: this.#fds };
  }

  /** Keeps the event loop alive while the wire is open, which is the default. */
  ref(): void {
    this.#watch.ref();
  }

  /** Lets the event loop end although the wire is open. */
  unref(): void {
    this.#watch.unref();
  }

  /**
   * Sends `message` with `fds`. The descriptors stay the caller's, which may close them as soon as this returns. A peer
   * that is gone gets nothing and it is no error: it may go at any moment, and `closed` tells of it.
   * @throws {LiveUpdateError} ENOBUFS when the peer does not read and the queue is full;
   *   E2BIG for more descriptors than a line may own.
   */
  send(message: object, fds: readonly number[] = []): void {
    if (!this.#open) return;
    if (fds.length > this.#limits.lineFds) {
      throw new LiveUpdateError('E2BIG', `${fds.length} descriptors in one message`, { operation: 'send' });
    }
    const owned = fds.length === 0 ? message : { ...message, fds: fds.length };
    const messages = Math.ceil(fds.length / MAX_FDS_PER_MESSAGE);
    // Every message needs a byte of its own to carry descriptors; spaces after the object are still JSON.
    const line = Buffer.from(`${JSON.stringify(owned).padEnd(messages - 1)}\n`);
    if (line.length > this.#limits.sentLineBytes) {
      throw new LiveUpdateError('EMSGSIZE', `a message of ${line.length} bytes`, { operation: 'send' });
    }
    if (this.#queuedBytes + line.length > this.#limits.queuedBytes) {
      throw new LiveUpdateError('ENOBUFS', 'the other side does not read', { operation: 'send' });
    }
    let start = 0;
    for (let i = 0; i < Math.max(messages, 1); i++) {
      const end = i === messages - 1 || messages === 0 ? line.length : start + 1;
      const share = fds.slice(i * MAX_FDS_PER_MESSAGE, (i + 1) * MAX_FDS_PER_MESSAGE);
      this.#write({ bytes: line.subarray(start, end), fds: share });
      if (!this.#open) return;
      start = end;
    }
  }

  #write(piece: Piece): void {
    if (this.#queue.length === 0) {
      try {
        const sent = sendFds(this.#fd, piece.bytes, piece.fds);
        if (sent !== undefined) {
          if (sent === piece.bytes.length) return;
          // Descriptors travel with the first byte, so what is left is bytes alone.
          piece = { bytes: piece.bytes.subarray(sent), fds: [] };
        }
      } catch (error) {
        // Too many descriptors in flight for this user: they drain as the peer receives.
        if (isGone(error)) {
          if (this.#hearsLastWord) this.receiveNow();
          this.#end(LiveUpdateError.from(error));
          return;
        }
        if (!isTransient(error)) throw this.#fail(error);
      }
    }
    // The caller may close its descriptors once send() returns, so what waits is held by a duplicate.
    this.#queue.push({ bytes: Buffer.from(piece.bytes), fds: dupFds(piece.fds) });
    this.#queuedBytes += piece.bytes.length;
    this.#watch.update({ readable: true, writable: true });
  }

  #drain(): void {
    while (this.#open) {
      const piece = this.#queue[0];
      if (piece === undefined) {
        this.#watch.update({ readable: true, writable: false });
        return;
      }
      let sent: number | undefined;
      try {
        sent = sendFds(this.#fd, piece.bytes, piece.fds);
      } catch (error) {
        if (isTransient(error)) return;
        this.#fail(error);
        return;
      }
      if (sent === undefined) return;
      for (const fd of piece.fds) closeFd(fd);
      this.#queuedBytes -= sent;
      if (sent === piece.bytes.length) this.#queue.shift();
      else this.#queue[0] = { bytes: piece.bytes.subarray(sent), fds: [] };
    }
  }

  /**
   * Sends what is queued without the event loop.
   * @throws {LiveUpdateError} ETIMEDOUT when the peer does not read for `timeoutMs`; EPIPE when it is gone.
   */
  flushNow(timeoutMs: number): void {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      this.#drain();
      if (!this.#open) throw new LiveUpdateError('EPIPE', 'the other side is gone', { operation: 'flush' });
      if (this.#queue.length === 0) return;
      const left = deadline - performance.now();
      if (left <= 0 || waitWritable(this.#fd, left) === false) {
        throw new LiveUpdateError('ETIMEDOUT', 'the other side does not read', { operation: 'flush' });
      }
    }
  }

  /** Reads and delivers everything that has arrived; for callers whose event loop is halted. */
  receiveNow(): void {
    this.#receive(Number.POSITIVE_INFINITY);
  }

  #receive(reads: number): void {
    // A message's receiver may call back in here (a frozen image pumps inside a message); the outer loop goes on.
    if (this.#reading) return;
    this.#reading = true;
    try {
      // What is left is told again at the next turn of the loop.
      for (let read = 0; this.#open && read < reads; read++) {
        const received = recvFds(this.#fd, { maxBytes: READ_BYTES, maxFds: MAX_FDS_PER_MESSAGE });
        if (received === undefined) return;
        if (received.eof) {
          const torn = this.#lineBytes > 0 || this.#fds.length > 0;
          this.#end(torn ? new LiveUpdateError('EPROTO', 'the other side left in mid-message') : undefined);
          return;
        }
        for (const fd of received.fds) this.#fds.push(fd);
        if (this.#fds.length > this.#limits.lineFds) {
          this.#fail(new LiveUpdateError('EPROTO', 'more descriptors than a message may own'));
          return;
        }
        // A copy: the bytes are in the buffer of all calls, which an answer to the first line would fill before the second is read.
        this.#feed(Buffer.from(received.bytes));
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#reading = false;
      this.#watchStall();
    }
  }

  /** A peer that stops in the middle of a message holds descriptors and memory of ours. */
  #watchStall(): void {
    const isTorn = this.#open && (this.#lineBytes > 0 || this.#fds.length > 0);
    if (!isTorn) {
      clearTimeout(this.#stall);
      this.#stall = undefined;
    } else if (this.#stall === undefined && this.#limits.stallMs > 0) {
      const text = `a message that was not complete after ${this.#limits.stallMs} ms`;
      this.#stall = setTimeout(
        () => this.#fail(new LiveUpdateError('ETIMEDOUT', text)),
        this.#limits.stallMs,
      );
      this.#stall.unref();
    }
  }

  /** Waits without the event loop until something arrived, the peer left, or `timeoutMs` passed (false). */
  waitNow(timeoutMs: number): boolean {
    return waitReadable([this.#fd], timeoutMs).length > 0;
  }

  #feed(bytes: Uint8Array): void {
    let start = 0;
    while (this.#open) {
      const end = bytes.indexOf(NEWLINE, start);
      if (end === -1) break;
      if (this.#lineBytes + end - start > this.#limits.lineBytes) {
        this.#failTooLong();
        return;
      }
      this.#line.push(bytes.subarray(start, end));
      const line = this.#line.length === 1 ? this.#line[0]! : Buffer.concat(this.#line);
      this.#line = [];
      this.#lineBytes = 0;
      start = end + 1;
      this.#deliver(line);
    }
    if (start < bytes.length && this.#open) {
      this.#lineBytes += bytes.length - start;
      if (this.#lineBytes > this.#limits.lineBytes) {
        this.#failTooLong();
        return;
      }
      this.#line.push(bytes.subarray(start));
    }
  }

  #failTooLong(): void {
    this.#fail(new LiveUpdateError('EMSGSIZE', `a line of more than ${this.#limits.lineBytes} bytes`));
  }

  /** A line of which it is not known whether it is whole: only the one that is waited for counts. */
  #skip(line: Uint8Array): void {
    let message: unknown;
    try {
      message = JSON.parse(Buffer.from(line).toString('utf8'));
    } catch {
      // The rest of what another process began to read.
      message = undefined;
    }
    // Descriptors come with the first byte of their line. What is left of a line has none; a whole one has its own, and those
    // behind it, which may have come in the same read, are the next one's.
    if (!isMessage(message)) return;
    const count = typeof message.fds === 'number' && message.fds > 0 ? message.fds : 0;
    for (const fd of this.#fds.splice(0, count)) closeFd(fd);
    if (message.type !== this.#skippingTo) return;
    this.#skippingTo = undefined;
    this.#events.message(message, []);
  }

  #deliver(line: Uint8Array): void {
    if (this.#skippingTo !== undefined) {
      this.#skip(line);
      return;
    }
    let message: unknown;
    try {
      message = withType(JSON.parse(Buffer.from(line.buffer, line.byteOffset, line.length).toString('utf8')));
    } catch (cause) {
      this.#fail(new LiveUpdateError('EPROTO', 'a line that is no JSON', { cause }));
      return;
    }
    if (!isMessage(message)) {
      this.#fail(new LiveUpdateError('EPROTO', 'a line that is no object with a type'));
      return;
    }
    const count = message.fds ?? 0;
    if (typeof count !== 'number' || !Number.isInteger(count) || count < 0 || count > this.#fds.length) {
      this.#fail(new LiveUpdateError('EPROTO', 'a line that claims descriptors which did not come'));
      return;
    }
    this.#events.message(message, count === 0 ? [] : this.#fds.splice(0, count));
  }

  #fail(error: unknown): LiveUpdateError {
    const failure = LiveUpdateError.from(error);
    if (this.#refuses && this.#open && this.#queue.length === 0) this.#refuse(failure);
    this.#end(failure);
    return failure;
  }

  #refuse({ code, errno, message }: LiveUpdateError): void {
    const refusal = { type: 'refused', error: { code, errno, message } };
    try {
      sendFds(this.#fd, Buffer.from(`${JSON.stringify(refusal)}\n`), []);
    } catch {
      // It is gone, which may be why.
    }
  }

  #end(error: LiveUpdateError | undefined): void {
    if (!this.#open) return;
    this.close();
    this.#events.closed(error);
  }

  /** Closes the wire and every descriptor that was queued or not delivered. No event follows. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#stall);
    this.#watch.close();
    for (const fd of this.#fds) closeFd(fd);
    for (const piece of this.#queue) for (const fd of piece.fds) closeFd(fd);
    this.#fds = [];
    this.#queue = [];
    this.#queuedBytes = 0;
    closeFd(this.#fd);
  }
}

function isMessage(value: unknown): value is WireMessage {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';
}

/** Messages of luo-agent's dialogue, `{"cmd":...}` and `{"event":...}`, as the messages of type 'agent' and 'event' that they are here. */
function withType(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || 'type' in value) return value;
  if ('cmd' in value && typeof value.cmd === 'string') return { ...value, type: 'agent' };
  if ('event' in value && typeof value.event === 'string') return { ...value, type: 'event' };
  return value;
}

function isGone(error: unknown): boolean {
  return error instanceof LiveUpdateError && (error.code === 'EPIPE' || error.code === 'ECONNRESET');
}

function isTransient(error: unknown): boolean {
  return error instanceof LiveUpdateError && error.code === 'ETOOMANYREFS';
}
