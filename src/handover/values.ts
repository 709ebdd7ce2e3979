/**
 * Many small structured-clone values in one V8 stream. One stream for all of a cut's values costs a fraction of one
 * stream for each, and the cut is the blackout.
 *
 * Values are found by the order in which they were written; reading goes through the stream once, at the first ask.
 */
import { DefaultDeserializer, DefaultSerializer } from 'node:v8';
import { LiveUpdateError } from '../core/errors.js';

export class ValueWriter {
  #serializer: DefaultSerializer | undefined;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /**
   * Appends `value` and returns its index.
   * @throws {LiveUpdateError} EINVAL when the value cannot be cloned. The stream is then torn: `reset()` it.
   */
  write(value: unknown): number {
    if (this.#serializer === undefined) {
      this.#serializer = new DefaultSerializer();
      this.#serializer.writeHeader();
    }
    try {
      this.#serializer.writeValue(value);
    } catch (cause) {
      throw notCloneable(cause);
    }
    return this.#count++;
  }

  /** The stream so far; the writer is empty afterwards. Undefined when nothing was written. */
  take(): Buffer | undefined {
    const bytes = this.#serializer?.releaseBuffer();
    this.reset();
    return bytes;
  }

  reset(): void {
    this.#serializer = undefined;
    this.#count = 0;
  }
}

export class ValueReader {
  readonly #bytes: Uint8Array;
  readonly #values: unknown[] = [];
  #deserializer: DefaultDeserializer | undefined;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /**
   * The value at `index`.
   * @throws {LiveUpdateError} EINVAL when the stream is damaged or has no such value.
   */
  read(index: number): unknown {
    try {
      if (this.#deserializer === undefined) {
        this.#deserializer = new DefaultDeserializer(this.#bytes);
        this.#deserializer.readHeader();
      }
      while (this.#values.length <= index) this.#values.push(this.#deserializer.readValue());
    } catch (cause) {
      throw new LiveUpdateError('EINVAL', `the saved values are damaged: ${textOf(cause)}`, { cause });
    }
    return this.#values[index];
  }
}

/**
 * One value as bytes.
 * @throws {LiveUpdateError} EINVAL when it cannot be cloned (a function, a socket, a proxy, ...).
 */
export function serializeValue(value: unknown): Buffer {
  const writer = new ValueWriter();
  writer.write(value);
  return writer.take() as Buffer;
}

/** @throws {LiveUpdateError} EINVAL when the bytes are damaged. */
export function deserializeValue(bytes: Uint8Array): unknown {
  return new ValueReader(bytes).read(0);
}

function notCloneable(cause: unknown): LiveUpdateError {
  return new LiveUpdateError('EINVAL', `the value cannot be cloned: ${textOf(cause)}`, { cause });
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
