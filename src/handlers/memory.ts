/**
 * Memory that stays where it is: the pages of a memfd, mapped by one image after another. Nothing is copied, so a
 * gigabyte crosses at the price of one descriptor.
 *
 * The memfd is sealed against shrinking and growing before anybody maps it: a page that vanished under a mapping
 * would kill its reader with SIGBUS. While the old image still serves, the new one maps the pages read-only; they become
 * writable in `finish`. The old image's own mapping turns private at the commit (`sever`), so that a late write of its
 * can no longer reach what the new image uses.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { OwnedFd } from '../linux/fd.js';
import { Mapping, maxMappableBytes } from '../linux/mapping.js';
import {
  createMemfd,
  F_SEAL_GROW,
  F_SEAL_SHRINK,
  memfdSize,
  requireSeals,
  sealMemfd,
} from '../linux/memfd.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';

const COMPATIBLE = 'liveupdate-memory-v1';
const SEALS = F_SEAL_SHRINK | F_SEAL_GROW;

/** A mapped memfd. `buffer` is the same pages in every image. */
export class Memory {
  readonly #fd: OwnedFd;
  readonly #mapping: Mapping;

  private constructor(fd: OwnedFd, mapping: Mapping) {
    this.#fd = fd;
    this.#mapping = mapping;
  }

  /**
   * New memory of `size` bytes, all zero.
   * @throws {LiveUpdateError} EINVAL for a size that is no positive integer; EFBIG for more than one view can map on
   *   this Node; ENOMEM, EMFILE from memfd_create(2), ftruncate(2), mmap(2).
   */
  static create(name: string, size: number): Memory {
    if (!Number.isSafeInteger(size) || size <= 0) {
      throw new LiveUpdateError('EINVAL', `a memory's size is a positive whole number of bytes, not ${size}`);
    }
    // Before anything is made: a memfd that cannot be mapped would be a cache nobody can read.
    if (size > maxMappableBytes()) {
      throw new LiveUpdateError(
        'EFBIG',
        `${size} bytes are more than one view can map on Node ${process.versions.node} (${maxMappableBytes()}); use several memories`,
      );
    }
    const fd = new OwnedFd(createMemfd(name, size, { crossesKernel: true }));
    try {
      sealMemfd(fd.fd, SEALS);
      return new Memory(fd, Mapping.map(fd.fd, { length: size, writable: true }));
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /**
   * Maps a memfd that came from another image; owns `fd` also when it throws.
   * @throws {LiveUpdateError} EINVAL when it is no memfd or not sealed against shrinking; EFBIG.
   */
  static adopt(fd: number, options: { writable: boolean }): Memory {
    const owned = new OwnedFd(fd);
    try {
      requireSeals(fd, F_SEAL_SHRINK);
      return new Memory(owned, Mapping.map(fd, { length: memfdSize(fd), writable: options.writable }));
    } catch (error) {
      owned.close();
      throw error;
    }
  }

  get fd(): number {
    return this.#fd.fd;
  }

  get size(): number {
    return this.#mapping.length;
  }

  get buffer(): ArrayBuffer {
    return this.#mapping.buffer;
  }

  makeWritable(): void {
    this.#mapping.makeWritable();
  }

  /** From now on this process's writes stay its own. What it reads is still there. */
  sever(): void {
    this.#mapping.makePrivate();
  }

  /** Gives the pages up. Views of the buffer stay safe to read, but no longer show the memory. */
  close(): void {
    this.#mapping.unmap();
    this.#fd.close();
  }
}

export function memoryHandler(handover: Handover): CarriedFileHandler<Memory> {
  const adopt = (handle: number): Memory =>
    handover.incoming.adopt(handle, () =>
      Memory.adopt(handover.incoming.takeFd(handle), { writable: handover.incoming.exclusive }),
    );
  return {
    compatible: COMPATIBLE,
    adopt,
    custody: (memory) => ({ bytes: new Uint8Array(0), fds: [memory.fd] }),
    sever: (memory) => memory.sever(),
    ops: {
      canPreserve: (_handler, file) => file instanceof Memory,
      preserve(args: FileOpArgs<Memory>) {
        args.serializedData = toSerializedData(handover.outgoing.put(undefined, [args.file!.fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      retrieve(args) {
        args.file = adopt(handleOf(args.serializedData));
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined) handover.incoming.adopted<Memory>(handle)?.close();
        else if (!handover.incoming.exclusive) args.file.makeWritable();
        handover.incoming.drop(handle);
      },
    },
  };
}
