/**
 * A session that luod keeps for a client: the kernel's contract on a descriptor of its own.
 *
 *   state      whose                                          allowed                             next
 *   owned      its creator's, who holds the descriptor        preserve_fd, unpreserve_fd          orphaned, over
 *   orphaned   nobody's: the owner left, and it was to be held  nothing; it is listed             claimed, over
 *   claimed    the next owner's, who retrieved it             retrieve_fd, finish                 orphaned, over
 *   over       nobody's, and empty
 *
 * The client's descriptor is one end of a socket pair; luod has the other. It can be passed on and duplicated like the
 * kernel's, and its last close is what luod sees as the end of the wire: an owned session is released (its files are
 * unpreserved) or, with custody 'hold', handed over to whoever retrieves it next; a claimed one goes back to being an orphan
 * unless it was finished.
 *
 * Everything is told to the keeper before it is answered, so that the next luod has the session as the client knows it: its files, its
 * state, and luod's end of the wire. What a client had asked and was not answered it asks again (`retry`).
 *
 * Handing over is a live update of this one session: its orchestrator freezes it and leaves an image, from which a new
 * orchestrator takes it in. So what happens to files, and in which order, is core's business here as everywhere.
 */

import { type ErrorContext, LiveUpdateError } from '../core/errors.js';
import { LiveUpdate, type Session } from '../core/index.js';
import type { Image, MaybePromise, Token } from '../core/types.js';
import { type Handover, handleOf } from '../handlers/carried.js';
import { descriptorHandlers } from '../handlers/descriptor.js';
import { FdFile } from '../handlers/fd-file.js';
import { type FileClaims, SessionClaims } from '../handlers/file-claims.js';
import { IncomingRecords, OutgoingRecords } from '../handover/records.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { socketCookie } from '../linux/socket-facts.js';
import { socketPair } from '../linux/socketpair.js';
import type { Audit } from './audit.js';
import type { KeptItem, Store } from './keeper-link.js';
import { type Infer, z } from './lazy-zod.js';
import type { Limits } from './limits.js';
import type { MemoryUse } from './memory-use.js';
import { errorReply, reportOf } from './phases.js';
import { parseSessionRequest, type SessionRequest } from './session-requests.js';
import type { SharedFlbs } from './shared-flbs.js';

export type CustodyKind = 'release' | 'hold';
export type HostSessionState = 'owned' | 'orphaned' | 'claimed' | 'over';

/** Who is at the other end: SO_PEERCRED of the connection that asked. */
export interface Peer {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
}

export interface HostedFile {
  readonly token: string;
  readonly kind: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
  /** FLBs that it depends on. */
  readonly flbs: readonly string[];
}

/** What all sessions of a luod share. */
export interface HostShared {
  readonly claims: FileClaims;
  readonly flbs: SharedFlbs;
  readonly memory: MemoryUse;
  readonly limits: Limits;
  readonly audit: Audit;
  readonly log: (line: string) => void;
  /** Descriptors held for sessions, in all. */
  heldFds: number;
  /** What outlives this luod. */
  readonly store: Store;
  /** The kernel is being left: nothing may change any more. */
  isFrozen: boolean;
  /** Cookies of the clients' ends of live sessions, which nobody may put into a session. */
  readonly sessionSockets: Set<bigint>;
}

/** A session as the keeper has it. */
export const sessionRecord = z.object({
  name: z.string(),
  uid: z.number(),
  pid: z.number(),
  custody: z.enum(['release', 'hold']),
  createdAt: z.number(),
  orphanedAt: z.number().optional(),
  state: z.enum(['owned', 'orphaned', 'claimed']),
  finished: z.boolean(),
  /** SO_COOKIE of the client's end. */
  socket: z.string().optional(),
});

export type SessionRecord = Infer<typeof sessionRecord>;

/** A file's item in the keeper; its record is the token. */
export const fileRecord = z.object({
  token: z.string().regex(/^\d{1,20}$/),
  flbs: z.array(z.string()).default([]),
});

interface Kept extends HostedFile {
  /** Undefined when only a comparison can tell. */
  readonly identity: string | undefined;
  /** Of memory, as it was when it was kept. */
  readonly bytes: number;
}

export interface HostSessionOptions {
  readonly name: string;
  readonly custody: CustodyKind;
  readonly peer: Pick<Peer, 'uid' | 'pid'>;
  readonly shared: HostShared;
  /** Its group in the keeper. */
  readonly group: string;
  readonly createdAt?: number;
  /** Told when the session is over. */
  readonly ended: (session: HostSession) => void;
  /** Told when its owner left it. */
  readonly orphaned: (session: HostSession) => void;
}

