/**
 * luod, replaced in place by another version of itself: execve(2), same pid. What it holds is with its store, from which the next one
 * takes it as after a death; so the answer is the next one's.
 */
import { LiveUpdateError } from '../core/errors.js';
import { execve } from '../linux/exec.js';
import type { LastingStore } from './keeper-link.js';
import type { ServiceManager } from './service-manager.js';
import { checkSuccessor } from './successor-check.js';

export interface SelfUpdateOptions {
  /** Undefined when nothing outlives this luod. */
  readonly store: LastingStore | undefined;
  readonly manager: ServiceManager | undefined;
  readonly log: (line: string) => void;
  /** The next version: a luod.js. */
  readonly script: string;
  /** How things stand, for people. */
  readonly summary: () => string;
}

/**
 * Never returns when it succeeds.
 * @throws {LiveUpdateError} EOPNOTSUPP without a store; EPROTO when the next version cannot take over; the errno of execve(2). This luod
 *   goes on as it was.
 */
export async function replaceSelf({
  store,
  manager,
  log,
  script,
  summary,
}: SelfUpdateOptions): Promise<never> {
  if (store === undefined) {
    throw new LiveUpdateError('EOPNOTSUPP', 'it runs without a keeper', { operation: 'self-update' });
  }
  const { keeper, environment, callOff } = await store.handOver();
  try {
    await checkSuccessor(script, keeper);
    log(`replaces itself by ${script}`);
    manager?.reloading();
    const words = [process.execPath, ...process.execArgv, script, ...process.argv.slice(2)];
    // A signal that comes before the next luod has its handlers ends it, and can be neither blocked nor ignored until then: Node resets
    // both as it starts. It is as a KILL then, and the store waits for another luod.
    try {
      return execve(process.execPath, words, { ...process.env, ...environment });
    } catch (error) {
      // Until it hears READY the manager takes luod for one that is being replaced.
      manager?.goesOn(summary());
      throw error;
    }
  } finally {
    callOff();
  }
}
