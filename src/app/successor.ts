/**
 * The new image's part of an update: adopt while the old image serves, take over at the cut.
 *
 *   state      what may happen                                          next
 *   adopting   records come in passes; the program boots and claims     claimed
 *   claimed    ready() was called; more records may come                cut
 *   cut        the image came: deserialize, retrieve, commit, finish    done
 *   done       the sockets flow
 *
 * Nothing of this can be seen from outside before the commit word is set: sockets are built but not read, memory is mapped
 * read-only, the listener accepts nobody, no 'connection' is emitted. A successor that fails anywhere before it is simply
 * killed by luod, and its duplicates of the descriptors go with it.
 *
 * An image that takes over from a dead one (luod held its listeners and memory) goes the same way, with the image already
 * there and nobody to commit against.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import type { LiveUpdate, Session } from '../core/index.js';
import { withResolvers } from '../core/resolvers.js';
import { isThenable } from '../core/sequence.js';
import type { Image, SerializedFile } from '../core/types.js';
import { type CarriedFileHandler, type Handover, handleOf } from '../handlers/carried.js';
import type { ConnectionSet } from '../handlers/connection-set.js';
import type { Handover as Passing } from '../handover/codec.js';
import { commit } from '../handover/commit-word.js';
import { readImageFile, writeImageFile } from '../handover/image-file.js';
import {
  type CutReport,
  now,
  type OldToSuccessor,
  type Phase,
  type SuccessorToOld,
  toWire,
} from '../handover/protocol.js';
import { readHandover } from '../handover/received.js';
import type { IncomingRecords } from '../handover/records.js';
import { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { discard, FILE_TOKEN } from './kept.js';
import type { InheritedWire, LateArrivals } from './late-arrivals.js';
import type { Occasion } from './rehearsal.js';

export interface IncomingOptions {
  readonly orchestrator: LiveUpdate;
  readonly handover: Handover;
  /** The handler for a `compatible`, if it is registered. */
  readonly handler: (compatible: string) => CarriedFileHandler | undefined;
  /** Everything is retrieved: gets what else is needed, and returns what is to be done with it when this image is in charge. */
  readonly prepare: () => Promise<() => void>;
}

/**
 * Lets what came in flow, and calls back for each connection that the program gets.
 * @returns what would not start, and why.
 */
export type Arm = (onFlow: () => void) => string[];

/** How long a session's finish is waited for while everything else stands still. It goes on behind. */
const FINISH_MS = 1000;

/** What came in and what the program has claimed of it; the part that both ways of taking over share. */
export abstract class Incoming {
  protected readonly options: IncomingOptions;
  /** The file under token 0 of each session that came in. */
  protected readonly files = new Map<string, SerializedFile>();
  readonly #claimed = new Set<string>();

  constructor(options: IncomingOptions) {
    this.options = options;
  }

  protected get records(): IncomingRecords {
    return this.options.handover.incoming;
  }

  /** The live connections that came with a listener; undefined when none can have come. */
  abstract connections(session: string): ConnectionSet | undefined;
  /**
   * Takes over: everything is finished when it resolves.
   * @param arm Lets everything flow; called when everything is finished.
   */
  abstract finish(dropped: ReadonlySet<string>, arm: Arm): Promise<CutReport | undefined>;

