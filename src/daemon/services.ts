/** The services of a luod, by name: those it was told to run, and those it took over from the luod before. */
import { LiveUpdateError } from '../core/errors.js';
import type { ServiceEvent } from './events.js';
import type { ImageProcess } from './image-process.js';
import type { KeptItem, Store } from './keeper-link.js';
import { KernelArrival } from './kernel-arrival.js';
import { askKernel } from './kernel-device.js';
import { Service, type ServiceOptions, type ServiceStatus } from './service.js';
import { parseService } from './service-record.js';

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

export class Services implements Iterable<Service> {
  readonly #options: ServicesOptions;
  readonly #services = new Map<string, Service>();

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

  /**
   * Starts a service.
   * @throws {LiveUpdateError} EEXIST when the name is in use.
   */
  run(options: RunOptions): Service {
    if (this.#services.has(options.name)) {
      throw new LiveUpdateError('EEXIST', `a service '${options.name}' runs already`, { operation: 'run' });
    }
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
    this.#add(Service.restore(this.#shared(restored.service.fresh), restored, connect));
  }

  find(name: string): Service | undefined {
    return this.#services.get(name);
  }

  /**
   * The service of this name, or the only one.
   * @throws {LiveUpdateError} ENOENT when there is none; EINVAL when there are several and none was named.
   */
  get(name: string | undefined): Service {
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

  status(): ServiceStatus[] {
    return Array.from(this, (service) => service.status());
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
