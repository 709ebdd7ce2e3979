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
 * Handing over is a live update of this one session: its orchestrator freezes it and leaves an image, from which a new
 * orchestrator takes it in. So what happens to files, and in which order, is core's business here as everywhere.
 */
import { LiveUpdateError } from '../core/errors.js';
import { LiveUpdate, type Session } from '../core/index.js';
import type { Image, MaybePromise, Token } from '../core/types.js';
import type { Handover } from '../handlers/carried.js';
import { descriptorHandlers } from '../handlers/descriptor.js';
import { FdFile } from '../handlers/fd-file.js';
import { type FileClaims, SessionClaims } from '../handlers/file-claims.js';
import { IncomingRecords, OutgoingRecords } from '../handover/records.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { socketCookie } from '../linux/socket-facts.js';
import { socketPair } from '../linux/socketpair.js';
import type { Audit } from './audit.js';
import type { Limits } from './limits.js';
import { errorReply, reportOf } from './phases.js';
import { parseSessionRequest, type SessionRequest } from './session-requests.js';

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
}

/** What all sessions of a luod share. */
export interface HostShared {
  readonly claims: FileClaims;
  readonly limits: Limits;
  readonly audit: Audit;
  readonly log: (line: string) => void;
  /** Descriptors held for sessions, in all. */
  heldFds: number;
  /** Cookies of the clients' ends of live sessions, which nobody may put into a session. */
  readonly sessionSockets: Set<bigint>;
}

export class HostSession {
  readonly name: string;
  readonly uid: number;
  readonly custody: CustodyKind;
  readonly createdAt = Date.now();
  /** Of the last owner. */
  pid: number;
  orphanedAt: number | undefined;
  readonly #shared: HostShared;
  readonly #claims: SessionClaims;
  readonly #ended: () => void;
  readonly #orphaned: () => void;
  readonly #files = new Map<Token, HostedFile>();
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

  /**
   * @param options.ended Told when the session is over. @param options.orphaned Told when its owner left it.
   * @throws {LiveUpdateError} EINVAL for a name that is none.
   */
  constructor(options: {
    name: string;
    custody: CustodyKind;
    peer: Peer;
    shared: HostShared;
    ended: () => void;
    orphaned: () => void;
  }) {
    this.name = options.name;
    this.custody = options.custody;
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
    return [...this.#files.values()];
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
    const [own, theirs] = socketPair();
    try {
      this.#socket = socketCookie(theirs);
      this.#shared.sessionSockets.add(this.#socket);
      const { lineBytes, stallMs } = this.#shared.limits;
      this.#wire = new Wire(
        own,
        {
          message: (message, fds) => this.#answer(message, fds),
          closed: () => this.#detached(),
        },
        // One descriptor is all that any request owns.
        { lineBytes, stallMs, lineFds: 1 },
      );
    } catch (error) {
      closeFd(theirs);
      throw error;
    }
    this.pid = peer.pid;
    if (this.#state === 'orphaned') this.#state = 'claimed';
    return theirs;
  }

  #answer(message: WireMessage, fds: number[]): void {
    const { id } = message;
    let answered: number[] = [];
    try {
      const request = parseSessionRequest(message);
      const reply = this.#perform(request, fds);
      answered = reply.fds;
      this.#wire?.send({ type: 'reply', id, ok: true, ...reply.body }, answered);
    } catch (error) {
      this.#refuse(id, error);
    } finally {
      for (const fd of [...fds, ...answered]) closeFd(fd);
    }
  }

  #refuse(id: unknown, error: unknown): void {
    this.#wire?.send({ type: 'reply', id, ok: false, error: errorReply(error) });
  }

  #perform(request: SessionRequest, fds: readonly number[]): { body: object; fds: number[] } {
    switch (request.type) {
      case 'preserve_fd':
        return this.#audited('preserve', request.token, () => this.#preserve(request.token, fds[0]));
      case 'unpreserve_fd':
        return this.#audited('unpreserve', request.token, () => this.#unpreserve(request.token));
      case 'retrieve_fd':
        return this.#audited('retrieveFd', request.token, () => this.#retrieve(request.token));
      case 'finish':
        return this.#audited('finish', undefined, () => this.#finish(request.reserved ?? 0));
      case 'get_name':
        return { body: { name: this.#session.getName({ reserved: request.reserved ?? 0 }) }, fds: [] };
      case 'list':
        return { body: { state: this.#state, custody: this.custody, files: this.files }, fds: [] };
    }
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

  #preserve(token: Token, fd: number | undefined): { body: object; fds: number[] } {
    const file = fd === undefined || this.#isSession(fd) ? undefined : new FdFile(fd);
    // The contract's order: state and token first, which the orchestrator judges; a limit is met where memory would be asked for.
    if (!this.#session.isIncoming && !this.#files.has(token)) this.#requireRoom();
    if (fd !== undefined && file === undefined && !this.#session.isIncoming && !this.#files.has(token)) {
      throw new LiveUpdateError('ENOENT', 'a session cannot be kept in a session', {
        operation: 'preserve',
        session: this.name,
        token,
      });
    }
    now(this.#session.preserve(file, token));
    this.#shared.heldFds++;
    const { kind, details } = file!.facts!;
    this.#files.set(token, { token: String(token), kind, details });
    return { body: { kind }, fds: [] };
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
  #requireRoom(): void {
    const { limits, heldFds } = this.#shared;
    const context = { operation: 'preserve', session: this.name };
    if (this.#files.size >= limits.filesPerSession) {
      throw new LiveUpdateError('ENOSPC', `a session has at most ${limits.filesPerSession} files`, context);
    }
    if (heldFds >= limits.heldFds) {
      throw new LiveUpdateError('EMFILE', `luod holds ${heldFds} descriptors, all that it may`, context);
    }
  }

  #unpreserve(token: Token): { body: object; fds: number[] } {
    now(this.#session.unpreserve(token));
    this.#shared.heldFds--;
    this.#files.delete(token);
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
    this.#forget();
    return NOTHING;
  }

  #forget(): void {
    for (const { fd } of this.#retrieved.values()) closeFd(fd);
    this.#retrieved.clear();
    this.#shared.heldFds -= this.#files.size;
    this.#files.clear();
  }

  /** The last descriptor of the client's was closed. */
  #detached(): void {
    this.#forgetSocket();
    const isKept = this.custody === 'hold' && !this.#finished;
    if (!isKept) {
      this.#end();
      this.audit('release', 'ok');
      return;
    }
    try {
      if (this.#state === 'owned') this.#handOver();
      this.#state = 'orphaned';
      this.orphanedAt = Date.now();
      this.#orphaned();
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
    this.#ended();
  }
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
