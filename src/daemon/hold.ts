/**
 * A stop before the cut: the update has done everything that can fail ahead of the freeze, and the next version waits beside the one that
 * serves, until somebody lets it take over.
 *
 *   state      what may happen                                                 next
 *   coming     the update is on its way here, or fails                         waiting, over
 *   waiting    the cut; too late, called off, the end of either process        over
 *   over       the update goes on, or has ended
 */
import { withResolvers } from '../core/resolvers.js';
import { PhaseError } from './phases.js';

export class Hold {
  /** Resolves when the update has come here. */
  readonly reached: Promise<void>;
  readonly #ms: number;
  readonly #entered: () => void;
  readonly #reached = withResolvers<void>();
  readonly #cut = withResolvers<void>();
  #timer: NodeJS.Timeout | undefined;
  #until = 0;

  /**
   * @param ms How long it may last.
   * @param entered Told when it begins.
   */
  constructor(ms: number, entered: () => void) {
    this.#ms = ms;
    this.#entered = entered;
    this.reached = this.#reached.promise;
  }

  /**
   * The update is here.
   * @throws {PhaseError} ETIMEDOUT when nobody wanted the cut in time.
   */
  wait(): Promise<void> {
    this.#until = performance.now() + this.#ms;
    this.#timer = setTimeout(() => {
      const seconds = Math.round(this.#ms / 100) / 10;
      const message = `it was prepared, and nobody let it take over within ${seconds} s`;
      this.#cut.reject(new PhaseError({ phase: 'preserve', error: { code: 'ETIMEDOUT', message } }));
    }, this.#ms);
    this.#entered();
    this.#reached.resolve();
    return this.#cut.promise;
  }

  /** What is left of its time, rounded up. */
  get secondsLeft(): number {
    return Math.max(0, Math.ceil((this.#until - performance.now()) / 1000));
  }

  /** The next version may take over. */
  cut(): void {
    this.end();
    this.#cut.resolve();
  }

  /** The update is over, or goes on. */
  end(): void {
    clearTimeout(this.#timer);
  }
}
