/**
 * The life of one image of a program: what it keeps, where that came from, and how it goes on to the next image. There is
 * one `Program` in a process; it owns the orchestrator and every event of an update meets here.
 *
 *   born         fresh: nothing came · successor: from a live image · inherited: from the image before in this process ·
 *                restored: from what luod held for a dead one
 *   claiming     state(), memory(), listen(), keep() give what came, or make it
 *   serving      after ready()
 *   updating     luod began an update: a `Predecessor` is at work · without luod: an `ExecUpdate` is
 *
 * Without luod (no LIVEUPDATE_SOCKET in the environment) a program replaces itself, in place, when it is asked to.
 */
import { EventEmitter } from 'node:events';
import type { Server, Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { LiveUpdate } from '../core/index.js';
import { reportedError } from '../core/reported-error.js';
import { type Resolvers, withResolvers } from '../core/resolvers.js';
import { builtInHandlers } from '../handlers/built-in.js';
import type { CarriedFileHandler, Handover } from '../handlers/carried.js';
import { Connection } from '../handlers/connection.js';
import { ConnectionSet } from '../handlers/connection-set.js';
import { type Counter, Counters } from '../handlers/counters.js';
import { Listener } from '../handlers/listener.js';
import { Memory } from '../handlers/memory.js';
import { type OpenStream, ResponseStreams, type StreamListener } from '../handlers/response-streams.js';
import { isTls } from '../handlers/server-kinds.js';
import type { SharedListenOptions } from '../handlers/shared-port.js';
import { State } from '../handlers/state.js';
import { type StateOptions, stateShape } from '../handlers/state-shape.js';
import type { TicketKeys } from '../handlers/ticket-keys.js';
import { KeptTimer, type TimerOptions } from '../handlers/timer.js';
import { registerTlsListeners } from '../handlers/tls-listener.js';
import { connectionOf, Upgrades } from '../handlers/upgrades.js';
import { type WebSocketServerLike, WebSockets } from '../handlers/websocket.js';
import type { Inheritance } from '../handover/inheritance.js';
import {
  type Carrier,
  DEFAULT_DRAIN_MS,
  ENV_IMAGE,
  ENV_SOCKET,
  type ErrorReport,
  type ImageToLuod,
  type LuodToImage,
  type Phase,
} from '../handover/protocol.js';
import { IncomingRecords, OutgoingRecords } from '../handover/records.js';
import { closeFd } from '../linux/fd.js';
import { giveWay } from '../linux/priority.js';
import { waitReadable } from '../linux/scm-rights.js';
import { ExecUpdate } from './exec-update.js';
import { Inherited } from './inherited.js';
import { type Cut, discard, type Kept, KeptListener, type Kind, sessionName } from './kept.js';
import { handlerOf, toFile } from './kept-object.js';
import { LateArrivals } from './late-arrivals.js';
import { countStaying, Lingering } from './lingering.js';
import { LuodLink, type Welcome } from './luod-link.js';
import { Predecessor } from './predecessor.js';
import { rehearseCut, rehearseFreeze } from './rehearsal.js';
import { type IncomingOptions, Restored, Successor, unclaimedError } from './successor.js';
import {
  explainTaken,
  isClusterWorker,
  NO_WORKER,
  type WorkerPlace,
  whereWorkerListens,
  workerPlace,
} from './workers.js';

export interface LiveUpdateOptions {
  /** luod's socket. Default: `LIVEUPDATE_SOCKET` of the environment, which luod sets. */
  socket?: string;
}

/**
 * Where this image came from: nowhere, a live image, what luod held for one that died, or what the previous kernel left.
 */
export type Origin = 'fresh' | 'update' | 'crash' | 'kexec';

export interface ProgramEvents {
  /** The cut is about to come. Listeners may be asynchronous; all are awaited, inside the blackout. */
  freeze: [];
  /** The cut was called off after the freeze; the program serves on. */
  unfreeze: [];
  /** The update was called off; the program serves on. */
  rollback: [reason: ErrorReport];
  /**
   * The next image has taken over, and this one serves the connections that could not cross to their end: stop what only one
   * image may do (timers, jobs). What is written to memory or to connections that crossed reaches nobody.
   */
  linger: [connections: number];
  /**
   * The next image has taken over, and nothing is left to do here; this process exits a fifth of a second after the listeners have
   * returned, and later if the next one's program has not been told of its connections by then, a second at most, without another
   * turn of the event loop. What they write to memory or to connections reaches nobody. In place: it is about to take over; a listener that
   * throws calls the update off.
   */
  finish: [];
  /** luod is gone; the program serves on, and nothing can replace it. */
  orphaned: [];
}

export interface ReadyOptions {
  /** Sessions ('state:hits', 'listener:chat', ...) that came in and that this version gives up on purpose. */
  drop?: readonly string[];
}

/** What a server listens by, as for `server.listen`; and how its connections move. */
export interface ServiceListenOptions extends SharedListenOptions {
  /**
   * 'atomic' (default): everything moves in one cut, one consistent state. 'rolling': connections move ahead of it, 16 at a time, while both
   * images serve: for programs whose connections share nothing but `memory`, which both images may write meanwhile. 'connection' then comes
   * before `ready()` resolves. A connection that is busy moves in the cut.
   */
  readonly cut?: Cut;
}

/** How much of a turn of the loop goes to silent connections that the program gets, in milliseconds. */
const ANNOUNCING_MS = 0.5;
/** What is built of connections before the freeze, at a turn of a loop that has nothing else to do. */
const PREPARED_PER_TURN = 50;

interface KeepOptions<T> {
  /** How the program keeps the file, if not as a mere file. */
  readonly wrap?: (file: T) => Kept;
  /** Throws when the file that came in is not what this program can take over. */
  readonly accept?: (file: T) => void;
}

/** It takes a millisecond or more to let go of so many. */
const MANY_CONNECTIONS = 1000;
/** How long luod may take to read the last word of an image that was called off. */
const FLUSH_MS = 1000;
/** How long an image of a rehearsal may stand still, and with it the program whose process it is in. */
const STAGE_HALT_MS = 100;

/** An update's refusal, for lu.update(). */
interface Waiting {
  readonly command: readonly string[] | undefined;
  reject(error: LiveUpdateError): void;
}

export class Program extends EventEmitter<ProgramEvents> {
  /** The orchestrator of this image, for handlers and FLBs of the program's own. */
  readonly orchestrator: LiveUpdate;
  readonly #handover: Handover = {
    incoming: new IncomingRecords({ exclusive: true }),
    outgoing: new OutgoingRecords(),
  };
  readonly #handlers = new Map<string, CarriedFileHandler>();
  readonly #builtIn = new Set<CarriedFileHandler>();
  readonly #kept = new Map<string, Kept>();
  readonly #making = new Set<string>();
  readonly #upgrades = new Upgrades();
  #link: LuodLink | undefined;
  #incoming: Successor | Restored | Inherited | undefined;
  #origin: Origin = 'fresh';
  #generation = 1;
  #service = '';
  #place: WorkerPlace = NO_WORKER;
  #isReady = false;
  #predecessor: Predecessor | undefined;
  /** The last update that was called off here. */
  #calledBack: { readonly isTidy: boolean } | undefined;
  #updateOver: Resolvers<void> | undefined;
  #waiting: Waiting | undefined;
  /** The word to luod by which this image came to serve, or is about to. */
  #lastWord: ImageToLuod | undefined;
  readonly #tickets: TicketKeys;
  readonly #counters = new Counters(this.#handover);
  readonly #late = new LateArrivals((session, record, fds) => this.#takeIn(session, record, fds));
  #lingering: Lingering | undefined;
  #drainMs = DEFAULT_DRAIN_MS;
  /** When luod kills this process, by `performance.now()`. */
  #leaveBy = Number.POSITIVE_INFINITY;
  /** Whether this is an image of a rehearsal, in the process of another. */
  #isOnStage = false;
  /** Whether connections are served ahead of the commit. */
  #servesAhead = false;

  private constructor() {
    super();
    this.orchestrator = new LiveUpdate();
    const register = (handler: CarriedFileHandler) => {
      this.registerHandler(handler);
      this.#builtIn.add(handler);
    };
    this.#tickets = registerTlsListeners(this.orchestrator, this.#handover, register);
    for (const handler of builtInHandlers(this.#handover)) {
      register(handler);
    }
    // Whatever of a program crosses, its counters do.
    for (const handler of this.#handlers.values()) this.orchestrator.registerFlb(handler, this.#counters.flb);
  }

  /** @internal `liveupdate()` is the public door. */
  static async start(options: LiveUpdateOptions, inheritance: Inheritance | undefined): Promise<Program> {
    const program = new Program();
    const socket = options.socket ?? process.env[ENV_SOCKET];
    const image = process.env[ENV_IMAGE];
    // A secret of this image: its own children must not be taken for it.
    delete process.env[ENV_IMAGE];
    if (inheritance !== undefined) program.#inherit(inheritance);
    else if (socket !== undefined && !isClusterWorker() && image !== undefined)
      await program.#join(socket, image);
    process.on('SIGHUP', () =>
      program.update().catch((error) => process.emitWarning(LiveUpdateError.from(error))),
    );
    return program;
  }

  get #incomingOptions(): IncomingOptions {
    return {
      orchestrator: this.orchestrator,
      handover: this.#handover,
      handler: (compatible) => this.#handlers.get(compatible),
      prepare: () => this.#counters.prepare(this.orchestrator),
    };
  }

  #inherit(inheritance: Inheritance): void {
    this.#origin = 'update';
    this.#generation = inheritance.generation;
    this.#counters.wait();
    this.#incoming = new Inherited(this.#incomingOptions, inheritance.open());
  }

  async #join(socket: string, image: string): Promise<void> {
    const { link, welcome } = await LuodLink.connect(socket, image);
    await this.#joined(link, welcome);
  }

  /** @internal An image of a rehearsal: `rehearsal.ts`. Owns the link and the descriptors, also when it throws. */
  static async onStage(link: LuodLink, welcome: Welcome): Promise<Program> {
    const { fds } = welcome;
    let program: Program | undefined;
    try {
      program = new Program();
      program.#isOnStage = true;
      await program.#joined(link, welcome);
      return program;
    } catch (error) {
      for (const fd of fds.splice(0)) closeFd(fd);
      link.close();
      program?.leaveStage();
      throw error;
    }
  }

  /** @internal The rehearsal is over: gives everything back. May be called again, when something was still under way. */
  leaveStage(): void {
    this.#link?.close();
    this.#late.letGo();
    this.#predecessor?.close();
    if (this.#incoming instanceof Successor) this.#incoming.close();
    for (const kept of this.#kept.values()) {
      if (kept instanceof KeptListener) {
        kept.connections.discard();
        kept.file.server?.close();
      }
      discard(kept.file);
    }
    this.#kept.clear();
  }

  async #joined(link: LuodLink, { message, fds }: Welcome): Promise<void> {
    this.#link = link;
    this.#service = message.service;
    this.#place = workerPlace(process.env);
    this.#generation = message.generation;
    const options = this.#incomingOptions;
    if (message.role === 'restarted') {
      this.#origin = message.from;
      this.#incoming = new Restored(options, fds);
    } else if (message.role === 'successor') {
      this.#origin = 'update';
      const [directFd, commitFd] = fds;
      if (directFd === undefined || commitFd === undefined)
        throw new LiveUpdateError('EPROTO', 'a welcome without descriptors');
      this.#handover.incoming = new IncomingRecords({ exclusive: false });
      this.#counters.wait();
      this.#incoming = new Successor({
        ...options,
        directFd,
        commitFd,
        sendReady: () => this.#say({ type: 'ready', warms: true }),
        failed: (error, phase) => link.report(phase, error),
        late: this.#late,
        prepareConnections: () => this.#prepareConnections(),
        rehearse: async (occasion) => {
          if (!this.#isOnStage) await rehearseCut(Program.onStage, occasion);
        },
        serveAhead: (name, record) => this.#serveAhead(name, record),
      });
      // The successor's from now on: whoever cleans up behind a failure must not close them, too.
      fds.length = 0;
    }
    link.listen({
      message: (next, nextFds) => this.#take(next, nextFds),
      closed: () => this.#lost(),
    });
    if (this.#incoming instanceof Successor) await this.#incoming.precopied;
    if (this.#origin !== 'update') link.unref();
  }

  /**
   * 'fresh', 'update' (a live image handed over), 'crash' (luod kept what the image before left) or 'kexec' (the previous
   * kernel did).
   */
  get origin(): Origin {
    return this.#origin;
  }

  /** 1 for the first image of a service; each replacement counts one. */
  get generation(): number {
    return this.#generation;
  }

  /** The service's name at luod; empty without luod. */
  get service(): string {
    return this.#service;
  }

  /** Which of the service's workers this is, from 1; 0 when it has none but this process. */
  get worker(): number {
    return this.#place.worker;
  }

  /** How many workers the service has; 0 when it has none but this process. */
  get workers(): number {
    return this.#place.workers;
  }

  /** Whether luod runs this program: then it is luod that replaces it, else the program itself, in place. */
  get isManaged(): boolean {
    return this.#link !== undefined;
  }

  /**
   * Adds a handler for files of the program's own, for `keep()`.
   * @throws {LiveUpdateError} EINVAL, EEXIST: see `LiveUpdate.registerFileHandler`.
   */
  registerHandler(handler: CarriedFileHandler): void {
    this.orchestrator.registerFileHandler(handler);
    this.#handlers.set(handler.compatible, handler);
  }

  /** Where handlers of the program's own find and put their records. */
  get handover(): Handover {
    return this.#handover;
  }

  /**
   * A value that lives on in the next image: saved at the freeze by structured clone, and the same object for this
   * program's whole life. Until `ready()` it is a preview of what the old image still changes.
   *
   * @param make Makes the first one, of the shape of `options.version`: a plain object, an array, a Map or a Set.
   * @param options The version of the shape, and what makes it of an older one.
   * @throws {LiveUpdateError} EINVAL for a bad name or version, a value that cannot be cloned or updated in place, or a migrate
   *   that returned none; EEXIST for a name that is in use; EPROTONOSUPPORT for a value that came in a newer version,
   *   or in an older one when there is no migrate; the errno of what migrate threw, EIO if it has none. In an update each of
   *   the last three calls it off, before anything froze.
   */
  async state<T extends object>(
    name: string,
    make: () => T | Promise<T>,
    options: StateOptions<T> = {},
  ): Promise<T> {
    const shape = stateShape(sessionName('state', name), options);
    const kept = await this.#keep<State>(
      'state',
      name,
      async () => State.create<object>(await make(), shape.version),
      State,
      { accept: (state) => state.read(shape) },
    );
    return kept.value as T;
  }

  /**
   * Memory of `size` bytes that is the same pages in the next image, at no cost. Zero at first. Until `ready()` it can
   * be read but not written (a write is a crash: SIGSEGV).
   *
   * @throws {LiveUpdateError} EINVAL for a bad name or size, or a size other than that of the memory that came; EFBIG for
   *   more than one view can map; EEXIST; ENOMEM.
   */
  async memory(name: string, size: number): Promise<ArrayBuffer> {
    const kept = await this.#keep('memory', name, () => Memory.create(name, size), Memory, {
      accept: (memory) => {
        if (memory.size === size) return;
        throw new LiveUpdateError('EINVAL', `it has ${memory.size} bytes, and ${size} were asked for`, {
          operation: 'memory',
          session: sessionName('memory', name),
        });
      },
    });
    return kept.buffer;
  }

  /**
   * Makes `server` listen, or gives it the listener of the image before with its live connections: each of them is emitted as
   * 'connection' when `ready()` has committed. Resolves with the address.
   *
   * @param options Those of `server.listen`. With `reusePort`, other processes of this user may listen on the same port; workers always
   *   do. In `path`, `%w` stands for `lu.worker`.
   * @throws {LiveUpdateError} EINVAL for a bad name or options, or port 0 in one of several workers; EEXIST for a name in use; the errno
   *   of bind(2) and listen(2).
   */
  async listen(
    name: string,
    server: Server,
    { cut, ...options }: ServiceListenOptions,
  ): Promise<Listener['address']> {
    if (cut !== undefined && cut !== 'atomic' && cut !== 'rolling')
      throw new LiveUpdateError('EINVAL', `a cut is 'atomic' or 'rolling', not '${cut}'`, {
        operation: 'listen',
      });
    const session = sessionName('listener', name);
    if (server.listening)
      throw new LiveUpdateError('EINVAL', 'the server listens already', { operation: 'listen', session });
    const incoming = this.#claiming;
    const open = async () => {
      if (this.#isOnStage) return Listener.unreachable(server);
      try {
        return await Listener.open(server, whereWorkerListens(options, this.#place));
      } catch (error) {
        throw explainTaken(error, options, this.#place);
      }
    };
    const listener = await this.#keep('listener', name, open, Listener, {
      wrap: (file) => {
        const connections = incoming?.connections(session) ?? new ConnectionSet();
        const kept = new KeptListener(session, file, connections, server, this.#upgrades, cut);
        kept.watch(server);
        kept.onClose(server, (isOver) => this.#release(session, isOver));
        return kept;
      },
    });
    if (listener.server === undefined) listener.bind(server);
    if (isTls(server)) this.#tickets.add(server);
    return listener.address;
  }

  /**
   * A number that only rises, for metrics: every image of the program adds to the same, also one that lingers. Before `ready()` it counts
   * this image's own additions, which are not lost. A crash begins anew.
   *
   * @throws {LiveUpdateError} EINVAL for a name that is not 1 to 55 bytes without NUL; ENOSPC for more than 1,023 counters; EMFILE, ENOMEM.
   */
  counter(name: string): Counter {
    return this.#counters.counter(name);
  }

  /**
   * Lets the connections of a `WebSocketServer` of the package `ws` cross, whose HTTP server goes to `listen()`. Each that crossed
   * is emitted as 'connection', with the request it came by, when `ready()` has committed. Call it before `ready()`.
   *
   * @throws {LiveUpdateError} EINVAL for a bad name, for what is no `WebSocketServer`, and for one that listens by itself (made
   *   with `port`); EEXIST for a name in use; EBUSY after `ready()`, or when it has clients; ENOSYS for a version of `ws` whose
   *   connections cannot be taken apart.
   */
  webSockets(name: string, server: WebSocketServerLike): void {
    const session = sessionName('websocket', name);
    if (this.#isReady)
      throw new LiveUpdateError('EBUSY', 'call it before ready()', { operation: 'webSockets', session });
    this.#upgrades.register(session, () => new WebSockets(session, server));
  }

  /**
   * Answers that go on in the next image: event streams, say. `listener` gets the response of each, a new one at once, and one that
   * crossed, with the request it answers, when `ready()` has committed. Call it before `ready()`; what it returns is called in the
   * HTTP server's 'request', behind `writeHead`, and sends the head.
   *
   * @returns `open(request, response)`, which throws {LiveUpdateError} EINVAL for an answer with a Content-Length or one that has
   *   ended; ENOENT when its server did not go to `listen()`.
   * @throws {LiveUpdateError} EINVAL for a bad name; EEXIST for a name in use; EBUSY after `ready()`.
   */
  streams(name: string, listener: StreamListener): OpenStream {
    const session = sessionName('stream', name);
    if (this.#isReady)
      throw new LiveUpdateError('EBUSY', 'call it before ready()', { operation: 'streams', session });
    const streams = new ResponseStreams(session, listener);
    this.#upgrades.register(session, () => streams);
    return (request, response) => streams.open(request, response);
  }

  /**
   * The connection of a socket that came through `listen()`, of a WebSocket of a server that `webSockets()` knows, or of a response
   * of `streams()`, with the program's own `state` for it.
   */
  connection<S = unknown>(socket: EventEmitter): Connection<S> {
    const connection = connectionOf(socket) ?? Connection.from(socket as Socket);
    if (connection === undefined) {
      throw new LiveUpdateError('ENOENT', 'the socket did not come through lu.listen()', {
        operation: 'connection',
      });
    }
    return connection as Connection<S>;
  }

  /**
   * The general form: any live file that a registered handler takes. `create` makes it in the first image.
   *
   * @throws {LiveUpdateError} EINVAL for a bad name; EEXIST; ENOENT when no handler takes what `create` returned.
   */
  async keep<T>(name: string, create: () => T | Promise<T>): Promise<T> {
    const handlers = this.#handlers;
    const make = async () => toFile(await create(), handlers.values());
    const file = await this.#keep<object>('keep', name, make, Object);
    const { toObject } = handlerOf(file, handlers.values(), sessionName('keep', name));
    return (toObject === undefined ? file : toObject(file)) as T;
  }

  /**
   * Calls `callback` in `ms` milliseconds, once, in whichever version of the program is there by then; and, with an interval, again and
   * again. Of a timer that came from the version before, the time that is left counts, and not `ms`; one that was called or
   * cancelled there stays so, until it is `set()` again. Nothing is called before `ready()` in a new version.
   *
   * @throws {LiveUpdateError} EINVAL for a bad name or time; EEXIST.
   */
  async timer(
    name: string,
    ms: number,
    callback: () => void,
    options: TimerOptions = {},
  ): Promise<KeptTimer> {
    const timer = await this.#keep('timer', name, () => KeptTimer.create(ms, options), KeptTimer);
    timer.bind(callback);
    return timer;
  }

  get #claiming(): Successor | Restored | Inherited | undefined {
    return this.#isReady ? undefined : this.#incoming;
  }

  async #keep<T extends object>(
    kind: Kind,
    name: string,
    make: () => T | Promise<T>,
    type: { readonly prototype: T },
    { wrap, accept }: KeepOptions<T> = {},
  ): Promise<T> {
    const session = sessionName(kind, name);
    if (this.#kept.has(session) || this.#making.has(session)) {
      throw new LiveUpdateError('EEXIST', 'the name is in use in this program', { operation: kind, session });
    }
    this.#making.add(session);
    try {
      // What is made while an update is under way could not be claimed by the successor any more.
      while (this.#updateOver !== undefined) await this.#updateOver.promise;
      const came = this.#claim(session, kind, type, accept);
      const file = came ?? (await make());
      const kept = wrap?.(file) ?? this.#wrap(kind, name, file);
      // In an update and after a crash luod holds it already; what came through a kernel was not in its hands. What luod cannot
      // hold is not kept at all.
      if (came === undefined || this.#origin === 'kexec') this.#hold(kept);
      this.#kept.set(session, kept);
      if (this.#claiming === undefined) this.#start(kept, () => undefined);
      return file;
    } finally {
      this.#making.delete(session);
    }
  }

  #wrap(kind: Kind, name: string, file: object): Kept {
    const session = sessionName(kind, name);
    const handler = handlerOf(file, this.#handlers.values(), session);
    return { session, kind, file, handler, isForeign: !this.#builtIn.has(handler) };
  }

  /** What came in under this name. In an update, a claim that fails is luod's to know: it says why. */
  #claim<T extends object>(
    session: string,
    kind: Kind,
    type: { readonly prototype: T },
    accept: ((file: T) => void) | undefined,
  ): T | undefined {
    try {
      return this.#claiming?.claim(session, (came) => {
        if (!(came instanceof (type as unknown as new () => T))) {
          throw new LiveUpdateError('EINVAL', 'what came in under this name is of another kind', {
            operation: kind,
            session,
          });
        }
        accept?.(came);
        return came;
      });
    } catch (error) {
      throw this.#failed(LiveUpdateError.from(error, { operation: kind, session }), 'preserve');
    }
  }

  #say(word: ImageToLuod): void {
    this.#lastWord = word;
    this.#link?.send(word);
  }

  #handlerOf(file: unknown): CarriedFileHandler | undefined {
    for (const handler of this.#handlers.values()) if (handler.ops.canPreserve(handler, file)) return handler;
    return undefined;
  }

  /** Gives luod a duplicate, so that the file outlives a crash of this process. */
  #hold({ session, file }: Kept): void {
    const link = this.#link;
    if (link === undefined) return;
    const handler = this.#handlerOf(file);
    if (handler?.custody === undefined) return;
    const { bytes, fds } = handler.custody(file);
    const record = Buffer.from(bytes).toString('base64');
    link.send({ type: 'hold', session, compatible: handler.compatible, record }, fds);
  }

  /** The program closed a listener: luod's duplicate would keep the port open. Its connections stay until they end. */
  #release(session: string, isOver: boolean): void {
    if (this.#lingering !== undefined) return;
    if (isOver) this.#kept.delete(session);
    this.#link?.send({ type: 'release', session });
  }

  /**
   * The commit: everything this program claimed is its own, and the sockets begin to flow. In a successor this is what
   * lets the old image freeze, so call it when the program could serve. Resolves when this image serves, has all connections, and
   * the TCP ports that the old one listened on by itself are free; unless that lingers, or does not say so within a second.
   *
   * @throws {LiveUpdateError} EINVAL when a session came in that was neither claimed nor dropped; ENOENT when the handler of
   *   one is not registered, also of one that is dropped; the errno of whatever failed in the cut. A successor should then
   *   exit: the old image serves on.
   */
  async ready(options: ReadyOptions = {}): Promise<void> {
    if (this.#isReady)
      throw new LiveUpdateError('EBUSY', 'ready() was called before', { operation: 'ready' });
    const link = this.#link;
    const incoming = this.#incoming;
    const dropped = new Set(options.drop);
    this.#upgrades.drop(dropped);
    // After a crash nobody can know what the program would have kept; else nothing is lost without a word.
    if (incoming !== undefined && this.#origin !== 'crash') {
      const missing = incoming.unclaimed().filter((name) => !dropped.has(name));
      if (missing.length > 0) throw this.#failed(unclaimedError(missing), 'preserve');
    }
    try {
      incoming?.requireHandlers();
    } catch (error) {
      throw this.#failed(LiveUpdateError.from(error, { operation: 'ready' }), 'preserve');
    }
    try {
      if (incoming instanceof Successor) this.#upgrades.rehearse();
      const report = await incoming?.finish(dropped, (onFlow) => this.#arm(onFlow));
      this.#isReady = true;
      this.#counters.open();
      this.#incoming = undefined;
      this.#handover.incoming = new IncomingRecords({ exclusive: true });
      // A luod that died during the cut has nothing to learn; this image serves.
      this.#say(report === undefined ? { type: 'ready' } : { type: 'finished', ...report });
      // All at once: each looks for connections that speak at every turn.
      await Promise.all(
        [...this.#kept.values()].map((kept) =>
          kept instanceof KeptListener ? kept.connections.announce(ANNOUNCING_MS) : undefined,
        ),
      );
      if (incoming instanceof Successor) {
        incoming.announced();
        await incoming.oldLeft();
      }
      link?.unref();
    } catch (error) {
      throw this.#failed(LiveUpdateError.from(error, { operation: 'ready' }));
    }
  }

  /** Past the commit: what will not start keeps nothing else from it. */
  #arm(onFlow: () => void): string[] {
    const failures: string[] = [];
    for (const kept of this.#kept.values()) {
      try {
        if (kept instanceof KeptListener) {
          if (kept.file.server !== undefined) kept.connections.arm(kept.file.server, onFlow);
        } else this.#start(kept, onFlow);
      } catch (error) {
        failures.push(`${kept.session}: ${LiveUpdateError.from(error, { operation: 'start' }).message}`);
      }
    }
    return failures;
  }

  async #prepareConnections(): Promise<void> {
    for (const kept of this.#kept.values())
      if (kept instanceof KeptListener) await kept.connections.prepare(PREPARED_PER_TURN);
  }

  /** Ahead of the commit: connections of a rolling listener, which share nothing but memory. */
  #serveAhead(session: string, record: Buffer): void {
    for (const { file } of this.#kept.values()) if (file instanceof Memory) file.makeWritable();
    const kept = this.#kept.get(session);
    const server = kept instanceof KeptListener ? kept.file.server : undefined;
    if (!(kept instanceof KeptListener) || server === undefined)
      throw new LiveUpdateError('ENOENT', 'no listener of this name was claimed', {
        operation: 'roll',
        session,
      });
    // A program that ends by itself, or by an exception, gives back, too.
    if (!this.#servesAhead) process.once('exit', () => this.#sendBack());
    this.#servesAhead = true;
    kept.connections.serveAhead(record, server);
  }

  /** Before the commit, what this image serves already goes back. The event loop must not turn any more. */
  #sendBack(): void {
    const incoming = this.#incoming;
    if (!(incoming instanceof Successor) || incoming.isCommitted) return;
    for (const kept of this.#kept.values()) {
      if (kept instanceof KeptListener && kept.connections.ahead > 0)
        incoming.giveBack(kept.session, kept.connections.giveBack());
    }
  }

  /** This image will not take over: what it serves goes back, and it waits, halted, to be killed. */
  #giveBack(): void {
    const link = this.#link;
    if (!(this.#incoming instanceof Successor) || this.#incoming.isCommitted || link === undefined) return;
    try {
      this.#sendBack();
      link.send({ type: 'gaveBack' });
      link.flushNow(FLUSH_MS);
      while (link.isOpen) {
        waitReadable([link.fd], -1);
        link.receiveNow();
      }
    } finally {
      process.exit(1);
    }
  }

  /** From now on `kept` is this image's own. */
  #start(kept: Kept, onFlow: () => void): void {
    if (kept instanceof KeptListener) return;
    const { handler, file, session } = kept;
    handler.onGone?.(file, () => {
      if (this.#kept.get(session) === kept) this.#release(session, true);
    });
    handler.start?.(file, onFlow);
  }

  /** A lingering image has done with connections of `session`. */
  #takeIn(session: string, record: Uint8Array, fds: number[]): void {
    const kept = this.#kept.get(session);
    const server = kept instanceof KeptListener ? kept.file.server : undefined;
    if (kept instanceof KeptListener && server !== undefined) kept.connections.takeIn(record, fds, server);
    // This program has closed the listener: its connections end.
    else for (const fd of fds) closeFd(fd);
  }

  #failed(error: LiveUpdateError, phase: Phase = 'retrieve'): LiveUpdateError {
    this.#link?.report(phase, error);
    return error;
  }

  /**
   * Replaces this program by the same command, or by `command`. Under luod by another process, and this one exits; without
   * luod in place, and this process becomes the next program. Never resolves when it succeeds.
   * @throws {LiveUpdateError} EBUSY while an update runs, and before ready(); EOPNOTSUPP when luod is gone; the reason of a
   *   rollback, in place also what ExecUpdate.run() says.
   */
  async update(command?: readonly string[]): Promise<never> {
    const link = this.#link;
    if (link === undefined) return this.#replaceInPlace(command);
    if (!link.isOpen) {
      throw new LiveUpdateError('EOPNOTSUPP', 'luod, which runs this program, is gone', {
        operation: 'update',
      });
    }
    if (this.#waiting !== undefined)
      throw new LiveUpdateError('EBUSY', 'an update is under way', { operation: 'update' });
    return new Promise<never>((_resolve, reject) => {
      this.#waiting = { command, reject };
      this.#askForUpdate();
    });
  }

  async #replaceInPlace(command: readonly string[] | undefined): Promise<never> {
    this.#requireTidy();
    const busy = this.#isReady ? 'an update is under way' : 'the program did not call ready() yet';
    if (!this.#isReady || this.#updateOver !== undefined)
      throw new LiveUpdateError('EBUSY', busy, { operation: 'update' });
    this.#updateOver = withResolvers();
    const update = new ExecUpdate({
      orchestrator: this.orchestrator,
      handover: this.#handover,
      kept: [...this.#kept.values()],
      command,
      generation: this.#generation + 1,
      announceFreeze: () => this.#announceFreeze(),
      announceFinish: () => this.emit('finish'),
    });
    try {
      return await update.run();
    } catch (error) {
      const reason = LiveUpdateError.from(error, { operation: 'update' });
      const wasFrozen = update.isFrozen;
      this.#calledBack = update;
      await update.rollback();
      this.#calledOff(reason, wasFrozen);
      throw reason;
    }
  }

  /** @throws {LiveUpdateError} EBUSY: a callback of an update that was called off hangs, and nobody knows what it will still do. */
  #requireTidy(): void {
    if (this.#calledBack === undefined || this.#calledBack.isTidy) return;
    const text = 'a callback of the update before, which was called off, has not come back yet';
    throw new LiveUpdateError('EBUSY', text, { operation: 'update' });
  }

  async #announceFreeze(): Promise<void> {
    for (const listener of this.listeners('freeze')) await listener();
  }

  #calledOff(reason: ErrorReport, wasFrozen: boolean): void {
    this.#updateOver?.resolve();
    this.#updateOver = undefined;
    if (wasFrozen) this.emit('unfreeze');
    this.emit('rollback', { code: reason.code, message: reason.message });
  }

  #askForUpdate(): void {
    if (this.#waiting === undefined) return;
    const { command } = this.#waiting;
    this.#link?.send({ type: 'update', id: 1, ...(command === undefined ? {} : { command: [...command] }) });
  }

  /**
   * The next luod is there. It knows what the last one had noted, and throws away what was on its way to that one; so it is told
   * again, in an order in which nothing depends on what it knows.
   */
  #tellAgain(): void {
    const link = this.#link;
    if (link === undefined) return;
    link.resume();
    if (this.#lingering !== undefined) {
      link.send({ type: 'lingering', connections: this.#lingering.connections });
      return;
    }
    // A halted image has told everything before, and its successor holds from now on.
    if (this.#predecessor?.isFrozen !== true) for (const kept of this.#kept.values()) this.#hold(kept);
    if (this.#lastWord !== undefined) link.send(this.#lastWord);
    if (this.#predecessor !== undefined) link.send({ type: 'updating' });
    else this.#askForUpdate();
  }

  #take(message: LuodToImage, fds: number[]): void {
    switch (message.type) {
      case 'preserve':
        this.#begin(fds, message.carrier);
        break;
      case 'warmUp':
        void this.#warmUp();
        break;
      case 'roll':
        void this.#roll();
        break;
      case 'giveBack':
        this.#giveBack();
        break;
      case 'freeze':
        void this.#freeze();
        break;
      case 'unfreeze':
        this.#predecessor?.decide('unfreeze', message.reason);
        if (this.#predecessor === undefined) this.#link?.send({ type: 'unfrozen' });
        else if (!this.#predecessor.isFrozen) void this.#rollback(message.reason);
        break;
      case 'finish':
        this.#drainMs = message.drainMs;
        if (message.leaveMs !== undefined) this.#leaveBy = performance.now() + message.leaveMs;
        this.#predecessor?.decide('finish', undefined);
        break;
      case 'updated': {
        const waiting = this.#waiting;
        this.#waiting = undefined;
        const { error } = message.result as { error?: { code: string; message: string } };
        waiting?.reject(reportedError({ code: error?.code, message: error?.message ?? 'the update failed' }));
        break;
      }
      case 'restarted':
        this.#tellAgain();
        break;
      default:
        // A newer luod may say more than this version knows.
        break;
    }
  }

  #begin(fds: number[], carrier: Carrier): void {
    const [directFd, commitFd] = fds;
    const link = this.#link;
    if (directFd === undefined || commitFd === undefined || link === undefined) return;
    let predecessor: Predecessor;
    try {
      this.#requireTidy();
      predecessor = new Predecessor({
        orchestrator: this.orchestrator,
        handover: this.#handover,
        kept: [...this.#kept.values()],
        link,
        carrier,
        directFd,
        commitFd,
        handler: (file) => this.#handlerOf(file),
        inherited: () => this.#late.toHandOn(),
        rehearse: async (sets, occasion) => {
          if (!this.#isOnStage) await rehearseFreeze(Program.onStage, sets, occasion);
        },
        announceFreeze: () => this.#announceFreeze(),
        endsProcess: !this.#isOnStage,
        haltMs: this.#isOnStage ? STAGE_HALT_MS : undefined,
      });
    } catch (error) {
      for (const fd of fds) closeFd(fd);
      link.report('preserve', LiveUpdateError.from(error));
      return;
    }
    this.#predecessor = predecessor;
    this.#updateOver = withResolvers();
    predecessor.preserve().then(
      (sent) => {
        if (this.#isAtWork(predecessor)) link.send({ type: 'preserved', ...sent, warms: true });
      },
      (error: unknown) => {
        if (this.#isAtWork(predecessor))
          link.report('preserve', LiveUpdateError.from(error, { operation: 'preserve' }));
      },
    );
  }

  async #warmUp(): Promise<void> {
    const link = this.#link;
    const incoming = this.#incoming;
    const predecessor = this.#predecessor;
    if (link === undefined) return;
    try {
      if (incoming instanceof Successor) {
        await incoming.warmUp();
        link.send({ type: 'warm', bytes: 0 });
      } else if (predecessor?.isPreserved === true) {
        const bytes = await predecessor.warmUp();
        if (this.#isAtWork(predecessor)) link.send({ type: 'warm', bytes });
      }
    } catch (error) {
      if (predecessor === undefined || this.#isAtWork(predecessor))
        link.report('preserve', LiveUpdateError.from(error, { operation: 'warmUp' }));
    }
  }

  /** Of an update that was called off meanwhile, luod wants to hear nothing more. */
  #isAtWork(predecessor: Predecessor): boolean {
    return this.#predecessor === predecessor && this.#calledBack !== predecessor;
  }

  async #roll(): Promise<void> {
    const predecessor = this.#predecessor;
    const link = this.#link;
    if (predecessor === undefined || link === undefined || !predecessor.isPreserved) return;
    try {
      link.send({ type: 'rolled', connections: await predecessor.roll() });
    } catch (error) {
      link.report('preserve', LiveUpdateError.from(error, { operation: 'roll' }));
    }
  }

  async #freeze(): Promise<void> {
    const predecessor = this.#predecessor;
    const link = this.#link;
    // A luod that took the update over says it again, in case the last one did not come to it.
    if (predecessor === undefined || link === undefined || !predecessor.isPreserved) return;
    try {
      const verdict = await predecessor.freeze();
      if (verdict === 'finish') this.#leave(predecessor);
      else await this.#rollback(predecessor.reason ?? { code: 'ECANCELED', message: 'called off' });
    } catch (error) {
      // Not frozen (any more); luod calls the update off when it hears of it, unless it has already.
      if (this.#predecessor === predecessor)
        link.report('freeze', LiveUpdateError.from(error, { operation: 'freeze' }));
    }
  }

  /** Without a turn of the event loop: it would accept connections and read bytes that are the successor's. */
  #leave(predecessor: Predecessor): void {
    const listeners = [...this.#kept.values()].filter((kept) => kept instanceof KeptListener);
    if (this.#isOnStage) {
      // The process goes on, and so does its loop: the next image alone is to answer.
      for (const { connections } of listeners) connections.detach();
      return;
    }
    const lingers = countStaying(listeners) > 0;
    // Ten thousand connections are let go of on a core that the next image's clients wait for. With few, its program's ready() waits for
    // this image to come to its end of it; what the program does at 'finish' is not kept waiting either.
    const count = listeners.reduce((sum, { connections }) => sum + connections.size, 0);
    if (!lingers && count >= MANY_CONNECTIONS && this.listenerCount('finish') === 0) giveWay();
    const failures = predecessor.sever(lingers);
    // A warning would come too late for this process.
    for (const { message } of failures) process.stderr.write(`could not let go of everything: ${message}\n`);
    // With something of the next image's in reach it cannot wait.
    if (failures.length > 0) this.#exit();
    if (!lingers) this.#exit(predecessor);
    predecessor.leave(true);
    this.#late.letGo();
    this.#counters.sever();
    this.#lingering = new Lingering({
      listeners,
      direct: predecessor.takeDirect(() => this.#lingering?.directEnded()),
      drainMs: this.#drainMs,
      changed: (connections) => this.#say({ type: 'lingering', connections }),
      over: () => this.#exit(),
    });
    this.#lingering.begin();
    this.emit('linger', this.#lingering.connections);
  }

  /** @param predecessor Of an image that was just taken over: stands by, halted, behind the program's last word. */
  #exit(predecessor?: Predecessor): never {
    try {
      this.emit('finish');
      predecessor?.leave(false);
      // What is left to do is done on a core that the next image needs.
      giveWay();
      predecessor?.standBy(this.#leaveBy - performance.now());
      // Who is not root is refused when anybody has said it in the last tenth of a second.
      giveWay();
    } finally {
      process.exit(0);
    }
  }

  async #rollback(reason: ErrorReport): Promise<void> {
    const predecessor = this.#predecessor;
    if (predecessor === undefined) return;
    const wasFrozen = predecessor.isFrozen;
    this.#calledBack = predecessor;
    const lost = await predecessor.rollback();
    this.#predecessor = undefined;
    this.#calledOff(reason, wasFrozen);
    this.#link?.send({ type: 'unfrozen', lost });
  }

  #lost(): void {
    if (this.#isOnStage) return;
    if (this.#lingering !== undefined) return;
    const predecessor = this.#predecessor;
    if (predecessor === undefined) this.#orphan();
    // A frozen image decides by the commit word; one that is not frozen yet has nobody left to hand over to.
    else if (!predecessor.isFrozen)
      void this.#rollback({ code: 'EPIPE', message: 'luod died' }).then(() => this.#orphan());
  }

  #orphan(): void {
    // Before the commit the old image is in charge, and waits for this one's end to go on.
    if (this.#incoming instanceof Successor && !this.#incoming.isCommitted) {
      this.#giveBack();
      process.exit(1);
    }
    if (this.listenerCount('orphaned') > 0) this.emit('orphaned');
    else
      process.emitWarning(
        'luod is gone: the program serves on, but nothing can update or restart it',
        'LiveUpdateWarning',
      );
  }
}
