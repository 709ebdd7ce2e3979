/** Times as programs say them, and as the kernel counts them. */
import { LiveUpdateError } from '../core/errors.js';

export const NANOSECONDS_PER_MS = 1e6;

/** @throws {LiveUpdateError} EINVAL for what is no number of 0 or more. */
export function toNanoseconds(ms: number, operation: string): bigint {
  if (!Number.isFinite(ms) || ms < 0 || ms > Number.MAX_SAFE_INTEGER) {
    throw new LiveUpdateError('EINVAL', `milliseconds are a number of 0 or more, not ${ms}`, { operation });
  }
  // In two steps: a float of nanoseconds is not exact for a time of day.
  const whole = Math.floor(ms);
  return BigInt(whole) * BigInt(NANOSECONDS_PER_MS) + BigInt(Math.round((ms - whole) * NANOSECONDS_PER_MS));
}
