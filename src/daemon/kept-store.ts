/**
 * The keeper as luod sees it, which may die like any process: then there is another one soon, and it is told everything again.
 * What happens meanwhile is not lost, since luod has it; only a luod that dies in that moment takes it along.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { Backoff } from './backoff.js';
import {
  type KeeperHandle,
  KeeperLink,
  type KeptItem,
  type LastingStore,
  type Succession,
} from './keeper-link.js';
import { SleepingKeeper } from './sleeping-keeper.js';

export interface KeptStoreOptions {
  /** Where the keeper listens. */
  readonly path: string;
  /** Milliseconds for which a keeper waits for the next luod. */
  readonly patienceMs: number;
  readonly log: (line: string) => void;
}

export class KeptStore implements LastingStore {
  readonly #options: KeptStoreOptions;
  readonly #backoff = new Backoff();
  #keeper: KeeperHandle | undefined;
  #isOver = false;
  #tellAll: () => void = () => undefined;

  private constructor(keeper: KeeperHandle, options: KeptStoreOptions) {
    this.#options = options;
    this.#take(keeper);
  }

  /**
   * Finds the keeper that a luod before this one left, or starts one, which sleeps if it can.
   * @returns the store, and what was kept.
   * @throws {LiveUpdateError} EBUSY when another luod is in charge of it; ETIMEDOUT when it does not answer; ECHILD when it does not start.
   */
  static async open(options: KeptStoreOptions): Promise<{ store: KeptStore; items: KeptItem[] }> {
    const { keeper, items } = await openKeeper(options);
    return { store: new KeptStore(keeper, options), items };
  }

  onReplaced(tellAll: () => void): void {
    this.#tellAll = tellAll;
  }

  async handOver(): Promise<Succession> {
    if (this.#keeper?.isOpen === true) {
      this.#keeper.wake();
      return { keeper: this.#options.path, environment: {}, callOff: () => undefined };
    }
    throw new LiveUpdateError('EOPNOTSUPP', 'there is no keeper now; it is started again: try in a moment');
  }

  #take(keeper: KeeperHandle): void {
    this.#keeper = keeper;
    this.#backoff.succeeded();
    keeper.onLost(() => {
      this.#keeper = undefined;
      this.#options.log('the keeper died; starts another');
      this.#replace().catch((error: unknown) => this.#options.log(LiveUpdateError.from(error).message));
    });
  }

  async #replace(): Promise<void> {
    const { log } = this.#options;
    while (!this.#isOver) {
      await delay(this.#backoff.next(), undefined, { ref: false });
      if (this.#isOver) return;
      try {
        const { keeper } = await openKeeper(this.#options);
        if (this.#isOver) {
          keeper.bye();
          return;
        }
        this.#take(keeper);
        this.#tellAll();
        log('another keeper has everything');
        return;
      } catch (error) {
        log(`no keeper, so a killed luod takes everything along: ${LiveUpdateError.from(error).message}`);
      }
    }
  }

  #tell(work: (keeper: KeeperHandle) => void): void {
    const keeper = this.#keeper;
    if (keeper === undefined) return;
    try {
      work(keeper);
    } catch (error) {
      // It died in the middle, and the next one is told everything.
      if (LiveUpdateError.from(error).code !== 'EPIPE') throw error;
    }
  }

  put(group: string, item: string, record: object, fds: readonly number[]): void {
    this.#tell((keeper) => keeper.put(group, item, record, fds));
  }

  amend(group: string, item: string, record: object): void {
    this.#tell((keeper) => keeper.amend(group, item, record));
  }

  drop(group: string, item?: string): void {
    this.#tell((keeper) => keeper.drop(group, item));
  }

  bye(): void {
    this.#isOver = true;
    this.#tell((keeper) => keeper.bye());
  }
}

async function openKeeper({
  path,
  patienceMs,
}: KeptStoreOptions): Promise<{ keeper: KeeperHandle; items: KeptItem[] }> {
  const found = await KeeperLink.find(path);
  if (found !== undefined) return { keeper: found.link, items: found.items };
  try {
    return { keeper: await SleepingKeeper.start(path, patienceMs), items: [] };
  } catch {
    // Another luod was quicker, whose keeper is found now and says EBUSY; or, without a shell say, it is one that is awake.
    const { link, items } = await KeeperLink.open(path, patienceMs);
    return { keeper: link, items };
  }
}
