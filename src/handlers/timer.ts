/**
 * A function to be called at a time, whichever image is there by then: `lu.timer()`.
 *
 * The time is one of CLOCK_MONOTONIC, which every process of a kernel shares; so nothing is lost of it in the cut, and a timer that
 * comes due there is called by the next image as soon as it serves. The function does not cross: each image says its own.
 * A frozen image's loop stands still, so that no timer is called behind its record; that makes it once, in one image.
 *
 * Across a kexec, whose next kernel counts from zero, the wall clock has to do.
 *
 * luod does not hold timers: it would have to be told of each call, and a program that died in its call could be neither given it
 * again nor not. A timerfd, whose expiries the kernel counts, outlives a crash.
 */
import { readFileSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { NANOSECONDS_PER_MS, toNanoseconds } from './milliseconds.js';
import { recordedFileHandler } from './recorded-file.js';

const COMPATIBLE = 'liveupdate-timer-v1';
/** What setTimeout() takes; a longer time is waited for in parts. */
const LONGEST_MS = 2 ** 31 - 1;

export interface TimerOptions {
  /** Milliseconds between further calls. Default: it is called once. */
  readonly interval?: number;
}

interface Saved {
  /** When it is due, by CLOCK_MONOTONIC of this boot, in nanoseconds; null when it does not run. */
  readonly due: string | null;
  readonly interval: number | null;
  /** The same time by the wall clock, in milliseconds, and the boot that it is to be used beyond. */
  readonly wall: number;
  readonly boot: string;
}

/** `lu.timer()` gives it. */
export class KeptTimer {
  #due: bigint | undefined;
  #interval: number | undefined;
  #callback: (() => void) | undefined;
  #timeout: NodeJS.Timeout | undefined;
  #isHeld: boolean;
  #isRef = true;

  private constructor(due: bigint | undefined, interval: number | undefined, isHeld: boolean) {
    this.#due = due;
    this.#interval = interval;
    this.#isHeld = isHeld;
  }

  /** @internal @throws {LiveUpdateError} EINVAL for times that are none. */
  static create(ms: number, options: TimerOptions = {}): KeptTimer {
    check(ms, options);
    return new KeptTimer(dueIn(ms), options.interval, true);
  }

  /** @internal A timer of another image, which runs but calls nobody before `start`. @throws {LiveUpdateError} EINVAL. */
  static adopt(record: Uint8Array): KeptTimer {
    const timer = new KeptTimer(undefined, undefined, true);
    timer.restore(record);
    return timer;
  }

  /** @internal */
  restore(record: Uint8Array): void {
    const saved = parse(record);
    this.#due = saved.due === null ? undefined : dueOf(saved, saved.due);
    this.#interval = saved.interval ?? undefined;
  }

  /** @internal What to call, in this image. */
  bind(callback: () => void): void {
    this.#callback = callback;
  }

  /** @internal */
  toRecord(): Buffer {
    const saved: Saved = {
      due: this.#due === undefined ? null : String(this.#due),
      interval: this.#interval ?? null,
      wall: Date.now() + (this.remaining ?? 0),
      boot: bootId(),
    };
    return Buffer.from(JSON.stringify(saved));
  }

  /** Milliseconds until the next call, 0 when it is due; undefined when it does not run: it was called, or cancelled. */
  get remaining(): number | undefined {
    if (this.#due === undefined) return undefined;
    return Math.max(0, Number(this.#due - process.hrtime.bigint()) / NANOSECONDS_PER_MS);
  }

  /**
   * Has it called in `ms` milliseconds from now, instead of when it was to be.
   * @throws {LiveUpdateError} EINVAL for times that are none; EBUSY in a new image before `ready()`.
   */
  set(ms: number, options: TimerOptions = {}): void {
    check(ms, options);
    this.#checkOwn('set');
    this.#due = dueIn(ms);
    this.#interval = options.interval;
    this.#wait();
  }

  /** It is not called, by this image or a later one, unless it is set again. @throws {LiveUpdateError} EBUSY before `ready()`. */
  cancel(): void {
    this.#checkOwn('cancel');
    this.#due = undefined;
    this.#interval = undefined;
    clearTimeout(this.#timeout);
  }

  #checkOwn(operation: string): void {
    if (!this.#isHeld) return;
    throw new LiveUpdateError('EBUSY', 'before ready() the timer is the image’s before', { operation });
  }

  /** Keeps the event loop alive while it runs, which is the default. */
  ref(): this {
    this.#isRef = true;
    this.#timeout?.ref();
    return this;
  }

  unref(): this {
    this.#isRef = false;
    this.#timeout?.unref();
    return this;
  }

  /** @internal It is this image's own from now on. */
  start(): void {
    this.#isHeld = false;
    this.#wait();
  }

  /** @internal It is another image's from now on. */
  letGo(): void {
    clearTimeout(this.#timeout);
    this.#isHeld = true;
  }

  #wait(): void {
    clearTimeout(this.#timeout);
    const { remaining } = this;
    if (remaining === undefined) return;
    this.#timeout = setTimeout(() => this.#wake(), Math.min(Math.ceil(remaining), LONGEST_MS));
    if (!this.#isRef) this.#timeout.unref();
  }

  #wake(): void {
    const now = process.hrtime.bigint();
    if (this.#due === undefined) return;
    if (this.#due > now) {
      this.#wait();
      return;
    }
    // Before the call: what it throws, or sets, is to find the timer as it is from now on.
    this.#due = this.#interval === undefined ? undefined : nextDue(this.#due, this.#interval, now);
    this.#wait();
    this.#callback?.();
  }
}

/** In step with the first; times that have passed are one. */
function nextDue(due: bigint, interval: number, now: bigint): bigint {
  const step = toNanoseconds(interval, 'timer');
  return due + step * ((now - due) / step + 1n);
}

function dueIn(ms: number): bigint {
  return process.hrtime.bigint() + toNanoseconds(ms, 'timer');
}

function dueOf({ wall, boot }: Saved, due: string): bigint {
  return boot === bootId() ? BigInt(due) : dueIn(Math.max(0, wall - Date.now()));
}

function check(ms: number, { interval }: TimerOptions): void {
  toNanoseconds(ms, 'timer');
  if (interval !== undefined && toNanoseconds(interval, 'timer') === 0n)
    throw new LiveUpdateError('EINVAL', 'an interval of 0', { operation: 'timer' });
}

let boot: string | undefined;

/** A name for the time from one start of a kernel to the next. */
function bootId(): string {
  boot ??= readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  return boot;
}

function parse(record: Uint8Array): Saved {
  try {
    const saved = JSON.parse(Buffer.from(record).toString('utf8')) as Saved;
    if (saved.due === null || /^\d+$/.test(saved.due)) return saved;
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', 'a damaged record of a timer', { handler: COMPATIBLE, cause });
  }
  throw new LiveUpdateError('EINVAL', 'a record of a timer without a time', { handler: COMPATIBLE });
}

export function timerHandler(handover: Handover): CarriedFileHandler<KeptTimer> {
  return recordedFileHandler(
    handover,
    {
      compatible: COMPATIBLE,
      isOurs: (file) => file instanceof KeptTimer,
      toRecord: (timer) => timer.toRecord(),
      adopt: (record) => KeptTimer.adopt(record),
      restore: (timer, record) => timer.restore(record),
    },
    { start: (timer) => timer.start(), sever: (timer) => timer.letGo() },
  );
}
