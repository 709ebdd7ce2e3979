/**
 * Replies of RESP2, and of RESP3 where these commands' differ: null and maps. They are gathered and sent together, since a client
 * that sends many requests at once wants to be answered in one write. Bytes are copied: what is in the cache's memory may be
 * another key's before the socket has sent it.
 */

const FIRST_BYTES = 16 * 1024;

export class Replies {
  /** 2 or 3; the connection's. */
  protocol = 2;
  #buffer = Buffer.allocUnsafeSlow(FIRST_BYTES);
  #length = 0;

  get length() {
    return this.#length;
  }

  #room(bytes) {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(2 * Math.max(this.#buffer.length, this.#length + bytes));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }

  #text(text) {
    this.#room(text.length);
    this.#length += this.#buffer.write(text, this.#length, 'latin1');
  }

  simple(text) {
    this.#text(`+${text}\r\n`);
  }

  ok() {
    this.#text('+OK\r\n');
  }

  /** @param {string} text With its code: 'ERR ...'. What a client sent may be in it. */
  error(text) {
    this.#text(`-${text.replace(/[^\x20-\x7e]/g, '?')}\r\n`);
  }

  integer(value) {
    this.#text(`:${value}\r\n`);
  }

  /** @param {Uint8Array | string} value */
  bulk(value) {
    const bytes = typeof value === 'string' ? Buffer.from(value) : value;
    this.#text(`$${bytes.length}\r\n`);
    this.#room(bytes.length + 2);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    this.#text('\r\n');
  }

  bulkOrNull(value) {
    if (value === undefined) this.null();
    else this.bulk(value);
  }

  null() {
    this.#text(this.protocol === 3 ? '_\r\n' : '$-1\r\n');
  }

  /** So many replies follow. */
  array(length) {
    this.#text(`*${length}\r\n`);
  }

  /** So many pairs of replies follow. */
  map(pairs) {
    this.#text(this.protocol === 3 ? `%${pairs}\r\n` : `*${2 * pairs}\r\n`);
  }

  /** Everything so far, for the socket to keep. */
  take() {
    const bytes = Buffer.from(this.#buffer.subarray(0, this.#length));
    this.#length = 0;
    // One large reply is no reason to keep as much for ever.
    if (this.#buffer.length > 64 * FIRST_BYTES) this.#buffer = Buffer.allocUnsafeSlow(FIRST_BYTES);
    return bytes;
  }
}
