/**
 * A service of several workers: one command in several processes, each a `Service` of its own ('web/1', 'web/2', ...) with its generations,
 * its sessions in luod's hands, its restarts and its updates. A group is what they have in common for whoever runs them; it keeps nothing
 * itself, so the next luod makes it again from its workers' records.
 *
 * An update of the group is one of each worker:
 *
 *   worker by worker   the next one begins when the last one serves; the first that fails ends it, and the rest stay as they were
 *   together           all begin at once and meet before the first of them freezes: if one cannot get that far, none is replaced.
 *                      Behind the meeting each is decided by itself
 *
 *   prepared           all begin at once and stop before their cut; if one cannot get that far, or falls while it waits there, all that
 *                      wait are called off. The cut is then again one after the other, or together
 *
 * Asked again of the luod after this one, under the same key, it goes on where it was: each worker knows its part by a key made of it.
 */
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import type { ErrorReport } from '../handover/protocol.js';
import type { HealthWords } from './health.js';
import { reportOf, type UpdatePhase } from './phases.js';
import { PreparedWorkers } from './prepared-workers.js';
import type {
  Cancelled,
  CutRequest,
  Prepared,
  PrepareRequest,
  Service,
  ServiceStatus,
  UpdateRequest,
} from './service.js';
import type { WorkerOf } from './service-record.js';
import type { UpdateResult } from './update.js';

export interface GroupUpdateRequest extends UpdateRequest {
  /** All workers at once, instead of one after the other. */
  readonly together?: boolean | undefined;
}

/** Of a worker whose update could not begin, or that did not use liveupdate and failed, there is only the reason. */
export type WorkerUpdate = UpdateResult | Refusal;

interface Refusal {
  readonly ok: false;
  readonly service: string;
  /** False for one that was restarted, and did not come to serve. */
  readonly rolledBack?: false | undefined;
  readonly error: ErrorReport & { readonly phase?: UpdatePhase | undefined };
}

export interface GroupUpdateResult {
  /** Whether every worker is new. */
  readonly ok: boolean;
  readonly service: string;
  /** Of those whose turn came, in order. */
  readonly workers: readonly WorkerUpdate[];
  /** Names of the workers that run the new version, that still run the one before, and that lost both and are started again. */
  readonly new: readonly string[];
  readonly old: readonly string[];
  readonly restarted: readonly string[];
  /** Of the first that failed. */
  readonly error?: Refusal['error'];
}

export interface GroupCutRequest extends CutRequest {
  /** All workers at once, instead of one after the other. */
  readonly together?: boolean | undefined;
}

/** Every worker waits for its cut. */
export interface GroupPrepared {
  readonly ok: true;
  readonly service: string;
  readonly workers: readonly Prepared[];
}

export interface GroupCancelled {
  readonly ok: true;
  readonly service: string;
  readonly workers: readonly Cancelled[];
}

export class WorkerGroup implements Iterable<Service> {
  readonly name: string;
  /** How many workers it was started with; fewer live when some have ended for good. */
  readonly count: number;
  /** Resolves when all have ended: with the exit status of the first that failed, or 0. */
  readonly stopped: Promise<number>;
  readonly #log: (line: string) => void;
  readonly #members = new Map<number, Service>();
  readonly #stopped = withResolvers<number>();
  #status = 0;
  #isStopping = false;
  #updating: { readonly key: string | undefined; readonly result: Promise<GroupUpdateResult> } | undefined;
  readonly #prepared: PreparedWorkers;

  constructor(name: string, count: number, members: readonly Service[], log: (line: string) => void) {
    this.name = name;
    this.count = count;
    this.#prepared = new PreparedWorkers(name, this);
    this.#log = (line) => log(`${name}: ${line}`);
    this.stopped = this.#stopped.promise;
    for (const member of members) this.add(member);
  }

