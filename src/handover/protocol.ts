/**
 * The words that images and luod say to each other during a program's life, as wire messages. Times are nanoseconds of
 * CLOCK_MONOTONIC as decimal strings: one clock for every process of the machine.
 *
 * An update, seen from above:
 *
 *     luod → old        preserve + [direct, commit]   the update begins; the old image sends its records over `direct`
 *     luod → successor  welcome  + [direct, commit]   (answer to its hello)
 *     old → successor   precopy + [records, fds...]   repeated, each answered by ack
 *     old → luod        preserved
 *     successor → luod  ready                         the program called ready(): the cut may come
 *     luod → old        freeze
 *     old → successor   frozen + [image, fds...]      then the old image halts
 *     old → luod        frozen
 *     successor                                       retrieves, sets the commit word, finishes, resumes
 *     successor → luod  finished
 *     luod → old        finish                        the old image leaves
 *
 * Leaving for the next kernel, luod is at the other end of `direct` itself: the same passes and the same freeze, and what
 * cannot be carried across a kexec is named instead of sent. There is no `finish`: a frozen image ends with its kernel.
 *
 * When the freeze had to wait for something (a health gate, other workers), both images are told 'warmUp' before it, and answer 'warm'.
 *
 * With rolling listeners there are batches between 'ready' and 'freeze': luod → old roll; old → successor roll + [record], each
 * answered by ack; old → luod rolled. A successor that is called off is told to give back what it serves before it is killed.
 *
 * An old image with connections that could not cross does not leave at 'finish': it says 'lingering' to luod, and 'late' over `direct`,
 * which lives as long as it does and is handed on from successor to successor.
 *
 * Called off at any step before the commit word is set: luod kills the successor, waits for its end, finds the word unset,
 * and says `unfreeze` to the old image.
 */
import type { WireMessage } from './wire.js';

export const PROTOCOL_VERSION = 1;

/** Environment of an image started by luod: where luod listens, and the secret that says which image this is. */
export const ENV_SOCKET = 'LIVEUPDATE_SOCKET';
export const ENV_IMAGE = 'LIVEUPDATE_IMAGE';

/** Environment of one of several workers: its number, from 1, and how many there are. */
export const ENV_WORKER = 'LIVEUPDATE_WORKER';
export const ENV_WORKERS = 'LIVEUPDATE_WORKERS';

/** How long an old image may linger to serve what cannot cross, when nobody says otherwise or no luod is left to say. */
export const DEFAULT_DRAIN_MS = 30_000;

export type Phase = 'spawn' | 'preserve' | 'freeze' | 'retrieve' | 'finish';

/** What brings an image's state to the next one: luod's hands, or the kernel's across a kexec. */
export type Carrier = 'luod' | 'kernel';

/** Something that the carrier cannot take along. */
export interface Left {
  readonly session: string;
  /** For people: what of it stays behind, and why. */
  readonly what: string;
}

export interface ErrorReport {
  readonly code: string;
  readonly message: string;
}

/** What a successor tells of its cut. */
export interface CutReport {
  readonly frozenAt: string;
  readonly sentAt: string;
  readonly retrievedAt: string;
  readonly resumedAt: string;
  readonly files: number;
  readonly connections: number;
  /** Of the image that came in the cut. */
  readonly bytes: number;
  /** Sessions that the program gave up on purpose. */
  readonly dropped: string[];
  /** Sessions that refused to finish after the commit, and why. */
  readonly unfinished: string[];
}

