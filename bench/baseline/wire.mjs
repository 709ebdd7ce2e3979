/**
 * The line between the two images of the baseline: messages of a kind, a few numbers and descriptors, through a stream socket.
 *
 * A message is u32 kind, u32 count, then `count` times u32, in one sendmsg(2) with its descriptors. Descriptors are taken with the
 * first byte of their message, and a message never gets across in parts that others could mix with; so the receiver
 * only has to put the bytes together again and keep the descriptors in their order.
 */
import { recvFds, sendFds, waitWritable } from 'liveupdate/linux';

export const LISTENER = 1;
export const CONNECTIONS = 2;
export const PRECOPIED = 3;
export const ADOPTED = 4;
export const DELTA = 5;
export const SERVING = 6;

/** Descriptors of one message: what the kernel takes. */
export const BATCH = 253;
const HEADER_BYTES = 8;
const WAIT_MS = 10_000;

export function send(fd, kind, numbers = [], fds = []) {
  const bytes = Buffer.alloc(HEADER_BYTES + 4 * numbers.length);
  bytes.writeUInt32LE(kind, 0);
  bytes.writeUInt32LE(numbers.length, 4);
  for (let i = 0; i < numbers.length; i++) bytes.writeUInt32LE(numbers[i], HEADER_BYTES + 4 * i);
  let sent = 0;
  while (sent < bytes.length) {
    const count = sendFds(fd, bytes.subarray(sent), sent === 0 ? fds : []);
    if (count !== undefined) sent += count;
    else if (!waitWritable(fd, WAIT_MS)) throw new Error('the other image does not read');
  }
}

export class Receiver {
  #bytes = Buffer.alloc(0);
  #fds = [];
  #fd;

  constructor(fd) {
    this.#fd = fd;
  }

  /** Calls `take(kind, numbers, fds)` for each message that is there; `fds` is the queue to shift from. @returns false at the end. */
  receive(take) {
    for (;;) {
      const part = recvFds(this.#fd, { maxBytes: 1 << 16, maxFds: BATCH });
      if (part === undefined) return true;
      if (part.eof) return false;
      this.#bytes = Buffer.concat([this.#bytes, part.bytes]);
      this.#fds.push(...part.fds);
      for (;;) {
        if (this.#bytes.length < HEADER_BYTES) break;
        const length = HEADER_BYTES + 4 * this.#bytes.readUInt32LE(4);
        if (this.#bytes.length < length) break;
        const kind = this.#bytes.readUInt32LE(0);
        const numbers = [];
        for (let at = HEADER_BYTES; at < length; at += 4) numbers.push(this.#bytes.readUInt32LE(at));
        this.#bytes = this.#bytes.subarray(length);
        take(kind, numbers, this.#fds);
      }
    }
  }
}
