/**
 * One update of a service, from the spawn of the successor to the commit or back.
 *
 *   phase      luod waits for                                      a failure here leads to
 *   spawn      the successor's hello                               rollback
 *   preserve   the old image's 'preserved' and the program's ready() rollback
 *   health     the gate, if there is one: health.ts                rollback
 *   preserve   the word to go on, if it is to stop here: hold.ts   rollback
 *   preserve   'warm' of both, when the freeze had to wait         rollback
 *   freeze     the old image's 'frozen'                            rollback
 *   retrieve   the successor's 'finished'                          rollback, unless the commit word is set
 *   finish     the old image's end                                 (committed: it is killed at the deadline)
 *
 * Every wait is raced against the phase's deadline, the whole update's, a failure that either image reports, and the end
 * of either process. What follows a failure depends on facts alone: first the successor is killed and awaited, so that it
 * can no longer commit; then the commit word says whether it had; then the old image, if it lives, is told to go on.
 *
 * An old image that dies after it halted is no failure: the successor has everything and commits by itself.
 *
 * When luod is killed in the middle, the next one takes the update up (`Update.resume`). Told to freeze, the images may have
 * gone on without any luod, and the new one waits for their end of it; before that it calls the update off.
 */
import { withResolvers } from '../core/resolvers.js';
import { createCommitWord, isCommitted } from '../handover/commit-word.js';
import { DEFAULT_DRAIN_MS, type ErrorReport, type ImageToLuod } from '../handover/protocol.js';
import { closeFd } from '../linux/fd.js';
import { socketPair } from '../linux/socketpair.js';
import type { Hold } from './hold.js';
import type { Exit, ImageProcess } from './image-process.js';
import {
  DEFAULT_LEAVE_MS,
  type Deadlines,
  endOf,
  exitReport,
  type Failure,
  PhaseError,
  Phases,
  reportOf,
  settles,
  type UpdatePhase,
} from './phases.js';

export interface UpdateResult {
  readonly ok: boolean;
  readonly service: string;
  /** Of the image that serves now. */
  readonly generation: number;
  readonly fromPid: number | undefined;
  readonly toPid: number | undefined;
  /** Freeze start to sockets flowing; null when nothing was carried. */
  readonly blackoutMs: number | null;
  readonly phases: {
    spawn: number;
    preserve: number;
    /** Only when there was a gate. */
    health?: number;
    /** Only of one that was prepared: how long it waited for the cut. */
    held?: number;
    freeze: number;
    retrieve: number;
    finish: number;
  };
  readonly files: number;
  readonly connections: number;
  /** Connections that could not cross, and that the old image serves to their end. */
  readonly draining: number;
  /** Of `connections`, those that moved ahead of the cut (a rolling listener's). */
  readonly moved?: number;
  /** After a rollback: connections that ended with a new version that served them already and could not give them back. */
  readonly lost?: number;
  readonly bytes: number;
  /** False for a program that does not use liveupdate: it was restarted in the plain way. */
  readonly carried: boolean;
  /** Sessions that the new version gave up on purpose, and those that could not finish. */
  readonly dropped?: readonly string[];
  readonly unfinished?: readonly string[];
  readonly rolledBack?: boolean;
  /**
   * Learned after the commit: the new version was found bad. The command before runs again, in `generation`; or the same command was
   * started again; or it serves on unhealthy.
   */
  readonly afterCommit?: 'rolledBack' | 'restarted' | 'servesOn';
  readonly error?: { code: string; message: string; phase: UpdatePhase };
}

/** A freeze that comes so much later than it could have has cold caches, and takes four times as long: then both images warm up first. */
const COLD_MS = 100;
/** Some hundred milliseconds of work; who is later than this is cut cold. */
const WARM_UP_MS = 3000;
/** How long a new version may take to give back what it serves. */
const GIVE_BACK_MS = 2000;

/** What became of the service. */
export type Outcome =
  /** The successor serves. */
  | { kind: 'committed' }
  /** The old image serves on. */
  | { kind: 'rolledBack' }
  /** Neither lives; `by` is the command to start again with. */
  | { kind: 'lost'; by: 'old' | 'new' };

/** What of an update outlives luod. */
export interface UpdateNotes {
  /** The update begins; `commitFd` is the caller's. */
  begun(commitFd: number): void;
  /** The old image is about to be told to freeze. */
  freezing(): void;
}