  /**
   * Hands the file of `session` to the program, once.
   * @param accept Takes the file. When it throws, the session stays unclaimed.
   * @returns undefined when no such session came in.
   * @throws {LiveUpdateError} EEXIST when it was claimed before; the handler's errno when the file cannot be built; what
   *   `accept` throws.
   */
  claim<T>(session: string, accept: (file: unknown) => T): T | undefined {
    if (this.#claimed.has(session)) throw new LiveUpdateError('EEXIST', 'claimed twice', { session });
    const serialized = this.files.get(session);
    if (serialized === undefined) return undefined;
    const file = accept(this.build(session, serialized));
    this.#claimed.add(session);
    return file;
  }

  /** Everything that came in, with its session. */
  protected *everything(): Iterable<[string, SerializedFile]> {
    yield* this.files;
  }

  /**
   * Whatever came in needs its handler, also to be given up. Asked before the old image freezes, so that an image that
   * lacks one costs no blackout.
   * @throws {LiveUpdateError} ENOENT.
   */
  requireHandlers(): void {
    for (const [session, { compatible }] of this.everything()) this.#handler(session, compatible);
  }

  #handler(session: string, compatible: string): CarriedFileHandler {
    const handler = this.options.handler(compatible);
    if (handler !== undefined) return handler;
    throw new LiveUpdateError(
      'ENOENT',
      'the version before preserved it by a handler that this program does not register: register it before ready(), also to drop the session',
      { session, handler: compatible },
    );
  }

  unclaimed(): string[] {
    return [...this.files.keys()].filter((name) => !this.#claimed.has(name));
  }

  protected isClaimed(session: string): boolean {
    return this.#claimed.has(session);
  }

  /**
   * Past the commit there is no way back, and everybody waits: what refuses to finish stays with the orchestrator, what does not come
   * back in time goes on behind, and the next update has to wait for it. Both are told.
   * @returns the sessions that are not finished, and why.
   */
  protected async finishSessions(sessions: readonly CutSession[]): Promise<string[]> {
    const unfinished: string[] = [];
    for (const { name, session } of sessions) {
      try {
        const finishing = session.finish();
        if (isThenable(finishing) && !(await isOverIn(FINISH_MS, finishing))) {
          unfinished.push(`${name}: its finish has not come back within ${FINISH_MS} ms, and goes on`);
          void closeBehind(session, finishing);
          continue;
        }
        await session.close();
      } catch (error) {
        unfinished.push(`${name}: ${reasonOf(error)}`);
      }
    }
    return unfinished;
  }

  protected build(session: string, file: SerializedFile): unknown {
    const handler = this.#handler(session, file.compatible);
    if (handler.adopt === undefined) {
      throw new LiveUpdateError('EOPNOTSUPP', 'the handler cannot build a file ahead of the cut', {
        session,
        handler: file.compatible,
      });
    }
    return handler.adopt(handleOf(file.data));
  }
}

/** Takes over from what luod held for a dead image. */
export class Restored extends Incoming {
  readonly #image: Image;

  /** @throws {LiveUpdateError} EINVAL for a damaged handover. */
  constructor(options: IncomingOptions, fds: number[]) {
    super(options);
    const { image, records } = readHandover(fds);
    this.records.add(records, fds);
    this.#image = image;
    for (const { name, files } of image.sessions) {
      const first = files.find((file) => file.token === FILE_TOKEN);
      if (first !== undefined) this.files.set(name, first);
    }
  }

  /** None: what a program had read from them died with it. */
  connections(): undefined {
    return undefined;
  }

