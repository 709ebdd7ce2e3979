/**
 * All sessions that luod keeps for clients, by user: names are a user's own, and nobody else's sessions can be seen, told
 * apart from ones that are not there, or taken.
 */
import { type ErrorContext, LiveUpdateError } from '../core/errors.js';
import { isSessionName } from '../core/names.js';
import { FileClaims } from '../handlers/file-claims.js';
import { closeFd } from '../linux/fd.js';
import { type Audit, audited } from './audit.js';
import {
  type CustodyKind,
  fileRecord,
  type HostedFile,
  HostSession,
  type HostSessionOptions,
  type HostSessionState,
  type HostShared,
  type Peer,
  requireFd,
  requireThawed,
  type SessionRecord,
  sessionRecord,
} from './host-session.js';
import type { KeptItem, Store } from './keeper-link.js';
import type { Limits } from './limits.js';
import { MemoryUse } from './memory-use.js';
import { SharedFlbs } from './shared-flbs.js';

export interface HostSessionStatus {
  readonly session: string;
  readonly uid: number;
  /** Of its owner, or of the last one. */
  readonly pid: number;
  readonly custody: CustodyKind;
  readonly state: HostSessionState;
  readonly ageSeconds: number;
  /** Since it lost its owner. */
  readonly orphanedSeconds?: number;
  readonly files: HostedFile[];
}

/** A user's sessions. An owned one and ones that were left under the same name are apart, as outgoing and incoming are. */
interface User {
  readonly owned: Map<string, HostSession>;
  /** Oldest first: an owner may leave a second one before the first was claimed. */
  readonly left: Map<string, HostSession[]>;
  count: number;
}

export class HostSessions {
  readonly #users = new Map<number, User>();
  readonly #shared: HostShared;

  #next = 1;

  /** FLBs that files of any session may depend on. */
  readonly flbs: SharedFlbs;

  constructor(options: { limits: Limits; audit: Audit; log: (line: string) => void; store: Store }) {
    this.flbs = new SharedFlbs({
      store: options.store,
      audit: options.audit,
      hold: (uid, bytes) => {
        const context = { operation: 'register_flb' };
        requireFd(this.#shared, context);
        this.#shared.memory.requireRoom(uid, bytes, context);
        this.#shared.heldFds++;
        this.#shared.memory.add(uid, bytes);
      },
      letGo: (uid, bytes) => {
        this.#shared.heldFds--;
        this.#shared.memory.add(uid, -bytes);
      },
    });
    const { flbs } = this;
    const memory = new MemoryUse(options.limits.bytesPerUid);
    const none = {
      claims: new FileClaims(),
      heldFds: 0,
      sessionSockets: new Set<bigint>(),
      isFrozen: false,
    };
    this.#shared = { ...options, ...none, flbs, memory };
  }

  get heldFds(): number {
    return this.#shared.heldFds;
  }

  get count(): number {
    let count = 0;
    for (const user of this.#users.values()) count += user.count;
    return count;
  }

  /** Whether a user's program has a session of this name that it created. */
  isOwned(uid: number, name: string): boolean {
    return this.#users.get(uid)?.owned.has(name) ?? false;
  }

  #user(uid: number): User {
    let user = this.#users.get(uid);
    if (user === undefined) {
      user = { owned: new Map(), left: new Map(), count: 0 };
      this.#users.set(uid, user);
    }
    return user;
  }

  /**
   * A new session of `peer`'s.
   * @returns the client's descriptor of it, for the caller to send and close.
   * @throws {LiveUpdateError} EINVAL for a name that is none; EEXIST; ENOSPC for too many; EMFILE.
   */
  create(peer: Peer, name: string, custody: CustodyKind): number {
    return this.#audited('create', peer, name, () => {
      const context = { operation: 'create_session', session: String(name) };
      checkName(name, context);
      requireThawed(this.#shared, context);
      const user = this.#user(peer.uid);
      if (user.owned.has(name))
        throw new LiveUpdateError('EEXIST', 'an owner has a session of this name', context);
      const { sessionsPerUid } = this.#shared.limits;
      if (user.count >= sessionsPerUid) {
        throw new LiveUpdateError(
          'ENOSPC',
          `uid ${peer.uid} has ${user.count} sessions, all that it may`,
          context,
        );
      }
      const session = new HostSession({ name, custody, peer, ...this.#hooks(user, String(this.#next++)) });
      user.owned.set(name, session);
      user.count++;
      try {
        return session.attach(peer);
      } catch (error) {
        session.drop();
        throw error;
      }
    });
  }

  /**
   * A session that its owner left, for the next one: the oldest of that name.
   * @returns the client's descriptor of it, for the caller to send and close.
   * @throws {LiveUpdateError} ENOENT when none was left; EINVAL when it is claimed already.
   */
  retrieve(peer: Peer, name: string): number {
    return this.#audited('retrieve', peer, name, () => {
      const context = { operation: 'retrieve_session', session: String(name) };
      const left = this.#user(peer.uid).left.get(name);
      if (left === undefined)
        throw new LiveUpdateError('ENOENT', 'no owner left a session of this name', context);
      const session = left.find(({ state }) => state === 'orphaned');
      if (session === undefined)
        throw new LiveUpdateError('EINVAL', 'it has its next owner already', context);
      return session.attach(peer);
    });
  }

