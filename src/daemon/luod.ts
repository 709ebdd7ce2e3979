/**
 * luod itself: the socket, who is at its other end, and the services.
 *
 * Everybody connects to the same socket. A connection that says hello with the secret of an image is that image's; every
 * other one is an operator's, who asks and is answered. Only processes of luod's own user get that far: the socket's mode
 * keeps strangers out, and SO_PEERCRED is checked again at each connection.
 */
import { createServer, type Server } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import { detach } from '../handover/dial.js';
import { type ImageToLuod, PROTOCOL_VERSION } from '../handover/protocol.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { peerCredentials } from '../linux/socket-facts.js';
import { type Audit, noAudit } from './audit.js';
import type { CustodyKind, HostedFile, Peer } from './host-session.js';
import { HostSessions } from './host-sessions.js';
import type { ImageProcess } from './image-process.js';
import { KernelArrival } from './kernel-arrival.js';
import { askKernel } from './kernel-device.js';
import { kernelSessions, recoverKernelIndex } from './kernel-index.js';
import { KernelUpdate, type KexecRequest, type KexecResult } from './kernel-update.js';
import { defaultLimits, type Limits } from './limits.js';
import { DEFAULT_DEADLINES, errorReply, settles } from './phases.js';
import { parseImageMessage, parseRequest } from './requests.js';
import { Service, type ServiceOptions, type ServiceStatus } from './service.js';
import { claimSocketPath, closeToStrangers } from './socket-path.js';

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
  readonly peer: Peer;
  wire: Wire | undefined;
  image: ImageProcess | undefined;
  /** luod's own user, or root: may ask about and do everything. */
  readonly isOperator: boolean;
  /** Called when it has read the farewell. */
  goodbye?: () => void;
}

export class Luod {
  readonly #options: LuodOptions;
  readonly #server: Server;
  readonly #services = new Map<string, Service>();
  readonly #clients = new Set<Client>();
  readonly #limits: Limits;
  readonly #hosted: HostSessions;
  #isLeaving = false;

