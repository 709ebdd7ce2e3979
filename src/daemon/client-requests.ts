/**
 * What clients ask of luod, each answered by a reply. A user's own sessions and FLBs are for whoever may connect; everything else is for
 * operators.
 */
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import { PROTOCOL_VERSION } from '../handover/protocol.js';
import type { Wire, WireMessage } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import type { Agents } from './agents.js';
import type { Client } from './client.js';
import type { Events } from './events.js';
import type { HostSessions } from './host-sessions.js';
import { type ImageHello, parseImageHello } from './image-messages.js';
import { KernelUpdate, type KexecResult } from './kernel-update.js';
import type { Limits } from './limits.js';
import type { LuodStatus, SessionStatus } from './luod-status.js';
import { DEFAULT_DEADLINES, errorReply, settles } from './phases.js';
import { parseRequest, type Request } from './requests.js';
import type { Service } from './service.js';
import type { Services, Target } from './services.js';
import { WorkerGroup } from './worker-group.js';

/** Restarts of a service in a row before luod gives up, unless it is told otherwise. */
export const DEFAULT_MAX_RESTARTS = 10;

/** How long the services stand still, at most, until the operator has read the last word before a kexec. */
const FAREWELL_MS = 200;

/** How long subscribers may take to preserve, unless the operator says otherwise. */
const PRESERVE_MS = 30_000;

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

/** What of a luod answers are made from. */
export interface Answering {
  readonly version: string;
  readonly limits: Limits;
  readonly log: (line: string) => void;
  readonly services: Services;
  readonly hosted: HostSessions;
  readonly agents: Agents;
  readonly events: Events;
  status(service?: string): LuodStatus;
  /** @param uid Whose; everybody's when it is left out. */
  sessions(uid?: number): SessionStatus[];
  replaceSelf(script: string): Promise<never>;
  hangUp(client: Client): void;
}

export class ClientRequests {
  readonly #luod: Answering;
  #isLeaving = false;

  constructor(luod: Answering) {
    this.#luod = luod;
  }

