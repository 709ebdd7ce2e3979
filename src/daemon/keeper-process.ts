/** The keeper's process: `node keeper-process.js SOCKET PATIENCE_MS`. Says 'ready' on stdout when it listens. */
import { Keeper } from './keeper.js';

const [path, patience] = process.argv.slice(2);
if (path === undefined || patience === undefined) {
  process.stderr.write('usage: keeper-process.js SOCKET PATIENCE_MS\n');
  process.exit(2);
}
// A terminal's Ctrl-C and a supervisor's stop are meant for luod, who says 'bye' to us.
for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => undefined);
await Keeper.listen({ path, patienceMs: Number(patience), ended: () => process.exit(0) });
process.stdout.on('error', () => undefined);
process.stdout.write('ready\n');
