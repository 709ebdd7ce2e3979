/**
 * The commit word: the one place where an update is decided. A memfd of eight bytes that luod makes for each update; the
 * successor sets its first byte after it has retrieved everything and before it does anything that cannot be undone.
 *
 * luod, and a frozen image whose luod died, read it only after the successor is gone or has said so: then nobody can
 * set it any more, and both come to the same verdict without talking to each other.
 */
import { readSync, writeSync } from 'node:fs';
import { createMemfd } from '../linux/memfd.js';

const WORD_BYTES = 8;

/** The caller owns the descriptor. @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM. */
export function createCommitWord(): number {
  return createMemfd('liveupdate-commit', WORD_BYTES);
}

/** The point of no return. */
export function commit(fd: number): void {
  writeSync(fd, Uint8Array.of(1), 0, 1, 0);
}

export function isCommitted(fd: number): boolean {
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, 0);
  return byte[0] === 1;
}
