/**
 * Making sure that nobody else can be reached where luod listens.
 *
 * The socket stands in a folder that only its user may enter; a socket left behind by a luod that died is removed, one
 * that answers is not, and anything that is no socket, or somebody else's, is never touched.
 */
import { type BigIntStats, chmodSync, chownSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { LiveUpdateError } from '../core/errors.js';
import { dial } from '../handover/dial.js';
import { closeFd } from '../linux/fd.js';

/** sun_path without its NUL: unix(7). */
const MAX_PATH_BYTES = 107;

/** Where the keeper of the luod at `socket` listens. */
export function keeperPath(socket: string): string {
  return `${socket}.keeper`;
}

/**
 * Whether a socket may stand there: the folder's, not the socket's own.
 * @throws {LiveUpdateError} EINVAL for a path that is too long; EACCES, ENOTDIR for the folder.
 */
export function checkSocketPath(path: string): void {
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) {
    throw new LiveUpdateError('EINVAL', `a unix socket's path has at most ${MAX_PATH_BYTES} bytes: ${path}`);
  }
  checkFolder(dirname(path));
}

/**
 * Makes `path` free to listen on.
 * @throws {LiveUpdateError} EINVAL for a path that is too long; EADDRINUSE when a luod listens there, or the path is no
 *   socket; EACCES when the folder belongs to somebody else or others may write to it; EPERM for somebody else's socket.
 */
export async function claimSocketPath(path: string): Promise<void> {
  checkSocketPath(path);
  const stat = look(path);
  if (stat === undefined) return;
  if (!stat.isSocket())
    throw new LiveUpdateError('EADDRINUSE', `${path} exists and is no socket; choose another with --socket`);
  if (Number(stat.uid) !== process.getuid?.())
    throw new LiveUpdateError('EPERM', `${path} belongs to another user`);
  const isAnswered = await answers(path);
  // Another luod may have found that nobody answers as well, and have put its own socket there meanwhile.
  const now = look(path);
  if (isAnswered || (now !== undefined && !isSame(now, stat))) {
    throw new LiveUpdateError(
      'EADDRINUSE',
      `a luod listens at ${path} already; choose another path with --socket`,
    );
  }
  removeStale(path);
}

/** @throws {LiveUpdateError} EACCES, ENOTDIR. */
function look(path: string): BigIntStats | undefined {
  try {
    return lstatSync(path, { bigint: true, throwIfNoEntry: false });
  } catch (error) {
    throw LiveUpdateError.from(error);
  }
}

/** The number alone may be given to the next file as soon as this one is gone. */
function isSame(one: BigIntStats, other: BigIntStats): boolean {
  return one.ino === other.ino && one.ctimeNs === other.ctimeNs;
}

function checkFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw LiveUpdateError.from(error, { operation: 'mkdir' });
  }
  const stat = lstatSync(folder);
  const uid = process.getuid?.();
  if (!stat.isDirectory()) throw new LiveUpdateError('ENOTDIR', `${folder} is no folder`);
  // A sticky folder (/tmp) lets everybody create names but nobody replace another's, which is all that is needed here.
  const sticky = (stat.mode & 0o1000) !== 0;
  if (stat.uid !== uid && stat.uid !== 0)
    throw new LiveUpdateError('EACCES', `${folder} belongs to another user`);
  if ((stat.mode & 0o022) !== 0 && !sticky) {
    throw new LiveUpdateError(
      'EACCES',
      `${folder} can be written by others; chmod go-w it, or choose another with --socket`,
    );
  }
}

async function answers(path: string): Promise<boolean> {
  try {
    closeFd(await dial(path));
    return true;
  } catch (error) {
    if (error instanceof LiveUpdateError && error.code === 'ECONNREFUSED') return false;
    throw error;
  }
}

/** Only this user may connect; with a group, its members as well. @throws EPERM for a group that this user cannot give. */
export function closeToStrangers(path: string, group?: number): void {
  if (group === undefined) {
    chmodSync(path, 0o600);
    return;
  }
  chownSync(path, -1, group);
  chmodSync(path, 0o660);
}

/** Removes a socket that nobody listens on any more, if it is there. @throws {LiveUpdateError} EACCES, EROFS. */
export function removeStale(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw LiveUpdateError.from(error);
  }
}
