/**
 * The service manager's descriptor store in the keeper's place: systemd.service(5), FileDescriptorStoreMax=.
 *
 * Every descriptor stands there under a name of its own, `luod-NUMBER`; which number is which part of which item, and the items'
 * records, stand in a log in a memfd (state-log.ts), which is in the store as well. So that nothing is lost at any moment:
 * a descriptor is in the store before the log tells of it, and out of the log before it leaves the store; each change is one entry.
 * What the log does not tell of was not answered for, and is dropped by the next luod.
 *
 * The store takes one open file once: systemd compares with kcmp(2) and drops a second one. Nothing that luod keeps is kept twice; what
 * an item has already is amended, not put again.
 */

import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import { KeeperLink, type KeptItem, type LastingStore, type Succession } from './keeper-link.js';
import { z } from './lazy-zod.js';
import type { GivenFd, ServiceManager } from './service-manager.js';
import { StateLog } from './state-log.js';

/** The group in a keeper that has the log for the next luod in this process. */
export const FD_STORE_GROUP = 'fd-store';
/** How long a keeper waits for a luod that takes this one's place: it starts at once or not at all. */
const SUCCESSION_MS = 60_000;
/** Room that is never given away: the log stands there twice while it is written anew. */
const SPARE = 1;

const FD_NAME = 'luod-';
const STATE_NAME = 'luod-state-';

const entrySchema = z.union([
  z.object({
    put: z.tuple([z.string(), z.string()]),
    record: z.record(z.string(), z.unknown()),
    /** The numbers of its descriptors; left out when they are as they were. */
    fds: z.array(z.number().int()).optional(),
  }),
  z.object({ drop: z.union([z.tuple([z.string()]), z.tuple([z.string(), z.string()])]) }),
]);

interface Item {
  record: object;
  fds: readonly number[];
}

export class FdStore implements LastingStore {
  readonly #manager: ServiceManager;
  /** Where a keeper listens, when there is one. */
  readonly #keeperPath: string;
  readonly #groups: Map<string, Map<string, Item>>;
  #log: StateLog;
  #logNumber: number;
  #next: number;
  /** Descriptors in the store, the log's own among them. */
  #count: number;
  #tellAll: () => void = () => undefined;
  /** While another luod is about to take this one's place: a keeper that is told everything as well. */
  #copy: KeeperLink | undefined;
  /** Whether only that one is told. */
  #isCopying = false;

  private constructor(
    manager: ServiceManager,
    keeperPath: string,
    groups: Map<string, Map<string, Item>>,
    log: { log: StateLog; number: number },
    next: number,
  ) {
    this.#manager = manager;
    this.#keeperPath = keeperPath;
    this.#groups = groups;
    this.#log = log.log;
    this.#logNumber = log.number;
    this.#next = next;
    this.#count = 1;
    for (const items of groups.values()) for (const { fds } of items.values()) this.#count += fds.length;
  }

  /**
   * Takes what the luod before left in the store.
   * @returns the store, and what was in it; descriptors that are not luod's stay in `manager.given`.
   * @throws {LiveUpdateError} EINVAL for a log that is not understood; ETIMEDOUT when the manager does not answer.
   */
  static open(manager: ServiceManager, keeperPath: string): { store: FdStore; items: KeptItem[] } {
    const given = manager.given.splice(0);
    const fds = new Map<number, number>();
    const logs: { number: number; fd: number }[] = [];
    for (const one of given) {
      if (one.name.startsWith(STATE_NAME)) logs.push({ number: numberOf(one, STATE_NAME), fd: one.fd });
      else if (/^luod-\d+$/.test(one.name)) fds.set(numberOf(one, FD_NAME), one.fd);
      else manager.given.push(one);
    }
    // Two when the last luod died as it had just written it anew.
    logs.sort((one, other) => other.number - one.number);
    const [current, ...older] = logs;
    for (const { number, fd } of older) {
      closeFd(fd);
      manager.unstore(`${STATE_NAME}${number}`);
    }
    if (current === undefined) {
      const log = StateLog.create([]);
      manager.store(`${STATE_NAME}1`, log.fd);
      manager.barrier();
      return { store: new FdStore(manager, keeperPath, new Map(), { log, number: 1 }, 1), items: [] };
    }
    const { log, entries } = StateLog.open(current.fd);
    const groups = replay(entries);
    const items = take(groups, fds);
    for (const [number, fd] of fds) {
      closeFd(fd);
      manager.unstore(`${FD_NAME}${number}`);
    }
    return {
      store: new FdStore(
        manager,
        keeperPath,
        groups,
        { log, number: current.number },
        highest(groups, fds) + 1,
      ),
      items,
    };
  }

