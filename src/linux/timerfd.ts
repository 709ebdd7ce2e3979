/** Timers of the kernel's: timerfd_create(2). What has expired is read as a count (`takeCount` in eventfd.ts). */
import { errno, failure, libc } from './libc.js';

const TFD_TIMER_ABSTIME = 1;
const TFD_NONBLOCK = 0o4000;
const TFD_CLOEXEC = 0o2000000;
const CLOCKS = { realtime: 0, monotonic: 1, boottime: 7 } as const;
const NANOSECONDS = 1_000_000_000n;

/** 'boottime' goes on while the machine sleeps; 'realtime' is the wall clock's. */
export type TimerClock = keyof typeof CLOCKS;

/** Nanoseconds. */
export interface TimerSetting {
  /** Until the next expiry, or the clock's time of it; 0 for a timer that does not run. */
  readonly value: bigint;
  /** Between expiries from then on; 0 for none. */
  readonly interval: bigint;
}

/** struct itimerspec: interval and value, each seconds and nanoseconds. */
const spec = Buffer.alloc(32);

/** A timer that does not run, non-blocking, close-on-exec; the caller's. @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM. */
export function createTimerfd(clock: TimerClock): number {
  const fd = libc.timerfdCreate(CLOCKS[clock], TFD_NONBLOCK | TFD_CLOEXEC);
  const error = errno();
  if (fd === -1) throw failure('timerfd_create', error);
  return fd;
}

/**
 * Sets the timer, and forgets what had expired.
 * @param options.absolute `value` is a time of the timer's clock.
 * @throws {LiveUpdateError} EBADF; EINVAL when it is no timer.
 */
export function setTimerfd(
  fd: number,
  { value, interval }: TimerSetting,
  options: { absolute: boolean },
): void {
  put(0, interval);
  put(16, value);
  const result = libc.timerfdSettime(fd, options.absolute ? TFD_TIMER_ABSTIME : 0, spec, null);
  const error = errno();
  if (result === -1) throw failure('timerfd_settime', error);
}

/** How long until the next expiry, and the interval. @throws {LiveUpdateError} EBADF; EINVAL when it is no timer. */
export function timerfdSetting(fd: number): TimerSetting {
  const result = libc.timerfdGettime(fd, spec);
  const error = errno();
  if (result === -1) throw failure('timerfd_gettime', error);
  return { interval: get(0), value: get(16) };
}

function put(at: number, ns: bigint): void {
  spec.writeBigInt64LE(ns / NANOSECONDS, at);
  spec.writeBigInt64LE(ns % NANOSECONDS, at + 8);
}

function get(at: number): bigint {
  return spec.readBigInt64LE(at) * NANOSECONDS + spec.readBigInt64LE(at + 8);
}
