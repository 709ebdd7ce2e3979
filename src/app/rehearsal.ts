/**
 * A rehearsal of the cut, before it: the same code, on the same connections, with nothing at stake.
 *
 * A process cuts once in its life, so that everything on that path would run cold, its first thousand calls in V8's
 * interpreter, inside the blackout. The rehearsal runs them while the old image still serves; what could not be frozen fails
 * here, before anything stands still.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { ConnectionSet } from '../handlers/connection-set.js';
import { serializeValue } from '../handover/values.js';

/** V8 has compiled what it will after this many. */
const ENOUGH = 3000;

/**
 * Collects what a freeze would save, and throws it away.
 * @throws {LiveUpdateError} EINVAL when the state of a connection cannot be cloned.
 */
export async function rehearseFreeze(sets: readonly ConnectionSet[]): Promise<void> {
  for (const set of sets) {
    for (let done = 0; set.size > 0 && done < ENOUGH; done += set.size) {
      serializeValue(set.collect());
      // The program goes on in between.
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }
}

/**
 * Collects garbage now, in an image that does not serve yet. Ten thousand adopted sockets are young objects, which V8 would
 * otherwise copy about in the middle of the cut.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  if (typeof gc === 'function') gc();
}