  private constructor(options: LuodOptions) {
    this.#options = options;
    this.#limits = options.limits ?? defaultLimits();
    this.#hosted = new HostSessions({
      limits: this.#limits,
      audit: options.audit ?? noAudit,
      log: options.log,
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

  /** @throws {LiveUpdateError} EADDRINUSE, EACCES, EPERM, EINVAL: see `claimSocketPath`. */
  static async listen(options: LuodOptions): Promise<Luod> {
    await claimSocketPath(options.socket);
    const luod = new Luod(options);
    // The mode counts from the first moment: between bind and chmod a stranger could connect.
    const umask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        luod.#server.once('error', (error) => reject(LiveUpdateError.from(error, { operation: 'listen' })));
        luod.#server.listen(options.socket, resolve);
      });
      closeToStrangers(options.socket, options.group);
    } finally {
      process.umask(umask);
    }
    return luod;
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

  /** Starts a service. @throws {LiveUpdateError} EEXIST when the name is in use. */
  run(options: Omit<ServiceOptions, 'socket' | 'log' | 'arrival'> & { fresh?: boolean }): Service {
    if (this.#services.has(options.name))
      throw new LiveUpdateError('EEXIST', `a service '${options.name}' runs already`);
    const service = new Service({
      ...options,
      socket: this.#options.socket,
      log: this.#options.log,
      arrival: async (name) => {
        if (options.fresh === true) return undefined;
        return askKernel(
          (device) => KernelArrival.take(device, name),
          (error) => this.#busy(error),
        );
      },
    });
    this.#services.set(options.name, service);
    service.start();
    return service;
  }

  #accept(fd: number): void {
    const peer = peerCredentials(fd);
    const isMember = peer.uid === process.getuid?.() || peer.uid === 0;
    // With a group the socket's mode has let him in, who then has his own sessions and nothing else.
    if (!isMember && this.#options.group === undefined) {
      closeFd(fd);
      throw new LiveUpdateError('EACCES', `uid ${peer.uid} may not use this luod`);
    }
    const client: Client = { peer, wire: undefined, image: undefined, isOperator: isMember };
    const { lineBytes, stallMs, clients } = this.#limits;
    client.wire = new Wire(
      fd,
      {
        message: (message, fds) => this.#message(client, message, fds),
        closed: () => {
          this.#clients.delete(client);
          client.image?.disconnected();
        },
      },
      { lineBytes, stallMs },
    );
    if (this.#clients.size >= clients) {
      const full = new LiveUpdateError('EMFILE', `luod has ${clients} clients, all that it may`);
      client.wire.send({ type: 'refused', error: errorReply(full) });
      client.wire.close();
      return;
    }
    this.#clients.add(client);
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
    // An operator has no descriptors to give.
    for (const fd of fds) closeFd(fd);
    const { id } = message;
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
        case 'sessions':
          wire.send({
            type: 'reply',
            id,
            ok: true,
            sessions: this.sessions(client.isOperator ? undefined : client.peer.uid),
          });
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
          this.#kexec(client, id, { ...request, deadlines: request.deadlines ?? DEFAULT_DEADLINES }).then(
            (result) => wire.send({ type: 'reply', id, ...result }),
            (error: unknown) => wire.send(refusal(id, error)),
          );
          break;
        case 'goodbye':
          client.goodbye?.();
          break;
        case 'update':
          this.#service(request.service)
            .update(request)
            .then(
              (result) => wire.send({ type: 'reply', id, ...result }),
              (error: unknown) => wire.send(refusal(id, error)),
            );
          break;
      }
    } catch (error) {
      wire.send(refusal(id, error));
    }
  }

  #greet(client: Client, hello: { protocol: number; image: string; pid: number }): void {
    const wire = client.wire as Wire;
    for (const service of this.#services.values()) {
      const image = service.expects(hello.image);
      if (image === undefined) continue;
      if (hello.protocol !== PROTOCOL_VERSION) {
        const message = `it speaks protocol ${hello.protocol}, this luod ${PROTOCOL_VERSION}`;
        wire.send({ type: 'refused', error: { code: 'EPROTONOSUPPORT', message } });
        return;
      }
      client.image = image;
      service.greet(image, wire, hello.pid);
      return;
    }
    wire.send({
      type: 'refused',
      error: { code: 'EPERM', message: 'no image with this secret is expected' },
    });
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
        services: [...this.#services.values()],
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

  #service(name: string | undefined): Service {
    if (name !== undefined) {
      const service = this.#services.get(name);
      if (service === undefined)
        throw new LiveUpdateError('ENOENT', `no service '${name}'; there is ${this.#names()}`);
      return service;
    }
    const [service, second] = this.#services.values();
    if (service === undefined) throw new LiveUpdateError('ENOENT', 'this luod runs no service');
    if (second !== undefined) throw new LiveUpdateError('EINVAL', `which service? There is ${this.#names()}`);
    return service;
  }

  #names(): string {
    return [...this.#services.keys()].map((name) => `'${name}'`).join(', ') || 'none';
  }

  status(): LuodStatus {
    let { heldFds } = this.#hosted;
    for (const service of this.#services.values()) heldFds += service.custody.fdCount;
    return {
      pid: process.pid,
      version: this.#options.version,
      socket: this.#options.socket,
      uptimeSeconds: Math.round(process.uptime()),
      memoryBytes: process.memoryUsage.rss(),
      heldFds,
      services: [...this.#services.values()].map((service) => service.status()),
    };
  }

  /** @param uid Only what is this user's: of luod's services nothing. */
  sessions(uid?: number): SessionStatus[] {
    const hosted = this.#hosted
      .status(uid)
      .map((status): SessionStatus => ({ service: `uid ${status.uid}`, holder: 'client', ...status }));
    if (uid !== undefined) return hosted;
    const now = Date.now();
    const held = [...this.#services.values()].flatMap(({ name: service, custody }) =>
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
    for (const client of this.#clients) client.wire?.close();
    this.#clients.clear();
  }
}

/** What a member of the group may ask for. */
const OPEN_TO_ALL: ReadonlySet<string> = new Set([
  'create_session',
  'retrieve_session',
  'drop_session',
  'sessions',
]);

function refusal(id: unknown, error: unknown): WireMessage {
  return { type: 'reply', id, ok: false, error: errorReply(error) };
}
