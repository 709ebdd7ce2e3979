/**
 * Waiting in phases: for an event, at most until the phase's deadline or the whole's, and not beyond the first failure
 * that anybody reports.
 */
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import type { ErrorReport, Phase } from '../handover/protocol.js';
import { type Exit, howItEnded, type ImageProcess } from './image-process.js';

/** Milliseconds. A phase without its own limit has what is left of the total. */
export interface Deadlines {
  readonly total: number;
  readonly spawn?: number | undefined;
  readonly preserve?: number | undefined;
  readonly freeze?: number | undefined;
  readonly retrieve?: number | undefined;
  /** How long the old image may take to leave after the commit, and to go on after a rollback. */
  readonly finish?: number | undefined;
  /** How long an old image may linger to serve what cannot cross. Not part of the total: the update is over. */
  readonly drain?: number | undefined;
}

export const DEFAULT_DEADLINES: Deadlines = { total: 30_000 };
export const DEFAULT_LEAVE_MS = 10_000;

/** Where an update can fail: health is before the freeze, watch after the commit. */
export type UpdatePhase = Phase | 'health' | 'watch';

/** A failure of a phase; `LiveUpdateError` with the phase beside it. */
export interface Failure {
  readonly phase: UpdatePhase;
  readonly error: ErrorReport;
}

export class PhaseError extends Error {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.error.message);
    this.failure = failure;
  }
}

export class Phases {
  readonly #deadlines: Deadlines;
  #started = performance.now();
  readonly #failure = withResolvers<Failure>();

  constructor(deadlines: Deadlines) {
    this.#deadlines = deadlines;
  }

  /** What is left of the whole, in milliseconds. */
  get #left(): number {
    return this.#deadlines.total - (performance.now() - this.#started);
  }

  /** Rejects with the failure that is reported. */
  #reported(): Promise<never> {
    return this.#failure.promise.then((reason) => {
      throw new PhaseError(reason);
    });
  }

  /** Ends every wait, now and later. The first failure counts. */
  fail(failure: Failure): void {
    this.#failure.resolve(failure);
  }

  /**
   * @param late What the failure says when the deadline passes: '... did not ...'.
   * @throws {PhaseError} the failure that was reported, or ETIMEDOUT.
   */
  async wait<T>(phase: Exclude<Phase, 'finish'>, event: Promise<T>, late: string): Promise<T> {
    const limit = this.#deadlines[phase];
    const left = this.#left;
    const ms = Math.max(0, Math.min(left, limit ?? left));
    const { promise, resolve } = withResolvers<Failure>();
    const message = `${late} within ${Math.round(limit ?? this.#deadlines.total)} ms`;
    const timer = setTimeout(() => resolve({ phase, error: { code: 'ETIMEDOUT', message } }), ms);
    try {
      const failure = Promise.race([this.#failure.promise, promise]).then((reason) => {
        throw new PhaseError(reason);
      });
      return await Promise.race([event, failure]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The whole begins anew. */
  restart(): void {
    this.#started = performance.now();
  }

  /**
   * Waits at most `ms`, and at most for half of what is left of the whole, for what can be done without.
   * @returns undefined when it was late.
   * @throws {PhaseError} the failure that was reported meanwhile.
   */
  async tryFor<T>(ms: number, event: Promise<T>): Promise<T | undefined> {
    const { promise: late, resolve } = withResolvers<undefined>();
    const timer = setTimeout(() => resolve(undefined), Math.max(0, Math.min(ms, this.#left / 2)));
    try {
      return await Promise.race([event, this.#reported(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Waits for work that has limits of its own; its time does not count in the total.
   * @throws {PhaseError} the failure that was reported meanwhile.
   */
  async during<T>(work: Promise<T>): Promise<T> {
    const began = performance.now();
    try {
      return await Promise.race([work, this.#reported()]);
    } finally {
      this.#started += performance.now() - began;
    }
  }
}

/** Waits `ms` for the end of an image, then brings it about. */
export async function endOf(image: ImageProcess, ms: number): Promise<Exit> {
  if (ms === 0 || !(await settles(image.gone, ms))) image.kill('SIGKILL');
  return await image.gone;
}

/** Whether `promise` resolves within `ms`. */
export async function settles(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), ms);
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

export function exitReport(who: string, exit: Exit): ErrorReport {
  if (exit.error !== undefined) return reportOf(exit.error);
  return { code: 'ECHILD', message: `${who} ${howItEnded(exit)}` };
}

/** An error as requests report it. */
export function reportOf(error: unknown): ErrorReport {
  const { code, message } = LiveUpdateError.from(error);
  return { code, message };
}

/** An error as a reply of the protocol has it: with the errno's number, for languages that have no names for it. */
export function errorReply(error: unknown): ErrorReport & { errno: number } {
  const { code, errno, message } = LiveUpdateError.from(error);
  return { code, errno, message };
}
