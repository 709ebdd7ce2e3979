/** The keeper's process: `node keeper-process.js SOCKET PATIENCE_MS`. Says 'ready' on stdout when it listens. */
import { writeSync } from 'node:fs';
import { Keeper } from './keeper.js';

const [path, patience] = process.argv.slice(2);
if (path === undefined || patience === undefined) {
  process.stderr.write('usage: keeper-process.js SOCKET PATIENCE_MS\n');
  process.exit(2);
}
// A terminal's Ctrl-C and a supervisor's stop are meant for luod, who says 'bye' to us.
for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => undefined);
new Keeper({ path, patienceMs: Number(patience), ended: () => process.exit(0) });
// Not process.stdout, with which streams would come. luod waits for this, or is dead: then the next one finds the socket.
try {
  writeSync(1, 'ready\n');
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
}
