/** An encoded handover in a memfd, the form in which it passes from process to process. */
import { fstatSync, readSync, writeSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import { createMemfd } from '../linux/memfd.js';

/** The largest handover that is read: far above any real one, far below what would exhaust the reader. */
const MAX_BYTES = 4 * 1024 ** 3 - 4096;

/**
 * One file of `parts`, one behind the other. The caller owns the descriptor.
 * @throws {LiveUpdateError} EMFILE, ENOMEM, ENOSPC.
 */
export function writeImageFile(...parts: readonly Uint8Array[]): number {
  const fd = createMemfd('liveupdate-image', 0);
  try {
    for (const part of parts) {
      for (let at = 0; at < part.length; ) at += writeSync(fd, part, at);
    }
    return fd;
  } catch (error) {
    closeFd(fd);
    throw LiveUpdateError.from(error, { operation: 'write' });
  }
}

/**
 * Reads a private copy, so that what was checked cannot change afterwards; closes `fd`.
 * @throws {LiveUpdateError} EINVAL when it is no regular memory file, EFBIG when it is too large.
 */
export function readImageFile(fd: number): Buffer {
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new LiveUpdateError('EINVAL', 'the handover is no file');
    if (stat.size > MAX_BYTES) throw new LiveUpdateError('EFBIG', `a handover of ${stat.size} bytes`);
    const bytes = Buffer.allocUnsafeSlow(stat.size);
    let at = 0;
    while (at < bytes.length) {
      const read = readSync(fd, bytes, at, bytes.length - at, at);
      if (read === 0) throw new LiveUpdateError('EINVAL', 'the handover shrank while it was read');
      at += read;
    }
    return bytes;
  } finally {
    closeFd(fd);
  }
}
