/**
 * The keeper's process: `node keeper-process.js SOCKET PATIENCE_MS`. Says 'ready' on stdout when it listens. With `INODE LISTENER QUEUE...`
 * behind it is one that slept (sleeping-keeper.ts): the socket's inode, and the descriptors that it has. `--can-start` does nothing: whoever
 * hears 0 knows that everything is there that the keeper needs. All of this, and the words in the queues, is said by the version that started
 * the shell, and heard by the one whose files are there when it wakes up.
 */
import { writeSync } from 'node:fs';
import { Keeper, type KeeperOptions } from './keeper.js';

const [path, patience, inode, listener, ...queues] = process.argv.slice(2);
if (path === '--can-start') process.exit(0);
if (path === undefined || patience === undefined) {
  process.stderr.write('usage: keeper-process.js SOCKET PATIENCE_MS [INODE LISTENER QUEUE...]\n');
  process.exit(2);
}
// A terminal's Ctrl-C and a supervisor's stop are meant for luod, who says 'bye' to us.
for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => undefined);
const options: KeeperOptions = { path, patienceMs: Number(patience), ended: () => process.exit(0) };
if (inode === undefined || listener === undefined) {
  new Keeper(options);
  // Not process.stdout, with which streams would come. luod waits for this, or is dead: then the next one finds the socket.
  try {
    writeSync(1, 'ready\n');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
  }
} else {
  const socket = { fd: Number(listener), inode: Number(inode) };
  new Keeper({ ...options, slept: { socket, queues: queues.map(Number) } });
}