export interface UpdateOptions {
  readonly service: string;
  readonly old: ImageProcess;
  readonly successor: ImageProcess;
  readonly deadlines: Deadlines;
  readonly notes: UpdateNotes;
  /**
   * Asked when the successor is ready and before anything freezes: returns why it must not take over. Its own limits count, not the
   * deadlines; it is called off by the signal.
   */
  readonly gate?: ((signal: AbortSignal) => Promise<ErrorReport | undefined>) | undefined;
  /** Awaited when the successor is ready and before anything freezes: other updates that go together with this one. */
  readonly meeting?: (() => Promise<void>) | undefined;
  /** Stops there, when everything before the freeze is done. Its time is its own, and counts in no deadline. */
  readonly hold?: Hold | undefined;
}

type Message<T extends ImageToLuod['type']> = Extract<ImageToLuod, { type: T }>;

export class Update {
  readonly #service: string;
  readonly #old: ImageProcess;
  readonly #successor: ImageProcess;
  readonly #deadlines: Deadlines;
  readonly #phases: Phases;
  readonly #hello = withResolvers<void>();
  readonly #preserved = withResolvers<Message<'preserved'>>();
  readonly #ready = withResolvers<Message<'ready'>>();
  readonly #oldIsWarm = withResolvers<Message<'warm'>>();
  readonly #successorIsWarm = withResolvers<Message<'warm'>>();
  readonly #frozen = withResolvers<void>();
  readonly #finished = withResolvers<Message<'finished'>>();
  readonly #unfrozen = withResolvers<void>();
  readonly #lingering = withResolvers<void>();
  readonly #rolled = withResolvers<Message<'rolled'>>();
  readonly #gaveBack = withResolvers<void>();
  /** Whether the successor may serve connections ahead of the commit. */
  #isRolling = false;
  /** Connections that moved ahead of the cut, and that were lost with a successor that could not give them back. */
  #moved = 0;
  #lost = 0;
  /** Connections that could not cross, when the old image stayed for them. */
  #draining = 0;
  /** What crossed while the images warmed up. */
  #warmBytes = 0;
  readonly #commitFd: number;
  readonly #notes: UpdateNotes;
  readonly #meeting: UpdateOptions['meeting'];
  readonly #hold: UpdateOptions['hold'];
  #heldMs: number | undefined;
  #heldAt: number | undefined;
  /** Whether a luod before this one began it. */
  readonly #isResumed: boolean;
  #direct: { old: number; successor: number } | undefined;
  readonly #gate: UpdateOptions['gate'];
  #gateMs: number | undefined;
  #phase: UpdatePhase = 'spawn';
  #preserveSent = false;
  #freezeSent = false;

  private constructor(options: UpdateOptions, commitFd: number, isResumed: boolean) {
    this.#service = options.service;
    this.#old = options.old;
    this.#successor = options.successor;
    this.#deadlines = options.deadlines;
    this.#notes = options.notes;
    this.#gate = options.gate;
    this.#meeting = options.meeting;
    this.#hold = options.hold;
    this.#phases = new Phases(options.deadlines);
    this.#commitFd = commitFd;
    this.#isResumed = isResumed;
  }

  /** @throws {LiveUpdateError} EMFILE, ENOMEM: nothing was begun. */
  static begin(options: UpdateOptions): Update {
    const commitFd = createCommitWord();
    try {
      options.notes.begun(commitFd);
    } catch (error) {
      closeFd(commitFd);
      throw error;
    }
    return new Update(options, commitFd, false);
  }

  /**
   * Takes up what the luod before this one began.
   * @param update.commitFd Owned from now on.
   */
  static resume(
    options: UpdateOptions,
    { commitFd, freezing }: { commitFd: number; freezing: boolean },
  ): Update {
    const update = new Update(options, commitFd, true);
    update.#preserveSent = true;
    update.#freezeSent = freezing;
    // The luod before may have told the old image to roll.
    update.#isRolling = true;
    return update;
  }

