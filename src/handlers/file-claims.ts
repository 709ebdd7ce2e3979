/**
 * One live file is preserved once in the whole system, also when every session has an orchestrator of its own.
 *
 * Most files have a name that no other has (inode, socket cookie, eventfd-id). The others, timerfds, are kept in the order of
 * kcmp(2), so that a file is found among n in log n comparisons.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { compareOpenFiles } from '../linux/kcmp.js';
import { type CarriedFileHandler, handleOf } from './carried.js';
import type { FdFile } from './fd-file.js';

/** A file that is preserved. */
export interface FileClaim {
  release(): void;
}

export class FileClaims {
  readonly #named = new Set<string>();
  /** Own duplicates, in kcmp's order: it holds as long as they are open. */
  readonly #nameless: number[] = [];

  get size(): number {
    return this.#named.size + this.#nameless.length;
  }

  /** Descriptors that it has open. */
  get fds(): number {
    return this.#nameless.length;
  }

  /** @throws {LiveUpdateError} EBUSY when the file is preserved already. */
  claim(file: FdFile): FileClaim {
    const identity = file.facts?.identity;
    return identity === undefined ? this.#claimNameless(file.fd) : this.#claimNamed(identity);
  }

  #claimNamed(identity: string): FileClaim {
    if (this.#named.has(identity)) throw busy();
    this.#named.add(identity);
    return { release: () => void this.#named.delete(identity) };
  }

  #claimNameless(fd: number): FileClaim {
    let low = 0;
    let high = this.#nameless.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const order = compareOpenFiles(fd, this.#nameless[middle] as number);
      if (order === 0) throw busy();
      if (order < 0) high = middle;
      else low = middle + 1;
    }
    const own = dupFd(fd);
    this.#nameless.splice(low, 0, own);
    return {
      release: () => {
        this.#nameless.splice(this.#nameless.indexOf(own), 1);
        closeFd(own);
      },
    };
  }
}

function busy(): LiveUpdateError {
  return new LiveUpdateError('EBUSY', 'the file is preserved already', { operation: 'preserve' });
}

/** The claims of one session, by the handle of each file's record, which stays the same from preserve to finish. */
export class SessionClaims {
  readonly #all: FileClaims;
  readonly #held = new Map<number, FileClaim>();

  constructor(all: FileClaims) {
    this.#all = all;
  }

  /** `handler`, with each of its files claimed from preserve until unpreserve or finish. */
  guard(handler: CarriedFileHandler<FdFile, unknown>): CarriedFileHandler<FdFile, unknown> {
    const { ops } = handler;
    const release = ({ serializedData }: FileOpArgs<FdFile>): void => {
      const handle = handleOf(serializedData);
      this.#held.get(handle)?.release();
      this.#held.delete(handle);
    };
    return {
      ...handler,
      ops: {
        ...ops,
        preserve: (args) => {
          const claim = this.#all.claim(args.file!);
          try {
            ops.preserve(args);
          } catch (error) {
            claim.release();
            throw error;
          }
          this.#held.set(handleOf(args.serializedData), claim);
        },
        unpreserve: (args) => {
          release(args);
          return ops.unpreserve(args);
        },
        finish: (args) => {
          release(args);
          return ops.finish(args);
        },
      },
    };
  }
}
