/**
 * Records in a memfd, which outlives the process that writes them: lines of JSON, each appended by one write. A death in the middle
 * of one leaves a line without its end, which is as if it had not been begun.
 */
import { readSync, writeSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { createMemfd, memfdSize } from '../linux/memfd.js';

const HEAD = { luod: 'state', version: 1 };
/** Below this it is not worth it to write anything anew. */
const SHORT_BYTES = 1 << 20;

export class StateLog {
  readonly fd: number;
  /** How long it was when it said nothing that is over. */
  readonly #firstBytes: number;
  #bytes: number;

  private constructor(fd: number, bytes: number) {
    this.fd = fd;
    this.#firstBytes = bytes;
    this.#bytes = bytes;
  }

  /** @throws {LiveUpdateError} EMFILE, ENOMEM. */
  static create(entries: Iterable<object>): StateLog {
    const fd = createMemfd('luod-state', 0);
    const text = [HEAD, ...entries].map((entry) => `${JSON.stringify(entry)}\n`).join('');
    return new StateLog(fd, write(fd, text, 0));
  }

  /**
   * Reads what another process wrote.
   * @param fd Owned from now on.
   * @throws {LiveUpdateError} EINVAL when it is no such log, or of another version.
   */
  static open(fd: number): { log: StateLog; entries: unknown[] } {
    const bytes = read(fd);
    const length = bytes.lastIndexOf(0x0a) + 1;
    const lines = bytes.subarray(0, length).toString('utf8').split('\n').slice(0, -1);
    const [head, ...entries] = lines.map(parse);
    if (JSON.stringify(head) !== JSON.stringify(HEAD)) {
      throw new LiveUpdateError('EINVAL', 'the state of a luod of another version, or damaged');
    }
    return { log: new StateLog(fd, length), entries };
  }

  append(entry: object): void {
    this.#bytes += write(this.fd, `${JSON.stringify(entry)}\n`, this.#bytes);
  }

  /** Whether most of it is likely to be about what is over. */
  get isLong(): boolean {
    return this.#bytes > SHORT_BYTES && this.#bytes > 2 * this.#firstBytes;
  }
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', 'the state of a luod is damaged', { cause });
  }
}

function write(fd: number, text: string, at: number): number {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
  return bytes.length;
}

function read(fd: number): Buffer {
  const bytes = Buffer.alloc(memfdSize(fd));
  let done = 0;
  while (done < bytes.length) {
    const count = readSync(fd, bytes, done, bytes.length - done, done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}
