/** `liveupdate()`: the one door to a program's live update. */
import { isMainThread } from 'node:worker_threads';
import { Inheritance } from '../handover/inheritance.js';
import { type LiveUpdateOptions, Program } from './program.js';

let program: Promise<Program> | undefined;

/** As the program loads, and not when it calls: a child that it starts in between must not get any of it. */
const inheritance = takeInheritance();

function takeInheritance(): Inheritance | undefined {
  if (!isMainThread) return undefined;
  try {
    return Inheritance.take(process.env);
  } catch (error) {
    // Left over or copied: this process has nothing to lose by beginning afresh.
    process.emitWarning(error as Error);
    return undefined;
  }
}

/**
 * Joins luod, if the program runs under it, and takes in what the image before left. One program is one image, so every
 * call returns the same object. From here on SIGHUP starts an update.
 *
 * @throws {LiveUpdateError} ENOENT, ECONNREFUSED when the environment names a luod that does not listen; EPERM when it
 *   does not expect this process; EPROTONOSUPPORT when it speaks another protocol; the errno of whatever else it refuses for;
 *   EINVAL when the handover is damaged or of an unknown version.
 */
export function liveupdate(options: LiveUpdateOptions = {}): Promise<Program> {
  program ??= Program.start(options, inheritance);
  return program;
}
