/** Collecting garbage at a moment of our own choice, since V8's own may be in the middle of the cut. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

type Gc = (options?: { type: 'minor' }) => void;
let gc: Gc | undefined;

/**
 * Collects garbage now. In an image that serves only the young objects, which is short however large its heap is: as long as it takes to move
 * those that live.
 */
export function collectGarbage(which: 'all' | 'young'): void {
  gc ??= exposedGc();
  gc(which === 'young' ? { type: 'minor' } : undefined);
}

function exposedGc(): Gc {
  setFlagsFromString('--expose-gc');
  const exposed: unknown = runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  return typeof exposed === 'function' ? (exposed as Gc) : () => undefined;
}
