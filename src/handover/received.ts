/** A handover as it arrives beside a message: descriptors, of which the first is the image file. */
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import { decodeHandover, type Handover } from './codec.js';
import { readImageFile } from './image-file.js';

/**
 * Reads and checks a handover. The first descriptor is taken out of `fds` and closed; the others stay there, the caller's.
 * @throws {LiveUpdateError} EPROTO without a descriptor; EINVAL for a damaged handover, EFBIG. All descriptors are closed then.
 */
export function readHandover(fds: number[]): Handover & { readonly bytes: number } {
  const file = fds.shift();
  if (file === undefined) throw new LiveUpdateError('EPROTO', 'a handover without its descriptor');
  try {
    const bytes = readImageFile(file);
    return { ...decodeHandover(bytes, { fdCount: fds.length }), bytes: bytes.length };
  } catch (error) {
    for (const fd of fds.splice(0)) closeFd(fd);
    throw error;
  }
}
