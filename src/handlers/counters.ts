/**
 * Counters that never go backwards: an FLB under the program's listeners, memories and states.
 *
 * Requests served, bytes sent, errors: what a metrics page shows is expected to rise. A value in a state does not, for a moment,
 * when an old image lingers and still counts. So the counters are numbers in a memfd that every image maps, writable from its
 * first moment to its last, and an addition is one atomic instruction: the image that serves and those that linger count in the
 * same place.
 *
 *   preserve   the first dependent file is preserved: the memfd, in a record
 *   retrieve   right before the commit: it is mapped; what this image counted before is added to it at the commit
 *   finish     the last dependent file is finished: the record is given up; the mapping stays
 *
 * A successor counts for itself until it has the memfd at the cut, so one that is rolled back leaves no trace.
 *
 * Layout: 1,023 slots of 64 bytes behind a header of 64, of which the first u64 is the number of slots in use. A slot is a u64 value and
 * a name of up to 55 bytes, NUL-padded. Only an image in charge adds a slot; to a lingering one a new name is a counter of its own.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { LiveUpdate } from '../core/index.js';
import type { Flb } from '../core/types.js';
import { OwnedFd } from '../linux/fd.js';
import { Mapping } from '../linux/mapping.js';
import {
  createMemfd,
  F_SEAL_GROW,
  F_SEAL_SHRINK,
  memfdSize,
  requireSeals,
  sealMemfd,
} from '../linux/memfd.js';
import { type Handover, handleOf, toSerializedData } from './carried.js';

const BYTES = 1 << 16;
const SLOT_BYTES = 64;
const SLOT_WORDS = SLOT_BYTES / 8;
const NAME_AT = 8;
const NAME_BYTES = SLOT_BYTES - NAME_AT - 1;
const SLOTS = BYTES / SLOT_BYTES - 1;

/** A number that only rises, across images. */
export class Counter {
  readonly name: string;
  /** Where it counts: an array, and a place in it. */
  #words: BigUint64Array = new BigUint64Array(1);
  #at = 0;

  /** @internal `lu.counter()` makes them. */
  constructor(name: string) {
    this.name = name;
  }

