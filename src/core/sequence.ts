/**
 * Sequences: operations whose steps may or may not be asynchronous.
 *
 * A handler's callback returns a plain value or a promise of one, and nobody knows which before the call. An `async`
 * function would pay a promise and a trip through the microtask queue for each of 100,000 synchronous callbacks,
 * in the very milliseconds in which the world stands still. So every operation here is a generator that runs like an
 * ordinary function and yields only when it holds a real promise:
 *
 *     const pending = ops.preserve(args);
 *     if (isThenable(pending)) yield pending;      // nothing to wait for: no promise, no microtask
 *
 * `Runner.run` drives it. What the caller sees:
 *
 * - Every step synchronous: the result is *returned*, and a failure is *thrown*, before `run` returns.
 * - From the first promise on: `run` returns a promise, which resolves or rejects. What failed before the first
 *   promise was still thrown synchronously. `await` takes both forms, and `try { await ... }` catches both.
 *
 * try, catch and finally work across the yields; that is why rollback can be written beside what it undoes.
 *
 * The runner also remembers which operations are *on the stack* at this moment: started or resumed, and now inside a
 * callback that they made. A lock (lock.ts) asks, to tell a caller that has to wait from one that would wait for itself.
 */
import type { MaybePromise } from './types.js';

/** An operation that yields each promise it has to wait for, and returns its result. */
export type Steps<T> = Generator<PromiseLike<unknown>, T, unknown>;

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    value !== undefined &&
    value !== null &&
    (typeof value === 'object' || typeof value === 'function') &&
    'then' in value &&
    typeof value.then === 'function'
  );
}

/** What an operation passes on its way in and out: the locks it needs. */
export interface Door {
  /** For `steps`: at once (undefined), or when the promise resolves. When it throws or rejects, nothing is held. */
  enter(steps: Steps<unknown>): PromiseLike<unknown> | undefined;
  /** Called once for each enter() that succeeded, when the operation has ended in whatever way. */
  leave(): void;
}

/** Drives the operations of one orchestrator and knows which of them are on the stack. */
export class Runner {
  readonly #stack: Steps<unknown>[] = [];

  /** Runs `steps`, inside `door` if there is one: synchronously until the first promise, and the rest after it. */
  run<T>(steps: Steps<T>, door?: Door): MaybePromise<T> {
    const stack = this.#stack;
    stack.push(steps);
    let inside = false;
    let later = false;
    try {
      const entry = door?.enter(steps);
      if (entry !== undefined) return this.#enterLater(steps, entry, door!);
      inside = true;
      const step = steps.next();
      if (step.done === true) return step.value;
      later = true;
      return this.#settle(steps, step.value, door);
    } finally {
      stack.pop();
      if (inside && !later) door?.leave();
    }
  }

  async #enterLater<T>(steps: Steps<T>, entry: PromiseLike<unknown>, door: Door): Promise<T> {
    await entry;
    return this.run(steps, { enter: () => undefined, leave: () => door.leave() });
  }

  async #settle<T>(steps: Steps<T>, first: PromiseLike<unknown>, door: Door | undefined): Promise<T> {
    let pending = first;
    try {
      for (;;) {
        let failed = false;
        let outcome: unknown;
        try {
          outcome = await pending;
        } catch (error) {
          failed = true;
          outcome = error;
        }
        const step = this.#resume(steps, failed, outcome);
        if (step.done === true) return step.value;
        pending = step.value;
      }
    } finally {
      door?.leave();
    }
  }

  #resume<T>(steps: Steps<T>, failed: boolean, outcome: unknown): IteratorResult<PromiseLike<unknown>, T> {
    this.#stack.push(steps);
    try {
      return failed ? steps.throw(outcome) : steps.next(outcome);
    } finally {
      this.#stack.pop();
    }
  }

  /** The operation that is running now. Only an operation's own code may ask. */
  get current(): Steps<unknown> {
    return this.#stack[this.#stack.length - 1]!;
  }

  /** Whether the operation that is running now was called by a callback of another one. */
  get nested(): boolean {
    return this.#stack.length > 1;
  }

  /** Whether `steps` is on the stack: running now, or waiting for a callback that has not returned yet. */
  isOnStack(steps: Steps<unknown>): boolean {
    return this.#stack.includes(steps);
  }
}
