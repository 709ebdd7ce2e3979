/**
 * luod itself: the socket, who is at its other end, and the services.
 *
 * Everybody connects to the same socket. A connection that says hello with the secret of an image is that image's; every
 * other one is an operator's, who asks and is answered. Only processes of luod's own user get that far: the socket's mode
 * keeps strangers out, and SO_PEERCRED is checked again at each connection.
 */
import { createServer, type Server } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { detach } from '../handover/dial.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { compareOpenFiles } from '../linux/kcmp.js';
import { peerCredentials } from '../linux/socket-facts.js';
import { type AgentConnection, Agents } from './agents.js';
import { type Audit, noAudit } from './audit.js';
import { CLIENT_GROUP, type Client, clientRecord, LISTENER_GROUP, listenerRecord } from './client.js';
import { ClientRequests } from './client-requests.js';
import { Events, type LuodEvent } from './events.js';
import { takeListener } from './given-listener.js';
import type { HostSession } from './host-session.js';
import { GROUP, HostSessions } from './host-sessions.js';
import { parseImageMessage } from './image-messages.js';
import type { ImageProcess } from './image-process.js';
import { type KeptItem, type LastingStore, noStore, type Store } from './keeper-link.js';
import { KernelClients } from './kernel-clients.js';
import { askKernel } from './kernel-device.js';
import { markKernelSession, recoverKernelIndex } from './kernel-index.js';
import { openLastingStore } from './lasting-store.js';
import { defaultLimits, type Limits } from './limits.js';
import { type LuodStatus, type SessionStatus, sessionsOf } from './luod-status.js';
import { errorReply } from './phases.js';
import { replaceSelf } from './self-update.js';
import type { ServiceManager } from './service-manager.js';
import { SERVICE_GROUP } from './service-record.js';
import { type RunOptions, Services, type Target } from './services.js';
import { FLB_GROUP } from './shared-flbs.js';
import { claimSocketPath, closeToStrangers, removeStale } from './socket-path.js';
import { WorkerGroup } from './worker-group.js';

/** Clients that wait to be let in, while a luod is busy or the next one starts. */
const BACKLOG = 4096;

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