  /**
   * Answers a message.
   * @param fds What came with it; closed here.
   */
  receive(client: Client, message: WireMessage, fds: readonly number[]): void {
    const wire = client.wire as Wire;
    const { id } = message;
    if (message.type === 'resume') return;
    try {
      const image = parseImageHello(message);
      if (image !== undefined) {
        this.#greet(client, image);
        return;
      }
      const request = parseRequest(message);
      if (!client.isOperator && !OPEN_TO_ALL.has(request.type)) {
        throw new LiveUpdateError('EACCES', `uid ${client.peer.uid} may not ask for ${request.type}`);
      }
      switch (request.type) {
        case 'hello':
          this.#hello(client, request);
          break;
        case 'status':
          wire.send({ type: 'reply', id, ok: true, ...this.#luod.status(request.service) });
          break;
        case 'services':
          wire.send({ type: 'reply', id, ok: true, services: this.#luod.services.status(request.service) });
          break;
        case 'list':
        case 'sessions':
          wire.send({
            type: 'reply',
            id,
            ok: true,
            sessions: this.#luod.sessions(client.isOperator ? undefined : client.peer.uid),
          });
          break;
        case 'register_flb':
          this.#registerFlb(client, request, fds[0]);
          wire.send({ type: 'reply', id, ok: true });
          break;
        case 'retrieve_flb':
          this.#give(wire, id, this.#luod.hosted.flbs.retrieve(client.peer, request.name));
          break;
        case 'unregister_flb':
          wire.send({ type: 'reply', id, ok: true, files: this.#unregisterFlb(client, request) });
          break;
        case 'list_flbs': {
          const flbs = this.#luod.hosted.flbs.status(client.isOperator ? undefined : client.peer.uid);
          wire.send({ type: 'reply', id, ok: true, flbs });
          break;
        }
        case 'agent':
          this.#agent(client, request);
          break;
        case 'preserve':
          this.#answer(client, id, this.#luod.agents.preserve(request.timeout ?? PRESERVE_MS));
          break;
        case 'subscribe':
          this.#subscribe(client);
          wire.send({ type: 'reply', id, ok: true });
          break;
        case 'create_session':
          this.#give(
            wire,
            id,
            this.#luod.hosted.create(client.peer, request.name, request.custody ?? 'release'),
          );
          break;
        case 'retrieve_session':
          this.#give(wire, id, this.#luod.hosted.retrieve(client.peer, request.name));
          break;
        case 'drop_session': {
          const uid = request.uid ?? client.peer.uid;
          const dropped = this.#luod.hosted.drop(client.peer, uid, request.name, client.isOperator);
          wire.send({ type: 'reply', id, ok: true, dropped });
          break;
        }
        case 'kexec':
          this.#answer(client, id, this.#kexec(client, request));
          break;
        case 'self_update':
          this.#answer(client, id, this.#selfUpdate(request));
          break;
        case 'goodbye':
          client.goodbye?.();
          break;
        case 'start':
          wire.send({ type: 'reply', id, ok: true, ...startedReply(this.#startService(request)) });
          break;
        case 'stop':
          this.#answer(client, id, this.#stopService(request.service, request.retry));
          break;
        case 'update':
          this.#answer(client, id, this.#luod.services.get(request.service).update(asked(client, request)));
          break;
        case 'prepare':
          this.#answer(client, id, this.#luod.services.get(request.service).prepare(asked(client, request)));
          break;
        case 'cut':
          this.#answer(client, id, this.#luod.services.get(request.service).cut(request));
          break;
        case 'cancel': {
          const { by, service, retry } = asked(client, request);
          this.#answer(client, id, this.#luod.services.get(service).cancel(by, retry));
          break;
        }
        case 'rollback':
          this.#answer(client, id, this.#luod.services.get(request.service).rollback(asked(client, request)));
          break;
        case 'history': {
          const target = this.#luod.services.get(request.service);
          wire.send({ type: 'reply', id, ok: true, ...historyReply(target) });
          break;
        }
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
    const { flbs } = this.#luod.hosted;
    // Asked before, of a luod that was killed when it had done it.
    if (request.retry === true && flbs.isRegisteredBy(client.peer, request.name, client.group)) return;
    flbs.register(client.peer, request.name, fd, client.group);
  }

  #unregisterFlb(client: Client, { name, retry }: Extract<Request, { type: 'unregister_flb' }>): number {
    const { flbs } = this.#luod.hosted;
    if (retry === true && !flbs.isRegisteredBy(client.peer, name, client.group))
      return flbs.files(client.peer, name);
    return flbs.unregister(client.peer, name);
  }

  #agent(client: Client, { cmd, id }: Extract<Request, { type: 'agent' }>): void {
    const wire = client.wire as Wire;
    const reply = { type: 'reply', cmd, id, ok: true };
    if (cmd === 'CLAIM') {
      const fd = this.#luod.agents.claim(client.peer, id);
      try {
        wire.send(reply, [fd]);
      } finally {
        closeFd(fd);
      }
      return;
    }
    if (cmd === 'SUBSCRIBE') this.#luod.agents.subscribe(id, client.agent);
    else this.#luod.agents.ready(id, client.agent);
    wire.send(reply);
  }

  #subscribe(client: Client): void {
    client.unsubscribe?.();
    client.unsubscribe = this.#luod.events.subscribe({
      uid: client.peer.uid,
      isOperator: client.isOperator,
      send: (event) => client.wire?.send({ ...event }),
      hangUp: () => this.#luod.hangUp(client),
    });
  }

  /** Replies when the work is done, or has failed. */
  #answer(client: Client, id: unknown, work: Promise<object>): void {
    const { wire } = client;
    work
      .then(
        (result) => ({ type: 'reply', id, ok: true, ...result }),
        (error: unknown) => refusal(id, error),
      )
      .then((reply) => wire?.send(reply))
      .catch((error: unknown) => {
        // It does not read (ENOBUFS), and nothing more can be said to it.
        const { message } = LiveUpdateError.from(error);
        this.#luod.log(`pid ${client.peer.pid} of uid ${client.peer.uid} is hung up on: ${message}`);
        this.#luod.hangUp(client);
      });
  }

  #startService(request: Extract<Request, { type: 'start' }>): Target {
    const { service: name, command, cwd, retry } = request;
    const running = this.#luod.services.find(name);
    if (retry === true && running !== undefined) return running;
    const { restart = 'on-failure', maxRestarts = DEFAULT_MAX_RESTARTS, fresh = false, health } = request;
    const options = { name, command, cwd, restart, maxRestarts, fresh, health };
    return request.workers === undefined
      ? this.#luod.services.run(options)
      : this.#luod.services.runWorkers(options, request.workers);
  }

  async #stopService(name: string | undefined, retry: boolean | undefined): Promise<object> {
    // Asked before, of a luod that was killed when it had ended it.
    if (retry === true && name !== undefined && this.#luod.services.find(name) === undefined)
      return { service: name };
    const target = this.#luod.services.get(name);
    // Before they end and are forgotten.
    const members = target instanceof WorkerGroup ? [...target] : undefined;
    target.stop('SIGTERM');
    const status = await target.stopped;
    if (members === undefined) return { service: target.name, status };
    const workers = members.map(async (member) => ({ service: member.name, status: await member.stopped }));
    return { service: target.name, status, workers: await Promise.all(workers) };
  }

  #hello(client: Client, hello: Extract<Request, { type: 'hello' }>): void {
    const wire = client.wire as Wire;
    const versions = Array.isArray(hello.protocol) ? hello.protocol : [hello.protocol];
    if (!versions.includes(PROTOCOL_VERSION)) {
      const text = `you speak protocol ${versions.join(', ')}, and this luod (${this.#luod.version}) protocol ${PROTOCOL_VERSION}`;
      throw new LiveUpdateError('EPROTONOSUPPORT', text, { operation: 'hello' });
    }
    const { version, limits } = this.#luod;
    wire.send({ type: 'reply', id: hello.id, ok: true, protocol: PROTOCOL_VERSION, version, limits });
  }

  /** An image that luod started; from here on it is no client. */
  #greet(client: Client, hello: ImageHello): void {
    const wire = client.wire as Wire;
    const expected = this.#luod.services.expects(hello.image);
    if (expected === undefined) {
      const message = 'no image with this secret is expected';
      wire.send({ type: 'refused', error: { code: 'EPERM', message } });
    } else if (hello.protocol !== PROTOCOL_VERSION) {
      const { service, image } = expected;
      const message = `pid ${hello.pid} speaks protocol ${hello.protocol}, and this luod (${this.#luod.version}) protocol ${PROTOCOL_VERSION}: run both from the same version of liveupdate, luod first (luoctl self-update)`;
      const error = { code: 'EPROTONOSUPPORT', message };
      wire.send({ type: 'refused', error });
      service.refuse(image, error);
    } else {
      const { service, image } = expected;
      client.image = image;
      service.greet(image, wire, hello.pid, () => this.#luod.hangUp(client), client.group);
    }
  }

  async #selfUpdate(request: Extract<Request, { type: 'self_update' }>): Promise<object> {
    const { services, hosted, version } = this.#luod;
    if (request.retry === true) {
      return { version, pid: process.pid, sessions: hosted.count, services: services.size };
    }
    const busy = Array.from(services).find(({ state }) => state === 'updating' || state === 'prepared');
    if (busy?.isPrepared === true) {
      const text = `a next version of '${busy.name}' is prepared: cut or cancel it first`;
      throw new LiveUpdateError('EBUSY', text, { operation: 'self-update' });
    }
    if (busy !== undefined || this.#isLeaving) {
      const what = busy === undefined ? 'a kexec' : `an update of '${busy.name}'`;
      throw new LiveUpdateError('EBUSY', `${what} is under way`, { operation: 'self-update' });
    }
    // A check that ran would be a child of the next luod, of which that one knows nothing.
    await Promise.all(Array.from(services, (service) => service.rest()));
    try {
      return await this.#luod.replaceSelf(request.binary ?? (process.argv[1] as string));
    } catch (error) {
      for (const service of services) service.watchOn();
      throw error;
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

  async #kexec(client: Client, request: Extract<Request, { type: 'kexec' }>): Promise<KexecResult> {
    const { id } = request;
    const { version, log, services, hosted } = this.#luod;
    const wire = client.wire as Wire;
    if (this.#isLeaving) throw new LiveUpdateError('EBUSY', 'a kexec is under way');
    this.#isLeaving = true;
    try {
      const update = new KernelUpdate({
        services: [...services],
        hosted,
        version,
        request: { ...request, deadlines: request.deadlines ?? DEFAULT_DEADLINES },
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
}

/** The history of a service; of a group that of each worker. */
function historyReply(target: Target): object {
  const one = ({ name: service, history }: Service) => ({ service, history });
  return target instanceof WorkerGroup
    ? { service: target.name, workers: Array.from(target, one) }
    : one(target);
}

/** The status of a service; of a group that of each worker. */
function startedReply(target: Target): object {
  return target instanceof WorkerGroup ? { name: target.name, workers: target.status() } : target.status();
}

/** Who asks is told by the socket, not by the request. */
function asked<T extends object>({ peer: { uid, pid } }: Client, request: T): T & { by: string } {
  return { ...request, by: `uid ${uid}, pid ${pid}` };
}

function refusal(id: unknown, error: unknown, cmd?: unknown): WireMessage {
  return { type: 'reply', cmd, id, ok: false, error: errorReply(error) };
}
