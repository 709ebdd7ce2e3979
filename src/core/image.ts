/**
 * Images: what the orchestrator leaves to the next image, and takes from the previous one.
 *
 * Writing (`freeze`), the last thing an old image does: sessions in order of creation, files in order of preservation, each
 * is frozen; then everything is written down. When a freeze fails, what was frozen is unfrozen, the failing session's
 * own files first and then the sessions before it, newest first, and all works as before.
 * Calling it off after it succeeded (`unfreeze`) is the same way back, over all sessions.
 *
 * Reading (`restore`), the first thing a new image does. What comes from outside is checked, never trusted; sessions and
 * files in the image's order first, FLBs after them. On the first thing wrong it stops: what was restored
 * before is left as it is, for there is nobody to hand it to, and the failure is for good. An image of an unknown
 * form is worse: nothing can be known about what it holds, so live update is off from then on. (A kernel
 * panics: what it would go on with could be somebody's private memory.)
 *
 * Incoming sessions that nobody finished do not travel on: finish or lose them before the next reboot. Whoever starts one
 * can see them in sessions().
 */
import { LiveUpdateError } from './errors.js';
import { type Faults, inContext } from './faults.js';
import { FLB_LIMIT, IMAGE_COMPATIBLE, isCompatible, isSessionName, isU64 } from './names.js';
import type { Orchestrator } from './orchestrator.js';
import type { Steps } from './sequence.js';
import type { Image, SerializedFlb, SerializedSession } from './types.js';

/** Freezes every outgoing session and writes the image. @throws what a freeze() threw, after undoing. */
export function* freeze(orchestrator: Orchestrator): Steps<Image> {
  const records = [...orchestrator.outgoing.values()];
  const sessions: SerializedSession[] = [];
  let frozen = 0;
  try {
    for (; frozen < records.length; frozen++) {
      const { name, files } = records[frozen]!;
      sessions.push({ name, files: yield* files.freeze() });
    }
  } catch (error) {
    let faults: Faults;
    for (let i = frozen - 1; i >= 0; i--) faults = yield* records[i]!.files.unfreeze(faults);
    throw orchestrator.faults.combine(inContext(error, { operation: 'freeze' }), faults);
  }
  return {
    compatible: IMAGE_COMPATIBLE,
    liveupdateNumber: BigInt.asUintN(64, orchestrator.liveupdateNumber + 1n),
    sessions,
    flbs: orchestrator.flbs.serialize(),
  };
}

/** The way back from a freeze that succeeded: newest session first, files in order of preservation. */
export function* unfreeze(orchestrator: Orchestrator): Steps<Faults> {
  const records = [...orchestrator.outgoing.values()];
  let faults: Faults;
  for (let i = records.length - 1; i >= 0; i--) faults = yield* records[i]!.files.unfreeze(faults);
  return faults;
}

/**
 * Restores what the previous image left.
 * @throws EINVAL (unknown form; anything out of range, doubled, or that does not add up), ENOENT (a file's handler is
 * not registered).
 */
export function restore(orchestrator: Orchestrator, image: Image): void {
  if (image.compatible !== IMAGE_COMPATIBLE) {
    orchestrator.unknownImage = true;
    throw bad(`the image is of form '${image.compatible}', not '${IMAGE_COMPATIBLE}': live update is off`);
  }
  if (!isU64(image.liveupdateNumber)) throw bad('liveupdateNumber is no u64');
  if (!Array.isArray(image.sessions) || !Array.isArray(image.flbs)) throw bad('sessions and flbs are lists');
  orchestrator.liveupdateNumber = image.liveupdateNumber;
  let files = 0;
  for (const session of image.sessions) files += restoreSession(orchestrator, session);
  checkFlbs(image.flbs, files);
  orchestrator.flbs.restore(image.flbs);
}

function restoreSession(orchestrator: Orchestrator, { name, files }: SerializedSession): number {
  if (!isSessionName(name)) throw bad(`'${name}' is no session's name`);
  if (!Array.isArray(files)) throw bad(`the files of session '${name}' are no list`);
  const record = orchestrator.restoreSession(name);
  for (const file of files) record.files.restore(file);
  return files.length;
}

/** A count that no number of files in the image can explain is a broken image. */
function checkFlbs(flbs: readonly SerializedFlb[], files: number): void {
  if (flbs.length > FLB_LIMIT) throw bad(`${flbs.length} FLBs are more than ${FLB_LIMIT}`);
  const seen = new Set<string>();
  for (const { compatible, data, count } of flbs) {
    if (!isCompatible(compatible)) throw bad(`'${compatible}' is no FLB's compatible`);
    if (seen.has(compatible)) throw bad(`FLB '${compatible}' came twice`);
    seen.add(compatible);
    if (!isU64(data)) throw bad(`the data of FLB '${compatible}' is no u64`);
    if (!Number.isSafeInteger(count) || count < 1 || count > files) {
      throw bad(`FLB '${compatible}' says ${count} of ${files} files depend on it`);
    }
  }
}

function bad(text: string): LiveUpdateError {
  return new LiveUpdateError('EINVAL', text, { operation: 'deserialize' });
}
