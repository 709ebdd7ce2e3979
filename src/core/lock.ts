/**
 * Locks: who waits for whom.
 *
 * JavaScript runs one thing at a time, but an operation with an asynchronous callback is *in progress* across many
 * turns, and others may not see it half done. Two locks do what the kernel's do:
 *
 * - `Mutex`, one for each session and one for each FLB and direction. First come, first served.
 * - `Gate`, one for the orchestrator, the kernel's rw_semaphore: mutations pass through it together; a reboot closes
 *   it. It first waits until those inside have left, and whoever comes later waits behind it. After a reboot
 *   that succeeded, the gate stays *shut*: waiting would be for ever, so those who wait and those who come get EBUSY,
 *   until the reboot is called off. (In the kernel they sleep until the machine is gone.)
 *
 * Lock order, outermost first: gate, session, FLB. The gate is never taken by getIncoming, getOutgoing and their puts:
 * they are what callbacks use, freeze callbacks too.
 *
 * A free lock costs no promise: `acquire` and `enter` return undefined, and a promise only when there is something
 * to wait for. A lock is handed to the first in the queue at the moment it is released, so nobody can slip between.
 *
 * A callback that calls back into what its own operation has locked would wait for itself. Where this can be seen,
 * because the holder is on the runner's stack, the answer is EBUSY instead of silence. It can be seen in a
 * synchronous callback and in an asynchronous one before its first await; after that nothing tells the call from a
 * stranger's, and it waits as in the kernel. The rule for handlers is the kernel's: from a callback, use FLBs, not
 * the session you were called for.
 */
import { LiveUpdateError } from './errors.js';
import type { Runner, Steps } from './sequence.js';

interface Waiter {
  readonly owner: Steps<unknown>;
  readonly exclusive: boolean;
  readonly resolve: () => void;
  readonly reject: (error: LiveUpdateError) => void;
  next: Waiter | undefined;
}

/** Those who wait, in order. A linked list: a hundred thousand may queue, and each leaves in constant time. */
class Queue {
  first: Waiter | undefined;
  #last: Waiter | undefined;

  wait(owner: Steps<unknown>, exclusive: boolean): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      const waiter: Waiter = { owner, exclusive, resolve, reject, next: undefined };
      if (this.#last === undefined) this.first = waiter;
      else this.#last.next = waiter;
      this.#last = waiter;
    });
  }

  shift(): Waiter | undefined {
    const waiter = this.first;
    if (waiter === undefined) return undefined;
    this.first = waiter.next;
    if (this.first === undefined) this.#last = undefined;
    return waiter;
  }
}

/** One holder at a time, first come, first served. */
export class Mutex {
  readonly #runner: Runner;
  /** Of the few that somebody ever had to wait for. */
  #queue: Queue | undefined;
  #owner: Steps<unknown> | undefined;

  constructor(runner: Runner) {
    this.#runner = runner;
  }

  /**
   * Takes the lock for `owner`: at once (undefined), or when the promise resolves.
   * @throws EBUSY when the holder is on the stack: the caller is one of its callbacks.
   */
  acquire(owner: Steps<unknown>): Promise<void> | undefined {
    if (this.#owner === undefined) {
      this.#owner = owner;
      return undefined;
    }
    if (this.#runner.isOnStack(this.#owner)) {
      throw new LiveUpdateError('EBUSY', 'a callback called back into what its own operation holds');
    }
    this.#queue ??= new Queue();
    return this.#queue.wait(owner, true);
  }

  release(): void {
    const next = this.#queue?.shift();
    this.#owner = next?.owner;
    next?.resolve();
  }
}

/** What the gate says to those who come. */
export type GateState = 'open' | 'rebooting' | 'shut';

/** Mutations pass together; a reboot passes alone and, when it succeeds, leaves the gate shut. */
export class Gate {
  readonly #runner: Runner;
  readonly #queue = new Queue();
  #inside = 0;
  #exclusive: Steps<unknown> | undefined;
  #shut = false;

  constructor(runner: Runner) {
    this.#runner = runner;
  }

  get state(): GateState {
    if (this.#exclusive !== undefined) return 'rebooting';
    return this.#shut ? 'shut' : 'open';
  }

  /**
   * Lets a mutation in: at once (undefined), or when the promise resolves.
   * @throws EBUSY after a successful reboot, and to a callback of the reboot that is running. The promise rejects with
   * EBUSY when the reboot that it waits for succeeds.
   */
  enter(owner: Steps<unknown>): Promise<void> | undefined {
    if (this.#exclusive !== undefined) {
      if (this.#runner.isOnStack(this.#exclusive)) throw reentry();
      return this.#queue.wait(owner, false);
    }
    if (this.#shut) throw rebooted();
    // A callback of someone inside may not queue behind a reboot that waits for that very someone to leave.
    if (this.#queue.first !== undefined && !this.#runner.nested) return this.#queue.wait(owner, false);
    this.#inside++;
    return undefined;
  }

  leave(): void {
    this.#inside--;
    this.#admit();
  }

  /**
   * Closes the gate behind a reboot: at once (undefined), or when those inside have left.
   * @throws EBUSY after a successful reboot, and to a callback of any operation.
   */
  close(owner: Steps<unknown>): Promise<void> | undefined {
    if (this.#runner.nested) throw reentry();
    if (this.#exclusive === undefined) {
      if (this.#shut) throw rebooted();
      if (this.#inside === 0) {
        this.#exclusive = owner;
        return undefined;
      }
    }
    return this.#queue.wait(owner, true);
  }

  /** The reboot failed or was called off: everybody may come in again. */
  open(): void {
    this.#exclusive = undefined;
    this.#shut = false;
    this.#admit();
  }

  /** The reboot succeeded: nobody comes in any more, and those who wait are told. */
  shut(): void {
    this.#exclusive = undefined;
    this.#shut = true;
    for (let waiter = this.#queue.shift(); waiter !== undefined; waiter = this.#queue.shift()) {
      waiter.reject(rebooted());
    }
  }

  /** Takes a shut gate back, to call a successful reboot off. Nobody is inside, nobody waits. */
  retake(owner: Steps<unknown>): void {
    this.#exclusive = owner;
  }

  #admit(): void {
    for (let waiter = this.#queue.first; waiter !== undefined; waiter = this.#queue.first) {
      if (waiter.exclusive) {
        if (this.#inside > 0) return;
        this.#exclusive = waiter.owner;
      } else {
        this.#inside++;
      }
      this.#queue.shift();
      waiter.resolve();
      if (waiter.exclusive) return;
    }
  }
}

function reentry(): LiveUpdateError {
  return new LiveUpdateError('EBUSY', 'a callback called back into an orchestrator that is locked for it');
}

function rebooted(): LiveUpdateError {
  return new LiveUpdateError(
    'EBUSY',
    'the reboot has succeeded: nothing changes until this image is gone or cancelReboot()',
  );
}
