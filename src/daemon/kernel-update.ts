/**
 * The update of the machine's kernel: every service of this luod goes through a kexec.
 *
 *   load       the next kernel is read and laid out              nothing has changed
 *   preserve   services hand over what can cross; the kernel     they serve
 *              pins every page of it
 *   freeze     services freeze and halt, in order of their start they stand still
 *   store      maps and images follow into the kernel's sessions
 *   reboot     plain programs are asked to end, file systems are written back, the kernel is left
 *
 * What cannot cross is known after preserve, before anything stands still, and needs leave to be dropped. Whatever fails, the
 * reboot itself included, everything is taken back: sessions are closed, the next kernel is forgotten, and the services go
 * on with every connection they had. That is why a frozen service is not ended before the reboot: it ends with its kernel.
 */
import { readFileSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import type { Image } from '../core/types.js';
import type { ErrorReport, Left } from '../handover/protocol.js';
import {
  isKernelLoaded,
  loadKernel,
  rebootIntoLoadedKernel,
  syncFileSystems,
  unloadKernel,
} from '../linux/kexec.js';
import type { LiveupdateDevice, LiveupdateSession } from '../linux/liveupdate.js';
import type { Departure } from './departure.js';
import type { HostSessions } from './host-sessions.js';
import { CLIENTS, KernelClientsWriter } from './kernel-clients.js';
import { openKernelDevice } from './kernel-device.js';
import { kernelSessions } from './kernel-index.js';
import { writeKernelIndex } from './kernel-map.js';
import { KernelSessionWriter } from './kernel-writer.js';
import { type Deadlines, PhaseError, reportOf } from './phases.js';
import type { Service } from './service.js';

export type KexecPhase = 'load' | 'preserve' | 'freeze' | 'store' | 'reboot';

export interface KexecRequest {
  /** Path of the kernel image; without it, a kernel must be loaded already. */
  readonly kernel?: string | undefined;
  readonly initrd?: string | undefined;
  readonly cmdline?: string | undefined;
  readonly reuseCmdline?: boolean | undefined;
  /** Find out what would cross, and stop there. */
  readonly dryRun?: boolean | undefined;
  readonly dropUnpreservable?: boolean | undefined;
  readonly deadlines: Deadlines;
}

/** Something that stays behind. */
export interface LeftBehind extends Partial<Left> {
  readonly service: string;
  readonly what: string;
}

export interface KexecResult {
  readonly ok: boolean;
  readonly dryRun: boolean;
  /** What crosses. */
  readonly services: { service: string; generation: number; sessions: string[]; memfds: number }[];
  /** Of what clients keep with luod. */
  readonly clients: { readonly sessions: number; readonly memfds: number };
  readonly left: LeftBehind[];
  /** Milliseconds of each phase that was begun. */
  readonly phases: Partial<Record<KexecPhase, number>>;
  readonly error?: ErrorReport & { phase: KexecPhase };
}

interface Traveller {
  readonly service: Service;
  readonly departure: Departure;
  readonly writer: KernelSessionWriter;
  left: Left[];
  image: Image | undefined;
}

export interface KernelUpdateOptions {
  readonly services: readonly Service[];
  /** Sessions that clients keep with luod. */
  readonly hosted: HostSessions;
  readonly version: string;
  readonly request: KexecRequest;
  /** Told of each phase as it begins. */
  readonly progress: (line: string) => void;
  /** The last word before the kernel is left; resolves when it was heard, or cannot be waited for any longer. */
  readonly farewell: (result: KexecResult) => Promise<void>;
}

export class KernelUpdate {
  readonly #options: KernelUpdateOptions;
  readonly #travellers: Traveller[] = [];
  readonly #left: LeftBehind[] = [];
  #clients: KernelClientsWriter | undefined;
  #clientsLeft: LeftBehind[] = [];
  readonly #phases: Partial<Record<KexecPhase, number>> = {};
  #phase: KexecPhase = 'load';
  #phaseStarted = performance.now();
  #loaded = false;
  #index: LiveupdateSession | undefined;
  readonly #halted: Service[] = [];

  constructor(options: KernelUpdateOptions) {
    this.#options = options;
  }

  /** Returns after a dry run or a failure; a success ends the kernel. */
  async run(): Promise<KexecResult> {
    let device: LiveupdateDevice | undefined;
    try {
      device = await openKernelDevice();
      this.#load();
      await this.#preserve(device);
      if (this.#options.request.dryRun === true) {
        this.#end();
        await this.#takeBack({ code: 'ECANCELED', message: 'a dry run' });
        return this.#result(undefined);
      }
      await this.#freeze();
      this.#store(device);
      await this.#leave();
    } catch (error) {
      const report = error instanceof PhaseError ? error.failure.error : reportOf(error);
      this.#end();
      await this.#takeBack(report);
      return this.#result({ ...report, phase: this.#phase });
    } finally {
      device?.close();
    }
    // leave() does not return.
    throw new LiveUpdateError('EIO', 'the kernel was left, and this is still it');
  }

  #begin(phase: KexecPhase, line: string): void {
    this.#end();
    this.#phase = phase;
    this.#phaseStarted = performance.now();
    this.#options.progress(line);
  }

  #end(): void {
    this.#phases[this.#phase] = Math.round((performance.now() - this.#phaseStarted) * 1000) / 1000;
  }

  #load(): void {
    const { kernel, initrd, cmdline, reuseCmdline, dryRun } = this.#options.request;
    if (kernel === undefined) {
      if (isKernelLoaded() || dryRun === true) return;
      throw new LiveUpdateError('EINVAL', 'no kernel is loaded; name one with --kernel');
    }
    if ((cmdline === undefined) === (reuseCmdline !== true)) {
      throw new LiveUpdateError(
        'EINVAL',
        'give the command line with --cmdline, or --reuse-cmdline for the present one',
      );
    }
    if (dryRun === true) return;
    this.#begin('load', `load ${kernel}`);
    loadKernel({ kernel, initrd, cmdline: cmdline ?? readFileSync('/proc/cmdline', 'utf8').trim() });
    this.#loaded = true;
  }

  async #preserve(device: LiveupdateDevice): Promise<void> {
    const { services, request } = this.#options;
    this.#begin('preserve', 'preserve');
    for (const { session, service } of kernelSessions()) {
      const what = `the session '${session}' of the previous kernel, which nobody has claimed`;
      this.#left.push({ service, what });
    }
    this.#clients = new KernelClientsWriter(device);
    this.#clientsLeft = this.#clients.take(this.#options.hosted.items);
    for (const service of services) {
      if (!service.isRunning) continue;
      if (!service.usesLiveupdate) {
        this.#left.push({ service: service.name, what: 'all of it: the program does not use liveupdate' });
        continue;
      }
      // First the name: a session that exists already, of an operator's own tool, must not cost a freeze.
      const writer = new KernelSessionWriter(device, service.name);
      let departure: Departure;
      try {
        departure = service.depart(request.deadlines);
      } catch (error) {
        writer[Symbol.dispose]();
        throw error;
      }
      const traveller: Traveller = { service, departure, writer, left: [], image: undefined };
      this.#travellers.push(traveller);
      traveller.left = await departure.preserve();
      writer.take(departure.records.values());
    }
    this.#requireLeave();
  }

  #leftNow(): LeftBehind[] {
    return [
      ...this.#left,
      ...this.#clientsLeft,
      ...this.#travellers.flatMap(({ service, left }) =>
        left.map((one) => ({ service: service.name, ...one })),
      ),
    ];
  }

  /** @throws {LiveUpdateError} EOPNOTSUPP when something stays behind that nobody gave leave to drop. */
  #requireLeave(): void {
    const left = this.#leftNow();
    if (left.length === 0 || this.#options.request.dropUnpreservable === true) return;
    const list = left.map(
      ({ service, session, what }) => `${service}: ${session === undefined ? '' : `${session}: `}${what}`,
    );
    throw new LiveUpdateError(
      'EOPNOTSUPP',
      `a kexec cannot take everything along; --drop-unpreservable gives up ${list.join('; ')}`,
    );
  }

  async #freeze(): Promise<void> {
    this.#begin('freeze', 'freeze');
    for (const traveller of this.#travellers) {
      const { image, left } = await traveller.departure.freeze();
      traveller.image = image;
      traveller.left = left;
    }
    const { hosted } = this.#options;
    hosted.freeze();
    this.#clientsLeft = this.#clients?.take(hosted.items) ?? [];
    // Somebody may have connected since.
    this.#requireLeave();
  }

  #store(device: LiveupdateDevice): void {
    this.#begin('store', 'store');
    for (const { departure, writer, image } of this.#travellers) {
      writer.complete(image as Image, departure.records, departure.image.generation);
    }
    this.#clients?.complete();
    const services = this.#travellers.map(({ service, departure, writer }) => ({
      service: service.name,
      session: writer.session.name,
      generation: departure.image.generation,
      command: [...departure.image.command],
      memfds: writer.memfds,
    }));
    const { session, memfds = 0 } = this.#clients ?? {};
    if (session !== undefined)
      services.push({ service: CLIENTS, session: session.name, generation: 0, command: [], memfds });
    this.#index = writeKernelIndex(device, {
      luod: this.#options.version,
      savedAt: Date.now(),
      services,
    });
  }

  async #leave(): Promise<void> {
    this.#begin('reboot', 'reboot');
    for (const service of [...this.#options.services].reverse()) {
      if (!service.isRunning || service.usesLiveupdate) continue;
      this.#halted.push(service);
      await service.halt();
    }
    syncFileSystems();
    this.#end();
    await this.#options.farewell(this.#result(undefined));
    rebootIntoLoadedKernel();
  }

  /** Everything as it was. */
  async #takeBack(reason: ErrorReport): Promise<void> {
    this.#index?.close();
    this.#clients?.[Symbol.dispose]();
    this.#options.hosted.unfreeze();
    for (const { service, departure, writer } of this.#travellers.reverse()) {
      writer[Symbol.dispose]();
      await service.stay(departure, reason);
    }
    for (const service of this.#halted.reverse()) service.start();
    if (this.#loaded) unloadKernel();
  }

  #result(error: (ErrorReport & { phase: KexecPhase }) | undefined): KexecResult {
    return {
      ok: error === undefined,
      dryRun: this.#options.request.dryRun === true,
      services: this.#travellers.map(({ service, departure, writer }) => ({
        service: service.name,
        generation: departure.image.generation,
        sessions: [...departure.sessions].map(({ name }) => name),
        memfds: writer.memfds,
      })),
      clients: { sessions: this.#clients?.sessions ?? 0, memfds: this.#clients?.memfds ?? 0 },
      left: this.#leftNow(),
      phases: this.#phases,
      ...(error === undefined ? {} : { error }),
    };
  }
}
