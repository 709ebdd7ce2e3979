/**
 * Workers that wait for their cut together: all of them, or none. One of them may be cut alone, by its name, and is new then; when one falls
 * (it dies, its time ends, it is called off), the others are called off, since a cut of those that are left would be half an update, and
 * look like a whole one.
 */
import { LiveUpdateError } from '../core/errors.js';
import { reportOf } from './phases.js';
import type { Prepared, Service } from './service.js';
import type { UpdateResult } from './update.js';
import type { WorkerUpdate } from './worker-group.js';

export class PreparedWorkers {
  readonly #group: string;
  readonly #all: Iterable<Service>;
  /** What was prepared last of all at once: the next version's pid of each worker. */
  #last: ReadonlyMap<string, number | undefined> = new Map();
  #isOnItsWay = false;

  /** @param all The workers of the group, as they are when it is asked. */
  constructor(group: string, all: Iterable<Service>) {
    this.#group = group;
    this.#all = all;
  }

  /** Whether workers are on their way to where they wait. */
  get isOnItsWay(): boolean {
    return this.#isOnItsWay;
  }

  /**
   * Prepares these, all at once.
   * @returns what waits, of each; or what failed, of some, and nothing waits.
   */
  async prepare(
    members: readonly Service[],
    prepareOne: (member: Service) => Promise<Prepared | UpdateResult>,
  ): Promise<{ waiting: readonly Prepared[] } | { failed: readonly WorkerUpdate[] }> {
    this.#isOnItsWay = true;
    try {
      const arrived = await Promise.all(
        members.map(async (member) => {
          const result = await prepareOne(member).catch(
            (error: unknown): WorkerUpdate => ({ ok: false, service: member.name, error: reportOf(error) }),
          );
          // The others need not go all the way.
          if (!result.ok) await this.callOff(result, members);
          return result;
        }),
      );
      // The first may have fallen while the last was on its way.
      const results = await Promise.all(
        arrived.map(async (result, at) => {
          const member = members[at] as Service;
          const hasFallen = 'secondsLeft' in result && !member.isPrepared;
          return hasFallen ? ((await member.outcome) as UpdateResult) : result;
        }),
      );
      const failed = results.filter((result): result is WorkerUpdate => !result.ok);
      if (failed.length > 0) {
        await this.callOff(failed[0] as WorkerUpdate, members);
        return { failed };
      }
      for (const member of members) void this.#standOrFall(member);
      const waiting = results.filter((result): result is Prepared => 'secondsLeft' in result);
      this.#last = new Map(waiting.map(({ service, pid }) => [service, pid]));
      return { waiting };
    } finally {
      this.#isOnItsWay = false;
    }
  }

  async #standOrFall(member: Service): Promise<void> {
    // That it could not even begin was told to whoever asked.
    const result = await member.outcome?.catch(() => undefined);
    if (result?.ok === false) await this.callOff(result);
  }

  /**
   * Whoever waits does so no longer.
   * @param others Who are on their way there, and need not go on.
   */
  async callOff({ service }: WorkerUpdate, others: readonly Service[] = []): Promise<void> {
    const by = `luod, since '${service}' could not be updated and the workers go together`;
    const waiting = Array.from(this.#all).filter(
      (member) => member.isPrepared || (others.includes(member) && member.isCancellable),
    );
    await Promise.allSettled(waiting.map((member) => member.cancel(by)));
  }

  get isWaiting(): boolean {
    return Array.from(this.#all).some(({ isPrepared }) => isPrepared);
  }

  /**
   * Those that a cut of all is for.
   * @throws {LiveUpdateError} ENOENT when none waits, with the reason if there was one; EINVAL when some were never prepared.
   */
  toCut(): Service[] {
    const all = [...this.#all];
    const members = all.filter(({ isPrepared }) => isPrepared);
    if (members.length === 0) {
      const failed = all.flatMap(({ name, lastUpdate }) =>
        lastUpdate?.error === undefined ? [] : [{ service: name, error: lastUpdate.error }],
      );
      // What the others were called off for.
      const first = failed.find(({ error }) => error.code !== 'ECANCELED') ?? failed[0];
      const why =
        first === undefined
          ? ''
          : `; the last update of '${first.service}' failed: ${first.error.message} (${first.error.code})`;
      const text = `no next version of '${this.#group}' is prepared${why}`;
      throw new LiveUpdateError('ENOENT', text, { operation: 'cut' });
    }
    if (all.some((member) => !member.isPrepared && !this.#isNew(member))) {
      const names = members.map(({ name }) => `'${name}'`).join(', ');
      const text = `of '${this.#group}' only ${names} is prepared: cut it by its name, or cancel it and prepare all`;
      throw new LiveUpdateError('EINVAL', text, { operation: 'cut' });
    }
    return members;
  }

  /** Names of those that were cut alone, of what was prepared for all. */
  get alreadyNew(): string[] {
    return Array.from(this.#all)
      .filter((member) => this.#isNew(member))
      .map(({ name }) => name);
  }

  #isNew({ name, pid, isPrepared }: Service): boolean {
    return !isPrepared && pid !== undefined && this.#last.get(name) === pid;
  }
}
