/**
 * A client of numbered bytes over TCP: sends without waiting for what it sent before, and knows every byte that must come back.
 * A connection that ends is counted, with the bytes that were sent and never answered, and the next one begins at byte 0.
 */
import net from 'node:net';
import { changed, sentByte } from './programs/application.mjs';

const CHUNK_BYTES = 64;
const PROBE_MS = 2000;

export class TcpClient {
  #port;
  #seed;
  #socket;
  #sent = 0;
  #received = 0;
  /** Chunks that have not come back whole: [offset behind the last byte, time of sending]. */
  #pending = [];
  #onVersion;
  /** The connection is the one that the first `open` made. */
  isFirst = true;
  wrong = 0;
  lost = 0;
  closed = 0;
  refused = 0;
  /** Milliseconds from a send to the last byte of its answer; of a send that is never answered, nothing. */
  longest = 0;

  constructor(port, seed) {
    this.#port = port;
    this.#seed = seed;
  }

  /** Resolves when it is connected, or when that failed (refused). */
  open() {
    const socket = net.connect(this.#port, '127.0.0.1');
    socket.setNoDelay(true);
    this.#socket = socket;
    this.#sent = 0;
    this.#received = 0;
    this.#pending = [];
    let isConnected = false;
    socket.on('data', (bytes) => this.#take(bytes));
    socket.on('end', () => socket.destroy());
    socket.on('error', () => undefined);
    return new Promise((resolve) => {
      socket.once('connect', () => {
        isConnected = true;
        resolve(true);
      });
      socket.once('close', () => {
        if (this.#socket === socket) this.#socket = undefined;
        if (isConnected) {
          this.closed++;
          this.isFirst = false;
          this.lost += this.#sent - this.#received;
        } else {
          this.refused++;
          resolve(false);
        }
        this.#onVersion?.(undefined);
      });
    });
  }

  get isAnswered() {
    return this.#received === this.#sent;
  }

  /** Sends the next chunk, or connects again. */
  tick() {
    const socket = this.#socket;
    if (socket === undefined) {
      void this.open();
      return;
    }
    if (socket.connecting) return;
    const offset = this.#sent;
    this.#sent += CHUNK_BYTES;
    this.#pending.push([this.#sent, performance.now()]);
    socket.write(
      Buffer.from(Uint8Array.from({ length: CHUNK_BYTES }, (_, i) => sentByte(this.#seed, offset + i))),
    );
  }

  #take(bytes) {
    for (let at = 0; at < bytes.length; at++) {
      if (this.#onVersion !== undefined) {
        // Asked only when nothing else is due.
        this.#onVersion(bytes.toString('latin1', at + 1));
        return;
      }
      if (bytes[at] !== changed(sentByte(this.#seed, this.#received), this.#received)) this.wrong++;
      this.#received++;
    }
    while (this.#pending.length > 0 && this.#pending[0][0] <= this.#received) {
      const [, sentAt] = this.#pending.shift();
      this.longest = Math.max(this.longest, performance.now() - sentAt);
    }
  }

  /** Who serves it, asked at the end. Undefined when nobody answers. */
  async askVersion() {
    const socket = this.#socket;
    if (socket === undefined || socket.connecting) return undefined;
    if (this.#received < this.#sent) {
      this.lost += this.#sent - this.#received;
      return undefined;
    }
    return await new Promise((resolve) => {
      const timer = setTimeout(() => this.#onVersion(undefined), PROBE_MS);
      this.#onVersion = (version) => {
        this.#onVersion = undefined;
        clearTimeout(timer);
        resolve(version);
      };
      socket.write(Buffer.from([0]));
    });
  }

  close() {
    this.#socket?.destroy();
  }
}
