/**
 * A service's updates on trial: what each was asked for, what became of it, and, for the last one, the watch after its commit.
 *
 *   event                                     what follows
 *   an update is over                         an entry in the history
 *   ... and committed, with a watch           a probation: the command before is remembered, the check is asked
 *   the version under watch dies              the command before is started again, with what luod holds
 *   it is alive and unhealthy                 a live update back to the command before: connections stay. If neither survives that, as
 *                                             above; if going back is called off, it serves on, and that is said
 *   either, and the command was the same      there is none to go back to: what died is started again as ever, and that is said
 *   another update takes over, or a stop      the watch is over without a verdict
 *
 * Going back is itself neither checked nor watched: if the command before dies, too, the normal back-off follows. It is an update like
 * any other and can be taken up by the next luod; until its end the probation is kept, so that the verdict is not lost.
 *
 * The commands, and what is started, are the service's (service.ts); this is what it asks.
 */
import type { ErrorReport } from '../handover/protocol.js';
import type { Candidate } from './health.js';
import { policyOf, TRUSTED } from './health.js';
import type { ImageProcess } from './image-process.js';
import { Probation, type ProbationRecord } from './probation.js';
import type { UpdateResult } from './update.js';
import { type Asked, entryOf, UpdateHistory } from './update-history.js';

/** The service, as its trials see it. */
export interface Tried {
  log(line: string): void;
  /** There is something new to keep. */
  note(): void;
  /** The image in charge, if nothing else is under way. */
  serving(): ImageProcess | undefined;
  candidate(image: ImageProcess, stage: Candidate['stage']): Candidate;
  /** Calls off what waits for its cut: going back comes first. */
  giveUpPrepared(reason: string): void;
  /** Updates to the command before. @throws {LiveUpdateError} when it could not even begin. */
  goBack(image: ImageProcess, command: readonly string[], asked: Asked): Promise<unknown>;
  /** Keeps the history. */
  keep: ConstructorParameters<typeof UpdateHistory>[0];
}

/** Commands after going back: what runs, and what `rollback` leads to. */
export interface WayBack {
  readonly command: readonly string[];
  readonly previous: readonly string[] | undefined;
}

export class Trial {
  readonly history: UpdateHistory;
  /** Of the update under way, or of the last one. */
  asked: Asked | undefined;
  /** What is true of the last update that somebody asked for, as far as is known now. */
  last: UpdateResult | null = null;
  readonly #tried: Tried;
  #probation: Probation | undefined;

  constructor(tried: Tried) {
    this.#tried = tried;
    this.history = new UpdateHistory(tried.keep);
  }

