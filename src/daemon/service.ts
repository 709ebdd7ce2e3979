/**
 * A service: one command, one image that serves, what luod holds for it, and at most one update under way.
 *
 *   starting     the image runs and has not called ready()            serving, stopped (it failed to start)
 *   serving      it is in charge                                      updating, restarting, stopping, stopped
 *   updating     an `Update` is at work                               serving, prepared, restarting
 *   prepared     it stops before its cut (hold.ts); the old image     updating, serving, restarting
 *                is in charge
 *   restarting   the image died; a new one comes after the back-off   starting, stopped (too many)
 *   stopping     the image was asked to end                           stopped
 *
 * What the previous kernel left for the service (`arrival`) is asked for when the first image says hello, and goes to every image
 * until one is ready: the kernel's session is finished then, and luod does not give up before.
 *
 * Everything is noted in the keeper before it counts, so that the next luod goes on with the same processes where this one was
 * killed (`restore`): an update under way included.
 *
 * A program that never says hello does not use liveupdate. It counts as serving after `PLAIN_START_MS`, is restarted
 * in the plain way by an update, and that is said.
 */
import { constants } from 'node:os';
import { LiveUpdateError } from '../core/errors.js';
import { reportedError } from '../core/reported-error.js';
import { withResolvers } from '../core/resolvers.js';
import { DEFAULT_DRAIN_MS, type ErrorReport, type ImageToLuod } from '../handover/protocol.js';
import type { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { Backoff } from './backoff.js';
import { Custody } from './custody.js';
import { Departure } from './departure.js';
import type { ServiceEvent } from './events.js';
import {
  type Candidate,
  type HealthPolicy,
  type HealthWords,
  hasGate,
  passGate,
  policyOf,
  TRUSTED,
} from './health.js';
import { Hold } from './hold.js';
import { type Exit, howItEnded, type ImageEvents, ImageProcess } from './image-process.js';
import type { Store } from './keeper-link.js';
import { endKeptChildren } from './kept-children.js';
import type { KernelArrival } from './kernel-arrival.js';
import { markKernelSession } from './kernel-index.js';
import { type LingererStatus, Lingerers } from './lingerers.js';
import { DEFAULT_DEADLINES, DEFAULT_LEAVE_MS, type Deadlines, exitReport, reportOf } from './phases.js';
import { type RestoredService, ServiceStore, type WorkerOf } from './service-record.js';
import { isSame, Trial, type WayBack } from './trial.js';
import { type Outcome, Update, type UpdateOptions, type UpdateResult } from './update.js';
import type { Asked, HistoryEntry } from './update-history.js';

const PLAIN_START_MS = 1000;
const STOP_MS = 10_000;
/** The program may keep nothing new meanwhile. */
const DEFAULT_HOLD_MS = 60_000;

export type ServiceState =
  | 'starting'
  | 'serving'
  | 'updating'
  | 'prepared'
  | 'restarting'
  | 'stopping'
  | 'stopped';

export type RestartPolicy = 'on-failure' | 'always' | 'never';

export interface ServiceOptions {
  readonly name: string;
  readonly command: readonly string[];
  /** Where its programs run. */
  readonly cwd: string;
  /** For one of several workers of a group. */
  readonly worker?: WorkerOf | undefined;
  /** Whether to do without what the previous kernel kept. */
  readonly fresh: boolean;
  /** luod's own socket, for the environment of the images. */
  readonly socket: string;
  readonly restart: RestartPolicy;
  /** Restarts in a row before luod gives up. */
  readonly maxRestarts: number;
  /** What every update of it is to pass, unless the update says otherwise. */
  readonly health?: HealthWords | undefined;
  readonly log: (line: string) => void;
  /** Takes what the previous kernel left for the service. */
  readonly arrival: (service: string) => Promise<KernelArrival | undefined>;
  /** What outlives this luod. */
  readonly store: Store;
  /** Told when the service changed. */
  readonly changed: (event: ServiceEvent) => void;
}

export interface UpdateRequest {
  readonly command?: readonly string[] | undefined;
  readonly deadlines?: Deadlines | undefined;
  /** By which the same request is known when it is asked again of a luod that took over. */
  readonly key?: string | undefined;
  readonly health?: HealthWords | undefined;
  /** Who asks, for the history. */
  readonly by?: string | undefined;
  /** Answer when the watch after the commit is over. */
  readonly wait?: boolean | undefined;
  /** See `UpdateOptions.meeting`. */
  readonly meeting?: UpdateOptions['meeting'];
}

export interface PrepareRequest extends Omit<UpdateRequest, 'wait' | 'meeting'> {
  /** How long it may wait for the cut, in milliseconds. */
  readonly hold?: number | undefined;
}

/** An update that waits for its cut. */
export interface Prepared {
  readonly ok: true;
  readonly service: string;
  /** Of the version that waits, and of the one that serves. */
  readonly generation: number;
  readonly pid: number | undefined;
  readonly servingPid: number | undefined;
  readonly command: readonly string[];
  readonly secondsLeft: number;
}

export type CutRequest = Pick<UpdateRequest, 'key' | 'wait'>;

/** An update that an operator called off. */
export interface Cancelled {
  readonly ok: true;
  readonly service: string;
  /** Of the image that serves on. */
  readonly generation: number;
  readonly pid: number | undefined;
}

interface Finished {
  readonly outcome: Outcome;
  readonly result: UpdateResult;
}

export interface ServiceStatus {
  readonly name: string;
  /** Of a worker only. */
  readonly worker?: WorkerOf | undefined;
  readonly state: ServiceState;
  readonly pid: number | undefined;
  readonly generation: number;
  readonly command: readonly string[];
  readonly uptimeSeconds: number;
  readonly restarts: number;
  readonly usesLiveupdate: boolean;
  readonly held: { session: string; compatible: string; ageSeconds: number }[];
  /** Old images that serve what could not cross to its end. */
  readonly lingering: LingererStatus[];
  readonly lastUpdate: UpdateResult | null;
  /** What its updates pass, unless they are told otherwise. */
  readonly health: HealthPolicy;
  /** The next version, while it waits for the cut. */
  readonly prepared: Pick<Prepared, 'generation' | 'pid' | 'command' | 'secondsLeft'> | null;
  /** The watch over the last update, while it lasts, and to which command luod goes back if it fails. */
  readonly watch: Trial['status'];
}

export class Service {
  readonly name: string;
  readonly custody: Custody;
  /** Resolves when a program serves. */
  readonly ready: Promise<void>;
  /** Resolves with the exit status when the service has ended for good. */
  readonly stopped: Promise<number>;
  readonly #options: ServiceOptions;
  readonly #store: ServiceStore;
  readonly #stopped = withResolvers<number>();
  readonly #ready = withResolvers<void>();
  readonly #backoff = new Backoff();
  readonly #events: ImageEvents = {
    message: (image, message) => this.#take(image, message),
    gone: (image, exit) => this.#gone(image, exit),
  };
  #state: ServiceState = 'starting';
  #command: readonly string[];
  /** What ran before the last update. */
  #previous: readonly string[] | undefined;
  #generation = 0;
  #current: ImageProcess | undefined;
  #successor: ImageProcess | undefined;
  #update: Update | Departure | undefined;
  /** Where the update under way stops, or stopped, before its cut. */
  #hold: Hold | undefined;
  /** The last update, over or not, and who asked for it. */
  #updating: Promise<UpdateResult> | undefined;
  #updateKey: string | undefined;
  /** Who asked for the last one that is over. */
  #lastKey: string | undefined;
  /** What the previous kernel left, once it was asked; undefined when nothing, or when it has been handed on. */
  #arrival: Promise<KernelArrival | undefined> | undefined;
  /** Whether the previous kernel left something that no image has yet. */
  #isOwed = false;
  #wasReady = false;
  #restarts = 0;
  #health: HealthWords | undefined;
  readonly #trial: Trial;
  #timer: NodeJS.Timeout | undefined;
  #stopSignal: NodeJS.Signals | undefined;
  /** Who waits to know whether the program that was started comes to serve. */
  #waiting: ((serves: boolean) => void)[] = [];
  /** Old images that have handed over and are not done. */
  readonly #lingerers = new Lingerers(() => this.#tellChange());
  /** The keeper's groups of the connections of images. */
  readonly #connections = new Map<ImageProcess, string>();

  constructor(options: ServiceOptions) {
    this.name = options.name;
    this.#options = options;
    this.#command = options.command;
    this.#health = options.health;
    this.#store = new ServiceStore(options.store, options.name);
    this.#trial = new Trial({
      log: (line) => this.#log(line),
      note: () => this.#note(),
      serving: () => (this.#state === 'serving' ? this.#current : undefined),
      candidate: (image, stage) => this.#candidate(image, stage),
      giveUpPrepared: (reason) => {
        if (this.isPrepared && this.#update instanceof Update)
          this.#update.cancel(`the version that serves is unhealthy: ${reason}`);
      },
      goBack: (image, command, asked) =>
        this.#replace(image, command, deadlinesOfGoingBack(asked.total), asked),
      keep: (record) => this.#store.history(record),
    });
    this.custody = new Custody(this.#store, (session, error) =>
      this.#log(
        `'${session}' is held, but not beyond luod's own end: ${LiveUpdateError.from(error).message}`,
      ),
    );
    this.stopped = this.#stopped.promise;
    this.ready = this.#ready.promise;
  }

  get state(): ServiceState {
    return this.#state;
  }

  #enter(state: ServiceState): void {
    this.#state = state;
    if (state === 'serving') this.#ready.resolve();
    this.#tellServing();
    this.#note();
    this.#tellChange();
  }

  /** Whether the program serves, once that is known: not while it starts or is updated. */
  serves(): Promise<boolean> {
    const { promise, resolve } = withResolvers<boolean>();
    this.#waiting.push(resolve);
    this.#tellServing();
    return promise;
  }

  #tellServing(): void {
    if (this.#state === 'starting' || this.#state === 'updating') return;
    const serves = this.#state === 'serving' || this.#state === 'prepared';
    for (const told of this.#waiting.splice(0)) told(serves);
  }

  #tellChange(): void {
    const image = this.#current;
    this.#options.changed({
      event: 'service',
      service: this.name,
      state: this.#state,
      pid: image?.pid,
      generation: image?.generation ?? this.#generation,
    });
  }

  /** What the next luod is to know. */
  #note(): void {
    if (this.#state === 'stopped') return;
    const { restart, maxRestarts, cwd, worker, fresh } = this.#options;
    this.#store.service({
      name: this.name,
      command: [...this.#command],
      previous: this.#previous === undefined ? undefined : [...this.#previous],
      cwd,
      worker,
      restart,
      maxRestarts,
      fresh,
      // For whoever takes it over they are the same.
      state: this.#state === 'prepared' ? 'updating' : this.#state,
      generation: this.#generation,
      wasReady: this.#wasReady,
      isOwed: this.#isOwed,
      restarts: this.#restarts,
      updateKey: this.#updateKey,
      lastKey: this.#lastKey,
      lastUpdate: this.#trial.last,
      health: this.#health,
      probation: this.#trial.record,
    });
  }

  #noteImage(image: ImageProcess, pidfd?: number): void {
    const isOld = this.#lingerers.has(image);
    const role = isOld ? 'lingering' : image === this.#successor ? 'successor' : 'current';
    const record = image.record(role, this.#connections.get(image));
    if (record !== undefined) this.#store.image(record, pidfd);
  }

  /** Closes everything of an image that plays no part any more. */
  #forget(image: ImageProcess): void {
    image.close();
    this.#connections.delete(image);
    this.#store.dropImage(image.secret);
  }

  /** Tells a new keeper everything. */
  tellAgain(): void {
    this.#note();
    for (const image of [this.#current, this.#successor, ...this.#lingerers])
      if (image !== undefined) this.#noteProcess(image);
    this.custody.tellAgain();
    this.#trial.history.note();
    if (this.#update instanceof Update) this.#update.tellAgain();
  }

  start(): void {
    const image = this.#spawn(this.#command, false);
    this.#current = image;
    this.#noteProcess(image);
    this.#enter('starting');
    this.#watchStart();
  }

  #watchStart(): void {
    this.#timer = setTimeout(() => {
      const image = this.#current;
      if (image !== undefined && !image.isConnected && this.#state === 'starting') this.#serve(image);
    }, PLAIN_START_MS);
  }

  /** @param isModest See `ImageOptions`. */
  #spawn(command: readonly string[], isModest: boolean): ImageProcess {
    const { socket, cwd, worker } = this.#options;
    return ImageProcess.start({
      command,
      cwd,
      worker,
      isModest,
      generation: ++this.#generation,
      socket,
      events: this.#events,
    });
  }

  /** Tells the keeper of a process that was started. */
  #noteProcess(image: ImageProcess): void {
    let pidfd: number | undefined;
    try {
      pidfd = image.openPidfd();
      if (pidfd !== undefined) this.#noteImage(image, pidfd);
    } catch (error) {
      // It runs all the same; only the next luod would not know it again.
      this.#log(
        `pid ${image.pid} cannot be kept beyond luod's own end: ${LiveUpdateError.from(error).message}`,
      );
    } finally {
      if (pidfd !== undefined) closeFd(pidfd);
    }
  }

  /**
   * Takes a service over from the luod before this one, with its processes.
   * @param connect Gives an image the connection that it had, by its group in the keeper.
   */
  static restore(
    options: Omit<ServiceOptions, 'name' | 'command' | 'cwd' | 'fresh' | 'restart' | 'maxRestarts'>,
    { service: record, images, held, update, history }: RestoredService,
    connect: (image: ImageProcess, group: string) => void,
  ): Service {
    const service = new Service({ ...options, ...record });
    service.#previous = record.previous;
    service.#wasReady = record.wasReady;
    service.#isOwed = record.isOwed;
    service.#restarts = record.restarts;
    service.#updateKey = record.updateKey;
    service.#lastKey = record.lastKey;
    service.#trial.last = record.lastUpdate as UpdateResult | null;
    service.#trial.history.restore(history);
    if (record.probation !== undefined) service.#trial.restore(record.probation);
    for (const { session, ...one } of held) service.custody.restore(session, one);
    // An image that did not have it all yet claims it again from this luod.
    if (record.isOwed) service.#arrival = options.arrival(record.name);
    const sorted = [...images].sort((one, other) => one.generation - other.generation);
    const current = sorted.filter(({ role }) => role === 'current').at(-1);
    const successor = sorted.filter(({ role }) => role === 'successor').at(-1);
    for (const one of sorted) {
      const image = ImageProcess.restore(one, service.#events);
      if (one.client !== undefined) service.#connections.set(image, one.client);
      if (one.role === 'lingering') service.#lingerers.add(image, 0, DEFAULT_DRAIN_MS);
      else if (one === current) service.#current = image;
      else if (one === successor && update !== undefined) service.#successor = image;
      else {
        // Left from the last moment of an update that was over.
        image.kill('SIGKILL');
        service.#forget(image);
        continue;
      }
      if (one.client !== undefined) connect(image, one.client);
    }
    // The record is from before the successor was started.
    service.#generation = Math.max(record.generation, service.#successor?.generation ?? 0);
    service.#goOn(record.state, update);
    return service;
  }

  #goOn(state: ServiceState, update: RestoredService['update']): void {
    const old = this.#current;
    const successor = this.#successor;
    if (update !== undefined && old !== undefined && successor !== undefined) {
      this.#trial.asked = update.asked;
      const options = this.#updateOptions(old, successor, update.command, update.deadlines);
      this.#state = 'updating';
      this.#update = Update.resume(options, update);
      this.#log(`takes up an update that a luod before began`);
      const running = this.#run(this.#update, old, successor, update.command);
      this.#updating = running;
      running.catch((error: unknown) => this.#log(LiveUpdateError.from(error).message));
      return;
    }
    if (update !== undefined) closeFd(update.commitFd);
    this.#store.dropUpdate();
    if (old === undefined) {
      // Between two images, or killed before the first was noted.
      this.start();
      return;
    }
    // An update or a kexec that only this luod knows to be over: its image says if it does not ('updating').
    this.#enter(state === 'updating' || state === 'restarting' ? 'serving' : state);
    if (this.#state === 'starting') this.#watchStart();
    this.#log(`generation ${old.generation}, pid ${old.pid}, was taken over from the luod before`);
    this.#trial.watch();
  }

  #log(line: string): void {
    this.#options.log(`${this.name}: ${line}`);
  }

  /** The image with this secret, if it has not said hello yet. */
  expects(secret: string): ImageProcess | undefined {
    return [this.#current, this.#successor].find((image) => image?.secret === secret && !image.isConnected);
  }

  /** An image of this service said hello in words that luod does not speak, and was told so. */
  refuse(image: ImageProcess, error: ErrorReport): void {
    this.#log(`generation ${image.generation} was refused: ${error.message}`);
    if (image === this.#successor) this.#update?.message(image, { type: 'failed', phase: 'spawn', error });
  }

  /** An image of this service said hello. */
  greet(image: ImageProcess, wire: Wire, pid: number, hangUp: () => void, group: string): void {
    image.connect(wire, pid, hangUp);
    this.#connections.set(image, group);
    this.#noteImage(image);
    if (image === this.#successor) {
      if (this.#update instanceof Update) this.#update.greet(image.generation);
      return;
    }
    // Taken for a program without liveupdate, and only slow to start.
    if (image === this.#current && this.#state === 'serving') this.#enter('starting');
    this.#welcome(image).catch((error: unknown) => {
      // Starting without what was kept would lose it, and nobody would know.
      this.#isOwed = true;
      this.#note();
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
        this.#noteImage(image);
        this.#note();
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
    this.#note();
    arrival.finish();
    markKernelSession(arrival.session, undefined);
    this.#log(`took over what the previous kernel kept in '${arrival.session}'`);
  }

  #take(image: ImageProcess, message: ImageToLuod): void {
    if (message.type === 'update') {
      // The secret makes it this image's own.
      const by = `the program, pid ${image.pid}`;
      this.update({ command: message.command, key: `${image.secret} ${message.id}`, by }).then(
        (result) => this.#answer(image, message.id, result),
        (error: unknown) => this.#answer(image, message.id, { error: reportOf(error) }),
      );
      return;
    }
    if (message.type === 'updating') {
      // Of an update that no luod knows any more it is told that there is none.
      const reason = { code: 'ECANCELED', message: 'luod was killed meanwhile' };
      if (this.#update === undefined) image.send({ type: 'unfreeze', reason });
      return;
    }
    if (this.#lingerers.has(image)) {
      if (message.type === 'lingering') this.#lingerers.count(image, message.connections);
      return;
    }
    if (this.#update !== undefined) this.#update.message(image, message);
    else if (message.type === 'ready' && image === this.#current && this.#state === 'starting') {
      this.#serve(image);
    }
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
    this.#wasReady = true;
    this.#enter('serving');
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
    this.#trial.watch();
  }

  /**
   * Replaces the running image. The same request again, by its key, has the same answer.
   * @throws {LiveUpdateError} EBUSY while an update runs or the service is not serving; ESRCH when it has ended.
   */
  async update(request: UpdateRequest): Promise<UpdateResult> {
    return await this.#answerTo(request, 'update', policyOf(this.#health, request.health));
  }

  async #answerTo(request: UpdateRequest, kind: Asked['kind'], policy: HealthPolicy): Promise<UpdateResult> {
    const { key, by = 'luod', deadlines = DEFAULT_DEADLINES } = request;
    let result = this.#answered(key);
    if (result === undefined && this.#isUnderWay(key))
      result = await (this.#updating as Promise<UpdateResult>);
    if (result === undefined) {
      const old = this.#servingImage();
      this.#updateKey = key;
      const asked = { kind, by, at: new Date().toISOString(), policy, total: deadlines.total };
      const command = request.command ?? this.#command;
      result = await this.#replace(old, command, deadlines, asked, { meeting: request.meeting });
    }
    return request.wait === true ? await this.#trial.verdict(result) : result;
  }

  #replace(
    old: ImageProcess,
    command: readonly string[],
    deadlines: Deadlines,
    asked: Asked,
    stops: Stops = {},
  ): Promise<UpdateResult> {
    this.#trial.asked = asked;
    this.#enter('updating');
    this.#updating = old.isConnected
      ? this.#carry(old, command, deadlines, stops)
      : this.#restartPlainly(old, command);
    return this.#updating;
  }

  /**
   * An update up to its cut: what can fail before the freeze has succeeded when it answers with what is prepared, else it answers as
   * `update` does. The same request again, by its key, has the same answer.
   * @throws {LiveUpdateError} as `update`; EOPNOTSUPP for a program that does not use liveupdate.
   */
  async prepare(request: PrepareRequest): Promise<Prepared | UpdateResult> {
    const { key, by = 'luod', deadlines = DEFAULT_DEADLINES, hold: ms = DEFAULT_HOLD_MS } = request;
    const answered = this.#answered(key);
    if (answered !== undefined) return answered;
    if (!this.#isUnderWay(key)) {
      const old = this.#servingImage();
      if (!old.isConnected) {
        const text = `'${this.name}' does not use liveupdate, so nothing of it can be prepared: an update restarts it`;
        throw new LiveUpdateError('EOPNOTSUPP', text, { operation: 'prepare' });
      }
      this.#updateKey = key;
      const policy = policyOf(this.#health, request.health);
      const at = new Date().toISOString();
      const hold = new Hold(ms, () => {
        this.#enter('prepared');
        this.#log(
          `generation ${this.#successor?.generation} is prepared, pid ${this.#successor?.pid}, and waits for the cut`,
        );
      });
      this.#hold = hold;
      const asked: Asked = { kind: 'update', by, at, policy, total: deadlines.total };
      const running = this.#replace(old, request.command ?? this.#command, deadlines, asked, { hold });
      // Whoever asked has his answer by then.
      running.catch((error: unknown) => this.#log(LiveUpdateError.from(error).message));
    }
    const result = await Promise.race([this.#hold?.reached, this.#updating]);
    // Asked again of the luod after the one that was asked first, it was called off with that one.
    return result ?? (this.isPrepared ? this.#prepared() : ((await this.#updating) as UpdateResult));
  }

  #prepared(): Prepared {
    const successor = this.#successor as ImageProcess;
    return {
      ok: true,
      service: this.name,
      generation: successor.generation,
      pid: successor.pid,
      servingPid: this.#current?.pid,
      command: successor.command,
      secondsLeft: this.#hold?.secondsLeft ?? 0,
    };
  }

  /**
   * What was prepared takes over. The same request again, by its key, has the same answer.
   * @throws {LiveUpdateError} ENOENT when nothing is prepared; EBUSY when it is not there yet; ESRCH when the service has ended.
   */
  async cut({ key, wait }: CutRequest): Promise<UpdateResult> {
    let result = this.#answered(key);
    if (result === undefined) {
      // By the same key it may have been prepared.
      if (this.isPrepared || !this.#isUnderWay(key)) {
        const hold = this.#heldUpdate();
        this.#updateKey = key;
        this.#enter('updating');
        hold.cut();
      }
      result = await (this.#updating as Promise<UpdateResult>);
    }
    return wait === true ? await this.#trial.verdict(result) : result;
  }

  /** The answer to the same request, which is over. */
  #answered(key: string | undefined): UpdateResult | undefined {
    if (key === undefined || key !== this.#lastKey) return undefined;
    return this.#trial.last ?? undefined;
  }

  /** A luod that was killed may have left the key of an update that it had not begun. */
  #isUnderWay(key: string | undefined): boolean {
    return key !== undefined && key === this.#updateKey && this.#updating !== undefined;
  }

  #heldUpdate(): Hold {
    if (this.#state === 'prepared' && this.#hold !== undefined) return this.#hold;
    if (this.#state === 'updating')
      throw new LiveUpdateError('EBUSY', `an update of '${this.name}' is under way`, { operation: 'cut' });
    if (!this.isRunning) throw new LiveUpdateError('ESRCH', `'${this.name}' has ended`, { operation: 'cut' });
    const error = this.#trial.last?.error;
    const last = error === undefined ? '' : `; the last update failed: ${error.message} (${error.code})`;
    throw new LiveUpdateError('ENOENT', `no next version of '${this.name}' is prepared${last}`, {
      operation: 'cut',
    });
  }

  /** Of the update under way, or of the last one. */
  get outcome(): Promise<UpdateResult> | undefined {
    return this.#updating;
  }

  /** Whether a next version waits for the cut. */
  get isPrepared(): boolean {
    return this.#state === 'prepared';
  }

  /** The cut is to come for sure, behind that of others: no time runs out any more. */
  keepPrepared(): void {
    this.#hold?.end();
  }

  /** Whether an update is under way that can be called off. */
  get isCancellable(): boolean {
    return this.#update instanceof Update && !this.#update.isFreezing && !this.#isGoingBack;
  }

  /** Whether the update under way is luod's own, back from a version that was found bad. */
  get #isGoingBack(): boolean {
    return this.#trial.asked?.reason !== undefined;
  }

  /**
   * Calls an update off, whether it waits for its cut or is on its way there: the new version ends, and the old one serves on.
   * @param isRetry Asked before, of a luod that was killed meanwhile, which called it off, too.
   * @throws {LiveUpdateError} ENOENT when none is under way; EBUSY when the cut has begun, or luod goes back from a bad version; the reason
   *   when the old one did not survive it.
   */
  async cancel(by: string, isRetry = false): Promise<Cancelled> {
    const update = this.#update;
    if (!(update instanceof Update)) {
      if (!isRetry || this.#state !== 'serving' || this.#trial.last?.rolledBack !== true)
        throw new LiveUpdateError('ENOENT', `no update of '${this.name}' is under way`, {
          operation: 'cancel',
        });
    } else {
      if (update.isFreezing) {
        throw new LiveUpdateError(
          'EBUSY',
          `too late: the new version of '${this.name}' is about to take over`,
          {
            operation: 'cancel',
          },
        );
      }
      if (this.#isGoingBack) {
        throw new LiveUpdateError('EBUSY', `luod goes back from a bad version of '${this.name}'`, {
          operation: 'cancel',
        });
      }
      update.cancel(`called off by ${by}`);
      const { rolledBack, error } = (await this.#updating) as UpdateResult;
      if (rolledBack !== true)
        throw reportedError({ code: error?.code, message: error?.message ?? 'it failed' });
    }
    const image = this.#current;
    return {
      ok: true,
      service: this.name,
      generation: image?.generation ?? this.#generation,
      pid: image?.pid,
    };
  }

  /**
   * Updates to what ran before the last update; after an automatic rollback, to what ran before the version that runs again, and never
   * to the one that was found bad. What ran was good once, so the service's own checks do not stand in its way; the request's do.
   * @throws {LiveUpdateError} ENOENT when there was none; as `update`.
   */
  async rollback(request: Omit<UpdateRequest, 'command'>): Promise<UpdateResult> {
    const isAgain =
      request.key !== undefined && (request.key === this.#updateKey || request.key === this.#lastKey);
    if (this.#previous === undefined && !isAgain) {
      const text = `no other good command of '${this.name}' ran before the one that runs now, so there is nothing to go back to`;
      throw new LiveUpdateError('ENOENT', text, { operation: 'rollback' });
    }
    const policy = policyOf(TRUSTED, request.health);
    return await this.#answerTo({ ...request, command: this.#previous }, 'rollback', policy);
  }

  /** An update is over; what follows from that comes next. */
  #finished(result: UpdateResult, command: readonly string[], from: number, to: number): void {
    if (this.#trial.over(result, command, from, to)) this.#lastKey = this.#updateKey;
    this.#note();
  }

  /** Asks nothing any more, and waits until no check runs; `watchOn` takes it up again. For a luod that replaces itself. */
  rest(): Promise<void> {
    return this.#trial.rest();
  }

  watchOn(): void {
    this.#trial.watch();
  }

  /** The updates, the last one first. */
  get history(): HistoryEntry[] {
    return this.#trial.history.entries;
  }

  #candidate(image: ImageProcess, stage: Candidate['stage']): Candidate {
    const { cwd, socket } = this.#options;
    return { service: this.name, generation: image.generation, pid: image.pid, cwd, socket, stage };
  }

  /** What the next start or update runs, and passes, when this luod was told another command than the one before it. */
  runNext(command: readonly string[], health: HealthWords | undefined): void {
    const before = this.#command.join(' ');
    this.#health = health;
    this.#adopt(command);
    this.#note();
    if (before === command.join(' ')) return;
    if (this.isRunning)
      this.#log(`goes on with '${before}'; the next start or update runs '${command.join(' ')}'`);
  }

  /** The command that runs from now on. */
  #adopt(command: readonly string[]): void {
    // The same command again is a new version of its files, and nothing to go back from.
    if (!isSame(command, this.#command)) this.#previous = this.#command;
    this.#command = command;
  }

  /** Going back from a bad version. */
  #takeWayBack(way: WayBack | undefined): boolean {
    if (way === undefined) return false;
    this.#command = way.command;
    this.#previous = way.previous;
    return true;
  }

  /** @throws {LiveUpdateError} EBUSY, ESRCH. */
  #servingImage(): ImageProcess {
    if (this.#state === 'updating')
      throw new LiveUpdateError('EBUSY', `an update of '${this.name}' is under way`);
    if (this.#state === 'prepared') {
      const target = this.worker?.group ?? this.name;
      const text = `a next version of '${this.name}' is prepared: 'luoctl cut ${target}' lets it take over, 'luoctl cancel ${target}' gives it up`;
      throw new LiveUpdateError('EBUSY', text);
    }
    if (this.#state === 'stopped' || this.#state === 'stopping') {
      throw new LiveUpdateError('ESRCH', `'${this.name}' has ended`);
    }
    if (this.#state !== 'serving' || this.#current === undefined) {
      throw new LiveUpdateError('EBUSY', `'${this.name}' is ${this.#state}: try again when it serves`);
    }
    return this.#current;
  }

  /** Whether the update with this key was asked for before: see `UpdateRequest.key`. */
  knows(key: string): boolean {
    return key === this.#lastKey || key === this.#updateKey;
  }

  /** @throws {LiveUpdateError} EBUSY, ESRCH when no update could begin now. */
  checkServing(): void {
    this.#servingImage();
  }

  get pid(): number | undefined {
    return this.#current?.pid;
  }

  get lastUpdate(): UpdateResult | null {
    return this.#trial.last;
  }

  /** Which worker of which group it is. */
  get worker(): WorkerOf | undefined {
    return this.#options.worker;
  }

  /** What the next start or update runs, and what ran before the last update. */
  get commands(): { current: readonly string[]; previous: readonly string[] | undefined } {
    return { current: this.#command, previous: this.#previous };
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
    this.#update = departure;
    this.#enter('updating');
    return departure;
  }

  /** The program goes on as if no kexec had been tried; if it cannot, it is started again. */
  async stay(departure: Departure, reason: ErrorReport): Promise<void> {
    const serves = await departure.callOff(reason);
    this.#update = undefined;
    if (!serves) {
      this.#forget(departure.image);
      this.#log(`the program did not survive a kexec that was called off: ${reason.message}`);
      this.#restartSoon();
    } else {
      this.#enter('serving');
      this.#log(
        `the kexec was called off, generation ${departure.image.generation} serves on: ${reason.message}`,
      );
    }
    if (this.#stopSignal !== undefined) this.stop(this.#stopSignal);
  }

  /** Ends a program that does not use liveupdate, for the machine's reboot; `start` begins again. */
  async halt(): Promise<void> {
    const image = this.#servingImage();
    this.#enter('updating');
    await this.#endPlainly(image);
  }

  #updateOptions(
    old: ImageProcess,
    successor: ImageProcess,
    command: readonly string[],
    deadlines: Deadlines,
  ): UpdateOptions {
    const { asked } = this.#trial;
    const policy = asked?.policy;
    const note = (freezing: boolean, commitFd?: number) =>
      this.#store.update({ command: [...command], deadlines, freezing, asked }, commitFd);
    return {
      service: this.name,
      old,
      successor,
      deadlines,
      notes: { begun: (commitFd) => note(false, commitFd), freezing: () => note(true) },
      gate:
        policy !== undefined && hasGate(policy)
          ? (signal) => passGate(policy, this.#candidate(successor, 'ready'), signal)
          : undefined,
    };
  }

  async #carry(
    old: ImageProcess,
    command: readonly string[],
    deadlines: Deadlines,
    stops: Stops,
  ): Promise<UpdateResult> {
    const successor = this.#spawn(command, true);
    this.#successor = successor;
    this.#noteProcess(successor);
    let update: Update;
    try {
      update = Update.begin({ ...this.#updateOptions(old, successor, command, deadlines), ...stops });
    } catch (error) {
      // Nothing was begun: no descriptor for the commit word, say.
      successor.kill('SIGKILL');
      await successor.gone;
      this.#successor = undefined;
      this.#forget(successor);
      this.#generation--;
      this.#enter('serving');
      throw error;
    }
    this.#update = update;
    if (successor.exit !== undefined) update.gone(successor, successor.exit);
    return await this.#run(update, old, successor, command);
  }

  async #run(
    update: Update,
    old: ImageProcess,
    successor: ImageProcess,
    command: readonly string[],
  ): Promise<UpdateResult> {
    const finished = await update.run();
    if (finished.outcome.kind === 'committed' && old.exit === undefined)
      this.#lingerers.add(old, update.draining, update.drainMs);
    const { result } = finished;
    this.#finished(result, command, old.generation, successor.generation);
    this.#conclude(finished, old, successor, command);
    this.#trial.watch();
    // By now it may be known that the new version died at once.
    return this.#trial.isLast(result) ? (this.#trial.last as UpdateResult) : result;
  }

  /** `command` runs from now on in the place of `old`. */
  #adoptNew(old: ImageProcess, command: readonly string[], result: UpdateResult, generation: number): void {
    const previous = this.#previous;
    this.#adopt(command);
    this.#takeWayBack(this.#trial.committed(old, command, result, previous, generation));
  }

  #conclude(
    { outcome, result }: Finished,
    old: ImageProcess,
    successor: ImageProcess,
    command: readonly string[],
  ): void {
    this.#update = undefined;
    this.#successor = undefined;
    const reason =
      result.error === undefined
        ? ''
        : `: ${result.error.message} (${result.error.code}, ${result.error.phase})`;
    switch (outcome.kind) {
      case 'committed':
        this.#current = successor;
        this.#adoptNew(old, command, result, successor.generation);
        this.#noteImage(successor);
        this.#store.dropUpdate();
        if (this.#lingerers.has(old)) this.#noteImage(old);
        else this.#forget(old);
        this.custody.absorb(successor.custody);
        for (const session of result.dropped ?? []) this.custody.release(session);
        this.#enter('serving');
        this.#log(
          `generation ${successor.generation} serves, pid ${successor.pid}: ${result.connections} connections, blackout ${result.blackoutMs} ms${
            result.draining > 0 ? `; pid ${old.pid} serves ${result.draining} that could not cross` : ''
          }`,
        );
        // It may have ended between its last word and now.
        if (successor.exit !== undefined) this.#gone(successor, successor.exit);
        break;
      case 'rolledBack':
        this.#store.dropUpdate();
        this.#forget(successor);
        this.#generation--;
        this.#enter('serving');
        this.#log(`rolled back, generation ${old.generation} serves on${reason}`);
        this.#trial.calledOff(old, result.error);
        break;
      case 'lost':
        this.#store.dropUpdate();
        this.#forget(successor);
        this.#forget(old);
        this.#log(`update failed${reason}`);
        // Going back, the command before is what is started again, whoever died.
        if (outcome.by === 'new' || this.#trial.asked?.reason !== undefined)
          this.#adoptNew(old, command, result, this.#generation + 1);
        if (result.error !== undefined) {
          const dead = outcome.by === 'new' ? successor : old;
          this.#takeWayBack(this.#trial.died(dead, result.error, this.#generation + 1));
        }
        this.#restartSoon();
        break;
    }
    if (this.#stopSignal !== undefined) this.stop(this.#stopSignal);
  }

  async #restartPlainly(old: ImageProcess, command: readonly string[]): Promise<UpdateResult> {
    const started = performance.now();
    await this.#endPlainly(old);
    const previous = this.#previous;
    this.#adopt(command);
    this.start();
    const image = this.#current as ImageProcess;
    const spawn = Math.round(performance.now() - started);
    this.#log(
      `restarted plainly, pid ${image.pid}: the program does not use liveupdate, so nothing was carried`,
    );
    const result: UpdateResult = {
      ok: true,
      service: this.name,
      generation: image.generation,
      fromPid: old.pid,
      toPid: image.pid,
      blackoutMs: null,
      phases: { spawn, preserve: 0, freeze: 0, retrieve: 0, finish: 0 },
      files: 0,
      connections: 0,
      draining: 0,
      bytes: 0,
      carried: false,
    };
    this.#finished(result, command, old.generation, image.generation);
    this.#takeWayBack(this.#trial.committed(old, command, result, previous, image.generation));
    this.#note();
    return result;
  }

  async #endPlainly(image: ImageProcess): Promise<void> {
    image.signal('SIGTERM');
    const timer = setTimeout(() => image.kill('SIGKILL'), STOP_MS);
    await image.gone;
    clearTimeout(timer);
    this.#forget(image);
  }

  /** Forwards `signal` to the program and lets it end; after ten seconds it is killed. */
  stop(signal: NodeJS.Signals): void {
    this.#stopSignal = signal;
    this.#trial.end();
    if (this.#state === 'updating' || this.#state === 'prepared') {
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
    this.#enter('stopping');
    this.#lingerers.signal(signal);
    image?.signal(signal);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => image?.kill('SIGKILL'), STOP_MS);
  }

  /** Passes a signal on that asks for no end (SIGUSR2, ...). */
  signal(signal: NodeJS.Signals): void {
    this.#current?.signal(signal);
  }

  #gone(image: ImageProcess, exit: Exit): void {
    if (this.#lingerers.gone(image)) {
      this.#forget(image);
      this.#log(
        `generation ${image.generation}, pid ${image.pid}, has served what could not cross, and ${howItEnded(exit)}`,
      );
      return;
    }
    if (this.#update !== undefined) {
      this.#update.gone(image, exit);
      return;
    }
    if (image !== this.#current || this.#state === 'updating') return;
    clearTimeout(this.#timer);
    // What it asked to hold before it was in charge goes with it; what luod holds for the service stays.
    this.#forget(image);
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
    const isBad = this.#state !== 'stopping' && (failed || again);
    const reason = exitReport('the new version', exit);
    if (isBad && this.#takeWayBack(this.#trial.died(image, reason, this.#generation + 1))) {
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
    this.#current = undefined;
    const ms = this.#backoff.next();
    this.#restarts++;
    this.#enter('restarting');
    this.#log(`starts again in ${ms} ms with ${this.custody.size} held`);
    this.#timer = setTimeout(() => this.start(), ms);
  }

  #end(status: number): void {
    this.#state = 'stopped';
    this.#trial.end();
    this.#tellServing();
    this.#lingerers.kill();
    endKeptChildren(this.custody.entries(), (session, error) =>
      this.#log(`'${session}' lives on: ${error.message}`),
    );
    this.custody.clear();
    this.#store.drop();
    this.#tellChange();
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
      worker: this.#options.worker,
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
      lingering: this.#lingerers.status(),
      lastUpdate: this.#trial.last,
      health: policyOf(this.#health),
      prepared: this.isPrepared ? waiting(this.#prepared()) : null,
      watch: this.#trial.status,
    };
  }
}

/** What the status says of a version that waits. */
function waiting({ generation, pid, command, secondsLeft }: Prepared): ServiceStatus['prepared'] {
  return { generation, pid, command, secondsLeft };
}

/** Where an update waits for others, or for a word. */
type Stops = Pick<UpdateOptions, 'meeting' | 'hold'>;

/** A version that hangs does not answer when going back is called off, either. */
function deadlinesOfGoingBack(total: number): Deadlines {
  return { total, finish: Math.min(total, DEFAULT_LEAVE_MS) };
}

function signalNumber(signal: NodeJS.Signals | null): number {
  return signal === null ? 0 : constants.signals[signal];
}