  async finish(_dropped: ReadonlySet<string>, arm: Arm): Promise<undefined> {
    const { orchestrator } = this.options;
    await orchestrator.deserialize(this.#image);
    const sessions: CutSession[] = [];
    for (const { name, files } of this.#image.sessions) {
      const session = await orchestrator.retrieveSession(name);
      sessions.push({ name, session });
      if (this.isClaimed(name)) for (const { token } of files) await session.retrieve(token);
    }
    (await this.options.prepare())();
    warnOfUnfinished([...(await this.finishSessions(sessions)), ...arm(() => undefined)]);
  }
}

/** Of an image that has nobody to report to. */
export function warnOfUnfinished(unfinished: readonly string[]): void {
  if (unfinished.length === 0) return;
  process.emitWarning(`not finished: ${unfinished.join('; ')}`, 'LiveUpdateWarning');
}

/** A finish that fails has done its work to the end; what went wrong on the way is its cause. */
function reasonOf(error: unknown): string {
  const { message, cause } = LiveUpdateError.from(error);
  return cause instanceof Error ? `${message}: ${cause.message}` : message;
}

/** @throws what `work` rejects with. */
async function isOverIn(ms: number, work: PromiseLike<void>): Promise<boolean> {
  const { promise: late, resolve } = withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), ms);
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Closes a session when its finish, which was told as late, comes back. */
async function closeBehind(session: Session, finishing: PromiseLike<void>): Promise<void> {
  try {
    await finishing;
    await session.close();
  } catch (error) {
    process.emitWarning(LiveUpdateError.from(error, { operation: 'finish', session: session.name }));
  }
}

/** How long the program is kept waiting for an old image that does not say that its ports are free. */
const LEFT_MS = 1000;
/** How long an old image may take to read what it is given back. */
const FLUSH_MS = 1000;

export interface CutSession {
  readonly name: string;
  readonly session: Session;
}

/** What came in passes, the last of which is the image of the freeze; the part that both images that gave it alive share. */
export abstract class Passed extends Incoming {
  /** The set of live connections in each listener's session. */
  readonly #connections = new Map<string, SerializedFile>();

  /** A pass before the freeze came: builds what it brings. */
  protected adopt({ image, records }: Passing, fds: readonly number[]): void {
    this.records.add(records, fds);
    for (const { name, files } of image.sessions) {
      for (const file of files) {
        (file.token === FILE_TOKEN ? this.files : this.#connections).set(name, file);
        // One that the program has yet to register builds its file at the claim.
        if (this.options.handler(file.compatible)?.adopt !== undefined) this.build(name, file);
      }
    }
  }

  protected override *everything(): Iterable<[string, SerializedFile]> {
    yield* super.everything();
    yield* this.#connections;
  }

  connections(session: string): ConnectionSet | undefined {
    const file = this.#connections.get(session);
    return file === undefined ? undefined : this.records.adopted<ConnectionSet>(handleOf(file.data));
  }

  /** Gives up everything that came. */
  protected abandon(): void {
    for (const [, { data }] of this.everything()) discard(this.records.adopted(handleOf(data)));
    this.records.clear();
  }

  /** How many live connections came; `finish` gives the records up. */
  protected countConnections(): number {
    let connections = 0;
    for (const name of this.#connections.keys()) connections += this.connections(name)?.size ?? 0;
    return connections;
  }

  /** @throws {LiveUpdateError} EINVAL for a session that nobody wants; the errno of what could not be retrieved. */
  protected async retrieve(image: Image, dropped: ReadonlySet<string>): Promise<CutSession[]> {
    const { orchestrator } = this.options;
    await orchestrator.deserialize(image);
    const sessions: CutSession[] = [];
    for (const { name, files } of image.sessions) {
      if (!this.isClaimed(name) && !dropped.has(name)) throw unclaimedError([name]);
      const session = await orchestrator.retrieveSession(name);
      sessions.push({ name, session });
      if (!this.isClaimed(name)) continue;
      for (const { token } of files) await session.retrieve(token);
    }
    return sessions;
  }
}

interface Cut {
  readonly image: Image;
  /** When the old image began to freeze, and when it had. */
  readonly at: string;
  readonly sentAt: string;
  readonly bytes: number;
  readonly inherited: readonly InheritedWire[];
}

export interface SuccessorOptions extends IncomingOptions {
  readonly directFd: number;
  readonly commitFd: number;
  /** The program called ready(): tells luod, which lets the old image freeze. */
  readonly sendReady: () => void;
  /** The old image died before it handed over, or sent what cannot be read. */
  readonly failed: (error: LiveUpdateError, phase: Phase) => void;
  /** What comes after the cut. */
  readonly late: LateArrivals;
  /** Builds what it can of the connections that came, and from now on of those that come. The program has registered everything. */
  readonly prepareConnections: () => Promise<void>;
  /** Has the code of the cut compiled, and warm. */
  readonly rehearse: (occasion: Occasion) => Promise<void>;
  /** Serves a batch of a rolling listener ahead of the commit. */
  readonly serveAhead: (session: string, record: Buffer) => void;
}

/** Takes over from a live image. */
export class Successor extends Passed {
  readonly #options: SuccessorOptions;
  readonly #direct: Wire;
  readonly #precopied = withResolvers<void>();
  readonly #frozen = withResolvers<Cut>();
  readonly #left = withResolvers<void>();
  #cut = false;
  #committed = false;
  #commitFd: number | undefined;

  constructor(options: SuccessorOptions) {
    super(options);
    this.#options = options;
    this.#commitFd = options.commitFd;
    // Each is awaited only if the program gets there; the failure itself is told by `failed`.
    this.#precopied.promise.catch(() => undefined);
    this.#frozen.promise.catch(() => undefined);
    this.#direct = new Wire(options.directFd, {
      message: (message, fds) => this.#take(message as unknown as OldToSuccessor, fds),
      closed: (error) => {
        if (!this.#cut) {
          this.#fail(error ?? new LiveUpdateError('EPIPE', 'the old image died before it handed over'));
        }
        options.late.ended(this.#direct);
        this.#left.resolve();
      },
    });
  }

  #fail(error: LiveUpdateError, phase: Phase = 'retrieve'): void {
    this.#precopied.reject(error);
    this.#frozen.reject(error);
    this.#options.failed(error, phase);
  }

