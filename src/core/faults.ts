/**
 * Faults: failures of callbacks, told with their circumstances and never swallowed.
 *
 * A callback fails in one of two ways:
 *
 * 1. It *may* fail (preserve, freeze, retrieve, canFinish): its error becomes the operation's, with the errno it carries
 *    and, around it, which operation, session, token and handler it was.
 * 2. It *cannot* fail (unpreserve, unfreeze, finish) and throws all the same. Undoing goes on to its end, for every
 *    other file. Then each such error is reported: to the program's `onError` if there is one, and the
 *    operation goes on as if nothing had been thrown; without one, the operation, when it has done everything, throws
 *    EIO with the errors as its `cause`. When the operation was failing already, its own error keeps its errno and
 *    the cause is an AggregateError of it and the faults.
 *
 * The list of faults is made when there is a first one: what works pays nothing.
 */
import { type ErrorContext, LiveUpdateError } from './errors.js';

/** The errors of callbacks that cannot fail, met so far in one operation. */
export type Faults = LiveUpdateError[] | undefined;

/**
 * `error` as a LiveUpdateError that says where it happened. One that already names its session and token stays as it
 * is; any other is wrapped, keeps its errno, and is the `cause`.
 */
export function inContext(error: unknown, context: ErrorContext): LiveUpdateError {
  if (!(error instanceof LiveUpdateError)) return LiveUpdateError.from(error, context);
  const lacks =
    (error.session === undefined && context.session !== undefined) ||
    (error.token === undefined && context.token !== undefined) ||
    error.operation === undefined;
  if (!lacks) return error;
  const prefix = `${error.code}: `;
  const text = error.message.startsWith(prefix) ? error.message.slice(prefix.length) : error.message;
  return new LiveUpdateError(error.code, text, { ...context, cause: error });
}

/** Where faults go. One for each orchestrator. */
export class FaultReporter {
  readonly #onError: ((error: LiveUpdateError) => void) | undefined;

  constructor(onError: ((error: LiveUpdateError) => void) | undefined) {
    this.#onError = onError;
  }

  /** Reports one fault, now or, in the list that is returned, at the end of the operation. */
  report(faults: Faults, error: unknown, context: ErrorContext): Faults {
    const fault = inContext(error, context);
    if (this.#onError !== undefined) {
      try {
        this.#onError(fault);
        return faults;
      } catch (thrown) {
        // The listener failed too: fall back to throwing both at the end.
        return [...(faults ?? []), fault, inContext(thrown, { ...context, operation: 'onError' })];
      }
    }
    return [...(faults ?? []), fault];
  }

  /** The operation has done everything: throws EIO if there were faults. */
  conclude(faults: Faults, context: ErrorContext): void {
    if (faults === undefined) return;
    const cause =
      faults.length === 1 ? faults[0] : new AggregateError(faults, 'callbacks that cannot fail failed');
    throw new LiveUpdateError('EIO', `done, but ${faults.length} callback(s) that cannot fail failed`, {
      ...context,
      cause,
    });
  }

  /** The error to throw when an operation failed with `error` and undoing it met `faults`. */
  combine(error: LiveUpdateError, faults: Faults): LiveUpdateError {
    if (faults === undefined) return error;
    const context: ErrorContext = {
      cause: new AggregateError([error, ...faults], 'failed, and so did the undoing'),
    };
    if (error.session !== undefined) context.session = error.session;
    if (error.token !== undefined) context.token = error.token;
    if (error.handler !== undefined) context.handler = error.handler;
    if (error.operation !== undefined) context.operation = error.operation;
    return new LiveUpdateError(
      error.code,
      `failed, and ${faults.length} callback(s) failed while undoing it`,
      context,
    );
  }
}
