/** Waits between restarts: short at first, doubled at each failure in a row, forgotten once the program has stayed. */
const FIRST_MS = 100;
const LONGEST_MS = 10_000;
/** A program that served this long starts again from the first wait. */
const STABLE_MS = 10_000;

export class Backoff {
  #failures = 0;
  #servingSince: number | undefined;

  /** Failures in a row. */
  get failures(): number {
    this.#settle();
    return this.#failures;
  }

  succeeded(): void {
    this.#servingSince = performance.now();
  }

  /** Counts a failure and returns the milliseconds to wait. */
  next(): number {
    this.#settle();
    this.#servingSince = undefined;
    return Math.min(FIRST_MS * 2 ** this.#failures++, LONGEST_MS);
  }

  #settle(): void {
    if (this.#servingSince !== undefined && performance.now() - this.#servingSince >= STABLE_MS)
      this.#failures = 0;
  }
}
