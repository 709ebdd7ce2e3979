/** Child processes that luod holds for a service: they end with it, though no program is left to end them. */
import { constants } from 'node:os';
import { LiveUpdateError } from '../core/errors.js';
import { CHILD_COMPATIBLE } from '../handlers/child-record.js';
import { signalPidfd } from '../linux/pidfd.js';
import type { Held } from './custody.js';

/** Asks them to end (SIGTERM). @param refused Told of one that could not be asked. */
export function endKeptChildren(
  held: Iterable<readonly [string, Held]>,
  refused: (session: string, error: LiveUpdateError) => void,
): void {
  for (const [session, { compatible, fds }] of held) {
    const [pidfd] = fds;
    if (compatible !== CHILD_COMPATIBLE || pidfd === undefined) continue;
    try {
      signalPidfd(pidfd, constants.signals.SIGTERM);
    } catch (error) {
      // A child that changed its user, or a record that says more than it is.
      refused(session, LiveUpdateError.from(error));
    }
  }
}