  /** A worker joins, or one that had ended comes back. */
  add(member: Service): void {
    const { index } = member.worker as WorkerOf;
    this.#members.set(index, member);
    void member.stopped.then((status) => {
      this.#members.delete(index);
      if (this.#status === 0) this.#status = status;
      if (this.#members.size === 0) this.#stopped.resolve(this.#status);
    });
  }

  /** In the order of their numbers. */
  [Symbol.iterator](): Iterator<Service> {
    return [...this.#members]
      .sort(([one], [other]) => one - other)
      .map(([, member]) => member)
      [Symbol.iterator]();
  }

  /** Numbers of workers that have ended for good. */
  get missing(): number[] {
    return Array.from({ length: this.count }, (_, at) => at + 1).filter((index) => !this.#members.has(index));
  }

  /** Resolves when each worker serves or has ended. */
  get ready(): Promise<unknown> {
    return Promise.all(Array.from(this, ({ ready, stopped }) => Promise.race([ready, stopped])));
  }

  get isRunning(): boolean {
    return Array.from(this).some((member) => member.isRunning);
  }

  status(): ServiceStatus[] {
    return Array.from(this, (member) => member.status());
  }

  /** See `Service.runNext`. */
  runNext(command: readonly string[], health: HealthWords | undefined): void {
    for (const member of this)
      member.runNext(command, healthOfWorker(health, (member.worker as WorkerOf).index));
  }

  /**
   * Updates every worker.
   * @throws {LiveUpdateError} EBUSY while an update of the group or of a worker runs, or a worker is not serving: nothing was begun; EINVAL
   *   when the workers run different commands and none was given.
   */
  async update(request: GroupUpdateRequest): Promise<GroupUpdateResult> {
    const same = this.#underWay(request.key);
    if (same !== undefined) return await same;
    if (!this.#isAgain(request.key)) this.#checkUpdate(request.command);
    return await this.#begin([...this], request, 'update');
  }

  #checkUpdate(command: readonly string[] | undefined): void {
    for (const member of this) member.checkServing();
    if (command !== undefined || this.#commands().size <= 1) return;
    const text = `the workers of '${this.name}' run different commands: give one after --, update a worker by its name, or roll back`;
    throw new LiveUpdateError('EINVAL', text, { operation: 'update' });
  }

  /**
   * Brings an update of every worker up to its cut, all at once. Answers as `update` does when one could not get there: all are called off.
   * @throws {LiveUpdateError} as `update`.
   */
  async prepare(request: PrepareRequest): Promise<GroupPrepared | GroupUpdateResult> {
    this.#underWay(undefined);
    if (!this.#isAgain(request.key)) this.#checkUpdate(request.command);
    const result = await this.#prepared.prepare([...this], (member) =>
      member.prepare({
        ...request,
        health: healthOfWorker(request.health, (member.worker as WorkerOf).index),
        key: memberKey(member, request.key),
      }),
    );
    return 'failed' in result
      ? this.#tell(result.failed)
      : { ok: true, service: this.name, workers: result.waiting };
  }

  /**
   * What was prepared takes over: worker by worker, of which the first that fails ends it and has the rest called off; or all at once.
   * @throws {LiveUpdateError} ENOENT when nothing is prepared; EINVAL when only some are, so that it would be half an update; EBUSY while an
   *   update of the group runs.
   */
  async cut(request: GroupCutRequest): Promise<GroupUpdateResult> {
    const same = this.#underWay(request.key);
    if (same !== undefined) return await same;
    const isAgain = this.#isAgain(request.key) && !this.#prepared.isWaiting;
    const members = isAgain ? await this.#membersOf(request.key) : this.#prepared.toCut();
    for (const member of members) member.keepPrepared();
    const result = await this.#begin(members, request, 'cut', this.#prepared.alreadyNew);
    const failed = result.workers.find(({ ok }) => !ok);
    if (failed !== undefined) await this.#prepared.callOff(failed);
    return result;
  }

  /** Whom a luod before this one was asked to cut, and whom it did not come to: what waited was called off with it. */
  async #membersOf(key: string | undefined): Promise<Service[]> {
    const members = [...this];
    await Promise.allSettled(members.map(({ outcome }) => outcome));
    return members.filter((member) => knows(member, key) || member.lastUpdate?.ok === false);
  }

  /**
   * Calls off what is prepared, or on its way there.
   * @throws {LiveUpdateError} ENOENT when nothing is; EBUSY when all that is under way has come too far.
   */
  async cancel(by: string, isRetry = false): Promise<GroupCancelled> {
    const members = [...this].filter(({ isCancellable }) => isCancellable);
    if (members.length === 0 && !isRetry) {
      const text = `no update of '${this.name}' is under way that could be called off`;
      throw new LiveUpdateError('ENOENT', text, { operation: 'cancel' });
    }
    const workers = await Promise.all(members.map((member) => member.cancel(by)));
    return { ok: true, service: this.name, workers };
  }

  /**
   * Updates to what ran before. After an update that stopped on its way those workers that are new go back to what the others run.
   * @throws {LiveUpdateError} ENOENT when there is nothing to go back to; EINVAL when it is not the same for all; EBUSY as `update`.
   */
  async rollback(request: Omit<GroupUpdateRequest, 'command'>): Promise<GroupUpdateResult> {
    const { key } = request;
    const same = this.#underWay(key);
    if (same !== undefined) return await same;
    const isAgain = this.#isAgain(key);
    const isHalf = this.#commands().size > 1;
    const members = [...this].filter(
      (member) => knows(member, key) || (isHalf ? this.#isAhead(member) : !isAgain),
    );
    if (!isAgain) this.#checkRollback(members);
    return await this.#begin(members, request, 'rollback');
  }

  #checkRollback(members: readonly Service[]): void {
    for (const member of this) member.checkServing();
    const targets = new Set(members.map(({ commands }) => commands.previous?.join('\0')));
    if (targets.size !== 1) {
      const text = `the workers of '${this.name}' have not the same to go back to: name one of them, or update to a command`;
      throw new LiveUpdateError('EINVAL', text, { operation: 'rollback' });
    }
    if (targets.has(undefined)) {
      const text = `'${this.name}' was not updated to another command yet, so there is nothing to go back to`;
      throw new LiveUpdateError('ENOENT', text, { operation: 'rollback' });
    }
  }

  /** What the workers run. */
  #commands(): Set<string> {
    return new Set(Array.from(this, ({ commands }) => commands.current.join('\0')));
  }

  /** Whether other workers still run what this one ran before. */
  #isAhead({ commands: { current, previous } }: Service): boolean {
    const before = previous?.join('\0');
    return before !== undefined && before !== current.join('\0') && this.#commands().has(before);
  }

  /** Whether a luod before this one was asked for it. */
  #isAgain(key: string | undefined): boolean {
    return Array.from(this).some((member) => knows(member, key));
  }

  /** The answer to the same request, which is under way. @throws {LiveUpdateError} EBUSY when another one is. */
  #underWay(key: string | undefined): Promise<GroupUpdateResult> | undefined {
    if (this.#updating === undefined && !this.#prepared.isOnItsWay) return undefined;
    if (this.#updating !== undefined && key !== undefined && key === this.#updating.key)
      return this.#updating.result;
    throw new LiveUpdateError('EBUSY', `an update of '${this.name}' is under way`);
  }

  async #begin(
    members: readonly Service[],
    request: GroupUpdateRequest,
    way: Way,
    before: readonly string[] = [],
  ): Promise<GroupUpdateResult> {
    const { together, ...rest } = request;
    const one = (member: Service, meeting?: Meeting) =>
      this.#updateOne(member, {
        way,
        request: {
          ...rest,
          health: healthOfWorker(rest.health, (member.worker as WorkerOf).index),
          key: memberKey(member, request.key),
          meeting: meeting && (() => meeting.arrive(member.name)),
        },
      });
    const result = (together === true ? this.#together(members, one) : this.#inTurn(members, one)).then(
      (results) => this.#tell(results, before),
    );
    this.#updating = { key: request.key, result };
    try {
      return await result;
    } finally {
      this.#updating = undefined;
    }
  }

  async #inTurn(
    members: readonly Service[],
    one: (member: Service) => Promise<WorkerUpdate>,
  ): Promise<WorkerUpdate[]> {
    const results: WorkerUpdate[] = [];
    for (const member of members) {
      const result = await one(member);
      results.push(result);
      if (!result.ok || this.#isStopping) break;
    }
    return results;
  }

  async #together(
    members: readonly Service[],
    one: (member: Service, meeting: Meeting) => Promise<WorkerUpdate>,
  ): Promise<WorkerUpdate[]> {
    const meeting = new Meeting(members.length);
    return await Promise.all(
      members.map(async (member) => {
        const result = await one(member, meeting);
        meeting.left(member.name, result);
        return result;
      }),
    );
  }

  async #updateOne(
    member: Service,
    { way, request }: { way: Way; request: UpdateRequest },
  ): Promise<WorkerUpdate> {
    try {
      const result = await member[way](request);
      // A program without liveupdate was merely started.
      if (!result.ok || result.carried || (await member.serves())) return result;
      const error = { code: 'ECHILD', message: 'the new version did not come to serve' };
      return { ok: false, service: member.name, rolledBack: false, error };
    } catch (error) {
      return { ok: false, service: member.name, error: reportOf(error) };
    }
  }

  /** @param before Those that are new already. */
  #tell(results: readonly WorkerUpdate[], before: readonly string[] = []): GroupUpdateResult {
    const of = (is: (worker: WorkerUpdate) => boolean) => results.filter(is).map(({ service }) => service);
    // One that was found unhealthy after its commit, with nothing to go back to, is new all the same.
    const updated = of(
      (worker) => worker.ok || ('afterCommit' in worker && worker.afterCommit === 'servesOn'),
    );
    const fresh = [...before, ...updated];
    const restarted = of(
      (worker) => !worker.ok && worker.rolledBack === false && !fresh.includes(worker.service),
    );
    const old = Array.from(this, ({ name }) => name).filter(
      (name) => ![...fresh, ...restarted].includes(name),
    );
    const result = { service: this.name, workers: results, new: fresh, old, restarted };
    // In an update together the others were called off because of it.
    const failed = results.filter(({ ok }) => !ok);
    const first = failed.find(({ error }) => error?.code !== 'ECANCELED') ?? failed[0];
    if (first?.error === undefined) return { ok: true, ...result };
    const left = old.length === 0 ? '' : `; ${names(old)} as before`;
    const done = fresh.length === 0 ? '' : `; new: ${names(fresh)}`;
    const error = { ...first.error, message: `'${first.service}': ${first.error.message}${done}${left}` };
    this.#log(`update stopped: ${error.message}`);
    return { ok: false, ...result, error };
  }

  /** See `Service.stop`. */
  stop(signal: NodeJS.Signals): void {
    this.#isStopping = true;
    for (const member of this) member.stop(signal);
  }

  /** See `Service.signal`. */
  signal(signal: NodeJS.Signals): void {
    for (const member of this) member.signal(signal);
  }
}