  /** @throws {LiveUpdateError} EINVAL when `count` is no whole number, or below zero. */
  add(count = 1): void {
    if (!Number.isSafeInteger(count) || count < 0)
      throw new LiveUpdateError('EINVAL', `a counter rises by whole numbers, not by ${count}`);
    Atomics.add(this.#words, this.#at, BigInt(count));
  }

  /** Of all images; before `ready()` of this one alone. Exact up to 2^53. */
  get value(): number {
    return Number(Atomics.load(this.#words, this.#at));
  }

  /** @internal Counts on in a slot. */
  move(words: BigUint64Array, at: number): void {
    const before = Atomics.load(this.#words, this.#at);
    this.#words = words;
    this.#at = at;
    Atomics.add(words, at, before);
  }
}

class Store {
  readonly fd: OwnedFd;
  readonly #words: BigUint64Array;
  readonly #bytes: Buffer;

  constructor(fd: OwnedFd) {
    this.fd = fd;
    const { buffer } = Mapping.map(fd.fd, { length: BYTES, writable: true });
    this.#words = new BigUint64Array(buffer);
    this.#bytes = Buffer.from(buffer);
  }

  static create(): Store {
    const fd = new OwnedFd(createMemfd('liveupdate-counters', BYTES, { crossesKernel: true }));
    sealMemfd(fd.fd, F_SEAL_SHRINK | F_SEAL_GROW);
    return new Store(fd);
  }

  /** Owns `fd`, also when it throws. @throws {LiveUpdateError} EINVAL when it is not what `create` made. */
  static adopt(fd: number): Store {
    const owned = new OwnedFd(fd);
    try {
      requireSeals(fd, F_SEAL_SHRINK);
      if (memfdSize(fd) !== BYTES) throw new LiveUpdateError('EINVAL', 'a counter store of another size');
      return new Store(owned);
    } catch (error) {
      owned.close();
      throw error;
    }
  }

  get #used(): number {
    return Math.min(Number(this.#words[0]), SLOTS);
  }

  #nameOf(slot: number): string {
    const at = (slot + 1) * SLOT_BYTES + NAME_AT;
    const end = this.#bytes.indexOf(0, at);
    return this.#bytes.toString('utf8', at, end);
  }

  /** Has `counter` count here. @throws {LiveUpdateError} ENOSPC. */
  take(counter: Counter): void {
    const used = this.#used;
    let slot = 0;
    while (slot < used && this.#nameOf(slot) !== counter.name) slot++;
    if (slot === SLOTS) throw new LiveUpdateError('ENOSPC', `there are ${SLOTS} counters already`);
    if (slot === used) {
      this.#bytes.write(counter.name, (slot + 1) * SLOT_BYTES + NAME_AT);
      this.#words[0] = BigInt(used + 1);
    }
    counter.move(this.#words, (slot + 1) * SLOT_WORDS);
  }
}

export class Counters {
  readonly flb: Flb<Store | undefined>;
  readonly #counters = new Map<string, Counter>();
  #store: Store | undefined;
  #isOurs = true;

  constructor(handover: Handover) {
    this.flb = {
      compatible: 'liveupdate-counters-v1',
      ops: {
        preserve: (args) => {
          // A program that counts nothing leaves nothing.
          args.obj = this.#counters.size > 0 ? this.#open() : this.#store;
          const fds = args.obj === undefined ? [] : [args.obj.fd.fd];
          args.data = toSerializedData(handover.outgoing.put(undefined, fds));
        },
        unpreserve: (args) => handover.outgoing.drop(handleOf(args.data)),
        retrieve(args) {
          const handle = handleOf(args.data);
          if (handover.incoming.fds(handle).length > 0)
            args.obj = Store.adopt(handover.incoming.takeFd(handle));
        },
        finish: (args) => handover.incoming.drop(handleOf(args.data)),
      },
    };
  }

  /** How many this image counts. */
  get size(): number {
    return this.#counters.size;
  }

  /** Something may come in: until `take` or `open` this image counts for itself. */
  wait(): void {
    this.#isOurs = false;
  }

  /**
   * Gets the numbers of the image before; what it returns is called at the commit, and adds this image's own to them.
   * @throws {LiveUpdateError} EINVAL, EMFILE, ENOMEM: they cannot be had.
   */
  async prepare(orchestrator: LiveUpdate): Promise<() => void> {
    // A version that counts nothing gives up what the one before counted.
    if (this.size === 0) return () => undefined;
    try {
      const store = await orchestrator.getIncoming(this.flb);
      await orchestrator.putIncoming(this.flb);
      return () => this.#join(store);
    } catch (error) {
      // The image before may be of a version that had no counters, and what luod held for a dead one are files alone.
      if (!isMissing(error)) throw error;
      return () => undefined;
    }
  }

  #join(store: Store | undefined): void {
    try {
      if (store !== undefined) this.#use(store);
    } catch (error) {
      // Past the commit it is too late to refuse: those that found no place count for this image alone.
      process.emitWarning(LiveUpdateError.from(error, { operation: 'counters' }));
    }
  }

  /** Nothing more can come in: this image is in charge. */
  open(): void {
    this.#isOurs = true;
    if (this.#counters.size > 0) this.#open();
  }

  /** The next image is in charge. */
  sever(): void {
    this.#isOurs = false;
  }

  #open(): Store {
    return this.#store ?? this.#use(Store.create());
  }

  #use(store: Store): Store {
    this.#store = store;
    for (const counter of this.#counters.values()) store.take(counter);
    return store;
  }

  /** @throws {LiveUpdateError} EINVAL for a name that is not 1 to 55 bytes without NUL; ENOSPC; EMFILE, ENOMEM. */
  counter(name: string): Counter {
    const known = this.#counters.get(name);
    if (known !== undefined) return known;
    const bytes = typeof name === 'string' && !name.includes('\0') ? Buffer.byteLength(name) : 0;
    if (bytes === 0 || bytes > NAME_BYTES)
      throw new LiveUpdateError('EINVAL', `a counter's name has 1 to ${NAME_BYTES} bytes without NUL`);
    const counter = new Counter(name);
    if (this.#isOurs) this.#open().take(counter);
    this.#counters.set(name, counter);
    return counter;
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof LiveUpdateError && (error.code === 'ENOENT' || error.code === 'ENODATA');
}
