/**
 * luod itself: the socket, who is at its other end, and the services.
 *
 * Everybody connects to the same socket. A connection that says hello with the secret of an image is that image's; every
 * other one is an operator's, who asks and is answered. Only processes of luod's own user get that far: the socket's mode
 * keeps strangers out, and SO_PEERCRED is checked again at each connection.
 */
import { createServer, type Server } from 'node:net';
import { z } from 'zod';
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import { detach } from '../handover/dial.js';
import { type ImageToLuod, PROTOCOL_VERSION } from '../handover/protocol.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { execve } from '../linux/exec.js';
import { closeFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { blockSignals, unblockSignals } from '../linux/signal-mask.js';
import { peerCredentials } from '../linux/socket-facts.js';
import { type AgentConnection, Agents } from './agents.js';
import { type Audit, noAudit } from './audit.js';
import { Events, type LuodEvent } from './events.js';
import { takeListener } from './given-listener.js';
import type { CustodyKind, HostedFile, HostSession, Peer } from './host-session.js';
import { GROUP, HostSessions } from './host-sessions.js';
import type { ImageProcess } from './image-process.js';
import { type KeptItem, type LastingStore, noStore, type Store } from './keeper-link.js';
import { askKernel } from './kernel-device.js';
import { kernelSessions, recoverKernelIndex } from './kernel-index.js';
import { KernelUpdate, type KexecRequest, type KexecResult } from './kernel-update.js';
import { openLastingStore } from './lasting-store.js';
import { defaultLimits, type Limits } from './limits.js';
import { DEFAULT_DEADLINES, errorReply, settles } from './phases.js';
import { parseImageMessage, parseRequest, type Request } from './requests.js';
import type { Service, ServiceStatus } from './service.js';
import type { ServiceManager } from './service-manager.js';
import { SERVICE_GROUP } from './service-record.js';
import { type RunOptions, Services } from './services.js';
import { FLB_GROUP } from './shared-flbs.js';
import { claimSocketPath, closeToStrangers } from './socket-path.js';
import { checkSuccessor } from './successor-check.js';

/** What luod does something about: its command installs handlers, and then unblocks them. */
export const HANDLED_SIGNALS: readonly NodeJS.Signals[] = [
  'SIGTERM',
  'SIGINT',
  'SIGQUIT',
  'SIGHUP',
  'SIGUSR1',
  'SIGUSR2',
];

/** Restarts of a service in a row before luod gives up, unless it is told otherwise. */
export const DEFAULT_MAX_RESTARTS = 10;

/** Clients that wait to be let in, while a luod is busy or the next one starts. */
const BACKLOG = 4096;

/** How long the services stand still, at most, until the operator has read the last word before a kexec. */
const FAREWELL_MS = 200;

export interface LuodOptions {
  readonly socket: string;
  readonly version: string;
  readonly log: (line: string) => void;
  readonly limits?: Limits;
  readonly audit?: Audit;
  /** Users of this group may connect, too, and have sessions of their own. */
  readonly group?: number | undefined;
  /** Keep everything with a keeper, which waits so many milliseconds for the next luod when this one is killed. */
  readonly keeperPatienceMs?: number | undefined;
  /** The service manager, which may give a listener and keep descriptors in the keeper's place. */
  readonly manager?: ServiceManager | undefined;
}

export interface LuodStatus {
  readonly pid: number;
  readonly version: string;
  readonly socket: string;
  readonly uptimeSeconds: number;
  readonly memoryBytes: number;
  readonly heldFds: number;
  readonly services: ServiceStatus[];
}

/** A named thing that outlives a program, and in whose hands it is. */
export interface SessionStatus {
  readonly session: string;
  readonly service: string;
  readonly holder: 'luod' | 'kernel' | 'client';
  /**
   * held: for the running program · unclaimed, claimed: left by the previous kernel, and asked for or not · owned, orphaned,
   * claimed: a client's, that it made, left, or took from the one before it.
   */
  readonly state: 'held' | 'unclaimed' | 'claimed' | 'owned' | 'orphaned' | 'over';
  readonly ageSeconds: number;
  /** Of a client's. */
  readonly uid?: number;
  readonly pid?: number;
  readonly custody?: CustodyKind;
  readonly orphanedSeconds?: number;
  readonly files?: HostedFile[];
}

interface Client {
  /** Its group in the keeper. */
  readonly group: string;
  readonly peer: Peer;
  wire: Wire | undefined;
  image: ImageProcess | undefined;
  /** luod's own user, or root: may ask about and do everything. */
  readonly isOperator: boolean;
  /** Called when it has read the farewell. */
  goodbye?: () => void;
  /** Ends its subscription to events. */
  unsubscribe?: () => void;
  /** What it is to luo-agent's dialogue. */
  readonly agent: AgentConnection;
}

export class Luod {
  readonly #options: LuodOptions;
  readonly #server: Server;
  readonly #services: Services;
  readonly #clients = new Set<Client>();
  readonly #events = new Events();
  readonly #agents: Agents;
  readonly #limits: Limits;
  readonly #hosted: HostSessions;
  readonly #lasting: LastingStore | undefined;
  readonly #store: Store;
  #nextClient = 1;
  /** Services of the luod before that nobody asked for again. */
  readonly #restored = new Set<string>();
  #isLeaving = false;

  private constructor(options: LuodOptions, lasting: LastingStore | undefined) {
    this.#options = options;
    this.#lasting = lasting;
    this.#store = lasting ?? noStore;
    lasting?.onReplaced(() => this.#tellAgain());
    this.#services = new Services({
      socket: options.socket,
      log: options.log,
      store: this.#store,
      busy: (error) => this.#busy(error),
      changed: (event) => this.#publish(event),
    });
    this.#limits = options.limits ?? defaultLimits();
    const audit = options.audit ?? noAudit;
    this.#hosted = new HostSessions({
      limits: this.#limits,
      audit: (event) => {
        audit(event);
        this.#publish(event);
      },
      log: options.log,
      store: this.#store,
    });
    this.#agents = new Agents({
      sessions: this.#hosted,
      changed: ({ group }, subscriptions) => this.#store.amend(group, 'socket', { subscriptions }),
    });
    // Paused, because Node must not read from what becomes a Wire: its reads would drop descriptors.
    this.#server = createServer({ pauseOnConnect: true }, (socket) => {
      try {
        this.#accept(detach(socket));
      } catch (error) {
        options.log(`a client was refused: ${LiveUpdateError.from(error).message}`);
      }
    });
  }

  /**
   * Listens; with a keeper, takes over first what a luod before this one left there.
   * @throws {LiveUpdateError} EADDRINUSE, EACCES, EPERM, EINVAL: see `claimSocketPath`; ECHILD when the keeper does not start.
   */
  static async listen(options: LuodOptions): Promise<Luod> {
    const { keeperPatienceMs: patienceMs, socket, manager, log } = options;
    if (patienceMs === undefined) {
      const luod = new Luod(options, undefined);
      await luod.#listen(undefined);
      return luod;
    }
    const { store, items } = await openLastingStore({ socket, patienceMs, log }, manager);
    try {
      const luod = new Luod(options, store);
      await luod.#listen(luod.#restore(items));
      return luod;
    } catch (error) {
      // With nothing to keep it need not wait for the next one.
      if (items.length === 0) store.bye();
      throw error;
    }
  }

  /** @param listener The listening socket of the luod before; undefined to make one. */
  async #listen(restored: number | undefined): Promise<void> {
    const { socket: path, group, manager } = this.#options;
    const given = manager === undefined ? undefined : takeListener(manager.given, path);
    if (given !== undefined && restored !== undefined) closeFd(restored);
    const listener = given ?? restored;
    if (listener === undefined) await claimSocketPath(path);
    // The mode counts from the first moment: between bind and chmod a stranger could connect.
    const umask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', (error) => reject(LiveUpdateError.from(error, { operation: 'listen' })));
        this.#server.listen(
          { backlog: BACKLOG, ...(listener === undefined ? { path } : { fd: listener }) },
          resolve,
        );
      });
      // Who may connect to a socket of the manager's is the manager's business.
      if (given === undefined) closeToStrangers(path, group);
    } finally {
      process.umask(umask);
    }
    // Node does not know the path of a listener that it did not bind, which has to go with the server.
    if (restored !== undefined && given === undefined)
      (this.#server as { _pipeName?: string })._pipeName = path;
    else this.#noteListener();
  }

  /** Tells a new keeper everything. */
  #tellAgain(): void {
    this.#noteListener();
    for (const { group, wire, agent } of this.#clients) {
      const subscriptions = this.#agents.subscriptions(agent);
      if (wire?.isOpen === true) this.#store.put(group, 'socket', { subscriptions }, [wire.fd]);
    }
    this.#services.tellAgain();
    this.#hosted.tellAgain();
  }

  #noteListener(): void {
    const { version } = this.#options;
    this.#store.put(LISTENER, 'socket', { version }, [handleFd(this.#server) as number]);
  }

  /** Takes over what the keeper has. @returns the listening socket. */
  #restore(items: readonly KeptItem[]): number | undefined {
    const groups = new Map<string, KeptItem[]>();
    for (const item of items) {
      const group = groups.get(item.group);
      if (group === undefined) groups.set(item.group, [item]);
      else group.push(item);
    }
    let listener: number | undefined;
    const restored: HostSession[] = [];
    const clients = new Map<string, Client>();
    for (const [group, own] of groups) {
      if (group === LISTENER) listener = own[0]?.fds[0];
      else if (group.startsWith(CLIENT)) {
        this.#nextClient = Math.max(this.#nextClient, Number(group.slice(CLIENT.length)) + 1);
        const client = this.#adopt(own[0]?.fds[0] as number, group);
        clients.set(group, client);
        const { subscriptions } = clientRecord.parse(own[0]?.record);
        for (const subscription of subscriptions) this.#agents.restore(subscription, client.agent);
      }
    }
    for (const [group, own] of groups) {
      try {
        if (group.startsWith(FLB_GROUP)) for (const item of own) this.#hosted.flbs.restore(item);
      } catch (error) {
        this.#options.log(`'${group}' of the luod before: ${LiveUpdateError.from(error).message}`);
      }
    }
    for (const [group, own] of groups) {
      try {
        if (group.startsWith(GROUP)) restored.push(this.#hosted.restore(own));
        else if (group.startsWith(SERVICE_GROUP)) {
          this.#services.restore(own, (image, of) => this.#connect(image, clients.get(of)));
        }
      } catch (error) {
        this.#options.log(`'${group}' of the luod before: ${LiveUpdateError.from(error).message}`);
      }
    }
    this.#hosted.flbs.settle((group) => clients.has(group));
    for (const { name } of this.#services) this.#restored.add(name);
    // First whose owner died meanwhile, so that names are free when somebody asks for them.
    for (const session of restored) session.resume();
    for (const client of this.#clients) client.wire?.send({ type: 'restarted' });
    if (items.length > 0) {
      this.#options.log(
        `took over ${restored.length} sessions, ${this.#services.size} services and ${this.#clients.size} clients from the luod before`,
      );
    }
    return listener;
  }

  get socket(): string {
    return this.#options.socket;
  }

  /** Looks which services the luod before a kexec left something for. @throws {LiveUpdateError} EIO, EINVAL. */
  async recover(): Promise<void> {
    const index = await askKernel(recoverKernelIndex, (error) => this.#busy(error));
    if (index === undefined) return;
    const names = index.services.map(({ session }) => `'${session}'`).join(', ');
    this.#options.log(`the previous kernel keeps ${names || 'nothing'} for their services`);
  }

  #busy({ message }: LiveUpdateError): void {
    this.#options.log(
      `${message}; what the previous kernel may have kept stays there: start luod again without it`,
    );
  }

  /**
   * Starts a service, or finds it when the luod before ran it.
   * @throws {LiveUpdateError} EEXIST when this luod was told to run it already.
   */
  run(options: RunOptions): Service {
    const restored = this.#restored.delete(options.name) ? this.#services.find(options.name) : undefined;
    return restored ?? this.#services.run(options);
  }

  /** Ends every service and waits until it has. */
  stopServices(signal: NodeJS.Signals): Promise<void> {
    return this.#services.stop(signal);
  }

  /** An image has its connection back. */
  #connect(image: ImageProcess, client: Client | undefined): void {
    if (client?.wire === undefined) return;
    client.image = image;
    image.connect(client.wire, image.pid as number, () => this.#hangUp(client));
  }

  /** Ends a client's connection from this side. */
  #hangUp(client: Client): void {
    client.wire?.close();
    this.#forget(client);
  }

  #forget(client: Client): void {
    client.unsubscribe?.();
    this.#agents.left(client.agent);
    this.#hosted.flbs.left(client.group);
    if (this.#clients.delete(client)) this.#store.drop(client.group);
  }

  #accept(fd: number): void {
    const peer = peerCredentials(fd);
    const isMember = peer.uid === process.getuid?.() || peer.uid === 0;
    // With a group the socket's mode has let him in, who then has his own sessions and nothing else.
    if (!isMember && this.#options.group === undefined) {
      closeFd(fd);
      throw new LiveUpdateError('EACCES', `uid ${peer.uid} may not use this luod`);
    }
    if (this.#clients.size >= this.#limits.clients) {
      const full = new LiveUpdateError('EMFILE', `luod has ${this.#limits.clients} clients, all that it may`);
      const wire = new Wire(fd, { message: () => undefined, closed: () => undefined });
      wire.send({ type: 'refused', error: errorReply(full) });
      wire.close();
      return;
    }
    this.#adopt(fd, undefined);
  }

  /** @param restored The group of a client of the luod before; undefined for a new one. */
  #adopt(fd: number, restored: string | undefined): Client {
    const peer = peerCredentials(fd);
    const group = restored ?? `${CLIENT}${this.#nextClient++}`;
    const isOperator = peer.uid === process.getuid?.() || peer.uid === 0;
    const agent: AgentConnection = { group, peer, send: (message, fds) => client.wire?.send(message, fds) };
    const client: Client = { group, peer, wire: undefined, image: undefined, isOperator, agent };
    const { lineBytes, stallMs } = this.#limits;
    client.wire = new Wire(
      fd,
      {
        message: (message, fds) => this.#message(client, message, fds),
        closed: () => {
          this.#forget(client);
          client.image?.disconnected();
        },
      },
      { lineBytes, stallMs },
      { skipTo: restored === undefined ? undefined : 'resume' },
    );
    this.#clients.add(client);
    if (restored === undefined) this.#store.put(group, 'socket', {}, [fd]);
    return client;
  }

  #message(client: Client, message: WireMessage, fds: number[]): void {
    const wire = client.wire as Wire;
    if (client.image !== undefined) {
      try {
        client.image.receive(parseImageMessage(message) as ImageToLuod, fds);
      } catch (error) {
        for (const fd of fds) closeFd(fd);
        this.#options.log(
          `pid ${client.image.pid} sent a bad message: ${LiveUpdateError.from(error).message}`,
        );
      }
      return;
    }
    const { id } = message;
    if (message.type === 'resume') return;
    try {
      const request = parseRequest(message);
      if (!client.isOperator && !OPEN_TO_ALL.has(request.type)) {
        throw new LiveUpdateError('EACCES', `uid ${client.peer.uid} may not ask for ${request.type}`);
      }
      switch (request.type) {
        case 'hello':
          this.#greet(client, request);
          break;
        case 'status':
          wire.send({ type: 'reply', id, ok: true, ...this.status() });
          break;
        case 'services':
          wire.send({ type: 'reply', id, ok: true, services: this.#services.status() });
          break;
        case 'list':
        case 'sessions':
          wire.send({
            type: 'reply',
            id,
            ok: true,
            sessions: this.sessions(client.isOperator ? undefined : client.peer.uid),
          });
          break;
        case 'register_flb':
          this.#registerFlb(client, request, fds[0]);
          wire.send({ type: 'reply', id, ok: true });
          break;
        case 'retrieve_flb':
          this.#give(wire, id, this.#hosted.flbs.retrieve(client.peer, request.name));
          break;
        case 'unregister_flb':
          wire.send({ type: 'reply', id, ok: true, files: this.#unregisterFlb(client, request) });
          break;
        case 'list_flbs': {
          const flbs = this.#hosted.flbs.status(client.isOperator ? undefined : client.peer.uid);
          wire.send({ type: 'reply', id, ok: true, flbs });
          break;
        }
        case 'agent':
          this.#agent(client, request);
          break;
        case 'preserve':
          this.#answer(wire, id, this.#agents.preserve(request.timeout ?? PRESERVE_MS));
          break;
        case 'subscribe':
          this.#subscribe(client);
          wire.send({ type: 'reply', id, ok: true });
          break;
        case 'create_session':
          this.#give(wire, id, this.#hosted.create(client.peer, request.name, request.custody ?? 'release'));
          break;
        case 'retrieve_session':
          this.#give(wire, id, this.#hosted.retrieve(client.peer, request.name));
          break;
        case 'drop_session': {
          const uid = request.uid ?? client.peer.uid;
          if (uid !== client.peer.uid && !client.isOperator) {
            throw new LiveUpdateError('EACCES', "only an operator may drop another user's session");
          }
          wire.send({
            type: 'reply',
            id,
            ok: true,
            dropped: this.#hosted.drop(client.peer, uid, request.name),
          });
          break;
        }
        case 'kexec':
          this.#answer(
            wire,
            id,
            this.#kexec(client, id, { ...request, deadlines: request.deadlines ?? DEFAULT_DEADLINES }),
          );
          break;
        case 'self_update':
          this.#selfUpdate(wire, id, request).catch((error: unknown) => wire.send(refusal(id, error)));
          break;
        case 'goodbye':
          client.goodbye?.();
          break;
        case 'start':
          wire.send({ type: 'reply', id, ok: true, ...this.#startService(request).status() });
          break;
        case 'stop':
          this.#answer(wire, id, this.#stopService(request.service, request.retry));
          break;
        case 'update':
          this.#answer(wire, id, this.#services.get(request.service).update(request));
          break;
        case 'rollback':
          this.#answer(wire, id, this.#services.get(request.service).rollback(request));
          break;
      }
    } catch (error) {
      wire.send(refusal(id, error, message.type === 'agent' ? message.cmd : undefined));
    } finally {
      // What is kept is kept by a duplicate.
      for (const fd of fds) closeFd(fd);
    }
  }

  #registerFlb(
    client: Client,
    request: Extract<Request, { type: 'register_flb' }>,
    fd: number | undefined,
  ): void {
    const { flbs } = this.#hosted;
    // Asked before, of a luod that was killed when it had done it.
    if (request.retry === true && flbs.isRegisteredBy(client.peer, request.name, client.group)) return;
    flbs.register(client.peer, request.name, fd, client.group);
  }

  #unregisterFlb(client: Client, { name, retry }: Extract<Request, { type: 'unregister_flb' }>): number {
    const { flbs } = this.#hosted;
    if (retry === true && !flbs.isRegisteredBy(client.peer, name, client.group))
      return flbs.files(client.peer, name);
    return flbs.unregister(client.peer, name);
  }

  #agent(client: Client, { cmd, id }: Extract<Request, { type: 'agent' }>): void {
    const wire = client.wire as Wire;
    const reply = { type: 'reply', cmd, id, ok: true };
    if (cmd === 'CLAIM') {
      const fd = this.#agents.claim(client.peer, id);
      try {
        wire.send(reply, [fd]);
      } finally {
        closeFd(fd);
      }
      return;
    }
    if (cmd === 'SUBSCRIBE') this.#agents.subscribe(id, client.agent);
    else this.#agents.ready(id, client.agent);
    wire.send(reply);
  }

  #publish(event: LuodEvent): void {
    this.#events.publish(event);
    this.#options.manager?.status(() => this.summary());
  }

  #subscribe(client: Client): void {
    client.unsubscribe?.();
    client.unsubscribe = this.#events.subscribe({
      uid: client.peer.uid,
      isOperator: client.isOperator,
      send: (event) => client.wire?.send({ ...event }),
      hangUp: () => this.#hangUp(client),
    });
  }

  /** Replies when the work is done, or has failed. */
  #answer(wire: Wire, id: unknown, work: Promise<object>): void {
    work.then(
      (result) => wire.send({ type: 'reply', id, ok: true, ...result }),
      (error: unknown) => wire.send(refusal(id, error)),
    );
  }

  #startService(request: Extract<Request, { type: 'start' }>): Service {
    const { service: name, command, cwd, retry } = request;
    const running = this.#services.find(name);
    if (retry === true && running !== undefined) return running;
    const { restart = 'on-failure', maxRestarts = DEFAULT_MAX_RESTARTS, fresh = false } = request;
    return this.#services.run({ name, command, cwd, restart, maxRestarts, fresh });
  }

  async #stopService(name: string | undefined, retry: boolean | undefined): Promise<object> {
    // Asked before, of a luod that was killed when it had ended it.
    if (retry === true && name !== undefined && this.#services.find(name) === undefined)
      return { service: name };
    const service = this.#services.get(name);
    service.stop('SIGTERM');
    return { service: service.name, status: await service.stopped };
  }

  #greet(client: Client, hello: Extract<Request, { type: 'hello' }>): void {
    const wire = client.wire as Wire;
    if (hello.image === undefined || hello.pid === undefined) {
      const versions = Array.isArray(hello.protocol) ? hello.protocol : [hello.protocol];
      if (!versions.includes(PROTOCOL_VERSION)) {
        const text = `this luod speaks protocol ${PROTOCOL_VERSION}`;
        throw new LiveUpdateError('EPROTONOSUPPORT', text, { operation: 'hello' });
      }
      const about = { protocol: PROTOCOL_VERSION, version: this.#options.version, limits: this.#limits };
      wire.send({ type: 'reply', id: hello.id, ok: true, ...about });
      return;
    }
    const expected = this.#services.expects(hello.image);
    if (expected === undefined) {
      const message = 'no image with this secret is expected';
      wire.send({ type: 'refused', error: { code: 'EPERM', message } });
    } else if (hello.protocol !== PROTOCOL_VERSION) {
      const message = `it speaks protocol ${hello.protocol}, this luod ${PROTOCOL_VERSION}`;
      wire.send({ type: 'refused', error: { code: 'EPROTONOSUPPORT', message } });
    } else {
      const { service, image } = expected;
      client.image = image;
      service.greet(image, wire, hello.pid, () => this.#hangUp(client), client.group);
    }
  }

  /**
   * Replaces this program by another version of itself, in place. What it holds is with the keeper, from which the next one takes it
   * as after a death; so the answer is the next one's.
   */
  async #selfUpdate(
    wire: Wire,
    id: unknown,
    request: { binary?: string | undefined; retry?: boolean | undefined },
  ): Promise<void> {
    const { version, log, manager } = this.#options;
    if (request.retry === true) {
      const now = { pid: process.pid, sessions: this.#hosted.count, services: this.#services.size };
      wire.send({ type: 'reply', id, ok: true, version, ...now });
      return;
    }
    if (this.#lasting === undefined) {
      throw new LiveUpdateError('EOPNOTSUPP', 'it runs without a keeper', { operation: 'self-update' });
    }
    const busy = Array.from(this.#services).find(({ state }) => state === 'updating');
    if (busy !== undefined || this.#isLeaving) {
      const what = busy === undefined ? 'a kexec' : `an update of '${busy.name}'`;
      throw new LiveUpdateError('EBUSY', `${what} is under way`, { operation: 'self-update' });
    }
    const script = request.binary ?? (process.argv[1] as string);
    const { keeper, environment, callOff } = await this.#lasting.handOver();
    try {
      await checkSuccessor(script, keeper);
      log(`replaces itself by ${script}`);
      manager?.reloading();
      const words = [process.execPath, ...process.execArgv, script, ...process.argv.slice(2)];
      // One that comes meanwhile is for the next luod, which has no handlers yet.
      blockSignals(HANDLED_SIGNALS);
      execve(process.execPath, words, { ...process.env, ...environment });
    } finally {
      // It goes on as it was.
      callOff();
      unblockSignals(HANDLED_SIGNALS);
    }
  }

  /** Sends a session's descriptor, which is the client's alone. */
  #give(wire: Wire, id: unknown, fd: number): void {
    try {
      wire.send({ type: 'reply', id, ok: true }, [fd]);
    } finally {
      closeFd(fd);
    }
  }

  async #kexec(client: Client, id: unknown, request: KexecRequest): Promise<KexecResult> {
    const wire = client.wire as Wire;
    if (this.#isLeaving) throw new LiveUpdateError('EBUSY', 'a kexec is under way');
    this.#isLeaving = true;
    try {
      const { version, log } = this.#options;
      const update = new KernelUpdate({
        services: [...this.#services],
        hosted: this.#hosted.status(),
        version,
        request,
        progress: (line) => {
          log(`kexec: ${line}`);
          wire.send({ type: 'progress', id, line });
        },
        farewell: async (result) => {
          const { promise, resolve } = withResolvers<void>();
          client.goodbye = resolve;
          wire.send({ type: 'farewell', id, ...result });
          await settles(promise, FAREWELL_MS);
        },
      });
      const result = await update.run();
      if (result.error !== undefined) log(`kexec: ${result.error.message}`);
      return result;
    } finally {
      this.#isLeaving = false;
    }
  }

  /** One line for people. */
  summary(): string {
    const heldFds = this.#hosted.heldFds + this.#services.heldFds;
    const { socket } = this.#options;
    return `${this.#services.size} services, ${this.#hosted.count} sessions, ${heldFds} descriptors held; ${socket}`;
  }

  status(): LuodStatus {
    return {
      pid: process.pid,
      version: this.#options.version,
      socket: this.#options.socket,
      uptimeSeconds: Math.round(process.uptime()),
      memoryBytes: process.memoryUsage.rss(),
      heldFds: this.#hosted.heldFds + this.#services.heldFds,
      services: this.#services.status(),
    };
  }

  /** @param uid Only what is this user's: of luod's services nothing. */
  sessions(uid?: number): SessionStatus[] {
    const hosted = this.#hosted
      .status(uid)
      .map((status): SessionStatus => ({ service: `uid ${status.uid}`, holder: 'client', ...status }));
    if (uid !== undefined) return hosted;
    const now = Date.now();
    const held = [...this.#services].flatMap(({ name: service, custody }) =>
      [...custody.entries()].map(
        ([session, { since }]): SessionStatus => ({
          session,
          service,
          holder: 'luod',
          state: 'held',
          ageSeconds: Math.round((now - since) / 1000),
        }),
      ),
    );
    const kept = kernelSessions().map(
      ({ session, service, state, savedAt }): SessionStatus => ({
        session,
        service,
        holder: 'kernel',
        state,
        ageSeconds: Math.round((now - savedAt) / 1000),
      }),
    );
    return [...held, ...kept, ...hosted];
  }

  /** Closes the socket and every connection; services must have ended. */
  close(): void {
    this.#server.close();
    this.#hosted.close();
    this.#lasting?.bye();
    for (const client of this.#clients) client.wire?.close();
    this.#clients.clear();
  }
}

/** Groups in the keeper. */
const LISTENER = 'listener';
const CLIENT = 'client ';

/** What a member of the group may ask for. */
const OPEN_TO_ALL: ReadonlySet<string> = new Set([
  'create_session',
  'retrieve_session',
  'drop_session',
  'sessions',
  'subscribe',
  'hello',
  'list',
  'register_flb',
  'retrieve_flb',
  'unregister_flb',
  'list_flbs',
  'agent',
]);

/** How long subscribers may take to preserve, unless the operator says otherwise. */
const PRESERVE_MS = 30_000;

/** A client as the keeper has it. */
const clientRecord = z.object({
  subscriptions: z.array(z.object({ id: z.string(), ready: z.boolean() })).default([]),
});

function refusal(id: unknown, error: unknown, cmd?: unknown): WireMessage {
  return { type: 'reply', cmd, id, ok: false, error: errorReply(error) };
}