export class HostSession {
  readonly name: string;
  readonly uid: number;
  readonly custody: CustodyKind;
  readonly createdAt: number;
  readonly #group: string;
  /** Of the last owner. */
  pid: number;
  orphanedAt: number | undefined;
  readonly #shared: HostShared;
  readonly #claims: SessionClaims;
  readonly #ended: (session: HostSession) => void;
  readonly #orphaned: (session: HostSession) => void;
  readonly #files = new Map<Token, Kept>();
  #state: HostSessionState = 'owned';
  #handover: Handover = newHandover();
  /** The orchestrator of an owned session, which a handing over leaves. */
  readonly #leaving: LiveUpdate;
  #session: Session;
  #wire: Wire | undefined;
  #socket: bigint | undefined;
  /** What the orchestrator retrieved and luod has to close. */
  #retrieved = new Map<Token, FdFile>();
  #finished = false;

  /** @throws {LiveUpdateError} EINVAL for a name that is none. */
  constructor(options: HostSessionOptions) {
    this.name = options.name;
    this.custody = options.custody;
    this.createdAt = options.createdAt ?? Date.now();
    this.#group = options.group;
    this.uid = options.peer.uid;
    this.pid = options.peer.pid;
    this.#shared = options.shared;
    this.#ended = options.ended;
    this.#orphaned = options.orphaned;
    this.#claims = new SessionClaims(options.shared.claims);
    this.#leaving = this.#orchestrator();
    this.#session = now(this.#leaving.createSession(options.name));
  }

  get state(): HostSessionState {
    return this.#state;
  }

