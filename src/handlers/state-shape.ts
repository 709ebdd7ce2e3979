/**
 * The shape of a state and its versions: how a value that an older version of the program saved becomes one that this
 * version works with.
 *
 * A version is a number that the program gives to a shape. It only grows: what was saved in an older one is migrated; what was
 * saved in a newer one is refused, as nobody here can know what it means. Both are decided when the program
 * claims the state, while the image before still serves and nothing has frozen.
 *
 * A migration runs on a value that only the new image has, twice if the old image changed its own meanwhile: on the preview,
 * and in the cut on the final value. What it returns is taken as a structured clone, so that it can share nothing with what
 * the program holds already, and is of the kinds in which it will be saved again.
 */
import { types } from 'node:util';
import { LiveUpdateError } from '../core/errors.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { MAX_STATE_VERSION } from './state-record.js';

export interface StateOptions<T extends object = object> {
  /** Of the shape that this program works with: a positive integer, 1 if not given, and more with each change. */
  version?: number;
  /**
   * Makes a value of the shape of `version` from one that was saved in the older version `from`. It may change `value` or
   * make a new one, and returns it; it must be synchronous. It runs on the preview and, if the image before changed
   * the value until the freeze, again on the final one; so it should depend on `value` alone, and give the same kind of
   * object both times.
   */
  migrate?(value: object, from: number): T;
}

/** What a program asks of a state that came in. */
export interface StateShape {
  readonly session: string;
  readonly version: number;
  readonly migrate: ((value: object, from: number) => unknown) | undefined;
}

/** @throws {LiveUpdateError} EINVAL for a version that is no positive integer, or a migrate that is no function. */
export function stateShape(session: string, options: StateOptions): StateShape {
  const { version = 1, migrate } = options;
  const context = { operation: 'state', session };
  if (!Number.isInteger(version) || version < 1 || version > MAX_STATE_VERSION) {
    const text = `a version is a whole number from 1 to ${MAX_STATE_VERSION}, not ${String(version)}`;
    throw new LiveUpdateError('EINVAL', text, context);
  }
  if (migrate !== undefined && typeof migrate !== 'function') {
    throw new LiveUpdateError('EINVAL', `migrate is a function, not ${typeof migrate}`, context);
  }
  return { session, version, migrate: migrate?.bind(options) };
}

/**
 * Refuses what cannot be updated in place, which is what a state lives by.
 * @throws {LiveUpdateError} EINVAL.
 */
export function checkStateValue(value: unknown): asserts value is object {
  if (typeof value === 'object' && value !== null && !LEAVES.some((isLeaf) => isLeaf(value))) return;
  const what = value === null ? 'null' : typeof value === 'object' ? value.constructor.name : typeof value;
  const text = `a state is a plain object, an array, a Map or a Set (it is updated in place), not ${what}`;
  throw new LiveUpdateError('EINVAL', text, { operation: 'state' });
}

/** Objects that a structured clone keeps whole, so that `reconcile` can only replace them. */
const LEAVES: readonly ((value: unknown) => boolean)[] = [
  types.isDate,
  types.isRegExp,
  types.isBoxedPrimitive,
  types.isAnyArrayBuffer,
  types.isArrayBufferView,
  types.isNativeError,
];

/**
 * `value`, saved in version `from`, in the shape that the program asked for.
 * @param value Nobody else's: a migration may change it.
 * @throws {LiveUpdateError} EPROTONOSUPPORT for a newer version, or an older one without a migrate; the errno of what
 *   migrate threw, EIO if it has none; EINVAL when it returned no object that can be saved.
 */
export function migrated(value: object, from: number, { session, version, migrate }: StateShape): object {
  if (from === version) return value;
  const context = { operation: 'state', session };
  const saved = `it was saved in version ${from}, and this program reads version ${version}`;
  if (from > version) {
    const text = `${saved}; a state does not go back: run a program that reads version ${from}, or give the state up with ready({ drop: ['${session}'] })`;
    throw new LiveUpdateError('EPROTONOSUPPORT', text, context);
  }
  if (migrate === undefined) {
    const text = `${saved} without a way from older ones: give state() a migrate`;
    throw new LiveUpdateError('EPROTONOSUPPORT', text, context);
  }
  try {
    const result = migrate(value, from);
    if (types.isPromise(result)) {
      // Nobody waits for it; its failure must not end the process as one that was forgotten.
      result.catch(() => undefined);
      throw new LiveUpdateError('EINVAL', 'it must be synchronous, and returned a promise');
    }
    checkStateValue(result);
    return deserializeValue(serializeValue(result)) as object;
  } catch (cause) {
    const { code } = LiveUpdateError.from(cause);
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LiveUpdateError(code, `the migrate from version ${from} to ${version} failed: ${why}`, {
      ...context,
      cause,
    });
  }
}
