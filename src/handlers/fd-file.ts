/** A live file that its owner knows by a descriptor, as the kernel's ioctl names it. */
import { type FdFacts, fdFacts } from '../linux/fd-facts.js';

export class FdFile {
  /** The owner's to close; whoever preserves the file has a duplicate. */
  readonly fd: number;
  #facts: FdFacts | undefined | null = null;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** What it is; undefined when no handler takes such a file, or the descriptor is not open. */
  get facts(): FdFacts | undefined {
    if (this.#facts === null) this.#facts = factsOrNone(this.fd);
    return this.#facts;
  }

  /** The same for every descriptor of one live file, as far as a name can tell; else this object (see file-claims.ts). */
  get identity(): unknown {
    return this.facts?.identity ?? this;
  }
}

function factsOrNone(fd: number): FdFacts | undefined {
  try {
    return fdFacts(fd);
  } catch {
    // Not open: nothing, and so nothing that can be preserved.
    return undefined;
  }
}