  /** Whether the update under way takes back the one under watch. */
  get #isGoingBack(): boolean {
    return this.asked?.reason !== undefined;
  }

  get record(): ProbationRecord | undefined {
    return this.#probation?.record;
  }

  /** For people; null when nothing is watched. */
  get status(): { secondsLeft: number; goesBackTo: readonly string[] | null } | null {
    if (this.#probation === undefined) return null;
    return { secondsLeft: this.#probation.secondsLeft, goesBackTo: this.#probation.record.back ?? null };
  }

  /** What is true of `result` once the watch is over; at once when none lasts. */
  async verdict(result: UpdateResult): Promise<UpdateResult> {
    const probation = this.#probation;
    if (probation === undefined || probation.record.result.toPid !== result.toPid) return result;
    return (await probation.settled) ?? result;
  }

  /** The probation that the luod before had. */
  restore(record: ProbationRecord): void {
    this.#probation = new Probation(record, {
      passed: () => {
        this.end();
        this.#tried.note();
        this.#tried.log(`generation ${record.result.generation} passed its watch`);
      },
      unhealthy: (reason) => this.#unhealthy(record, reason),
    });
  }

  /**
   * An update is over; what follows from that comes next.
   * @returns whether somebody asked for it: going back belongs to the update that it takes back.
   */
  over(result: UpdateResult, command: readonly string[], from: number, to: number): boolean {
    if (this.asked !== undefined) this.history.add(entryOf(this.asked, result, command, { from, to }));
    if (this.#isGoingBack) return false;
    this.last = result;
    return true;
  }

  /**
   * The new version is in charge of everything, in the place of `old`.
   * @param previous What `rollback` led to until now.
   * @returns what `rollback` leads to when it was an automatic one.
   */
  committed(
    old: ImageProcess,
    command: readonly string[],
    result: UpdateResult,
    previous: readonly string[] | undefined,
    generation: number,
  ): WayBack | undefined {
    const { asked } = this;
    if (asked?.reason !== undefined) return this.#isBack(asked.reason, generation);
    this.end();
    if (asked === undefined || asked.policy.watchMs === 0) return undefined;
    const { policy, total, at: entry } = asked;
    const back = isSame(old.command, command) ? undefined : [...old.command];
    const before = previous === undefined || isSame(previous, old.command) ? undefined : [...previous];
    this.restore({ result, until: Date.now() + policy.watchMs, policy, back, before, total, entry });
    return undefined;
  }

  #isBack(reason: ErrorReport, generation: number): WayBack | undefined {
    const record = this.#probation?.record;
    this.#condemn(reason, 'rolledBack', generation);
    return record?.back === undefined ? undefined : { command: record.back, previous: record.before };
  }

  /** The update came to nothing, and `old` serves on. */
  calledOff(old: ImageProcess, why: ErrorReport | undefined): void {
    const reason = this.asked?.reason;
    if (reason === undefined) return;
    const message = `${reason.message}; going back failed: ${why?.message ?? 'it was called off'}`;
    this.#condemn({ code: reason.code, message }, 'servesOn', old.generation);
  }

  /** The check is asked from now on, if the version that serves is under watch. */
  watch(): void {
    const image = this.#tried.serving();
    if (image !== undefined) this.#probation?.watch(this.#tried.candidate(image, 'committed'));
  }

  /** No check runs any more when this resolves; `watch` goes on. */
  async rest(): Promise<void> {
    await this.#probation?.rest();
  }

  /** @returns false when it is to be asked again: something else is under way. */
  #unhealthy({ back, total }: ProbationRecord, reason: ErrorReport): boolean {
    const image = this.#tried.serving();
    if (image === undefined) {
      this.#tried.giveUpPrepared(reason.message);
      return false;
    }
    if (back === undefined) {
      this.#condemn(nothingBefore(reason), 'servesOn', image.generation);
      return true;
    }
    this.#tried.log(`unhealthy after the commit: ${reason.message}; goes back to '${back.join(' ')}'`);
    const asked: Asked = { ...automatic(), total, reason };
    this.#tried.goBack(image, back, asked).catch((error: Error) => {
      this.calledOff(image, { code: reason.code, message: error.message });
    });
    return true;
  }

  /**
   * The version under watch died.
   * @param next The generation that is started in its place.
   * @returns the commands from now on, when the one before is to be started.
   */
  died(image: ImageProcess, reason: ErrorReport, next: number): WayBack | undefined {
    const record = this.#probation?.record;
    if (record === undefined) return undefined;
    if (record.back === undefined) {
      this.#condemn(nothingBefore(reason), 'restarted', next);
      return undefined;
    }
    this.history.add({
      ...automatic(),
      outcome: 'ok',
      fromGeneration: image.generation,
      toGeneration: next,
      fromPid: image.pid,
      command: record.back,
      blackoutMs: null,
      carried: false,
    });
    return this.#isBack(reason, next);
  }

  /** The version under watch was found bad, and this is what became of it. */
  #condemn(
    reason: ErrorReport,
    afterCommit: NonNullable<UpdateResult['afterCommit']>,
    generation: number,
  ): void {
    const record = this.#probation?.record;
    if (record === undefined) return;
    const error = { ...reason, phase: 'watch' as const };
    const rolledBack = afterCommit === 'rolledBack';
    const result = { ...record.result, ok: false, rolledBack, afterCommit, generation, error };
    if (this.isLast(record.result)) this.last = result;
    this.history.amend(record.entry, { outcome: rolledBack ? 'autoRolledBack' : 'failed', error });
    this.end(result);
    this.#tried.note();
    const now = rolledBack ? `back to '${record.back?.join(' ')}'` : AFTER[afterCommit];
    this.#tried.log(`the last update was bad: ${reason.message} (${reason.code}); ${now}`);
  }

  /** Whether `result` is of the last update that somebody asked for. */
  isLast(result: UpdateResult): boolean {
    return this.last !== null && this.last.toPid === result.toPid;
  }

  /** The watch is over. @param result What is true of its update now, when it was found bad. */
  end(result?: UpdateResult): void {
    this.#probation?.settle(result);
    this.#probation = undefined;
  }
}

const AFTER = { restarted: 'it is started again', servesOn: 'it serves on' } as const;

function automatic(): Pick<Asked, 'kind' | 'by' | 'at' | 'policy'> {
  return { kind: 'autoRollback', by: 'luod', at: new Date().toISOString(), policy: policyOf(TRUSTED) };
}

function nothingBefore({ code, message }: ErrorReport): ErrorReport {
  return { code, message: `${message}; the command before it is the same, so there is none to go back to` };
}

export function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.join('\0') === other.join('\0');
}
