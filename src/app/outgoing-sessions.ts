/**
 * What a program keeps, on its way out: one open session of the orchestrator for each thing, whatever carries them. The way in
 * and the way back side by side:
 *
 *     open      a session for a kept thing             close, newest first
 *     reboot    everything frozen, and locked          cancelReboot
 *
 * The way back has no way back of its own, so it goes to its end whatever fails on it: a callback that throws is told by a warning,
 * and the next session is closed all the same. One that hangs, on either way, must not hang the program: it is waited for a
 * moment, and tidied up behind if it ever ends. Until then `isTidy` is false, and nothing can be updated: nobody knows what such
 * a callback will still do.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { IMAGE_COMPATIBLE, type LiveUpdate, type Session } from '../core/index.js';
import type { Image, Token } from '../core/types.js';
import type { Handover } from '../handlers/carried.js';
import { OutgoingRecords } from '../handover/records.js';
import { FILE_TOKEN, type Kept, KeptListener } from './kept.js';

/** How long a rollback waits for callbacks, before the program hears of it and serves on. */
const TAKE_BACK_MS = 1000;

export interface OpenSession {
  readonly kept: Kept;
  readonly session: Session;
}

/** One file of a session as it is now: what a pass brings ahead of the freeze. */
export function passImage(session: Session, token: Token): Image {
  const file = session.serialized(token);
  const files = file === undefined ? [] : [file];
  return {
    compatible: IMAGE_COMPATIBLE,
    liveupdateNumber: 0n,
    sessions: [{ name: session.name, files }],
    flbs: [],
  };
}

export class OutgoingSessions {
  readonly #orchestrator: LiveUpdate;
  readonly #handover: Handover;
  readonly #sessions: OpenSession[] = [];
  #rebooting: Promise<void> | undefined;
  /** What a successful reboot left, which keeps the orchestrator locked. */
  #image: Image | undefined;
  #takingBack = false;

  constructor(options: { readonly orchestrator: LiveUpdate; readonly handover: Handover }) {
    this.#orchestrator = options.orchestrator;
    this.#handover = options.handover;
    options.handover.outgoing = new OutgoingRecords();
  }

  [Symbol.iterator](): IterableIterator<OpenSession> {
    return this.#sessions.values();
  }

  /** Opens the session of `kept` and preserves the thing itself. @throws {LiveUpdateError} the errno of the callback that failed. */
  async open(kept: Kept): Promise<Session> {
    const session = await this.#orchestrator.createSession(kept.session);
    this.#sessions.push({ kept, session });
    await session.preserve(kept.file, FILE_TOKEN);
    return session;
  }

  /** Takes a session out again. */
  async close(session: Session): Promise<void> {
    this.#sessions.splice(
      this.#sessions.findIndex((open) => open.session === session),
      1,
    );
    await session.close();
  }

  /**
   * Freezes everything; undefined when live update is switched off.
   * @throws {LiveUpdateError} the errno of the freeze callback that failed; everything is unfrozen then.
   */
  async reboot(): Promise<Image | undefined> {
    const rebooting = this.#orchestrator.reboot();
    if (!(rebooting instanceof Promise)) {
      this.#image = rebooting as Image | undefined;
      return this.#image;
    }
    this.#rebooting = rebooting.then((image) => {
      this.#image = image;
    });
    try {
      await this.#rebooting;
    } finally {
      this.#rebooting = undefined;
    }
    return this.#image;
  }

  /** Whether a rollback, if there was one, has come to its end. */
  get isTidy(): boolean {
    return !this.#takingBack;
  }

  /**
   * Takes everything back: the program serves on as if nothing had been tried. Resolves also when a callback fails or hangs; what
   * failed becomes a warning.
   */
  async rollback(): Promise<void> {
    this.#takingBack = true;
    const rebooting = this.#rebooting;
    if (rebooting === undefined) {
      await this.#takeBack();
      return;
    }
    // Its failure was told by reboot().
    void rebooting.then(
      () => this.#takeBack(),
      () => this.#takeBack(),
    );
  }

  async #takeBack(): Promise<void> {
    const late = sleep(TAKE_BACK_MS, undefined, { ref: false });
    const steps: Promise<void>[] = [];
    if (this.#image !== undefined) steps.push(attempt(() => this.#orchestrator.cancelReboot()));
    this.#image = undefined;
    await Promise.race([Promise.all(steps), late]);
    for (const { session } of this.#sessions.splice(0).reverse()) {
      const closing = attempt(() => session.close());
      steps.push(closing);
      await Promise.race([closing, late]);
    }
    const over = Promise.all(steps).then(() => {
      this.#handover.outgoing = new OutgoingRecords();
      this.#takingBack = false;
    });
    await Promise.race([over, late]);
  }
}

/** Does its part of a way back; a failure is told, and stops nothing. */
async function attempt(part: () => void | PromiseLike<void>): Promise<void> {
  try {
    await part();
  } catch (error) {
    process.emitWarning(LiveUpdateError.from(error, { operation: 'rollback' }));
  }
}

/**
 * The order in which things are preserved, and so frozen. Things whose handlers may be asynchronous come first, so that the
 * built-in ones freeze in one go right before the halt, with no turn of the loop in between.
 */
export function preserveOrder(kept: readonly Kept[]): Kept[] {
  return [...kept].sort((a, b) => rank(a) - rank(b));
}

/** What a handler's freeze may still change (a state, a memory) comes behind all files of `keep()`. */
function rank(kept: Kept): number {
  if (!(kept instanceof KeptListener) && kept.isForeign) return 0;
  return kept.kind === 'keep' ? 1 : 2;
}

/** @throws {LiveUpdateError} EBUSY for a listener that the program closed, whose connections live on. */
export function requireOpen(kept: Kept): void {
  if (!(kept instanceof KeptListener) || kept.file.isOpen) return;
  const text = `the program closed this listener, and ${kept.connections.size} of its connections live on; they cannot cross without it: try again when they have ended`;
  throw new LiveUpdateError('EBUSY', text, { operation: 'preserve', session: kept.session });
}