  /** Notes again how far it is. */
  tellAgain(): void {
    this.#notes.begun(this.#commitFd);
    if (this.#freezeSent) this.#notes.freezing();
  }

  /** The successor said hello: it gets its end of the direct wire. */
  greet(generation: number): void {
    const [old, successor] = socketPair();
    this.#direct = { old, successor };
    this.#successor.send({ type: 'welcome', role: 'successor', service: this.#service, generation }, [
      successor,
      this.#commitFd,
    ]);
    closeFd(successor);
    this.#hello.resolve();
  }

  message(image: ImageProcess, message: ImageToLuod): void {
    if (message.type === 'failed') {
      this.#phases.fail({ phase: message.phase, error: message.error });
    } else if (image === this.#old) {
      if (message.type === 'preserved') this.#preserved.resolve(message);
      if (message.type === 'warm') this.#oldIsWarm.resolve(message);
      if (message.type === 'rolled') this.#rolled.resolve(message);
      if (message.type === 'frozen') this.#frozen.resolve();
      if (message.type === 'unfrozen') {
        this.#lost = message.lost ?? 0;
        this.#unfrozen.resolve();
      }
      if (message.type === 'lingering') {
        this.#draining = message.connections;
        this.#lingering.resolve();
      }
    } else {
      if (message.type === 'ready') this.#ready.resolve(message);
      if (message.type === 'warm') this.#successorIsWarm.resolve(message);
      if (message.type === 'gaveBack') this.#gaveBack.resolve();
      if (message.type === 'finished') this.#finished.resolve(message);
    }
  }

  gone(image: ImageProcess, exit: Exit): void {
    if (image === this.#successor) {
      this.#phases.fail({ phase: this.#phase, error: exitReport('the new version', exit) });
    } else if (!this.#freezeSent) {
      this.#phases.fail({ phase: this.#phase, error: exitReport('the running version', exit) });
    }
    // Else the successor knows better whether it got everything: it commits, or reports that the wire ended too early.
  }

  /** Whether the old image was told to freeze: from then on the images decide. */
  get isFreezing(): boolean {
    return this.#freezeSent;
  }

  /** Called off from outside (luod stops, an operator). */
  cancel(reason: string): void {
    this.#phases.fail({ phase: this.#phase, error: { code: 'ECANCELED', message: reason } });
  }

  async run(): Promise<{ outcome: Outcome; result: UpdateResult }> {
    const marks: number[] = [performance.now()];
    try {
      if (this.#isResumed) return await this.#goOn();
      await this.#phases.wait('spawn', this.#hello.promise, 'the new version did not call liveupdate()');
      marks.push(performance.now());

      this.#phase = 'preserve';
      const direct = this.#direct as { old: number; successor: number };
      this.#old.send({ type: 'preserve', carrier: 'luod' }, [direct.old, this.#commitFd]);
      this.#preserveSent = true;
      closeFd(direct.old);
      this.#direct = undefined;
      const preserved = await this.#phases.wait(
        'preserve',
        this.#preserved.promise,
        'the running version did not preserve its files',
      );
      const ready = await this.#phases.wait(
        'preserve',
        this.#ready.promise,
        'the new version did not call ready()',
      );
      const readyAt = performance.now();
      // Both images would serve for as long as it is held.
      if (preserved.rolls === true && this.#hold === undefined) await this.#roll();
      await this.#passGate();
      if (this.#meeting !== undefined) {
        this.#phase = 'preserve';
        await this.#phases.wait('preserve', this.#meeting(), 'the other workers were not ready');
      }
      if (this.#hold !== undefined) await this.#wait(this.#hold);
      if (performance.now() - readyAt > COLD_MS) await this.#warmUp(preserved, ready);
      if (preserved.rolls === true && this.#hold !== undefined) await this.#roll();
      marks.push(performance.now());

      this.#phase = 'freeze';
      this.#freezeSent = true;
      this.#notes.freezing();
      this.#old.send({ type: 'freeze' });
      await this.#phases.wait(
        'freeze',
        Promise.race([this.#frozen.promise, this.#finished.promise.then(() => undefined)]),
        'the running version did not freeze',
      );
      marks.push(performance.now());

      this.#phase = 'retrieve';
      const finished = await this.#phases.wait(
        'retrieve',
        this.#finished.promise,
        'the new version did not take over',
      );
      await this.#dismiss();
      return {
        outcome: { kind: 'committed' },
        result: this.#result(marks, preserved, finished),
      };
    } catch (error) {
      // Whatever else goes wrong here (no descriptor left, say) must end like any failed phase: with one image in charge.
      const failure =
        error instanceof PhaseError ? error.failure : { phase: this.#phase, error: reportOf(error) };
      return await this.#fallBack(failure, marks);
    } finally {
      if (this.#direct !== undefined) closeFd(this.#direct.old);
      closeFd(this.#commitFd);
    }
  }

  async #wait(hold: Hold): Promise<void> {
    this.#phase = 'preserve';
    const began = performance.now();
    this.#heldAt = began;
    try {
      await this.#phases.during(hold.wait());
      // What it took to get here is nothing that the cut has to make up for.
      this.#phases.restart();
    } finally {
      hold.end();
      this.#heldMs = performance.now() - began;
    }
  }

  /** An image of another version may not know how to. */
  async #warmUp(old: Message<'preserved'>, successor: Message<'ready'>): Promise<void> {
    this.#phase = 'preserve';
    const warm: Promise<Message<'warm'>>[] = [];
    if (successor.warms === true) {
      this.#successor.send({ type: 'warmUp' });
      warm.push(this.#successorIsWarm.promise);
    }
    if (old.warms === true) {
      this.#old.send({ type: 'warmUp' });
      warm.push(this.#oldIsWarm.promise);
    }
    const answers = (await this.#phases.tryFor(WARM_UP_MS, Promise.all(warm))) ?? [];
    this.#warmBytes = answers.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Most connections of rolling listeners move now, while both images serve. */
  async #roll(): Promise<void> {
    this.#isRolling = true;
    this.#old.send({ type: 'roll' });
    const late = 'the running version did not move its connections';
    this.#moved = (await this.#phases.wait('preserve', this.#rolled.promise, late)).connections;
  }

  /** A successor that serves connections ahead of the commit gives them back before it ends. */
  async #askBack(): Promise<void> {
    if (!this.#isRolling || !this.#successor.isConnected || this.#successor.exit !== undefined) return;
    this.#successor.send({ type: 'giveBack' });
    await settles(Promise.race([this.#gaveBack.promise, this.#successor.gone]), GIVE_BACK_MS);
  }

  async #passGate(): Promise<void> {
    if (this.#gate === undefined) return;
    this.#phase = 'health';
    const began = performance.now();
    const called = new AbortController();
    try {
      const reason = await this.#phases.during(this.#gate(called.signal));
      if (reason !== undefined) throw new PhaseError({ phase: 'health', error: reason });
    } finally {
      called.abort();
      this.#gateMs = performance.now() - began;
    }
  }

  /** Either image may have done its part while there was no luod, and says so again. */
  async #goOn(): Promise<{ outcome: Outcome; result: UpdateResult }> {
    if (!this.#freezeSent) {
      const message = 'luod was killed meanwhile';
      throw new PhaseError({ phase: 'preserve', error: { code: 'ECANCELED', message } });
    }
    const at = performance.now();
    this.#phase = 'retrieve';
    // The last luod may have died before it said so.
    this.#old.send({ type: 'freeze' });
    const late = 'the new version did not take over';
    const finished = await this.#phases.wait('retrieve', this.#finished.promise, late);
    await this.#dismiss();
    const preserved: Message<'preserved'> = { type: 'preserved', bytes: 0 };
    return { outcome: { kind: 'committed' }, result: this.#result([at], preserved, finished) };
  }

  /** Committed: the old image leaves, in its own way or by force; or it lingers, for what could not cross. */
  async #dismiss(): Promise<void> {
    const leaveMs = this.#deadlines.finish ?? DEFAULT_LEAVE_MS;
    if (this.#old.isConnected && this.#old.exit === undefined)
      this.#old.send({ type: 'finish', drainMs: this.drainMs, leaveMs });
    const left = Promise.race([this.#lingering.promise, this.#old.gone]);
    if (!(await settles(left, leaveMs))) await endOf(this.#old, 0);
  }

  /** Connections that the old image stayed for. */
  get draining(): number {
    return this.#draining;
  }

  get drainMs(): number {
    return this.#deadlines.drain ?? DEFAULT_DRAIN_MS;
  }

  async #fallBack(failure: Failure, marks: number[]): Promise<{ outcome: Outcome; result: UpdateResult }> {
    await this.#askBack();
    this.#successor.kill('SIGKILL');
    await this.#successor.gone;
    const error = { ...failure.error, phase: failure.phase };
    if (isCommitted(this.#commitFd)) {
      await this.#dismiss();
      return {
        outcome: { kind: 'lost', by: 'new' },
        result: this.#failed(marks, false, {
          ...error,
          message: `${error.message}; it had taken over already, so its connections are lost; the program is started again with the listeners and memory that luod holds`,
        }),
      };
    }
    // An image that was told of no update has nothing to take back, and would not answer.
    if (this.#old.exit === undefined && !this.#preserveSent) {
      return { outcome: { kind: 'rolledBack' }, result: this.#failed(marks, true, error) };
    }
    if (this.#old.exit === undefined && this.#old.isConnected) {
      this.#old.send({ type: 'unfreeze', reason: failure.error });
      const limit = this.#deadlines.finish ?? DEFAULT_LEAVE_MS;
      if (
        await settles(Promise.race([this.#unfrozen.promise, this.#old.gone.then(() => undefined)]), limit)
      ) {
        if (this.#old.exit === undefined) {
          return { outcome: { kind: 'rolledBack' }, result: this.#failed(marks, true, error) };
        }
      }
    }
    const died = this.#old.exit !== undefined;
    // A program that neither ends nor answers has lost its event loop; what luod holds is all that can be saved.
    const exit = await endOf(this.#old, 0);
    // The successor may have noticed the end of the old image first; what counts is why that one ended.
    if (died) Object.assign(error, exitReport('the running version', exit));
    return {
      outcome: { kind: 'lost', by: 'old' },
      result: this.#failed(marks, false, {
        ...error,
        message: `${error.message}; its connections are lost; it is started again with the listeners and memory that luod holds`,
      }),
    };
  }

  /** The gate and the hold stand between ready() and the freeze, in the time that the marks count as preserve. */
  #beforeFreeze(marks: number[]): { preserve: number; health?: number; held?: number } {
    const gate = this.#gateMs;
    const held = this.#heldMs;
    // One that was called off while it was held has no later mark.
    const [, from, to = (this.#heldAt ?? from ?? 0) + (held ?? 0)] = marks;
    return {
      preserve: from === undefined ? 0 : round(Math.max(0, to - from - (gate ?? 0) - (held ?? 0))),
      ...(gate === undefined ? {} : { health: round(gate) }),
      ...(held === undefined ? {} : { held: round(held) }),
    };
  }

  #failed(
    marks: number[],
    rolledBack: boolean,
    error: { code: string; message: string; phase: UpdatePhase },
  ): UpdateResult {
    return {
      ok: false,
      rolledBack,
      service: this.#service,
      generation: this.#old.generation,
      fromPid: this.#old.pid,
      toPid: this.#successor.pid,
      blackoutMs: null,
      phases: {
        spawn: between(marks, 0),
        ...this.#beforeFreeze(marks),
        freeze: between(marks, 2),
        retrieve: 0,
        finish: 0,
      },
      files: 0,
      connections: 0,
      draining: 0,
      bytes: 0,
      carried: false,
      ...(this.#lost > 0 ? { lost: this.#lost } : {}),
      error,
    };
  }

  #result(marks: number[], preserved: Message<'preserved'>, finished: Message<'finished'>): UpdateResult {
    const frozenAt = BigInt(finished.frozenAt);
    const sentAt = BigInt(finished.sentAt);
    return {
      ok: true,
      service: this.#service,
      generation: this.#successor.generation,
      fromPid: this.#old.pid,
      toPid: this.#successor.pid,
      blackoutMs: milliseconds(BigInt(finished.resumedAt) - frozenAt),
      phases: {
        spawn: between(marks, 0),
        ...this.#beforeFreeze(marks),
        freeze: milliseconds(sentAt - frozenAt),
        retrieve: milliseconds(BigInt(finished.retrievedAt) - sentAt),
        finish: milliseconds(BigInt(finished.resumedAt) - BigInt(finished.retrievedAt)),
      },
      files: finished.files,
      connections: finished.connections,
      draining: this.#draining,
      ...(this.#isRolling ? { moved: this.#moved } : {}),
      bytes: preserved.bytes + this.#warmBytes + finished.bytes,
      carried: true,
      dropped: finished.dropped,
      unfinished: finished.unfinished,
    };
  }
}

function between(marks: readonly number[], index: number): number {
  const start = marks[index];
  const end = marks[index + 1];
  return start === undefined || end === undefined ? 0 : round(end - start);
}

function milliseconds(ns: bigint): number {
  return round(Number(ns) / 1e6);
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
