/**
 * The services of a luod, by name: those it was told to run, and those it took over from the luod before. What people name is a target: a
 * service, or a group of workers, each of which is a service.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { ServiceEvent } from './events.js';
import type { ImageProcess } from './image-process.js';
import type { KeptItem, Store } from './keeper-link.js';
import { KernelArrival } from './kernel-arrival.js';
import { askKernel } from './kernel-device.js';
import { Service, type ServiceOptions, type ServiceStatus } from './service.js';
import { parseService } from './service-record.js';
import { healthOfWorker, WorkerGroup } from './worker-group.js';
import { workerName } from './worker-names.js';

/** What all services of a luod share. */
export interface ServicesOptions {
  /** luod's own socket. */
  readonly socket: string;
  readonly log: (line: string) => void;
  readonly store: Store;
  /** Told when the kernel's device is in use by another program. */
  readonly busy: (error: LiveUpdateError) => void;
  /** Told when a service changed. */
  readonly changed: (event: ServiceEvent) => void;
}

/** What makes a service. */
export type RunOptions = Pick<
  ServiceOptions,
  'name' | 'command' | 'cwd' | 'restart' | 'maxRestarts' | 'fresh' | 'health'
>;

/** What a name may stand for. */
export type Target = Service | WorkerGroup;

export class Services implements Iterable<Service> {
  readonly #options: ServicesOptions;
  readonly #services = new Map<string, Service>();
  readonly #groups = new Map<string, WorkerGroup>();

  constructor(options: ServicesOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#services.size;
  }

  [Symbol.iterator](): Iterator<Service> {
    return this.#services.values();
  }

  #shared(fresh: boolean): Pick<ServiceOptions, 'socket' | 'log' | 'store' | 'arrival' | 'changed'> {
    const { socket, log, store, busy, changed } = this.#options;
    const arrival = async (name: string) =>
      fresh ? undefined : askKernel((device) => KernelArrival.take(device, name), busy);
    return { socket, log, store, arrival, changed };
  }

  #add(service: Service): void {
    this.#services.set(service.name, service);
    // Its name is free again, and nothing of it is left to tell.
    void service.stopped.then(() => this.#services.delete(service.name));
  }

  #addToGroup(service: Service): void {
    const { worker } = service;
    if (worker === undefined) return;
    const known = this.#groups.get(worker.group);
    if (known !== undefined) {
      known.add(service);
      return;
    }
    this.#addGroup(new WorkerGroup(worker.group, worker.count, [service], this.#options.log));
  }

  #addGroup(group: WorkerGroup): WorkerGroup {
    this.#groups.set(group.name, group);
    void group.stopped.then(() => this.#groups.delete(group.name));
    return group;
  }

  /**
   * Starts a service.
   * @throws {LiveUpdateError} EEXIST when the name is in use.
   */
  run(options: RunOptions): Service {
    this.#checkFree(options.name);
    return this.#start(options);
  }

  /**
   * Starts a service of several workers; of one that runs already, those that have ended.
   * @throws {LiveUpdateError} EEXIST when a name is in use, all workers run, or there were another number of them.
   */
  runWorkers(options: RunOptions, count: number): WorkerGroup {
    const { name } = options;
    const running = this.#groups.get(name);
    if (running === undefined) this.#checkFree(name);
    else if (running.count !== count || running.missing.length === 0) {
      const text = `a service '${name}' of ${running.count} workers runs already`;
      throw new LiveUpdateError('EEXIST', text, { operation: 'run' });
    }
    const indexes = running?.missing ?? Array.from({ length: count }, (_, at) => at + 1);
    for (const index of indexes) this.#checkFree(workerName(name, index));
    const started = indexes.map((index) =>
      this.#start({
        ...options,
        name: workerName(name, index),
        health: healthOfWorker(options.health, index),
        worker: { group: name, index, count },
      }),
    );
    if (running === undefined)
      return this.#addGroup(new WorkerGroup(name, count, started, this.#options.log));
    for (const service of started) running.add(service);
    return running;
  }

  #checkFree(name: string): void {
    if (!this.#services.has(name) && !this.#groups.has(name)) return;
    throw new LiveUpdateError('EEXIST', `a service '${name}' runs already`, { operation: 'run' });
  }

  #start(options: RunOptions & Pick<ServiceOptions, 'worker'>): Service {
    const service = new Service({ ...options, ...this.#shared(options.fresh) });
    this.#add(service);
    service.start();
    return service;
  }

  /**
   * Takes over a service of the luod before.
   * @param items What the keeper has of it; owns their descriptors.
   * @param connect Gives an image the connection of this group.
   * @throws {LiveUpdateError} EINVAL for records that are not understood.
   */
  restore(items: readonly KeptItem[], connect: (image: ImageProcess, group: string) => void): void {
    const restored = parseService(items);
    const service = Service.restore(this.#shared(restored.service.fresh), restored, connect);
    this.#add(service);
    this.#addToGroup(service);
  }

  find(name: string): Target | undefined {
    return this.#services.get(name) ?? this.#groups.get(name);
  }

  /** What people name: services, and groups in the place of their workers. */
  get targets(): Target[] {
    return [
      ...[...this.#services.values()].filter(({ worker }) => worker === undefined),
      ...this.#groups.values(),
    ];
  }

  /**
   * The service or group of this name, or the only one.
   * @throws {LiveUpdateError} ENOENT when there is none; EINVAL when there are several and none was named.
   */
  get(name: string | undefined): Target {
    if (name !== undefined) {
      const target = this.find(name);
      if (target === undefined)
        throw new LiveUpdateError('ENOENT', `no service '${name}'; there is ${this.#names()}`);
      return target;
    }
    const [target, second] = this.targets;
    if (target === undefined) throw new LiveUpdateError('ENOENT', 'this luod runs no service');
    if (second !== undefined) throw new LiveUpdateError('EINVAL', `which service? There is ${this.#names()}`);
    return target;
  }

  #names(): string {
    const names = this.targets.map((target) =>
      target instanceof WorkerGroup
        ? `'${target.name}' (${Array.from(target, ({ name }) => name).join(', ')})`
        : `'${target.name}'`,
    );
    return names.join(', ') || 'none';
  }

  /** The image that has this secret and has not said hello yet. */
  expects(secret: string): { service: Service; image: ImageProcess } | undefined {
    for (const service of this) {
      const image = service.expects(secret);
      if (image !== undefined) return { service, image };
    }
    return undefined;
  }

  get heldFds(): number {
    let count = 0;
    for (const { custody } of this) count += custody.fdCount;
    return count;
  }

  /**
   * @param name Only of the service or group of this name.
   * @throws {LiveUpdateError} ENOENT.
   */
  status(name?: string): ServiceStatus[] {
    if (name === undefined) return Array.from(this, (service) => service.status());
    const target = this.get(name);
    return target instanceof WorkerGroup ? target.status() : [target.status()];
  }

  /** Tells a new keeper everything. */
  tellAgain(): void {
    for (const service of this) service.tellAgain();
  }

  /** Ends every service and waits until it has. */
  async stop(signal: NodeJS.Signals): Promise<void> {
    const running = [...this];
    for (const service of running) service.stop(signal);
    await Promise.all(running.map(({ stopped }) => stopped));
  }
}