/** What is done with each worker. */
type Way = 'update' | 'rollback' | 'cut';

/** Where updates that go together wait for each other. */
class Meeting {
  readonly #count: number;
  readonly #there = new Set<string>();
  readonly #all = withResolvers<void>();

  constructor(count: number) {
    this.#count = count;
    // Told to whoever arrives; if nobody does there is nobody to tell.
    this.#all.promise.catch(() => undefined);
  }

  /** Resolves when everybody is there. @throws {LiveUpdateError} ECANCELED when one will not come. */
  arrive(worker: string): Promise<void> {
    this.#there.add(worker);
    if (this.#there.size === this.#count) this.#all.resolve();
    return this.#all.promise;
  }

  /** An update is over. One that was over before it began, in the eyes of this luod, has been here. */
  left(worker: string, result: WorkerUpdate): void {
    if (result.ok) void this.arrive(worker);
    else {
      const text = `'${worker}' could not be updated, and the workers go together: ${result.error?.message}`;
      this.#all.reject(new LiveUpdateError('ECANCELED', text));
    }
  }
}

/** Of checks that say `%w`, the worker's own. */
export function healthOfWorker(health: HealthWords | undefined, index: number): HealthWords | undefined {
  const check = health?.check;
  if (health === undefined || check === null || check === undefined) return health;
  const own = (text: string) => text.replaceAll('%w', String(index));
  return { ...health, check: 'url' in check ? { url: own(check.url) } : { command: check.command.map(own) } };
}

function memberKey({ worker }: Service, key: string | undefined): string | undefined {
  return key === undefined ? undefined : `${key} ${worker?.index}`;
}

function knows(member: Service, key: string | undefined): boolean {
  const own = memberKey(member, key);
  return own !== undefined && member.knows(own);
}

function names(workers: readonly string[]): string {
  return workers.map((name) => `'${name}'`).join(', ');
}