  /** Whether this image is the one in charge, whatever becomes of luod or of the old one. */
  get isCommitted(): boolean {
    return this.#committed;
  }

  /** Of an image that does not end with its process: it takes over no more, or has nothing more to take over. */
  close(): void {
    this.#direct.close();
    this.#closeCommitWord();
    this.abandon();
  }

  #closeCommitWord(): void {
    if (this.#commitFd !== undefined) closeFd(this.#commitFd);
    this.#commitFd = undefined;
  }

  /** When everything that can come before the freeze has come. */
  get precopied(): Promise<void> {
    return this.#precopied.promise;
  }

  #take(message: OldToSuccessor, fds: number[]): void {
    try {
      switch (message.type) {
        case 'precopy':
          this.adopt(readHandover(fds), fds);
          this.#direct.send(toWire({ type: 'ack' } satisfies SuccessorToOld));
          break;
        case 'precopied':
          this.#precopied.resolve();
          break;
        case 'ended':
          this.connections(message.session)?.abandon(message.ids);
          break;
        case 'roll': {
          const file = fds.shift();
          if (file === undefined) throw new LiveUpdateError('EPROTO', 'a batch without its record');
          this.#options.serveAhead(message.session, readImageFile(file));
          this.#direct.send(toWire({ type: 'ack' } satisfies SuccessorToOld));
          break;
        }
        case 'frozen': {
          this.#cut = true;
          if (message.leaves !== true) this.#left.resolve();
          const inherited = takeInherited(message.inherited, fds);
          const { image, records, bytes } = readHandover(fds);
          this.records.add(records, fds);
          this.#frozen.resolve({ image, bytes, inherited, at: message.at, sentAt: message.sentAt });
          break;
        }
        case 'left':
          this.#left.resolve();
          break;
        case 'late':
          this.#options.late.take(message, fds);
          break;
      }
    } catch (error) {
      this.#fail(
        LiveUpdateError.from(error, { operation: message.type }),
        this.#cut ? 'retrieve' : 'preserve',
      );
    }
  }

  /** The cut had to wait and is about to come. Resolves when this image is ready for it. */
  async warmUp(): Promise<void> {
    await this.#options.rehearse('again');
  }

  /**
   * Gives the old image back what this one serves ahead of the commit. The event loop must not turn any more after it.
   * @throws {LiveUpdateError} EIO for bytes that cannot be found again; EPIPE, ETIMEDOUT when the old image does not read.
   */
  giveBack(session: string, record: Buffer): void {
    const file = writeImageFile(record);
    try {
      this.#direct.send(toWire({ type: 'back', session } satisfies SuccessorToOld), [file]);
    } finally {
      closeFd(file);
    }
    this.#direct.flushNow(FLUSH_MS);
  }

  async finish(dropped: ReadonlySet<string>, arm: Arm): Promise<CutReport> {
    await this.#precopied.promise;
    await this.#options.prepareConnections();
    await this.#options.rehearse('first');
    this.#options.sendReady();
    const { image, at, sentAt, bytes, inherited } = await this.#frozen.promise;
    const sessions = await this.retrieve(image, dropped);
    const retrievedAt = now();
    const prepared = await this.#options.prepare();
    await this.#checkFinish(sessions);
    const connections = this.countConnections();
    commit(this.#options.commitFd);
    this.#committed = true;
    prepared();
    const unfinished = await this.finishSessions(sessions);
    const resumedAt = await this.#resume((onFlow) => {
      unfinished.push(...arm(onFlow));
    });
    this.#direct.send(toWire({ type: 'committed', announces: true } satisfies SuccessorToOld));
    this.records.clear();
    // The old image may linger, and so may older ones.
    this.#options.late.follow(this.#direct);
    for (const wire of inherited) this.#options.late.inherit(wire);
    this.#closeCommitWord();
    return {
      frozenAt: at,
      sentAt,
      retrievedAt,
      resumedAt,
      bytes,
      connections,
      files: image.sessions.reduce((count, { files }) => count + files.length, 0),
      dropped: [...dropped],
      unfinished,
    };
  }

  /** Resolves when the ports that the old image had opened by itself are free: it has ended, or will do nothing more; or it lingers. */
  async oldLeft(): Promise<void> {
    await isOverIn(LEFT_MS, this.#left.promise);
  }

  /** The program has all its connections. */
  announced(): void {
    // An old image that is gone has nothing to wait for.
    if (this.#direct.isOpen) this.#direct.send(toWire({ type: 'announced' } satisfies SuccessorToOld));
  }

  /**
   * The blackout ends when the first waiting bytes are delivered; or, if none wait, when the event loop, which tells the kernel
   * of all connections when it next waits, has turned.
   */
  async #resume(arm: (onFlow: () => void) => void): Promise<string> {
    let armed = false;
    let firstAt: string | undefined;
    arm(() => {
      if (armed) firstAt ??= now();
    });
    armed = true;
    await nextTurn();
    await nextTurn();
    return firstAt ?? now();
  }

  async #checkFinish(sessions: readonly CutSession[]): Promise<void> {
    for (const { name, session } of sessions) {
      if (await session.canFinish()) continue;
      throw new LiveUpdateError('EBUSY', 'a file cannot finish', { operation: 'canFinish', session: name });
    }
  }
}

/** The wires behind which older images linger; their descriptors stand at the end. */
function takeInherited(
  inherited: Extract<OldToSuccessor, { type: 'frozen' }>['inherited'],
  fds: number[],
): InheritedWire[] {
  const count = inherited.reduce((sum, wire) => sum + wire.fds, 0);
  if (count > fds.length) throw new LiveUpdateError('EPROTO', 'a handover without its descriptors');
  const theirs = fds.splice(fds.length - count);
  return inherited.map(({ begun, fds: length }) => ({ begun, fds: theirs.splice(0, length) }));
}

export function unclaimedError(names: readonly string[]): LiveUpdateError {
  const list = names.map((name) => `'${name}'`).join(', ');
  return new LiveUpdateError(
    'EINVAL',
    `${list} came from the version before and this one does not ask for it; claim it, or say ready({ drop: [${list}] })`,
    { operation: 'ready' },
  );
}
