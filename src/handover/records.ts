/**
 * What handlers leave beside the image: records of bytes and descriptors, each found again by its handle, the u64
 * that goes into a file's `serializedData`.
 *
 * Outgoing records live in the old image. They are sent in passes: `takeChanged()` gives what was put or updated since
 * the pass before, so the heavy part crosses while the old image still serves and only the difference in the blackout.
 * Descriptors are borrowed until their record was taken, and cross once.
 *
 * Incoming records live in the new image, which owns every descriptor until a handler takes it. `adopt` keeps what a
 * handler built from a record ahead of `retrieve`.
 *
 * Handles count from 1, in 32 bits.
 */
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';

/** One record on its way: its descriptors are `fds[fdStart .. fdStart + fdCount)` of the pass. */
export interface PassRecord {
  readonly handle: number;
  readonly bytes: Uint8Array;
  readonly fdStart: number;
  readonly fdCount: number;
}

export interface Pass {
  readonly records: PassRecord[];
  readonly fds: number[];
}

const MAX_HANDLE = 0xffff_ffff;
const EMPTY = new Uint8Array(0);

interface Outgoing {
  bytes: Uint8Array;
  /** Undefined once they have crossed. */
  fds: readonly number[] | undefined;
}

export class OutgoingRecords {
  readonly #records = new Map<number, Outgoing>();
  readonly #changed = new Set<number>();
  #next = 1;

  /**
   * Saves a record and returns its handle.
   * @throws {LiveUpdateError} ENOSPC after 2^32 - 1 records.
   */
  put(bytes: Uint8Array = EMPTY, fds: readonly number[] = []): number {
    if (this.#next > MAX_HANDLE) throw new LiveUpdateError('ENOSPC', 'no handle is left');
    const handle = this.#next++;
    this.#records.set(handle, { bytes, fds });
    this.#changed.add(handle);
    return handle;
  }

  /** Replaces the bytes of a record and adds descriptors to it; those that crossed stay where they are. */
  update(handle: number, bytes: Uint8Array, fds: readonly number[] = []): void {
    const record = this.#records.get(handle);
    if (record === undefined) throw new LiveUpdateError('ENOENT', `no record ${handle}`);
    record.bytes = bytes;
    if (fds.length > 0) record.fds = [...(record.fds ?? []), ...fds];
    this.#changed.add(handle);
  }

  /** The record's descriptors that have not crossed, borrowed. */
  fds(handle: number): readonly number[] {
    return this.#records.get(handle)?.fds ?? [];
  }

  /** Forgets a record. */
  drop(handle: number): void {
    this.#records.delete(handle);
    this.#changed.delete(handle);
  }

  /** What changed since the last pass. */
  takeChanged(): Pass {
    const pass: Pass = { records: [], fds: [] };
    for (const handle of this.#changed) {
      const record = this.#records.get(handle) as Outgoing;
      const fds = record.fds ?? [];
      pass.records.push({ handle, bytes: record.bytes, fdStart: pass.fds.length, fdCount: fds.length });
      for (const fd of fds) pass.fds.push(fd);
      record.fds = undefined;
    }
    this.#changed.clear();
    return pass;
  }
}

interface Incoming {
  bytes: Uint8Array;
  fds: number[] | undefined;
  adopted: unknown;
}

export class IncomingRecords {
  /** By handle, which the old image counts from 1. */
  #records: (Incoming | undefined)[] = [];

  /** Whether this image may already write what it maps: not while the old image still serves. */
  readonly exclusive: boolean;

  constructor(options: { exclusive: boolean }) {
    this.exclusive = options.exclusive;
  }

  /** Adds a pass. The descriptors belong to the records from now on. */
  add(records: readonly PassRecord[], fds: readonly number[]): void {
    for (const { handle, bytes, fdStart, fdCount } of records) {
      const known = this.#records[handle];
      const own = fdCount === 0 ? undefined : fds.slice(fdStart, fdStart + fdCount);
      if (known === undefined) this.#records[handle] = { bytes, fds: own, adopted: undefined };
      else {
        known.bytes = bytes;
        if (own !== undefined) known.fds = [...(known.fds ?? []), ...own];
      }
    }
  }

  #get(handle: number): Incoming {
    const record = this.#records[handle];
    if (record === undefined) throw new LiveUpdateError('EINVAL', `the record ${handle} did not come`);
    return record;
  }

  /** @throws {LiveUpdateError} EINVAL when no such record came. */
  bytes(handle: number): Uint8Array {
    return this.#get(handle).bytes;
  }

  /**
   * Hands the record's (next) descriptor to the caller, which owns it from now on.
   * @throws {LiveUpdateError} EINVAL when the record or the descriptor did not come.
   */
  takeFd(handle: number): number {
    const fd = this.#get(handle).fds?.shift();
    if (fd === undefined)
      throw new LiveUpdateError('EINVAL', `the record ${handle} came without its descriptor`);
    return fd;
  }

  /** The record's descriptors that nobody took, borrowed. */
  fds(handle: number): readonly number[] {
    return this.#records[handle]?.fds ?? [];
  }

  /** What a handler built from the record ahead of `retrieve`; `build` makes it at the first ask. */
  adopt<T>(handle: number, build: () => T): T {
    const record = this.#get(handle);
    record.adopted ??= build();
    return record.adopted as T;
  }

  adopted<T>(handle: number): T | undefined {
    return this.#records[handle]?.adopted as T | undefined;
  }

  /** Forgets a record and closes the descriptors that nobody took. What was adopted is the caller's to give up. */
  drop(handle: number): void {
    const record = this.#records[handle];
    if (record === undefined) return;
    this.#records[handle] = undefined;
    for (const fd of record.fds ?? []) closeFd(fd);
  }

  /** Drops every record. */
  clear(): void {
    for (const record of this.#records) for (const fd of record?.fds ?? []) closeFd(fd);
    this.#records = [];
  }
}