export class Luod {
  readonly #options: LuodOptions;
  readonly #server: Server;
  /** Where it listens on a socket that the luod before bound. */
  #leftPath: string | undefined;
  readonly #services: Services;
  readonly #clients = new Set<Client>();
  readonly #events = new Events();
  readonly #agents: Agents;
  readonly #requests: ClientRequests;
  readonly #limits: Limits;
  readonly #hosted: HostSessions;
  readonly #lasting: LastingStore | undefined;
  readonly #store: Store;
  #nextClient = 1;
  /** The listening socket is the service manager's. */
  #isGiven = false;
  /** Services of the luod before that nobody asked for again. */
  readonly #restored = new Set<string>();

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
      limit: this.#limits.subscriptionsPerClient,
      changed: ({ group }, subscriptions) => this.#store.amend(group, 'socket', { subscriptions }),
    });
    const { version, log, manager } = options;
    this.#requests = new ClientRequests({
      version,
      log,
      limits: this.#limits,
      services: this.#services,
      hosted: this.#hosted,
      agents: this.#agents,
      events: this.#events,
      status: (service) => this.status(service),
      sessions: (uid) => this.sessions(uid),
      replaceSelf: (script) =>
        replaceSelf({ store: lasting, manager, log, script, summary: () => this.summary() }),
      hangUp: (client) => this.#hangUp(client),
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
    const isKept = restored !== undefined && (given === undefined || compareOpenFiles(given, restored) === 0);
    if (given !== undefined) {
      this.#isGiven = true;
      if (restored !== undefined) closeFd(restored);
    }
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
      if (!this.#isGiven) closeToStrangers(path, group);
    } finally {
      process.umask(umask);
    }
    // Node removes the path of a listener that it bound itself, and of no other.
    if (restored !== undefined && !this.#isGiven) this.#leftPath = path;
    if (!isKept) this.#noteListener();
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
    const record = { version, isGiven: this.#isGiven };
    this.#store.put(LISTENER_GROUP, 'socket', record, [handleFd(this.#server) as number]);
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
      if (group === LISTENER_GROUP) {
        listener = own[0]?.fds[0];
        this.#isGiven = listenerRecord.parse(own[0]?.record).isGiven;
      } else if (group.startsWith(CLIENT_GROUP)) {
        this.#nextClient = Math.max(this.#nextClient, Number(group.slice(CLIENT_GROUP.length)) + 1);
        const client = this.#adopt(own[0]?.fds[0] as number, group, true);
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
    for (const { name } of this.#services.targets) this.#restored.add(name);
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

  /**
   * Takes over what clients kept with the luod before a kexec: orphans, for their next owners.
   * @throws {LiveUpdateError} EIO, EINVAL, EBUSY: it stays with the kernel, or, once taken, with this process for as long as it lives.
   */
  async recoverClients(): Promise<void> {
    const came = await askKernel(KernelClients.take, (error) => this.#busy(error));
    if (came === undefined) return;
    const { log } = this.#options;
    for (const lost of came.lost) log(`a client's listener could not be made again: ${lost}`);
    const count = this.#hosted.arrive(came.items);
    came.finish();
    markKernelSession(came.session, undefined);
    log(`took over ${count} sessions of clients from the previous kernel`);
  }

  #busy({ message }: LiveUpdateError): void {
    this.#options.log(
      `${message}; what the previous kernel may have kept stays there: start luod again without it`,
    );
  }

  /**
   * Starts a service, or finds it when the luod before ran it.
   * @param workers How many processes; 0 for one that is no worker.
   * @throws {LiveUpdateError} EEXIST when this luod was told to run it already.
   */
  run(options: RunOptions, workers = 0): Target {
    const restored = this.#restored.delete(options.name) ? this.#services.find(options.name) : undefined;
    if (restored === undefined)
      return workers === 0 ? this.#services.run(options) : this.#services.runWorkers(options, workers);
    restored.runNext(options.command, options.health);
    const isGroup = restored instanceof WorkerGroup;
    const before = isGroup ? restored.count : 0;
    if (before !== workers) {
      const what = before === 0 ? 'one process' : `${before} workers`;
      this.#options.log(
        `${options.name}: goes on as ${what}, as the luod before was told; stop it to have another number`,
      );
    } else if (isGroup && restored.missing.length > 0) this.#services.runWorkers(options, workers);
    return restored;
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
      this.#refuse(fd, full);
      return;
    }
    const group = `${CLIENT_GROUP}${this.#nextClient++}`;
    try {
      this.#store.put(group, 'socket', {}, [fd]);
    } catch (error) {
      // A client that is not kept would lose with luod what it was answered.
      this.#options.log(`a client was refused: ${LiveUpdateError.from(error).message}`);
      this.#refuse(fd, error);
      return;
    }
    this.#adopt(fd, group, false);
  }

  #refuse(fd: number, error: unknown): void {
    const wire = new Wire(fd, { message: () => undefined, closed: () => undefined });
    wire.send({ type: 'refused', error: errorReply(error) });
    wire.close();
  }

  /** @param isRestored It was a client of the luod before. */
  #adopt(fd: number, group: string, isRestored: boolean): Client {
    const peer = peerCredentials(fd);
    const isOperator = peer.uid === process.getuid?.() || peer.uid === 0;
    const agent: AgentConnection = { group, peer, send: (message, fds) => client.wire?.send(message, fds) };
    const client: Client = { group, peer, wire: undefined, image: undefined, isOperator, agent };
    const { lineBytes, queuedBytes, stallMs } = this.#limits;
    client.wire = new Wire(
      fd,
      {
        message: (message, fds) => this.#message(client, message, fds),
        closed: () => {
          this.#forget(client);
          client.image?.disconnected();
        },
      },
      // A list may be longer than what a client may say.
      { lineBytes, sentLineBytes: queuedBytes, queuedBytes, stallMs },
      { skipTo: isRestored ? 'resume' : undefined, refuses: true },
    );
    this.#clients.add(client);
    return client;
  }

  #message(client: Client, message: WireMessage, fds: number[]): void {
    const { image } = client;
    if (image === undefined) {
      this.#requests.receive(client, message, fds);
      return;
    }
    try {
      image.receive(parseImageMessage(message), fds);
    } catch (error) {
      for (const fd of fds) closeFd(fd);
      this.#options.log(`pid ${image.pid} sent a bad message: ${LiveUpdateError.from(error).message}`);
    }
  }

  #publish(event: LuodEvent): void {
    this.#events.publish(event);
    this.#options.manager?.status(() => this.summary());
  }

  /** One line for people. */
  summary(): string {
    const heldFds = this.#hosted.heldFds + this.#services.heldFds;
    const { socket } = this.#options;
    return `${this.#services.size} services, ${this.#hosted.count} sessions, ${heldFds} descriptors held; ${socket}`;
  }

  /** @param service Of services only this one, or this group. @throws {LiveUpdateError} ENOENT when there is none. */
  status(service?: string): LuodStatus {
    return {
      pid: process.pid,
      version: this.#options.version,
      socket: this.#options.socket,
      uptimeSeconds: Math.round(process.uptime()),
      memoryBytes: process.memoryUsage.rss(),
      heldFds: this.#hosted.heldFds + this.#services.heldFds,
      services: this.#services.status(service),
    };
  }

  /** @param uid Only what is this user's: of luod's services nothing. */
  sessions(uid?: number): SessionStatus[] {
    return sessionsOf(this.#services, this.#hosted, uid);
  }

  /** Closes the socket and every connection; services must have ended. */
  close(): void {
    this.#server.close();
    try {
      if (this.#leftPath !== undefined) removeStale(this.#leftPath);
    } catch (error) {
      this.#options.log(`its socket stays: ${LiveUpdateError.from(error).message}`);
    }
    this.#hosted.close();
    this.#lasting?.bye();
    for (const client of this.#clients) client.wire?.close();
    this.#clients.clear();
  }
}
