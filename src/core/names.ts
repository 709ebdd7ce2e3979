/**
 * Names and limits: what may be called what, and how many there may be.
 *
 * The limits are those of the fixed-size fields in which Linux keeps these names, so that every image this project
 * writes could be told to a kernel as well. A name is measured in bytes of UTF-8, without its terminating NUL.
 * A string that cannot be written in UTF-8 and read back unchanged (a lone surrogate) is no name.
 */
import { LiveUpdateError } from './errors.js';
import type { FileHandler, Flb } from './types.js';

/** The form of `Image` that this orchestrator writes, and the only one it accepts. Changes whenever the form does. */
export const IMAGE_COMPATIBLE = 'liveupdate-v1';

/** Bytes of a session's name, without NUL (`LIVEUPDATE_SESSION_NAME_LENGTH` is one more). */
export const SESSION_NAME_BYTES = 63;

/** Bytes of a handler's or FLB's `compatible`, without NUL (`LIVEUPDATE_HNDL_COMPAT_LENGTH` is one more). */
export const COMPATIBLE_BYTES = 47;

/** How many FLBs can be registered at once: (4096 - 16) / 64. */
export const FLB_LIMIT = 63;

/** The largest u64. */
export const U64_MAX = 0xffff_ffff_ffff_ffffn;

const encoder = new TextEncoder();
const LONE_SURROGATE = /\p{Surrogate}/u;

/** Whether `value` is a bigint that fits in a u64: a token, or a handler's data. */
export function isU64(value: unknown): value is bigint {
  return typeof value === 'bigint' && value >= 0n && value <= U64_MAX;
}

/** Whether `name` is a string of 1..`limit` bytes without NUL. */
function isName(name: unknown, limit: number): name is string {
  if (typeof name !== 'string' || name.length === 0 || name.length > limit) return false;
  if (name.includes('\0') || LONE_SURROGATE.test(name)) return false;
  return encoder.encode(name).length <= limit;
}

export function isSessionName(name: unknown): name is string {
  return isName(name, SESSION_NAME_BYTES);
}

export function isCompatible(name: unknown): name is string {
  return isName(name, COMPATIBLE_BYTES);
}

const FILE_REQUIRED = ['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish'] as const;
const FILE_OPTIONAL = ['freeze', 'unfreeze', 'canFinish', 'getId'] as const;
const FLB_REQUIRED = ['preserve', 'unpreserve', 'retrieve', 'finish'] as const;

/** Throws EINVAL unless `handler` has a good `compatible` and every callback it needs. */
export function checkHandler(operation: string, handler: FileHandler): void {
  checkCompatible(operation, handler.compatible);
  checkCallbacks(operation, handler.compatible, handler.ops, FILE_REQUIRED, FILE_OPTIONAL);
}

/** Throws EINVAL unless `flb` has a good `compatible` and every callback it needs. */
export function checkFlb(operation: string, flb: Flb): void {
  checkCompatible(operation, flb.compatible);
  checkCallbacks(operation, flb.compatible, flb.ops, FLB_REQUIRED, []);
}

function checkCompatible(operation: string, compatible: unknown): void {
  if (isCompatible(compatible)) return;
  throw new LiveUpdateError('EINVAL', `a compatible is 1 to ${COMPATIBLE_BYTES} bytes without NUL`, {
    operation,
  });
}

function checkCallbacks<Ops extends object>(
  operation: string,
  handler: string,
  ops: Ops,
  required: readonly (keyof Ops & string)[],
  optional: readonly (keyof Ops & string)[],
): void {
  const context = { operation, handler };
  if (typeof ops !== 'object' || ops === null) throw new LiveUpdateError('EINVAL', 'ops is missing', context);
  for (const name of required) {
    if (typeof ops[name] !== 'function')
      throw new LiveUpdateError('EINVAL', `ops.${name} is missing`, context);
  }
  for (const name of optional) {
    if (ops[name] !== undefined && typeof ops[name] !== 'function') {
      throw new LiveUpdateError('EINVAL', `ops.${name} is no function`, context);
    }
  }
}