  /**
   * Gives up what was left under a name, with all files; nobody's living session.
   * @param uid Whose.
   * @param isOperator Whether `peer` may drop what is another user's.
   * @returns how many sessions.
   * @throws {LiveUpdateError} EACCES for another user's; ENOENT when nothing was left; EBUSY when it is claimed.
   */
  drop(peer: Peer, uid: number, name: string, isOperator: boolean): number {
    return this.#audited('drop', peer, name, () => {
      const context = { operation: 'drop_session', session: name };
      if (uid !== peer.uid && !isOperator)
        throw new LiveUpdateError('EACCES', "only an operator may drop another user's session", context);
      requireThawed(this.#shared, context);
      const left = this.#users.get(uid)?.left.get(name);
      if (left === undefined)
        throw new LiveUpdateError('ENOENT', `uid ${uid} left no session of this name`, context);
      const orphans = left.filter(({ state }) => state === 'orphaned');
      if (orphans.length === 0) throw new LiveUpdateError('EBUSY', 'its next owner has it', context);
      for (const session of orphans) session.drop();
      return orphans.length;
    });
  }

  #hooks(user: User, number: string): Pick<HostSessionOptions, 'shared' | 'group' | 'ended' | 'orphaned'> {
    return {
      shared: this.#shared,
      group: `${GROUP}${number}`,
      ended: (session) => this.#ended(user, session),
      orphaned: (session) => this.#orphaned(user, session),
    };
  }

  /**
   * Takes over the sessions of the luod before, by what the keeper has.
   * @param items Of one session, its own first or last; owns their descriptors.
   * @throws {LiveUpdateError} EINVAL for a record that is not understood, and what `HostSession.restore` throws.
   */
  restore(items: readonly KeptItem[]): HostSession {
    const { record, files, wireFd, group } = parseItems(items);
    const user = this.#user(record.uid);
    user.count++;
    const session = HostSession.restore(this.#hooks(user, group.slice(GROUP.length)), record, files, wireFd);
    this.#next = Math.max(this.#next, Number(group.slice(GROUP.length)) + 1);
    if (session.state === 'owned') user.owned.set(session.name, session);
    else this.#leave(user, session);
    return session;
  }

  /** As the store has them, FLBs first; descriptors borrowed. */
  get items(): KeptItem[] {
    return [...this.flbs.items, ...Array.from(this.sessions(), ({ items }) => items).flat()];
  }

  /** From now on no session changes but by the end of its owner: EBUSY. A session may be retrieved, and files from it. */
  freeze(): void {
    this.#shared.isFrozen = true;
  }

  unfreeze(): void {
    this.#shared.isFrozen = false;
  }

  /**
   * Takes in what the previous kernel kept, into the store as well.
   * @param items Owns their descriptors.
   * @returns how many sessions.
   * @throws {LiveUpdateError} the errno of what cannot be kept any more; what came before it is there.
   */
  arrive(items: readonly KeptItem[]): number {
    const groups = new Map<string, KeptItem[]>();
    for (const item of items) {
      if (item.item === 'flb') this.flbs.restore(item);
      else groups.set(item.group, [...(groups.get(item.group) ?? []), item]);
    }
    this.flbs.tellAgain();
    for (const own of groups.values()) {
      // Numbers are this luod's, which may have sessions already.
      const group = `${GROUP}${this.#next++}`;
      this.restore(own.map((item) => ({ ...item, group }))).tellAgain();
    }
    this.flbs.settle(() => false);
    return groups.size;
  }

  #audited<T>(event: string, { uid, pid }: Peer, session: string, work: () => T): T {
    return audited(this.#shared.audit, { event, uid, pid, session: String(session) }, work);
  }

  #orphaned(user: User, session: HostSession): void {
    if (user.owned.get(session.name) !== session) return;
    user.owned.delete(session.name);
    this.#leave(user, session);
  }

  #leave(user: User, session: HostSession): void {
    const left = user.left.get(session.name);
    if (left === undefined) user.left.set(session.name, [session]);
    else left.push(session);
  }

  #ended(user: User, session: HostSession): void {
    user.count--;
    if (user.owned.get(session.name) === session) user.owned.delete(session.name);
    const left = user.left.get(session.name);
    if (left === undefined) return;
    const at = left.indexOf(session);
    if (at !== -1) left.splice(at, 1);
    if (left.length === 0) user.left.delete(session.name);
  }

  /** @param uid Whose; everybody's when it is left out. */
  *sessions(uid?: number): Iterable<HostSession> {
    for (const [owner, { owned, left }] of this.#users) {
      if (uid !== undefined && owner !== uid) continue;
      yield* owned.values();
      for (const list of left.values()) yield* list;
    }
  }

  status(uid?: number): HostSessionStatus[] {
    const time = Date.now();
    const seconds = (since: number) => Math.round((time - since) / 1000);
    return [...this.sessions(uid)].map((session) => ({
      session: session.name,
      uid: session.uid,
      pid: session.pid,
      custody: session.custody,
      state: session.state,
      ageSeconds: seconds(session.createdAt),
      ...(session.orphanedAt === undefined ? {} : { orphanedSeconds: seconds(session.orphanedAt) }),
      files: session.files,
    }));
  }

  /** Tells a new keeper everything. */
  tellAgain(): void {
    this.flbs.tellAgain();
    for (const session of this.sessions()) session.tellAgain();
  }

  /** Gives everything up: luod ends. */
  close(): void {
    for (const session of [...this.sessions()]) {
      session.drop();
      session.audit('release', 'ok');
    }
    this.flbs.close();
  }
}

