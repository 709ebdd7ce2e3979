/** Where a keeper listens: a socket that only its user may connect to, and that is only removed by who made it. */
import { renameSync, statSync, unlinkSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { openListeningSocket } from '../linux/listen-socket.js';
import { removeStale } from './socket-path.js';

/** The luod in charge, those that look at what is kept, and none besides. */
const BACKLOG = 511;

export interface KeeperSocket {
  /** Who has it from the maker owns it. */
  readonly fd: number;
  /** Of the path: another keeper may stand there by now. */
  readonly inode: number;
}

/** @throws {LiveUpdateError} EADDRINUSE, EACCES, ENOENT, EINVAL: as `openListeningSocket`. */
export function openKeeperSocket(path: string): KeeperSocket {
  const umask = process.umask(0o177);
  try {
    const fd = openListeningSocket({ path }, BACKLOG);
    return { fd, inode: statSync(path).ino };
  } finally {
    process.umask(umask);
  }
}

/** One that nobody finds yet. */
export interface UnservedSocket extends KeeperSocket {
  /** Puts it at its path, in the place of whatever stands there: at each moment one keeper can be found. */
  serve(): void;
  /** From wherever it is. */
  remove(): void;
}

/** @throws {LiveUpdateError} as `openKeeperSocket`. */
export function openUnservedSocket(path: string): UnservedSocket {
  // As long as the path, which may have all the bytes that a socket's may have.
  const beside = `${path.slice(0, -1)}_`;
  removeStale(beside);
  const socket = openKeeperSocket(beside);
  return {
    ...socket,
    serve: () => {
      try {
        renameSync(beside, path);
      } catch (error) {
        throw LiveUpdateError.from(error);
      }
    },
    remove: () => {
      for (const place of [beside, path]) removeKeeperSocket(place, socket.inode);
    },
  };
}

/** Whether who looks for a keeper at `path` finds the one that made this socket. */
export function isServed(path: string, inode: number): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.ino === inode;
  } catch {
    // Nobody can tell, and what is kept is too dear for a guess.
    return true;
  }
}

/** Removes the socket that `openKeeperSocket` made, and no other. */
export function removeKeeperSocket(path: string, inode: number): void {
  try {
    if (isServed(path, inode)) unlinkSync(path);
  } catch {
    // Somebody removed it, or its whole folder; it leads nowhere now in any case, and the end must not wait for it.
  }
}
