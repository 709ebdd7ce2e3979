/** Where luod listens. Apart from socket-path.ts, because luoctl needs no more and shall start fast. */
import { join, resolve } from 'node:path';
import { ENV_SOCKET } from '../handover/protocol.js';

/** Where root's luod has its socket, and what is the whole machine's. */
export const rootRunFolder = '/run/luod';

/** The run folder of this user's luod: `/run/luod` for root, `$XDG_RUNTIME_DIR/luod` or a folder in /tmp for others. */
function runFolder(): string {
  const uid = process.getuid?.() ?? 0;
  if (uid === 0) return rootRunFolder;
  const runtime = process.env.XDG_RUNTIME_DIR;
  return runtime === undefined || runtime === '' ? `/tmp/luod-${uid}` : join(runtime, 'luod');
}

/** `path` if it is given, else LIVEUPDATE_SOCKET, else the default of this user. */
export function socketPath(path: string | undefined): string {
  return resolve(path ?? (process.env[ENV_SOCKET] || join(runFolder(), 'liveupdate.sock')));
}
