/** Where a keeper listens: a socket that only its user may connect to, and that is only removed by who made it. */
import { statSync, unlinkSync } from 'node:fs';
import { openListeningSocket } from '../linux/listen-socket.js';

/** The luod in charge, those that look at what is kept, and none besides. */
const BACKLOG = 511;

export interface KeeperSocket {
  /** Whoever has it owns it. */
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

/** Removes the socket that `openKeeperSocket` made, and no other. */
export function removeKeeperSocket(path: string, inode: number): void {
  try {
    if (statSync(path).ino === inode) unlinkSync(path);
  } catch {
    // Somebody removed it, or its whole folder; it leads nowhere now in any case, and the end must not wait for it.
  }
}