  /** How many descriptors it has room for. */
  get room(): number {
    return this.#manager.storeMax - SPARE - this.#count;
  }

  /**
   * Puts an item in the place of what was there. Its descriptors must be other open files than those that were there: the store would
   * not take them again.
   * @throws {LiveUpdateError} EMFILE when the store is full, also with what is to be replaced: nothing has changed; ETIMEDOUT.
   */
  put(group: string, item: string, record: object, fds: readonly number[]): void {
    if (!this.#isCopying) this.#put(group, item, record, fds);
    this.#copy?.put(group, item, record, fds);
  }

  #put(group: string, item: string, record: object, fds: readonly number[]): void {
    if (fds.length > 0 && fds.length > this.room) {
      const text = `the service manager's store is full; raise FileDescriptorStoreMax= (${this.#manager.storeMax})`;
      throw new LiveUpdateError('EMFILE', text, { operation: 'put' });
    }
    const numbers = fds.map((fd) => {
      const number = this.#next++;
      this.#manager.store(`${FD_NAME}${number}`, fd);
      return number;
    });
    if (fds.length > 0) this.#manager.barrier();
    const replaced = this.#groups.get(group)?.get(item)?.fds ?? [];
    this.#log.append({ put: [group, item], record, fds: numbers });
    this.#set(group, item, { record, fds: numbers });
    this.#count += numbers.length;
    this.#unstore(replaced);
    this.#shorten();
  }

  amend(group: string, item: string, record: object): void {
    if (!this.#isCopying) {
      const known = this.#groups.get(group)?.get(item);
      this.#log.append({ put: [group, item], record });
      this.#set(group, item, { record, fds: known?.fds ?? [] });
      this.#shorten();
    }
    this.#copy?.amend(group, item, record);
  }

  drop(group: string, item?: string): void {
    this.#drop(group, item);
    this.#copy?.drop(group, item);
  }

