/**
 * The last bytes that a raw inflate stream gave out, as far back as its peer may refer: with this as its dictionary another stream
 * goes on where that one stopped. Node gives nobody zlib's own window, so it is kept beside.
 *
 * It grows with what comes, to the window's size, and then goes round in a ring: an idle peer costs nothing, a busy one 32 KiB.
 */

const FIRST_BYTES = 1024;

export class InflatedWindow {
  readonly #limit: number;
  #ring: Buffer = Buffer.alloc(0);
  /** Where the next byte goes. */
  #at = 0;
  #length = 0;
  /** Counts the bytes that it was ever given, whatever it kept of them. */
  #total = 0;

  /**
   * @param bits The base two logarithm of the window's size, 8 to 15.
   * @param parts What another had; copied.
   */
  constructor(bits: number, parts: readonly Uint8Array[] = []) {
    this.#limit = 1 << bits;
    this.#makeRoom(parts.reduce((length, part) => length + part.length, 0));
    for (const part of parts) this.append(part);
  }

  get length(): number {
    return this.#length;
  }

  append(bytes: Uint8Array): void {
    this.#total += bytes.length;
    const tail = bytes.length > this.#limit ? bytes.subarray(bytes.length - this.#limit) : bytes;
    this.#makeRoom(this.#length + tail.length);
    const ring = this.#ring;
    const first = Math.min(tail.length, ring.length - this.#at);
    ring.set(tail.subarray(0, first), this.#at);
    ring.set(tail.subarray(first), 0);
    this.#at = ring.length === 0 ? 0 : (this.#at + tail.length) % ring.length;
    this.#length = Math.min(this.#length + tail.length, this.#limit);
  }

  #makeRoom(length: number): void {
    if (length <= this.#ring.length || this.#ring.length === this.#limit) return;
    let size = Math.max(this.#ring.length, Math.min(FIRST_BYTES, this.#limit));
    while (size < length && size < this.#limit) size *= 2;
    const ring = Buffer.allocUnsafeSlow(size);
    ring.set(this.bytes());
    this.#ring = ring;
    this.#at = this.#length;
  }

  /** A message ended whose successor refers to nothing before it. */
  clear(): void {
    this.#at = 0;
    this.#length = 0;
    // No mark of before is to be found any more, however much comes.
    this.#total += this.#limit + 1;
  }

  /** How far it is: for `since`. */
  get mark(): number {
    return this.#total;
  }

  /**
   * What came behind a mark, oldest first, for whoever has the window as it was then; views of what changes with the next `append`.
   * @returns undefined when that one would not become the same by it: it was cleared, or more came than it keeps.
   */
  since(mark: number): Buffer[] | undefined {
    const length = this.#total - mark;
    return length > this.#length ? undefined : this.#last(length);
  }

  /** Oldest first; views of what changes with the next `append`. */
  parts(): Buffer[] {
    return this.#last(this.#length);
  }

  #last(length: number): Buffer[] {
    const ring = this.#ring;
    const start = this.#at - length;
    const parts =
      start >= 0
        ? [ring.subarray(start, this.#at)]
        : [ring.subarray(start + ring.length), ring.subarray(0, this.#at)];
    return parts.filter((part) => part.length > 0);
  }

  /** Oldest first; a copy. */
  bytes(): Buffer {
    return Buffer.concat(this.parts());
  }
}