/** @throws {LiveUpdateError} EINVAL. */
export function checkName(name: string, context: ErrorContext): void {
  if (!isSessionName(name))
    throw new LiveUpdateError('EINVAL', 'a name is 1 to 63 bytes without NUL', context);
}

/** Sessions' groups in the keeper: this and a number. */
export const GROUP = 'session ';

/** The items of one session, checked. @throws {LiveUpdateError} EINVAL; all descriptors are closed then. */
export function parseItems(items: readonly KeptItem[]): {
  group: string;
  record: SessionRecord;
  files: { token: bigint; fd: number; flbs: readonly string[] }[];
  wireFd: number | undefined;
} {
  try {
    const own = items.find(({ item }) => item === 'session');
    if (own === undefined) throw new LiveUpdateError('EINVAL', 'files without their session');
    const record = sessionRecord.parse(own.record);
    const files = items
      .filter((item) => item !== own)
      .map(({ record: file, fds }) => {
        if (fds[0] === undefined) throw new LiveUpdateError('EINVAL', 'a file without its descriptor');
        const { token, flbs } = fileRecord.parse(file);
        return { token: BigInt(token), fd: fds[0], flbs };
      });
    return { group: own.group, record, files, wireFd: own.fds[0] };
  } catch (error) {
    for (const { fds } of items) for (const fd of fds) closeFd(fd);
    if (error instanceof LiveUpdateError) throw error;
    throw new LiveUpdateError('EINVAL', 'a record of another version, or damaged', { cause: error });
  }
}
