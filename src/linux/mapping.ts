/**
 * A memfd's pages as an ArrayBuffer, without a copy: mmap(2).
 *
 * V8 knows nothing of the pages below: reading them after munmap(2), or after the file shrank, kills the process. So only
 * files sealed against shrinking are mapped; `unmap()` leaves the address range in place, filled with private zero pages
 * (which cost nothing until written), and the range itself is returned when the ArrayBuffer is collected.
 */
import { constants } from 'node:buffer';
import { LiveUpdateError } from '../core/errors.js';
import { errno, failure, libc, viewOf } from './libc.js';
import { F_SEAL_SHRINK, requireSeals } from './memfd.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;

/** Node 20 aborts the process for an external ArrayBuffer above 4 GiB; 22 and later take 8 GiB. */
const VIEW_LIMIT = Number(process.versions.node.split('.')[0]) < 22 ? 4 * 1024 ** 3 : 8 * 1024 ** 3;

/** The most bytes that one view can show on this Node. */
export function maxMappableBytes(): number {
  return Math.min(VIEW_LIMIT, constants.MAX_LENGTH);
}

const collected = new FinalizationRegistry<{ address: bigint; length: number }>(({ address, length }) => {
  libc.munmap(address, length);
});

export interface MapOptions {
  readonly length: number;
  readonly writable: boolean;
}

export class Mapping {
  readonly #fd: number;
  readonly #address: bigint;
  readonly #buffer: ArrayBuffer;
  readonly #length: number;

  private constructor(fd: number, address: bigint, length: number) {
    this.#fd = fd;
    this.#address = address;
    this.#length = length;
    this.#buffer = viewOf(address, length);
    collected.register(this.#buffer, { address, length });
  }

  /**
   * Maps the first `length` bytes of a memfd, shared. `fd` is borrowed and must stay open as long as the mapping.
   * @throws {LiveUpdateError} EFBIG for more than a view can show; EINVAL for no bytes, for a memfd that may shrink, or for
   *   bytes beyond its end; ENOMEM, EACCES from mmap(2).
   */
  static map(fd: number, { length, writable }: MapOptions): Mapping {
    if (!Number.isSafeInteger(length) || length <= 0)
      throw new LiveUpdateError('EINVAL', `cannot map ${length} bytes`, { operation: 'mmap' });
    if (length > maxMappableBytes()) {
      throw new LiveUpdateError(
        'EFBIG',
        `${length} bytes are more than one view can show on Node ${process.versions.node} (${maxMappableBytes()})`,
        { operation: 'mmap' },
      );
    }
    requireSeals(fd, F_SEAL_SHRINK);
    return new Mapping(
      fd,
      mmap(null, length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd),
      length,
    );
  }

  /** The pages. Writing while they are read-only is SIGSEGV. */
  get buffer(): ArrayBuffer {
    return this.#buffer;
  }

  get length(): number {
    return this.#length;
  }

  /** @throws {LiveUpdateError} EACCES when the memfd itself may not be written. mprotect(2) */
  makeWritable(): void {
    const result = libc.mprotect(this.#address, this.#length, PROT_READ | PROT_WRITE);
    const error = errno();
    if (result === -1) throw failure('mprotect', error);
  }

  /** From now on this process's writes are its own, at the same address; what others write may still show. */
  makePrivate(): void {
    mmap(
      this.#address,
      this.#length,
      PROT_READ | PROT_WRITE,
      MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE,
      this.#fd,
    );
  }

  /** Lets the pages go: views read zeros from now on. */
  unmap(): void {
    mmap(
      this.#address,
      this.#length,
      PROT_READ | PROT_WRITE,
      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
      -1,
    );
  }
}

function mmap(address: bigint | null, length: number, protection: number, flags: number, fd: number): bigint {
  const result = libc.mmap(address, length, protection, flags, fd, 0);
  const error = errno();
  if (BigInt(result) === -1n) throw failure('mmap', error);
  return BigInt(result);
}
