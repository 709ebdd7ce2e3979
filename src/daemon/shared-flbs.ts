/**
 * FLBs that services of one user share: memory that is registered once and lives as long as any kept file depends on it, in
 * whatever session (File-Lifecycle-Bound objects, `struct liveupdate_flb`).
 *
 *   registered by a connection, no file      held; goes when the connection ends, or says so
 *   registered, files                        held
 *   its connection gone, files               held, until the last of them is let go
 *   its connection gone, no file             gone
 *
 * Core's registry counts within one orchestrator. Here every session is one of its own, handed over by itself; so the count is kept
 * here, across all of a user's, and follows the same moments: preserve counts up, unpreserve and finish count down.
 */
import { openSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { FLB_LIMIT } from '../core/names.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { isMemfd, memfdSize } from '../linux/memfd.js';
import { type Audit, audited } from './audit.js';
import type { Peer } from './host-session.js';
import type { KeptItem, Store } from './keeper-link.js';
import { z } from './lazy-zod.js';

/** FLBs' groups in the keeper: this, the user, and the name. */
export const FLB_GROUP = 'flb ';

const MAX_NAME_BYTES = 47;

const flbRecord = z.object({
  name: z.string().min(1),
  uid: z.number().int().nonnegative(),
  createdAt: z.number(),
  /** The group of the connection that registered it; undefined when that has ended. */
  registrant: z.string().optional(),
});

interface SharedFlb {
  readonly name: string;
  readonly uid: number;
  readonly createdAt: number;
  readonly fd: number;
  /** As it was when it was registered. */
  readonly bytes: number;
  registrant: string | undefined;
  /** Kept files that depend on it. */
  files: number;
}

export interface SharedFlbStatus {
  readonly flb: string;
  readonly uid: number;
  readonly bytes: number;
  /** Kept files that depend on it. */
  readonly files: number;
  /** Whether the connection that registered it is there. */
  readonly registered: boolean;
  readonly ageSeconds: number;
}

export interface SharedFlbsOptions {
  readonly store: Store;
  readonly audit: Audit;
  /** Takes up room for one descriptor and the memory behind it. @throws {LiveUpdateError} EMFILE, ENOSPC. */
  readonly hold: (uid: number, bytes: number) => void;
  readonly letGo: (uid: number, bytes: number) => void;
}

export class SharedFlbs {
  readonly #flbs = new Map<string, SharedFlb>();
  readonly #options: SharedFlbsOptions;

  constructor(options: SharedFlbsOptions) {
    this.#options = options;
  }

  #find(uid: number, name: string): SharedFlb {
    const flb = this.#flbs.get(key(uid, name));
    if (flb === undefined) {
      throw new LiveUpdateError('ENOENT', `no FLB '${name}' is registered`, { operation: 'flb' });
    }
    return flb;
  }

  #count(uid: number): number {
    let count = 0;
    for (const flb of this.#flbs.values()) if (flb.uid === uid) count++;
    return count;
  }

  /**
   * @param fd The memory, borrowed.
   * @param registrant The group of the peer's connection.
   * @throws {LiveUpdateError} EINVAL for a name that is none; EBADF without a descriptor; ENOENT when it is no memfd; EEXIST;
   *   ENOSPC for too many; EMFILE.
   */
  register(peer: Peer, name: string, fd: number | undefined, registrant: string): void {
    this.#audited('registerFlb', peer, name, () => {
      const context = { operation: 'register_flb', handler: name };
      const bytes = Buffer.byteLength(name);
      if (bytes === 0 || bytes > MAX_NAME_BYTES || name.includes('\0')) {
        throw new LiveUpdateError(
          'EINVAL',
          `an FLB's name is 1 to ${MAX_NAME_BYTES} bytes without NUL`,
          context,
        );
      }
      if (fd === undefined) throw new LiveUpdateError('EBADF', 'no descriptor came', context);
      if (!isMemfd(fd)) throw new LiveUpdateError('ENOENT', 'only memory can be shared: a memfd', context);
      if (this.#flbs.has(key(peer.uid, name))) {
        throw new LiveUpdateError('EEXIST', 'it is registered; retrieve_flb gives it', context);
      }
      if (this.#count(peer.uid) >= FLB_LIMIT) {
        throw new LiveUpdateError(
          'ENOSPC',
          `uid ${peer.uid} has ${FLB_LIMIT} FLBs, all that it may`,
          context,
        );
      }
      const size = memfdSize(fd);
      this.#options.hold(peer.uid, size);
      let owned: number | undefined;
      try {
        owned = reopen(fd);
        const own = { name, uid: peer.uid, createdAt: Date.now(), registrant, files: 0 };
        const flb: SharedFlb = { ...own, fd: owned, bytes: size };
        this.#options.store.put(group(flb), 'flb', record(flb), [flb.fd]);
        this.#flbs.set(key(flb.uid, name), flb);
      } catch (error) {
        if (owned !== undefined) closeFd(owned);
        this.#options.letGo(peer.uid, size);
        throw error;
      }
    });
  }

  isRegisteredBy({ uid }: Peer, name: string, registrant: string): boolean {
    return this.#flbs.get(key(uid, name))?.registrant === registrant;
  }

  /** Kept files that depend on it; 0 when there is no such FLB. */
  files({ uid }: Peer, name: string): number {
    return this.#flbs.get(key(uid, name))?.files ?? 0;
  }

  /** @returns a descriptor of the memory, for the caller to send and close. @throws {LiveUpdateError} ENOENT; EMFILE. */
  retrieve(peer: Peer, name: string): number {
    return this.#audited('retrieveFlb', peer, name, () => dupFd(this.#find(peer.uid, name).fd));
  }

  /**
   * Ends the registration; the memory stays as long as files depend on it.
   * @returns how many do.
   * @throws {LiveUpdateError} ENOENT.
   */
  unregister(peer: Peer, name: string): number {
    return this.#audited('unregisterFlb', peer, name, () => {
      const flb = this.#find(peer.uid, name);
      flb.registrant = undefined;
      this.#settle(flb);
      return flb.files;
    });
  }

  /** The connection of a group ended, and with it what it had registered, but for what files depend on. */
  left(group: string): void {
    for (const flb of [...this.#flbs.values()]) {
      if (flb.registrant !== group) continue;
      flb.registrant = undefined;
      this.#settle(flb);
    }
  }

  /**
   * One more file depends on each of `names`: on all of them or, when it throws, on none.
   * @throws {LiveUpdateError} ENOENT.
   */
  use(uid: number, names: readonly string[]): void {
    const flbs = names.map((name) => this.#find(uid, name));
    for (const flb of flbs) flb.files++;
  }

  /** A file that depended on `names` was let go. */
  release(uid: number, names: readonly string[]): void {
    for (const name of [...names].reverse()) {
      const flb = this.#flbs.get(key(uid, name));
      if (flb === undefined) continue;
      flb.files--;
      if (isOver(flb)) this.#letGo(flb);
    }
  }

  /** Notes what it is now, or that it is over. */
  #settle(flb: SharedFlb): void {
    if (isOver(flb)) this.#letGo(flb);
    else this.#options.store.amend(group(flb), 'flb', record(flb));
  }

  #letGo(flb: SharedFlb): void {
    this.#flbs.delete(key(flb.uid, flb.name));
    closeFd(flb.fd);
    this.#options.letGo(flb.uid, flb.bytes);
    this.#options.store.drop(group(flb));
    this.#options.audit({ event: 'finishFlb', uid: flb.uid, pid: process.pid, flb: flb.name, result: 'ok' });
  }

  #audited<T>(event: string, { uid, pid }: Peer, flb: string, work: () => T): T {
    return audited(this.#options.audit, { event, uid, pid, flb }, work);
  }

  /**
   * Takes over an FLB of the luod before. Its files are counted as their sessions are; `settle` follows.
   * @throws {LiveUpdateError} EINVAL for a record that is not understood.
   */
  restore({ record, fds }: KeptItem): void {
    const [fd] = fds;
    const parsed = flbRecord.safeParse(record);
    if (!parsed.success || fd === undefined) {
      for (const one of fds) closeFd(one);
      throw damaged(parsed.error);
    }
    const { name, uid, createdAt, registrant } = parsed.data;
    const size = memfdSize(fd);
    this.#options.hold(uid, size);
    this.#flbs.set(key(uid, name), { name, uid, createdAt, registrant, fd, bytes: size, files: 0 });
  }

  /** Lets go of what nobody needs after a restore. @param isThere Whether the connection of a group is. */
  settle(isThere: (group: string) => boolean): void {
    for (const flb of [...this.#flbs.values()]) {
      if (flb.registrant !== undefined && !isThere(flb.registrant)) flb.registrant = undefined;
      if (flb.registrant === undefined) this.#settle(flb);
    }
  }

  /** As the store has them; descriptors borrowed. */
  get items(): KeptItem[] {
    return Array.from(this.#flbs.values(), (flb) => ({
      group: group(flb),
      item: 'flb',
      record: record(flb),
      fds: [flb.fd],
    }));
  }

  /** Tells a new keeper everything. */
  tellAgain(): void {
    for (const flb of this.#flbs.values()) this.#options.store.put(group(flb), 'flb', record(flb), [flb.fd]);
  }

  /** @param uid Whose; everybody's when it is left out. */
  status(uid?: number): SharedFlbStatus[] {
    const time = Date.now();
    return [...this.#flbs.values()]
      .filter((flb) => uid === undefined || flb.uid === uid)
      .map((flb) => ({
        flb: flb.name,
        uid: flb.uid,
        bytes: memfdSize(flb.fd),
        files: flb.files,
        registered: flb.registrant !== undefined,
        ageSeconds: Math.round((time - flb.createdAt) / 1000),
      }));
  }

  /** Gives everything up. */
  close(): void {
    for (const flb of this.#flbs.values()) closeFd(flb.fd);
    this.#flbs.clear();
  }
}

function record({ name, uid, createdAt, registrant }: SharedFlb): object {
  return { name, uid, createdAt, registrant };
}

/**
 * The same memory by an open file of luod's own: a position that no client shares, and not the same open file as one that is kept in a
 * session as well, which a store would take once.
 */
function reopen(fd: number): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, 'r+');
  } catch (error) {
    throw LiveUpdateError.from(error, { operation: 'register_flb' });
  }
}

function isOver({ files, registrant }: SharedFlb): boolean {
  return files === 0 && registrant === undefined;
}

/** Whether a record of the keeper's is understood. @throws {LiveUpdateError} EINVAL. */
export function parseFlb(kept: unknown): void {
  const { success, error } = flbRecord.safeParse(kept);
  if (!success) throw damaged(error);
}

function damaged(cause: unknown): LiveUpdateError {
  return new LiveUpdateError('EINVAL', 'a record of another version, or damaged', { cause });
}

function key(uid: number, name: string): string {
  return `${uid} ${name}`;
}

function group({ uid, name }: { uid: number; name: string }): string {
  return `${FLB_GROUP}${key(uid, name)}`;
}
