/**
 * The watch over a new version after its commit, when the only way back is another update.
 *
 *   state       what happens                                                               next
 *   watching    the check is asked, at once and then each second; the service tells when   passed, condemned, over
 *               the process died
 *   condemned   the service goes back to the command before, if there is another one       over
 *   over        it passed, was gone back from, or another update took its place
 *
 * What the verdict leads to is the service's (service.ts). Everything that it needs is in the record, so that the next luod watches
 * on where this one was killed, and one that was killed while it went back goes on with that.
 */

import { withResolvers } from '../core/resolvers.js';
import type { ErrorReport } from '../handover/protocol.js';
import { askUntilHealthy, type Candidate, healthPolicy, pause, untilNext } from './health.js';
import { type Infer, z } from './lazy-zod.js';
import type { UpdateResult } from './update.js';

const command = z.array(z.string()).min(1);

export const probationRecord = z.object({
  /** What was answered to the update. */
  result: z.custom<UpdateResult>((value) => typeof value === 'object' && value !== null),
  /** When the watch ends, in ms since the epoch: the next luod has another monotonic clock's beginning. */
  until: z.number(),
  policy: healthPolicy,
  /** What ran before; undefined when it was the same command, so that there is nothing to go back to. */
  back: command.optional(),
  /** What `rollback` leads to after that. */
  before: command.optional(),
  /** The milliseconds that going back may take. */
  total: z.number().positive(),
  /** The entry of the update in the history. */
  entry: z.string(),
});

export type ProbationRecord = Infer<typeof probationRecord>;

export interface ProbationEvents {
  /** The time is over, and it was healthy when it was asked last. */
  passed(): void;
  /**
   * The check was answered badly.
   * @returns false when nothing can be done about it now (an update is under way): it is asked again.
   */
  unhealthy(reason: ErrorReport): boolean;
}

export class Probation {
  readonly record: ProbationRecord;
  /** Resolves when it is over: with what is true of the update now, when the version was found bad. */
  readonly settled: Promise<UpdateResult | undefined>;
  readonly #events: ProbationEvents;
  readonly #settled = withResolvers<UpdateResult | undefined>();
  #stopped = new AbortController();
  #watching: Promise<void> | undefined;

  constructor(record: ProbationRecord, events: ProbationEvents) {
    this.record = record;
    this.#events = events;
    this.settled = this.#settled.promise;
  }

  /** Begins to ask, once the version serves; again changes nothing. */
  watch(candidate: Candidate): void {
    this.#watching ??= this.#watch(candidate, this.#stopped.signal);
  }

  async #watch(candidate: Candidate, signal: AbortSignal): Promise<void> {
    const { policy, until } = this.record;
    for (;;) {
      const reason = await askUntilHealthy(policy, candidate, signal);
      if (signal.aborted) return;
      if (reason !== undefined && this.#events.unhealthy(reason)) return;
      // A check that still ran when the time was over counts, too.
      if (reason === undefined && Date.now() >= until) {
        this.#events.passed();
        return;
      }
      await pause(Math.max(1, untilNext(reason === undefined ? until : Number.POSITIVE_INFINITY)), signal);
      if (signal.aborted) return;
    }
  }

  get secondsLeft(): number {
    return Math.max(0, Math.round((this.record.until - Date.now()) / 1000));
  }

  /** Asks nothing until `watch` is called again; when it resolves, no command of it runs any more. */
  async rest(): Promise<void> {
    this.#stopped.abort();
    await this.#watching;
    this.#watching = undefined;
    this.#stopped = new AbortController();
  }

  /** It is over, whatever came of it. */
  settle(result?: UpdateResult): void {
    this.#stopped.abort();
    this.#settled.resolve(result);
  }
}
