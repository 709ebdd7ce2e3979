import { type ErrorContext, LiveUpdateError } from './errors.js';

/** What another process says went wrong there, as an error here; EIO for a code that is no errno. */
export function reportedError(
  { code, message }: { readonly code?: string | undefined; readonly message: string },
  context: ErrorContext = {},
): LiveUpdateError {
  return LiveUpdateError.from(Object.assign(new Error(message), { code }), context);
}
