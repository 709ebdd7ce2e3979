/**
 * The keeper as luod sees it, which may die like any process: then there is another one soon, and it is told everything again.
 * What happens meanwhile is not lost, since luod has it; only a luod that dies in that moment takes it along.
 *
 * One that is awake while there is little to keep is replaced by one that sleeps, in the same way, except that at each moment one is there.
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
import { MOST_ASLEEP, SleepingKeeper } from './sleeping-keeper.js';

/** In which a luod is asked again, and another one is done with the keeper. */
const CALM_MS = 5000;
/** Less than may be asleep, so that it does not wake up again at the next word. */
const FEW = MOST_ASLEEP / 2;

/** Ends a count. */
const ENOUGH = new Error('there is more than little');

export interface KeptStoreOptions {
  /** Where the keeper listens. */
  readonly path: string;
  /** Milliseconds for which a keeper waits for the next luod. */
  readonly patienceMs: number;
  readonly log: (line: string) => void;
  /** Milliseconds after which a keeper that has no reason to be awake is replaced by one that sleeps (5 s). */
  readonly calmMs?: number;
}

export class KeptStore implements LastingStore {
  readonly #options: KeptStoreOptions;
  readonly #backoff = new Backoff();
  #keeper: KeeperHandle | undefined;
  #isOver = false;
  #tellAll: () => void = () => undefined;
  /** How many more items are few; undefined when it is not being counted. */
  #room: number | undefined;
  #calm: NodeJS.Timeout | undefined;
  /** Another luod asks the keeper, which must not be replaced meanwhile. */
  #isAsked = false;

  private constructor(keeper: KeeperHandle, options: KeptStoreOptions) {
    this.#options = options;
    this.#take(keeper);
  }

  /**
   * Finds the keeper that a luod before this one left, or starts one.
   * @returns the store, and what was kept.
   * @throws {LiveUpdateError} EBUSY when another luod is in charge of it; ECHILD when it does not start.
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
      this.#isAsked = true;
      const callOff = () => {
        this.#isAsked = false;
      };
      return { keeper: this.#options.path, environment: {}, callOff };
    }
    throw new LiveUpdateError('EOPNOTSUPP', 'there is no keeper now; it is started again: try in a moment');
  }

  #take(keeper: KeeperHandle): void {
    this.#keeper = keeper;
    this.#backoff.succeeded();
    keeper.onLost(() => {
      if (this.#keeper !== keeper) return;
      this.#keeper = undefined;
      this.#options.log('the keeper died; starts another');
      this.#replace().catch((error: unknown) => this.#options.log(LiveUpdateError.from(error).message));
    });
    if (keeper instanceof SleepingKeeper) keeper.onWoken(() => this.#sleepLater());
    else this.#sleepLater();
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

  #sleepLater(): void {
    clearTimeout(this.#calm);
    this.#calm = setTimeout(() => {
      this.#sleep().catch((error: unknown) => this.#options.log(LiveUpdateError.from(error).message));
    }, this.#options.calmMs ?? CALM_MS);
    this.#calm.unref();
  }

  /** Puts one that sleeps in the place of one that is awake. */
  async #sleep(): Promise<void> {
    const { path, patienceMs } = this.#options;
    const before = this.#keeper;
    if (this.#isOver || before?.isOpen !== true) return;
    if (this.#isAsked || !this.#isLittle()) {
      this.#sleepLater();
      return;
    }
    let next: SleepingKeeper;
    try {
      next = await SleepingKeeper.start(path, patienceMs);
    } catch {
      // Without a shell the one that is awake stays, which does the same.
      return;
    }
    if (this.#isOver || this.#isAsked || this.#keeper !== before) {
      next.bye();
      return;
    }
    this.#take(next);
    try {
      this.#tellAll();
      next.serve();
    } catch (error) {
      // It was not found yet, and the one before still has what it had.
      next.bye();
      this.#take(before);
      throw error;
    }
    before.bye();
  }

  /** Counts what all there is comes to, up to what is not little any more. */
  #isLittle(): boolean {
    this.#room = FEW;
    try {
      this.#tellAll();
      return true;
    } catch (error) {
      if (error !== ENOUGH) throw error;
      return false;
    } finally {
      this.#room = undefined;
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
    if (this.#room === undefined) this.#tell((keeper) => keeper.put(group, item, record, fds));
    else if (this.#room-- === 0) throw ENOUGH;
  }

  amend(group: string, item: string, record: object): void {
    this.#tell((keeper) => keeper.amend(group, item, record));
  }

  drop(group: string, item?: string): void {
    this.#tell((keeper) => keeper.drop(group, item));
  }

  bye(): void {
    this.#isOver = true;
    clearTimeout(this.#calm);
    this.#tell((keeper) => keeper.bye());
  }
}

async function openKeeper({
  path,
  patienceMs,
}: KeptStoreOptions): Promise<{ keeper: KeeperHandle; items: KeptItem[] }> {
  const found = await KeeperLink.find(path);
  if (found !== undefined) return { keeper: found.link, items: found.items };
  let keeper: SleepingKeeper;
  try {
    keeper = await SleepingKeeper.start(path, patienceMs);
  } catch {
    // Without a shell it is one that is awake.
    const { link, items } = await KeeperLink.open(path, patienceMs);
    return { keeper: link, items };
  }
  keeper.serve();
  return { keeper, items: [] };
}
