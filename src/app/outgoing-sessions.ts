/**
 * What a program keeps, on its way out: one open session of the orchestrator for each thing, whatever carries them. The way in
 * and the way back side by side:
 *
 *     open      a session for a kept thing             close, newest first
 *     reboot    everything frozen, and locked          cancelReboot
 *
 * A freeze of the program's own that hangs must not hang the program: a rollback then does not wait for it, and tidies up
 * if it ever ends.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { LiveUpdate, Session } from '../core/index.js';
import type { Image } from '../core/types.js';
import type { Handover } from '../handlers/carried.js';
import { OutgoingRecords } from '../handover/records.js';
import { FILE_TOKEN, type Kept, KeptListener } from './kept.js';

export interface OpenSession {
  readonly kept: Kept;
  readonly session: Session;
}

export class OutgoingSessions {
  readonly #orchestrator: LiveUpdate;
  readonly #handover: Handover;
  readonly #sessions: OpenSession[] = [];
  #rebooting: Promise<void> | undefined;
  /** What a successful reboot left, which keeps the orchestrator locked. */
  #image: Image | undefined;

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

  /** Takes everything back: the program serves on as if nothing had been tried. */
  async rollback(): Promise<void> {
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
    if (this.#image !== undefined) await this.#orchestrator.cancelReboot();
    this.#image = undefined;
    for (const { session } of this.#sessions.splice(0).reverse()) await session.close();
    this.#handover.outgoing = new OutgoingRecords();
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
