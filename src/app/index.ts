/** `liveupdate()`: the one door to a program's live update. */
import { type LiveUpdateOptions, Program } from './program.js';

let program: Promise<Program> | undefined;

/**
 * Joins luod, if the program runs under it, and takes in what the image before left. One program is one image, so every
 * call returns the same object.
 *
 * @throws {LiveUpdateError} ENOENT, ECONNREFUSED when the environment names a luod that does not listen; EPERM when it
 *   does not expect this process; EPROTONOSUPPORT when it speaks another protocol; the errno of whatever else it refuses for;
 *   EINVAL when the handover is damaged or of an unknown version.
 */
export function liveupdate(options: LiveUpdateOptions = {}): Promise<Program> {
  program ??= Program.start(options);
  return program;
}