  #drop(group: string, item?: string): void {
    const items = this.#groups.get(group);
    if (items === undefined || (item !== undefined && !items.has(item))) return;
    this.#log.append({ drop: item === undefined ? [group] : [group, item] });
    const dropped = item === undefined ? [...items.keys()] : [item];
    const numbers = dropped.flatMap((name) => items.get(name)?.fds ?? []);
    for (const name of dropped) items.delete(name);
    if (items.size === 0) this.#groups.delete(group);
    this.#unstore(numbers);
    this.#shorten();
  }

  #unstore(numbers: readonly number[]): void {
    for (const number of numbers) this.#manager.unstore(`${FD_NAME}${number}`);
    this.#count -= numbers.length;
  }

  #set(group: string, item: string, value: Item): void {
    const items = this.#groups.get(group);
    if (items === undefined) this.#groups.set(group, new Map([[item, value]]));
    else items.set(item, value);
  }

  /** Writes the log anew when most of it is over. */
  #shorten(): void {
    if (!this.#log.isLong) return;
    const entries: object[] = [];
    for (const [group, items] of this.#groups) {
      for (const [item, { record, fds }] of items) entries.push({ put: [group, item], record, fds });
    }
    const log = StateLog.create(entries);
    this.#manager.store(`${STATE_NAME}${this.#logNumber + 1}`, log.fd);
    this.#manager.barrier();
    this.#manager.unstore(`${STATE_NAME}${this.#logNumber}`);
    this.#logNumber++;
    closeFd(this.#log.fd);
    this.#log = log;
  }

  onReplaced(tellAll: () => void): void {
    this.#tellAll = tellAll;
  }

  /** The manager gives nothing back to a process that has not ended; so a keeper has it for the moment. */
  async handOver(): Promise<Succession> {
    const keeper = this.#keeperPath;
    const { link, items } = await KeeperLink.open(keeper, SUCCESSION_MS);
    for (const { fds } of items) for (const fd of fds) closeFd(fd);
    this.#copy = link;
    this.#isCopying = true;
    try {
      this.#tellAll();
    } finally {
      this.#isCopying = false;
    }
    link.put(FD_STORE_GROUP, 'log', { number: this.#logNumber }, [this.#log.fd]);
    const callOff = () => {
      this.#copy = undefined;
      link.bye();
    };
    return { keeper, environment: this.#manager.environment, callOff };
  }

  /**
   * The store of a luod whose place this one has taken.
   * @param item What `handOver` left with the keeper.
   * @throws {LiveUpdateError} EINVAL.
   */
  static inherit(manager: ServiceManager, keeperPath: string, { record, fds }: KeptItem): FdStore {
    const { success, data } = z.object({ number: z.number().int() }).safeParse(record);
    if (!success || fds[0] === undefined)
      throw new LiveUpdateError('EINVAL', 'a state without its number or log');
    const { log, entries } = StateLog.open(fds[0]);
    const groups = replay(entries);
    const next = highest(groups, new Map()) + 1;
    return new FdStore(manager, keeperPath, groups, { log, number: data.number }, next);
  }

  bye(): void {
    for (const group of [...this.#groups.keys()]) this.drop(group);
    this.#manager.unstore(`${STATE_NAME}${this.#logNumber}`);
    closeFd(this.#log.fd);
  }
}

function numberOf({ name }: GivenFd, prefix: string): number {
  return Number(name.slice(prefix.length));
}

/** What the log says in the end. @throws {LiveUpdateError} EINVAL. */
function replay(entries: readonly unknown[]): Map<string, Map<string, Item>> {
  const groups = new Map<string, Map<string, Item>>();
  for (const raw of entries) {
    const parsed = entrySchema.safeParse(raw);
    if (!parsed.success)
      throw new LiveUpdateError('EINVAL', 'the state of a luod of another version, or damaged');
    const entry = parsed.data;
    if ('drop' in entry) {
      const [group, item] = entry.drop;
      if (item === undefined) groups.delete(group);
      else groups.get(group)?.delete(item);
      if (groups.get(group)?.size === 0) groups.delete(group);
      continue;
    }
    const [group, item] = entry.put;
    const items = groups.get(group) ?? new Map<string, Item>();
    groups.set(group, items);
    const fds = entry.fds ?? items.get(item)?.fds ?? [];
    items.set(item, { record: entry.record, fds });
  }
  return groups;
}

/** Takes the descriptors of all items; an item that misses one is told without any, as its receiver will see. */
function take(groups: Map<string, Map<string, Item>>, fds: Map<number, number>): KeptItem[] {
  const kept: KeptItem[] = [];
  for (const [group, items] of groups) {
    for (const [item, { record, fds: numbers }] of items) {
      const own = numbers.flatMap((number) => fds.get(number) ?? []);
      for (const number of numbers) fds.delete(number);
      kept.push({ group, item, record, fds: own });
    }
  }
  return kept;
}

function highest(groups: Map<string, Map<string, Item>>, others: Map<number, number>): number {
  let number = 0;
  for (const items of groups.values()) {
    for (const { fds } of items.values()) for (const one of fds) number = Math.max(number, one);
  }
  for (const one of others.keys()) number = Math.max(number, one);
  return number;
}
