/**
 * A service: one command, one image that serves, what luod holds for it, and at most one update under way.
 *
 *   starting     the image runs and has not called ready()            serving, stopped (it failed to start)
 *   serving      it is in charge                                      updating, restarting, stopping, stopped
 *   updating     an `Update` is at work                               serving, restarting
 *   restarting   the image died; a new one comes after the back-off   starting, stopped (too many)
 *   stopping     the image was asked to end                           stopped
 *
 * What the previous kernel left for the service (`arrival`) is asked for when the first image says hello, and goes to every image
 * until one is ready: the kernel's session is finished then, and luod does not give up before.
 *
 * A program that never says hello does not use liveupdate. It counts as serving after `PLAIN_START_MS`, is restarted
 * in the plain way by an update, and that is said.
 */
import { constants } from 'node:os';
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import type { ErrorReport, ImageToLuod } from '../handover/protocol.js';
import type { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { Backoff } from './backoff.js';
import { Custody } from './custody.js';
import { Departure } from './departure.js';
import { type Exit, howItEnded, ImageProcess } from './image-process.js';
import type { KernelArrival } from './kernel-arrival.js';
import { markKernelSession } from './kernel-index.js';
import { DEFAULT_DEADLINES, type Deadlines, reportOf } from './phases.js';
import { Update, type UpdateResult } from './update.js';

const PLAIN_START_MS = 1000;
const STOP_MS = 10_000;

export type ServiceState = 'starting' | 'serving' | 'updating' | 'restarting' | 'stopping' | 'stopped';

export type RestartPolicy = 'on-failure' | 'always' | 'never';

export interface ServiceOptions {
  readonly name: string;
  readonly command: readonly string[];
  /** luod's own socket, for the environment of the images. */
  readonly socket: string;
  readonly restart: RestartPolicy;
  /** Restarts in a row before luod gives up. */
  readonly maxRestarts: number;
  readonly log: (line: string) => void;
  /** Takes what the previous kernel left for the service. */
  readonly arrival: (service: string) => Promise<KernelArrival | undefined>;
}

export interface ServiceStatus {
  readonly name: string;
  readonly state: ServiceState;
  readonly pid: number | undefined;
  readonly generation: number;
  readonly command: readonly string[];
  readonly uptimeSeconds: number;
  readonly restarts: number;
  readonly usesLiveupdate: boolean;
  readonly held: { session: string; compatible: string; ageSeconds: number }[];
  readonly lastUpdate: UpdateResult | null;
}

export class Service {
  readonly name: string;
  readonly custody = new Custody();
  /** Resolves with the exit status when the service has ended for good. */
  readonly stopped: Promise<number>;
  readonly #options: ServiceOptions;
  readonly #stopped = withResolvers<number>();
  readonly #backoff = new Backoff();
  #state: ServiceState = 'starting';
  #command: readonly string[];
  #generation = 0;
  #current: ImageProcess | undefined;
  #successor: ImageProcess | undefined;
  #update: Update | Departure | undefined;
  /** What the previous kernel left, once it was asked; undefined when nothing, or when it has been handed on. */
  #arrival: Promise<KernelArrival | undefined> | undefined;
  /** Whether the previous kernel left something that no image has yet. */
  #isOwed = false;
  #wasReady = false;
  #restarts = 0;
  #lastUpdate: UpdateResult | null = null;
  #timer: NodeJS.Timeout | undefined;
  #stopSignal: NodeJS.Signals | undefined;

  constructor(options: ServiceOptions) {
    this.name = options.name;
    this.#options = options;
    this.#command = options.command;
    this.stopped = this.#stopped.promise;
  }

  get state(): ServiceState {
    return this.#state;
  }

  start(): void {
    this.#current = this.#spawn(this.#command);
    this.#state = 'starting';
    this.#timer = setTimeout(() => {
      const image = this.#current;
      if (image !== undefined && !image.isConnected && this.#state === 'starting') this.#serve(image);
    }, PLAIN_START_MS);
  }

  #spawn(command: readonly string[]): ImageProcess {
    return new ImageProcess({
      command,
      generation: ++this.#generation,
      socket: this.#options.socket,
      events: {
        message: (image, message) => this.#take(image, message),
        gone: (image, exit) => this.#gone(image, exit),
      },
    });
  }

  #log(line: string): void {
    this.#options.log(`${this.name}: ${line}`);
  }

  /** The image with this secret, if it has not said hello yet. */
  expects(secret: string): ImageProcess | undefined {
    return [this.#current, this.#successor].find((image) => image?.secret === secret && !image.isConnected);
  }

  /** An image of this service said hello. */
  greet(image: ImageProcess, wire: Wire, pid: number): void {
    image.connect(wire, pid);
    if (image === this.#successor) {
      if (this.#update instanceof Update) this.#update.greet(image.generation);
      return;
    }
    // Taken for a program without liveupdate, and only slow to start.
    if (image === this.#current && this.#state === 'serving') this.#state = 'starting';
    this.#welcome(image).catch((error: unknown) => {
      // Starting without what was kept would lose it, and nobody would know.
      this.#isOwed = true;
      // Another luod has it, for now.
      if (LiveUpdateError.from(error).code === 'EBUSY') this.#arrival = undefined;
      this.#log(`cannot start generation ${image.generation}: ${LiveUpdateError.from(error).message}`);
      image.send({ type: 'refused', error: reportOf(error) });
    });
  }

  async #welcome(image: ImageProcess): Promise<void> {
    this.#arrival ??= this.#options.arrival(this.name);
    const arrival = await this.#arrival;
    const { name: service } = this;
    if (arrival !== undefined) {
      if (!this.#isOwed) {
        this.#isOwed = true;
        image.generation = arrival.generation + 1;
        this.#generation = image.generation;
        markKernelSession(arrival.session, 'claimed');
        for (const line of arrival.lost) this.#log(`a listener could not be made again: ${line}`);
      }
      this.#hand(image, 'kexec', arrival.toHandover());
    } else if (this.custody.size > 0) {
      this.#hand(image, 'crash', this.custody.toHandover(BigInt(image.generation - 1)));
    } else {
      image.send({ type: 'welcome', role: 'fresh', service, generation: image.generation });
    }
  }

  #hand(image: ImageProcess, from: 'crash' | 'kexec', fds: readonly number[]): void {
    const { generation } = image;
    try {
      image.send({ type: 'welcome', role: 'restarted', from, service: this.name, generation }, fds);
    } finally {
      closeFd(fds[0] as number);
    }
  }

  /** The service has what the previous kernel left. */
  async #settle(): Promise<void> {
    const arrival = await this.#arrival;
    if (arrival === undefined) return;
    this.#arrival = Promise.resolve(undefined);
    this.#isOwed = false;
    arrival.finish();
    markKernelSession(arrival.session, undefined);
    this.#log(`took over what the previous kernel kept in '${arrival.session}'`);
  }

  #take(image: ImageProcess, message: ImageToLuod): void {
    if (message.type === 'update') {
      this.update({ command: message.command, deadlines: undefined }).then(
        (result) => this.#answer(image, message.id, result),
        (error: unknown) => this.#answer(image, message.id, { error: reportOf(error) }),
      );
      return;
    }
    if (this.#update !== undefined) this.#update.message(image, message);
    else if (message.type === 'ready' && image === this.#current) this.#serve(image);
    // What an image in charge asks to hold is held for the service at once.
    if (image === this.#current && this.#state !== 'starting') this.custody.absorb(image.custody);
    if (message.type === 'release' && image === this.#current) this.custody.release(message.session);
  }

  #answer(image: ImageProcess, id: number, result: unknown): void {
    // After a commit there is nobody left to answer.
    if (image.exit === undefined && image === this.#current) image.send({ type: 'updated', id, result });
  }

  #serve(image: ImageProcess): void {
    clearTimeout(this.#timer);
    this.#state = 'serving';
    this.#wasReady = true;
    this.#backoff.succeeded();
    this.custody.absorb(image.custody);
    const how = image.isConnected
      ? ''
      : ' (it has not called liveupdate(): until it does, an update restarts it and carries nothing)';
    this.#log(`generation ${image.generation} serves, pid ${image.pid}${how}`);
    if (image.isConnected) {
      this.#settle().catch((error) =>
        this.#log(`the previous kernel's session: ${LiveUpdateError.from(error).message}`),
      );
    }
  }

  /**
   * Replaces the running image.
   * @throws {LiveUpdateError} EBUSY while an update runs or the service is not serving; ESRCH when it has ended.
   */
  async update(options: {
    command?: readonly string[] | undefined;
    deadlines?: Deadlines | undefined;
  }): Promise<UpdateResult> {
    const old = this.#servingImage();
    const command = options.command ?? this.#command;
    const deadlines = options.deadlines ?? DEFAULT_DEADLINES;
    this.#state = 'updating';
    const result = old.isConnected
      ? await this.#carry(old, command, deadlines)
      : await this.#restartPlainly(old, command);
    this.#lastUpdate = result;
    return result;
  }

  /** @throws {LiveUpdateError} EBUSY, ESRCH. */
  #servingImage(): ImageProcess {
    if (this.#state === 'updating')
      throw new LiveUpdateError('EBUSY', `an update of '${this.name}' is under way`);
    if (this.#state === 'stopped' || this.#state === 'stopping') {
      throw new LiveUpdateError('ESRCH', `'${this.name}' has ended`);
    }
    if (this.#state !== 'serving' || this.#current === undefined) {
      throw new LiveUpdateError('EBUSY', `'${this.name}' is ${this.#state}: try again when it serves`);
    }
    return this.#current;
  }

  /** Whether there is a program that an update would replace. */
  get isRunning(): boolean {
    return this.#state !== 'stopped' && this.#state !== 'stopping';
  }

  get usesLiveupdate(): boolean {
    return this.#current?.isConnected ?? false;
  }

  /**
   * Begins to leave this kernel; `stay` calls it off.
   * @throws {LiveUpdateError} EBUSY while an update runs or the service is not serving; ESRCH when it has ended.
   */
  depart(deadlines: Deadlines): Departure {
    const image = this.#servingImage();
    const departure = new Departure({ service: this.name, image, deadlines });
    this.#state = 'updating';
    this.#update = departure;
    return departure;
  }

  /** The program goes on as if no kexec had been tried; if it cannot, it is started again. */
  async stay(departure: Departure, reason: ErrorReport): Promise<void> {
    const serves = await departure.callOff(reason);
    this.#update = undefined;
    if (!serves) {
      departure.image.close();
      this.#log(`the program did not survive a kexec that was called off: ${reason.message}`);
      this.#restartSoon();
    } else {
      this.#state = 'serving';
      this.#log(
        `the kexec was called off, generation ${departure.image.generation} serves on: ${reason.message}`,
      );
    }
    if (this.#stopSignal !== undefined) this.stop(this.#stopSignal);
  }

  /** Ends a program that does not use liveupdate, for the machine's reboot; `start` begins again. */
  async halt(): Promise<void> {
    const image = this.#servingImage();
    this.#state = 'updating';
    await this.#endPlainly(image);
  }

  async #carry(old: ImageProcess, command: readonly string[], deadlines: Deadlines): Promise<UpdateResult> {
    const successor = this.#spawn(command);
    let update: Update;
    try {
      update = new Update({ service: this.name, old, successor, deadlines });
    } catch (error) {
      // Nothing was begun: no descriptor for the commit word, say.
      successor.kill('SIGKILL');
      await successor.gone;
      successor.close();
      this.#generation--;
      this.#state = 'serving';
      throw error;
    }
    this.#successor = successor;
    this.#update = update;
    if (successor.exit !== undefined) update.gone(successor, successor.exit);
    const { outcome, result } = await update.run();
    this.#update = undefined;
    this.#successor = undefined;
    const reason =
      result.error === undefined
        ? ''
        : `: ${result.error.message} (${result.error.code}, ${result.error.phase})`;
    switch (outcome.kind) {
      case 'committed':
        this.#current = successor;
        this.#command = command;
        old.close();
        this.custody.absorb(successor.custody);
        for (const session of result.dropped ?? []) this.custody.release(session);
        this.#state = 'serving';
        this.#log(
          `generation ${successor.generation} serves, pid ${successor.pid}: ${result.connections} connections, blackout ${result.blackoutMs} ms`,
        );
        // It may have ended between its last word and now.
        if (successor.exit !== undefined) this.#gone(successor, successor.exit);
        break;
      case 'rolledBack':
        successor.close();
        this.#generation--;
        this.#state = 'serving';
        this.#log(`rolled back, generation ${old.generation} serves on${reason}`);
        break;
      case 'lost':
        successor.close();
        old.close();
        if (outcome.by === 'new') this.#command = command;
        this.#log(`update failed${reason}`);
        this.#restartSoon();
        break;
    }
    if (this.#stopSignal !== undefined && this.#state === 'serving') this.stop(this.#stopSignal);
    return result;
  }

  async #restartPlainly(old: ImageProcess, command: readonly string[]): Promise<UpdateResult> {
    const started = performance.now();
    await this.#endPlainly(old);
    this.#command = command;
    this.start();
    const image = this.#current as ImageProcess;
    const spawn = Math.round(performance.now() - started);
    this.#log(
      `restarted plainly, pid ${image.pid}: the program does not use liveupdate, so nothing was carried`,
    );
    return {
      ok: true,
      service: this.name,
      generation: image.generation,
      fromPid: old.pid,
      toPid: image.pid,
      blackoutMs: null,
      phases: { spawn, preserve: 0, freeze: 0, retrieve: 0, finish: 0 },
      files: 0,
      connections: 0,
      bytes: 0,
      carried: false,
    };
  }

  async #endPlainly(image: ImageProcess): Promise<void> {
    image.signal('SIGTERM');
    const timer = setTimeout(() => image.kill('SIGKILL'), STOP_MS);
    await image.gone;
    clearTimeout(timer);
    image.close();
  }

  /** Forwards `signal` to the program and lets it end; after ten seconds it is killed. */
  stop(signal: NodeJS.Signals): void {
    this.#stopSignal = signal;
    if (this.#state === 'updating') {
      this.#update?.cancel('luod was told to stop');
      return;
    }
    if (this.#state === 'stopped') return;
    if (this.#state === 'restarting') {
      clearTimeout(this.#timer);
      this.#end(128 + signalNumber(signal));
      return;
    }
    const image = this.#current;
    this.#state = 'stopping';
    image?.signal(signal);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => image?.kill('SIGKILL'), STOP_MS);
  }

  /** Passes a signal on that asks for no end (SIGUSR2, ...). */
  signal(signal: NodeJS.Signals): void {
    this.#current?.signal(signal);
  }

  #gone(image: ImageProcess, exit: Exit): void {
    if (this.#update !== undefined) {
      this.#update.gone(image, exit);
      return;
    }
    if (image !== this.#current || this.#state === 'updating') return;
    clearTimeout(this.#timer);
    // What it asked to hold before it was in charge goes with it; what luod holds for the service stays.
    image.close();
    const status = exit.code ?? 128 + signalNumber(exit.signal);
    const how = howItEnded(exit);
    const failed = status !== 0;
    const again = this.#options.restart === 'always' || (this.#options.restart === 'on-failure' && failed);
    // What the kernel left goes when luod goes, so luod does not: the program is tried again until it is ready.
    if (this.#isOwed && this.#state !== 'stopping') {
      this.#log(`${how} before it took over what the previous kernel left`);
      this.#restartSoon();
      return;
    }
    if (this.#state === 'stopping' || !again || !this.#wasReady) {
      if (this.#state !== 'stopping' && failed)
        this.#log(this.#wasReady ? how : `${how} before it was ready`);
      this.#end(status);
      return;
    }
    this.#log(how);
    if (this.#backoff.failures >= this.#options.maxRestarts) {
      this.#log(`gave up after ${this.#backoff.failures} restarts in a row`);
      this.#end(status);
      return;
    }
    this.#restartSoon();
  }

  #restartSoon(): void {
    this.#state = 'restarting';
    this.#current = undefined;
    const ms = this.#backoff.next();
    this.#restarts++;
    this.#log(`starts again in ${ms} ms with ${this.custody.size} held`);
    this.#timer = setTimeout(() => this.start(), ms);
  }

  #end(status: number): void {
    this.#state = 'stopped';
    this.custody.clear();
    this.#arrival?.then(
      (arrival) => arrival?.close(),
      () => undefined,
    );
    this.#stopped.resolve(status);
  }

  status(): ServiceStatus {
    const image = this.#current;
    const now = Date.now();
    return {
      name: this.name,
      state: this.#state,
      pid: image?.pid,
      generation: image?.generation ?? this.#generation,
      command: this.#command,
      uptimeSeconds: image === undefined ? 0 : Math.round((now - image.startedAt) / 1000),
      restarts: this.#restarts,
      usesLiveupdate: image?.isConnected ?? false,
      held: [...this.custody.entries()].map(([session, { compatible, since }]) => ({
        session,
        compatible,
        ageSeconds: Math.round((now - since) / 1000),
      })),
      lastUpdate: this.#lastUpdate,
    };
  }
}

function signalNumber(signal: NodeJS.Signals | null): number {
  return signal === null ? 0 : constants.signals[signal];
}