  get files(): HostedFile[] {
    return Array.from(this.#files.values(), ({ token, kind, details, flbs }) => ({
      token,
      kind,
      details,
      flbs,
    }));
  }

  /**
   * A session of the luod before this one, which was killed or replaced itself.
   * @param files In the order in which they were preserved; owns their descriptors, and `wireFd`.
   * @throws {LiveUpdateError} the errno of a file that cannot be kept any more; everything is closed then.
   */
  static restore(
    options: Omit<HostSessionOptions, 'name' | 'custody' | 'peer' | 'createdAt'>,
    record: SessionRecord,
    files: readonly { token: Token; fd: number; flbs: readonly string[] }[],
    wireFd: number | undefined,
  ): HostSession {
    const { name, custody, createdAt } = record;
    const session = new HostSession({ ...options, name, custody, createdAt, peer: record });
    let kept = 0;
    try {
      for (const { token, fd, flbs } of files) {
        session.#keep(token, new FdFile(fd), flbs);
        // The session has a duplicate. One by one: twice as many descriptors as luod holds may be more than it can have.
        kept++;
        closeFd(fd);
      }
      if (record.state !== 'owned') session.#handOver();
      if (record.finished) {
        now(session.#session.finish());
        session.#dropFinished();
      }
    } catch (error) {
      if (wireFd !== undefined) closeFd(wireFd);
      session.#end();
      throw error;
    } finally {
      for (const { fd } of files.slice(kept)) closeFd(fd);
    }
    session.#finished = record.finished;
    session.#state = record.state;
    session.orphanedAt = record.orphanedAt;
    if (wireFd !== undefined) session.#open(wireFd, record.socket, 'resume');
    return session;
  }

  #record(): SessionRecord {
    const { name, uid, pid, custody, createdAt, orphanedAt } = this;
    const state = this.#state === 'over' ? 'owned' : this.#state;
    const socket = this.#socket === undefined ? undefined : String(this.#socket);
    return { name, uid, pid, custody, createdAt, orphanedAt, state, finished: this.#finished, socket };
  }

  #orchestrator(): LiveUpdate {
    const orchestrator = new LiveUpdate();
    for (const handler of descriptorHandlers(this.#handover)) {
      orchestrator.registerFileHandler(this.#claims.guard(handler));
    }
    return orchestrator;
  }

  /**
   * Makes the descriptor by which `peer` has the session from now on; the caller sends it and closes it.
   * @throws {LiveUpdateError} EMFILE.
   */
  attach(peer: Peer): number {
    requireFd(this.#shared, { operation: 'session', session: this.name });
    const [own, theirs] = socketPair();
    try {
      this.pid = peer.pid;
      if (this.#state === 'orphaned') this.#state = 'claimed';
      this.#open(own, String(socketCookie(theirs)), undefined);
      this.#shared.store.put(this.#group, 'session', this.#record(), [own]);
    } catch (error) {
      closeFd(theirs);
      throw error;
    }
    return theirs;
  }

  #open(own: number, cookie: string | undefined, skipTo: string | undefined): void {
    const { lineBytes, queuedBytes, stallMs } = this.#shared.limits;
    if (cookie !== undefined) {
      this.#socket = BigInt(cookie);
      this.#shared.sessionSockets.add(this.#socket);
    }
    this.#wire = new Wire(
      own,
      {
        message: (message, fds) => this.#answer(message, fds),
        closed: (error) => {
          if (error !== undefined)
            this.#shared.log(`the session '${this.name}' of uid ${this.uid}: ${error.message}`);
          this.#detached();
        },
      },
      // One descriptor is all that any request owns.
      { lineBytes, sentLineBytes: queuedBytes, queuedBytes, stallMs, lineFds: 1 },
      { skipTo, refuses: true },
    );
  }

  /** As the store has it, itself first; descriptors borrowed. */
  get items(): KeptItem[] {
    const group = this.#group;
    const fds = this.#wire === undefined ? [] : [this.#wire.fd];
    return [
      { group, item: 'session', record: this.#record(), fds },
      ...Array.from(this.#files, ([token, { flbs }]) => ({
        group,
        item: `file ${token}`,
        record: { token: String(token), flbs },
        fds: [this.#fdOf(token)],
      })),
    ];
  }

  /** Tells the store everything: a new keeper, or what came from another kernel. */
  tellAgain(): void {
    for (const { group, item, record, fds } of this.items) {
      this.#shared.store.put(group, item, record as object, fds);
    }
  }

  /** luod's own descriptor of a file, wherever it is in its life. */
  #fdOf(token: Token): number {
    const file = this.#session.serialized(token);
    const handle = file === undefined ? 0 : handleOf(file.data);
    const { incoming, outgoing } = this.#handover;
    const fd = this.#retrieved.get(token)?.fd ?? [...outgoing.fds(handle), ...incoming.fds(handle)][0];
    if (fd === undefined) throw new LiveUpdateError('EBADF', 'a file without its descriptor', { token });
    return fd;
  }

  /** Tells the client of a restored session that it has to ask again, and sees whether there is one. */
  resume(): void {
    this.#wire?.send({ type: 'restarted' });
    this.#wire?.receiveNow();
  }

  #answer(message: WireMessage, fds: number[]): void {
    const { id } = message;
    if (message.type === 'resume') return;
    let answered: number[] = [];
    try {
      const request = parseSessionRequest(message);
      const reply = this.#perform(request, fds);
      answered = reply.fds;
      this.#wire?.send({ type: 'reply', id, ok: true, ...reply.body }, answered);
      if (request.type === 'close') this.#closeNow();
    } catch (error) {
      this.#refuse(id, error);
    } finally {
      for (const fd of [...fds, ...answered]) closeFd(fd);
    }
  }

  /** As if the client's last descriptor were closed. */
  #closeNow(): void {
    this.#wire?.close();
    this.#detached();
  }

  #refuse(id: unknown, error: unknown): void {
    this.#wire?.send({ type: 'reply', id, ok: false, error: errorReply(error) });
  }

  #perform(request: SessionRequest, fds: readonly number[]): { body: object; fds: number[] } {
    switch (request.type) {
      case 'preserve_fd':
        return this.#changes('preserve', request.token, () => this.#preserve(request, fds[0]));
      case 'unpreserve_fd':
        return this.#changes('unpreserve', request.token, () => this.#unpreserve(request));
      case 'retrieve_fd':
        return this.#audited('retrieveFd', request.token, () => this.#retrieve(request.token));
      case 'finish':
        return this.#changes('finish', undefined, () => this.#finish(request.reserved ?? 0));
      case 'get_name':
        return { body: { name: this.#session.getName({ reserved: request.reserved ?? 0 }) }, fds: [] };
      case 'close':
        return NOTHING;
      case 'list':
        return { body: { state: this.#state, custody: this.custody, files: this.files }, fds: [] };
    }
  }

  #changes<T>(event: string, token: Token | undefined, work: () => T): T {
    return this.#audited(event, token, () => {
      requireThawed(this.#shared, { operation: event, session: this.name });
      return work();
    });
  }

  #audited<T>(event: string, token: Token | undefined, work: () => T): T {
    const kind = token === undefined ? undefined : this.#files.get(token)?.kind;
    try {
      const result = work();
      this.audit(event, 'ok', {
        token,
        kind: kind ?? (token === undefined ? undefined : this.#files.get(token)?.kind),
      });
      return result;
    } catch (error) {
      this.audit(event, reportOf(error).code, { token, kind });
      throw error;
    }
  }

  /** Notes an event in the name of the owner, or of `by`. */
  audit(
    event: string,
    result: string,
    what: { token?: Token | undefined; kind?: string | undefined; by?: Peer } = {},
  ): void {
    const { uid, pid } = what.by ?? this;
    const token = what.token === undefined ? undefined : String(what.token);
    this.#shared.audit({ event, uid, pid, session: this.name, token, kind: what.kind, result });
  }

  #preserve(
    { token, flbs: asked = [], retry }: Extract<SessionRequest, { type: 'preserve_fd' }>,
    fd: number | undefined,
  ): { body: object; fds: number[] } {
    const flbs = [...new Set(asked)];
    const file = fd === undefined || this.#isSession(fd) ? undefined : new FdFile(fd);
    const known = this.#files.get(token);
    if (
      retry === true &&
      known !== undefined &&
      !this.#session.isIncoming &&
      file?.facts?.identity === known.identity
    ) {
      return { body: { kind: known.kind }, fds: [] };
    }
    // The contract's order: state and token first, which the orchestrator judges; a limit is met where memory would be asked for.
    if (!this.#session.isIncoming && !this.#files.has(token)) this.#requireRoom(file);
    if (fd !== undefined && file === undefined && !this.#session.isIncoming && !this.#files.has(token)) {
      throw new LiveUpdateError('ENOENT', 'a session cannot be kept in a session', {
        operation: 'preserve',
        session: this.name,
        token,
      });
    }
    const { kind } = this.#keep(token, file, flbs);
    try {
      this.#shared.store.put(this.#group, `file ${token}`, { token: String(token), flbs }, [fd as number]);
    } catch (error) {
      this.#unpreserve({ token });
      throw error;
    }
    return { body: { kind }, fds: [] };
  }

  #keep(token: Token, file: FdFile | undefined, flbs: readonly string[]): Kept {
    now(this.#session.preserve(file, token));
    try {
      this.#shared.flbs.use(this.uid, flbs);
    } catch (error) {
      now(this.#session.unpreserve(token));
      throw error;
    }
    this.#shared.heldFds++;
    const { kind, details, identity } = file!.facts!;
    const bytes = memoryOf(file);
    this.#shared.memory.add(this.uid, bytes);
    const kept = { token: String(token), kind, details, identity, flbs, bytes };
    this.#files.set(token, kept);
    return kept;
  }

  #isSession(fd: number): boolean {
    const facts = new FdFile(fd).facts;
    return (
      facts?.kind === 'stream' &&
      facts.details.domain === 'unix' &&
      this.#shared.sessionSockets.has(socketCookie(fd))
    );
  }

  /** @throws {LiveUpdateError} ENOSPC, EMFILE. */
  #requireRoom(file: FdFile | undefined): void {
    const { limits } = this.#shared;
    const context = { operation: 'preserve', session: this.name };
    if (this.#files.size >= limits.filesPerSession) {
      throw new LiveUpdateError('ENOSPC', `a session has at most ${limits.filesPerSession} files`, context);
    }
    requireFd(this.#shared, context);
    this.#shared.memory.requireRoom(this.uid, memoryOf(file), context);
  }

  #unpreserve({ token, retry }: { token: Token; retry?: boolean | undefined }): {
    body: object;
    fds: number[];
  } {
    if (retry === true && !this.#session.isIncoming && !this.#files.has(token)) return NOTHING;
    now(this.#session.unpreserve(token));
    this.#shared.store.drop(this.#group, `file ${token}`);
    this.#shared.heldFds--;
    const { flbs = [], bytes = 0 } = this.#files.get(token) ?? {};
    this.#files.delete(token);
    this.#shared.memory.add(this.uid, -bytes);
    this.#shared.flbs.release(this.uid, flbs);
    return NOTHING;
  }

  #retrieve(token: Token): { body: object; fds: number[] } {
    const file = now(this.#session.retrieve<FdFile>(token));
    this.#retrieved.set(token, file);
    return { body: { kind: this.#files.get(token)?.kind }, fds: [dupFd(file.fd)] };
  }

  #finish(reserved: number): { body: object; fds: number[] } {
    now(this.#session.finish({ reserved }));
    this.#finished = true;
    // In one word, before the first file goes: a luod that dies between two must not leave the others to the next owner.
    this.#shared.store.amend(this.#group, 'session', this.#record());
    this.#dropFinished();
    return NOTHING;
  }

  #dropFinished(): void {
    for (const token of this.#files.keys()) this.#shared.store.drop(this.#group, `file ${token}`);
    this.#forget();
  }

  #forget(): void {
    for (const { fd } of this.#retrieved.values()) closeFd(fd);
    this.#retrieved.clear();
    this.#shared.heldFds -= this.#files.size;
    const files = [...this.#files.values()].reverse();
    this.#files.clear();
    for (const { flbs, bytes } of files) {
      this.#shared.memory.add(this.uid, -bytes);
      this.#shared.flbs.release(this.uid, flbs);
    }
  }

  /** The last descriptor of the client's was closed. */
  #detached(): void {
    this.#forgetSocket();
    // Without files there is nothing to hold, and nobody shall find it in the place of one that has some: it may be one whose
    // creator never heard of it, and made it again.
    const isKept = this.custody === 'hold' && !this.#finished && this.#files.size > 0;
    if (!isKept) {
      this.#end();
      this.audit('release', 'ok');
      return;
    }
    try {
      if (this.#state === 'owned') this.#handOver();
      this.#state = 'orphaned';
      this.orphanedAt = Date.now();
      this.#shared.store.put(this.#group, 'session', this.#record(), []);
      this.#orphaned(this);
      this.audit('orphan', 'ok');
    } catch (error) {
      // The descriptors are all still here; but what cannot be handed over can only be dropped.
      this.audit('orphan', reportOf(error).code);
      this.#shared.log(
        `the session '${this.name}' of uid ${this.uid} cannot be handed over: ${reportOf(error).message}`,
      );
      this.#end();
    }
  }

  #forgetSocket(): void {
    this.#wire = undefined;
    if (this.#socket !== undefined) this.#shared.sessionSockets.delete(this.#socket);
    this.#socket = undefined;
  }

  /** A live update of this session alone. */
  #handOver(): void {
    const { outgoing } = this.#handover;
    const image = now(this.#leaving.reboot()) as Image;
    const { records, fds } = outgoing.takeChanged();
    this.#handover = newHandover();
    // Outgoing handlers own a duplicate of each, which becomes the incoming record's.
    this.#handover.incoming.add(records, fds);
    const next = this.#orchestrator();
    now(next.deserialize(image));
    this.#session = now(next.retrieveSession(this.name));
  }

  /** Gives everything up, whatever state it is in. */
  drop(): void {
    const wire = this.#wire;
    this.#forgetSocket();
    wire?.close();
    this.#end();
  }

  #end(): void {
    if (this.#state === 'over') return;
    this.#state = 'over';
    now(this.#session.close());
    this.#forget();
    this.#shared.store.drop(this.#group);
    this.#ended(this);
  }
}

function memoryOf(file: FdFile | undefined): number {
  return file?.facts?.kind === 'memfd' ? Number(file.facts.details.size) : 0;
}

/** @throws {LiveUpdateError} EBUSY while the kernel is being left. */
export function requireThawed({ isFrozen }: HostShared, context: ErrorContext): void {
  if (isFrozen) throw new LiveUpdateError('EBUSY', 'the kernel is being replaced', context);
}

/** @throws {LiveUpdateError} EMFILE when luod may hold no more. */
export function requireFd(
  { limits, heldFds, sessionSockets, claims }: HostShared,
  context: ErrorContext,
): void {
  // A session's own wire takes one as well, and so does a file that can be known only by comparing.
  const taken = heldFds + sessionSockets.size + claims.fds;
  if (taken < limits.heldFds) return;
  throw new LiveUpdateError('EMFILE', `luod holds ${taken} descriptors, all that it may`, context);
}

const NOTHING = { body: {}, fds: [] };

function newHandover(): Handover {
  return { incoming: new IncomingRecords({ exclusive: true }), outgoing: new OutgoingRecords() };
}

/** Every handler of descriptors is synchronous, so every answer is there at once. */
function now<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new LiveUpdateError('EIO', 'an answer that is not there yet');
  return value as T;
}
