/**
 * timerfd_create(2): a timer that is the kernel's. It runs on while images change places, and while the program is dead; what
 * expires meanwhile is counted. For a timer that calls a function, see `lu.timer()`.
 */
import { LiveUpdateError } from '../core/errors.js';
import { createTimerfd, setTimerfd, type TimerClock, timerfdSetting } from '../linux/timerfd.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { CountFd, countHandler } from './count-fd.js';
import { NANOSECONDS_PER_MS, toNanoseconds } from './milliseconds.js';

/** Emits 'count' with how often it expired since the last; `keep()` takes it. */
export class Timerfd extends CountFd {
  /**
   * A timer that does not run yet.
   * @param clock 'boottime' goes on while the machine sleeps; 'realtime' follows the wall clock when that is set.
   * @throws {LiveUpdateError} EINVAL for another clock; EMFILE, ENFILE, ENOMEM.
   */
  static create(clock: TimerClock = 'monotonic'): Timerfd {
    if (!['monotonic', 'boottime', 'realtime'].includes(clock))
      throw new LiveUpdateError('EINVAL', `no clock '${clock}'`, { operation: 'timerfd_create' });
    return new Timerfd(createTimerfd(clock), { held: false });
  }

  /**
   * Lets it expire in `ms` milliseconds, and every `interval` milliseconds from then on. What had expired is forgotten.
   * @param options.at `ms` is a time of the timer's clock; for 'realtime', as `Date.now()`.
   * @throws {LiveUpdateError} EINVAL for what is no number of 0 or more; EBADF; EBUSY in a new image before `ready()`.
   */
  set(ms: number, options: { interval?: number; at?: boolean } = {}): void {
    const interval = toNanoseconds(options.interval ?? 0, 'timerfd_settime');
    // 0 would stop it; it is to expire now.
    const value = toNanoseconds(ms, 'timerfd_settime') || 1n;
    setTimerfd(this.ownFd, { value, interval }, { absolute: options.at ?? false });
  }

  /** Stops it. @throws {LiveUpdateError} EBADF; EBUSY in a new image before `ready()`. */
  stop(): void {
    setTimerfd(this.ownFd, { value: 0n, interval: 0n }, { absolute: false });
  }

  /** Milliseconds until it expires next; undefined when it does not run. @throws {LiveUpdateError} EBADF. */
  get remaining(): number | undefined {
    const { value } = timerfdSetting(this.fd);
    return value === 0n ? undefined : Number(value) / NANOSECONDS_PER_MS;
  }

  /** Milliseconds between expiries; 0 for a timer that expires once. @throws {LiveUpdateError} EBADF. */
  get interval(): number {
    return Number(timerfdSetting(this.fd).interval) / NANOSECONDS_PER_MS;
  }
}

export function timerfdHandler(handover: Handover): CarriedFileHandler<Timerfd> {
  return countHandler(handover, { compatible: 'liveupdate-timerfd-v1', kind: 'timerfd', type: Timerfd });
}