/** From an image to luod. */
export type ImageToLuod =
  | { type: 'hello'; protocol: number; image: string; pid: number }
  | { type: 'hold'; session: string; compatible: string; record: string }
  | { type: 'release'; session: string }
  /** `warms`: of a successor, that it knows 'warmUp'. */
  | { type: 'ready'; warms?: boolean }
  /** `rolls`: it has listeners whose connections move in batches ahead of the cut. `warms`: it knows 'warmUp'. */
  | { type: 'preserved'; bytes: number; left?: Left[]; rolls?: boolean; warms?: boolean }
  /** Answers 'warmUp': what crossed because of it. */
  | { type: 'warm'; bytes: number }
  /** Answers 'roll': how many connections the successor serves ahead of the commit. */
  | { type: 'rolled'; connections: number }
  /** Answers 'giveBack': the old image has everything again; this one is halted. */
  | { type: 'gaveBack' }
  | { type: 'frozen'; left?: Left[] }
  | ({ type: 'finished' } & CutReport)
  /** `lost`: connections that ended with a successor that could not give them back. */
  | { type: 'unfrozen'; lost?: number }
  /** After 'finish', instead of leaving: connections that could not cross are served to their end. Said again as they end. */
  | { type: 'lingering'; connections: number }
  | { type: 'failed'; phase: Phase; error: ErrorReport }
  | { type: 'update'; id: number; command?: string[] }
  /** Answers 'restarted': what follows is for the luod that said so. */
  | { type: 'resume' }
  /** Said again to a luod that took over: an update of this image is under way. */
  | { type: 'updating' };

/** From luod to an image. */
export type LuodToImage =
  | { type: 'welcome'; role: 'fresh'; service: string; generation: number }
  /** + [image, its fds...]: what luod held when the image before died, or what the previous kernel left. */
  | {
      type: 'welcome';
      role: 'restarted';
      from: 'crash' | 'kexec';
      service: string;
      generation: number;
    }
  /** + [direct, commit] */
  | { type: 'welcome'; role: 'successor'; service: string; generation: number }
  /** + [direct, commit] */
  | { type: 'preserve'; carrier: Carrier }
  /**
   * To both images of an update, when time has passed since they were ready for the freeze: what came meanwhile crosses now, and the code of
   * the cut runs once more. Answered by 'warm'.
   */
  | { type: 'warmUp' }
  /** To the old image: move the connections of rolling listeners, a batch at a time. Both images serve meanwhile. */
  | { type: 'roll' }
  /** To a successor that will not take over: give back what it serves. */
  | { type: 'giveBack' }
  | { type: 'freeze' }
  | { type: 'unfreeze'; reason: ErrorReport }
  /** The next image is in charge. What cannot cross may take `drainMs` to end here; an image that does not linger is killed after `leaveMs`. */
  | { type: 'finish'; drainMs: number; leaveMs?: number }
  | { type: 'refused'; error: ErrorReport }
  | { type: 'updated'; id: number; result: unknown }
  /** Another luod took over, and may not have heard what was said last. */
  | { type: 'restarted' };

/** From the old image to its successor. */
export type OldToSuccessor =
  /** + [records, its fds...] */
  | { type: 'precopy' }
  | { type: 'precopied' }
  /** + [record]: serve these from now on. Answered by ack. */
  | { type: 'roll'; session: string }
  | { type: 'ended'; session: string; ids: number[] }
  /**
   * + [image, its fds..., and for each of `inherited` a wire and the descriptors that came ahead of their line]. Behind these
   * wires older images linger, and hand on connections; `begun` is what has come of a line (base64). `leaves`: 'left' will follow behind the commit.
   */
  | {
      type: 'frozen';
      at: string;
      sentAt: string;
      leaves?: boolean;
      inherited: { begun: string; fds: number }[];
    }
  /** The ports that were this process's own are free; or it lingers, and has them. */
  | { type: 'left' }
  /** + [record, descriptors...]: connections that could not cross in the cut, and now can. Said by an image that lingers. */
  | { type: 'late'; session: string };

/** From the successor to the old image. */
export type SuccessorToOld =
  /** One for each precopy, and each roll. */
  | { type: 'ack' }
  /** + [record]: everything that was served ahead of the commit. */
  | { type: 'back'; session: string }
  /** The commit word is set: for an old image that nobody else can tell, since luod is gone. `announces`: 'announced' will follow. */
  | { type: 'committed'; announces?: boolean }
  /** The program has all its connections: the old image may end without being in the way. */
  | { type: 'announced' };

/** A message as the wire takes it. */
export function toWire(message: ImageToLuod | LuodToImage | OldToSuccessor | SuccessorToOld): WireMessage {
  return message as unknown as WireMessage;
}

export function now(): string {
  return String(process.hrtime.bigint());
}
