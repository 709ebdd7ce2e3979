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
 * Handles are positive 32-bit integers, so that a handler may keep 32 bits of its own above them.
 */
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import { ValueReader, ValueWriter } from './values.js';

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

/** The record that holds the cut's value stream. */
const VALUES_HANDLE = 0xffff_ffff;
const MAX_HANDLE = VALUES_HANDLE - 1;
const EMPTY = new Uint8Array(0);

interface Outgoing {
  bytes: Uint8Array;
  /** Undefined once they have crossed. */
  fds: readonly number[] | undefined;
}

export class OutgoingRecords {
  readonly #records = new Map<number, Outgoing>();
  readonly #changed = new Set<number>();
  #dropped: number[] = [];
  #next = 1;
  /** Small values of the freeze, written in one stream. */
  readonly values = new ValueWriter();

  /**
   * Saves a record and returns its handle.
   * @throws {LiveUpdateError} ENOSPC after 2^32 - 2 records.
   */
  put(bytes: Uint8Array = EMPTY, fds: readonly number[] = []): number {
    if (this.#next > MAX_HANDLE) throw new LiveUpdateError('ENOSPC', 'no handle is left');
    const handle = this.#next++;
    this.#records.set(handle, { bytes, fds });
    this.#changed.add(handle);
    return handle;
  }

  /** Replaces the bytes of a record; its descriptors stay. */
  update(handle: number, bytes: Uint8Array): void {
    const record = this.#records.get(handle);
    if (record === undefined) throw new LiveUpdateError('ENOENT', `no record ${handle}`);
    record.bytes = bytes;
    this.#changed.add(handle);
  }

  /** Forgets a record. One that already crossed is told by the next `takeDropped()`. */
  drop(handle: number): void {
    const record = this.#records.get(handle);
    if (record === undefined) return;
    if (record.fds === undefined) this.#dropped.push(handle);
    this.#records.delete(handle);
    this.#changed.delete(handle);
  }

  /** Handles dropped after they crossed, since the last call. */
  takeDropped(): number[] {
    const dropped = this.#dropped;
    this.#dropped = [];
    return dropped;
  }

  get hasDropped(): boolean {
    return this.#dropped.length > 0;
  }

  /** At most `limit` descriptors' worth of what changed since the last pass (one record always fits). */
  takeChanged(limit = Number.POSITIVE_INFINITY): Pass {
    const pass: Pass = { records: [], fds: [] };
    for (const handle of this.#changed) {
      const record = this.#records.get(handle) as Outgoing;
      const fds = record.fds ?? [];
      if (pass.records.length > 0 && pass.fds.length + fds.length > limit) break;
      pass.records.push({ handle, bytes: record.bytes, fdStart: pass.fds.length, fdCount: fds.length });
      for (const fd of fds) pass.fds.push(fd);
      record.fds = undefined;
      this.#changed.delete(handle);
    }
    return pass;
  }

  get hasChanged(): boolean {
    return this.#changed.size > 0;
  }

  /** The last pass: what changed, and the value stream. */
  takeLast(): Pass {
    const pass = this.takeChanged();
    const bytes = this.values.take();
    if (bytes !== undefined) {
      pass.records.push({ handle: VALUES_HANDLE, bytes, fdStart: pass.fds.length, fdCount: 0 });
    }
    return pass;
  }
}

interface Incoming {
  bytes: Uint8Array;
  fds: number[];
  adopted: unknown;
}

export class IncomingRecords {
  readonly #records = new Map<number, Incoming>();
  #values: ValueReader | undefined;

  /** Whether this image may already write what it maps: not while the old image still serves. */
  readonly exclusive: boolean;

  constructor(options: { exclusive: boolean }) {
    this.exclusive = options.exclusive;
  }

  /** Adds a pass. The descriptors belong to the records from now on. */
  add(records: readonly PassRecord[], fds: readonly number[]): void {
    for (const { handle, bytes, fdStart, fdCount } of records) {
      if (handle === VALUES_HANDLE) {
        this.#values = new ValueReader(bytes);
        continue;
      }
      const known = this.#records.get(handle);
      if (known === undefined) {
        this.#records.set(handle, { bytes, fds: fds.slice(fdStart, fdStart + fdCount), adopted: undefined });
      } else {
        known.bytes = bytes;
        for (let i = fdStart; i < fdStart + fdCount; i++) known.fds.push(fds[i] as number);
      }
    }
  }

  #get(handle: number): Incoming {
    const record = this.#records.get(handle);
    if (record === undefined) throw new LiveUpdateError('EINVAL', `the record ${handle} did not come`);
    return record;
  }

  has(handle: number): boolean {
    return this.#records.has(handle);
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
    const fd = this.#get(handle).fds.shift();
    if (fd === undefined)
      throw new LiveUpdateError('EINVAL', `the record ${handle} came without its descriptor`);
    return fd;
  }

  /** A small value of the freeze, by the index that its writer got. */
  value(index: number): unknown {
    if (this.#values === undefined) throw new LiveUpdateError('EINVAL', 'the saved values did not come');
    return this.#values.read(index);
  }

  /** What a handler built from the record ahead of `retrieve`; `build` makes it at the first ask. */
  adopt<T>(handle: number, build: () => T): T {
    const record = this.#get(handle);
    record.adopted ??= build();
    return record.adopted as T;
  }

  adopted<T>(handle: number): T | undefined {
    return this.#records.get(handle)?.adopted as T | undefined;
  }

  /** Forgets a record and closes the descriptors that nobody took. What was adopted is the caller's to give up. */
  drop(handle: number): void {
    const record = this.#records.get(handle);
    if (record === undefined) return;
    this.#records.delete(handle);
    for (const fd of record.fds) closeFd(fd);
  }

  /** Drops every record. */
  clear(): void {
    for (const handle of [...this.#records.keys()]) this.drop(handle);
    this.#values = undefined;
  }
}
