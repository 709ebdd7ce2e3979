/**
 * The keeper as luod sees it, which may die like any process: then there is another one soon, and it is told everything again.
 * What happens meanwhile is not lost, since luod has it; only a luod that dies in that moment takes it along.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { Backoff } from './backoff.js';
import { KeeperLink, type LastingStore, type Succession } from './keeper-link.js';

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
  #link: KeeperLink | undefined;
  #isOver = false;
  #tellAll: () => void = () => undefined;

  constructor(link: KeeperLink, options: KeptStoreOptions) {
    this.#options = options;
    this.#take(link);
  }

  onReplaced(tellAll: () => void): void {
    this.#tellAll = tellAll;
  }

  async handOver(): Promise<Succession> {
    if (this.#link?.isOpen === true) {
      return { keeper: this.#options.path, environment: {}, callOff: () => undefined };
    }
    throw new LiveUpdateError('EOPNOTSUPP', 'there is no keeper now; it is started again: try in a moment');
  }

  #take(link: KeeperLink): void {
    this.#link = link;
    this.#backoff.succeeded();
    link.onLost(() => {
      this.#link = undefined;
      this.#options.log('the keeper died; starts another');
      this.#replace().catch((error: unknown) => this.#options.log(LiveUpdateError.from(error).message));
    });
  }

  async #replace(): Promise<void> {
    const { path, patienceMs, log } = this.#options;
    while (!this.#isOver) {
      await delay(this.#backoff.next(), undefined, { ref: false });
      if (this.#isOver) return;
      try {
        const { link } = await KeeperLink.open(path, patienceMs);
        if (this.#isOver) {
          link.bye();
          return;
        }
        this.#take(link);
        this.#tellAll();
        log('another keeper has everything');
        return;
      } catch (error) {
        log(`no keeper, so a killed luod takes everything along: ${LiveUpdateError.from(error).message}`);
      }
    }
  }

  #tell(work: (link: KeeperLink) => void): void {
    const link = this.#link;
    if (link === undefined) return;
    try {
      work(link);
    } catch (error) {
      // It died in the middle, and the next one is told everything.
      if (LiveUpdateError.from(error).code !== 'EPIPE') throw error;
    }
  }

  put(group: string, item: string, record: object, fds: readonly number[]): void {
    this.#tell((link) => link.put(group, item, record, fds));
  }

  amend(group: string, item: string, record: object): void {
    this.#tell((link) => link.amend(group, item, record));
  }

  drop(group: string, item?: string): void {
    this.#tell((link) => link.drop(group, item));
  }

  bye(): void {
    this.#isOver = true;
    this.#tell((link) => link.bye());
  }
}
