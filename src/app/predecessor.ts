/**
 * The old image's part of an update: preserve while serving, freeze, halt, and leave or go on.
 *
 *   state       what may happen                                   next
 *   preserving  records cross in passes, the program serves       preserved, ended
 *   preserved   new connections wait for the next pass            freezing, ended
 *   freezing    'freeze' listeners run, one catch-up pass         frozen, ended
 *   frozen      nothing: the event loop is halted                 ended
 *   ended       the image left, or serves on as before
 *
 * Halting is the heart of it. From the moment the freeze begins the event loop does not turn until luod gives the verdict:
 * no byte is read, none that libuv still has to write leaves, no timer changes the state that was just saved. The old
 * kernel does not run after its freeze either. So there is nothing to pause and, when the update is called off, nothing
 * to take up again: the loop just goes on, and the sockets have kept what came.
 *
 * Unhappy paths: whatever fails before the freeze is told to luod and leaves the program untouched. A failing freeze
 * unfreezes (the orchestrator's rule) and is told. If luod dies while this image is frozen, the commit word decides: when it is
 * set, which the successor says over the direct wire, or when the successor can no longer set it, since that wire has ended.
 */

import { LiveUpdateError } from '../core/errors.js';
import { IMAGE_COMPATIBLE, type LiveUpdate, type Session } from '../core/index.js';
import type { Image, Token } from '../core/types.js';
import { type CarriedFileHandler, type Handover, handleOf } from '../handlers/carried.js';
import type { ConnectionSet } from '../handlers/connection-set.js';
import { Memory } from '../handlers/memory.js';
import { encodeHandover } from '../handover/codec.js';
import { isCommitted } from '../handover/commit-word.js';
import { writeImageFile } from '../handover/image-file.js';
import { kernelCrossing } from '../handover/kernel-crossing.js';
import {
  type Carrier,
  type ErrorReport,
  type Left,
  now,
  type OldToSuccessor,
  toWire,
} from '../handover/protocol.js';
import { OutgoingRecords, type Pass } from '../handover/records.js';
import { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { waitReadable } from '../linux/scm-rights.js';
import { CONNECTIONS_TOKEN, FILE_TOKEN, type Kept, KeptListener } from './kept.js';
import type { InheritedWire } from './late-arrivals.js';
import type { LuodLink } from './luod-link.js';
import { rehearseFreeze } from './rehearsal.js';

/** Connections of one pass: enough to be quick, few enough to leave the program its turn in between. */
const PASS_CONNECTIONS = 506;
/** Passes on their way without an answer. */
const PASS_WINDOW = 2;
/** How long the frozen image waits for a successor that does not read. luod's own deadline is the real one. */
const FLUSH_MS = 10_000;

type State = 'preserving' | 'preserved' | 'freezing' | 'frozen' | 'ended';

export type Verdict = 'finish' | 'unfreeze';

export interface PredecessorOptions {
  readonly orchestrator: LiveUpdate;
  readonly handover: Handover;
  readonly kept: readonly Kept[];
  readonly link: LuodLink;
  readonly carrier: Carrier;
  readonly directFd: number;
  readonly commitFd: number;
  /** The handler of a file. */
  readonly handler: (file: unknown) => CarriedFileHandler | undefined;
  /** Wires to older images that linger, which are the next image's from the freeze on. */
  readonly inherited: () => readonly InheritedWire[];
  /** Runs the program's 'freeze' listeners. */
  readonly announceFreeze: () => Promise<void>;
}

interface OpenSession {
  readonly kept: Kept;
  readonly session: Session;
}

export class Predecessor {
  readonly #options: PredecessorOptions;
  readonly #direct: Wire;
  readonly #sessions: OpenSession[] = [];
  #state: State = 'preserving';
  #directEnded = false;
  #rebooting: Promise<void> | undefined;
  /** What a successful reboot left, which keeps the orchestrator locked. */
  #image: Image | undefined;
  #unanswered = 0;
  #answered: (() => void) | undefined;
  /** What this image cannot hand over to its carrier, but for connections, which come and go. */
  readonly #left: Left[] = [];
  #verdict: { kind: Verdict; reason: ErrorReport | undefined } | undefined;
  /** Of a lingering image: the next one is gone. */
  #directGone: (() => void) | undefined;

  constructor(options: PredecessorOptions) {
    this.#options = options;
    options.handover.outgoing = new OutgoingRecords();
    this.#direct = new Wire(options.directFd, {
      message: (message) => {
        // That it was committed is looked up in the word itself.
        if (message.type !== 'ack') return;
        this.#unanswered--;
        this.#answered?.();
      },
      closed: () => {
        this.#directEnded = true;
        this.#answered?.();
        this.#directGone?.();
      },
    });
  }

  /** After the commit: the wire over which a lingering image hands on what could not cross in the cut. */
  takeDirect(gone: () => void): Wire {
    this.#directGone = gone;
    return this.#direct;
  }

  /** Everything is preserved, and the freeze has not begun. */
  get isPreserved(): boolean {
    return this.#state === 'preserved';
  }

  get isFrozen(): boolean {
    return this.#state === 'frozen';
  }

  #send(message: OldToSuccessor, fds: readonly number[] = []): void {
    this.#direct.send(toWire(message), fds);
  }

  #check(): void {
    if (this.#state === 'ended') throw new LiveUpdateError('ECANCELED', 'the update was called off');
    if (this.#directEnded) throw new LiveUpdateError('EPIPE', 'the successor is gone');
  }

  /**
   * Preserves everything and sends it, while the program serves.
   * @throws {LiveUpdateError} the errno of the callback that failed; EINVAL for a state that cannot be cloned; ECANCELED
   *   when called off; EPIPE when the successor is gone.
   */
  async preserve(): Promise<{ bytes: number; left: Left[] }> {
    let bytes = 0;
    const acrossKernel = this.#options.carrier === 'kernel';
    for (const kept of order(this.#options.kept)) {
      if (kept instanceof KeptListener && !kept.file.isOpen) {
        if (acrossKernel) continue;
        const text = `the program closed this listener, and ${kept.connections.size} of its connections live on; they cannot cross without it: try again when they have ended`;
        throw new LiveUpdateError('EBUSY', text, { operation: 'preserve', session: kept.session });
      }
      const session = await this.#options.orchestrator.createSession(kept.session);
      this.#sessions.push({ kept, session });
      await session.preserve(kept.file, FILE_TOKEN);
      const sent = await this.#pass(session, FILE_TOKEN);
      if (sent === undefined) await this.#leaveBehind(session);
      else bytes += sent;
      if (!(kept instanceof KeptListener) || acrossKernel) continue;
      await session.preserve(kept.connections, CONNECTIONS_TOKEN);
      bytes += (await this.#pass(session, CONNECTIONS_TOKEN)) ?? 0;
      const ended: number[] = [];
      kept.connections.preserve((id) => {
        // One message for all that ended in this turn of the loop.
        if (ended.push(id) === 1) setImmediate(() => this.#tellEnded(kept.session, ended.splice(0)));
      });
    }
    bytes += await this.#catchUp();
    await rehearseFreeze(this.#sets().map(({ set }) => set));
    bytes += await this.#catchUp();
    this.#check();
    this.#send({ type: 'precopied' });
    this.#state = 'preserved';
    return { bytes, left: this.#leftNow() };
  }

  /** What stays behind: for a kexec everything that lives in this kernel alone. */
  #leftNow(): Left[] {
    if (this.#options.carrier === 'luod') return [];
    const left = [...this.#left];
    for (const kept of this.#options.kept) {
      if (!(kept instanceof KeptListener) || kept.connections.size === 0) continue;
      left.push({
        session: kept.session,
        what: `${kept.connections.size} connections, which end with this kernel`,
      });
    }
    return left;
  }

  /** Takes a session out again that the carrier cannot take along. */
  async #leaveBehind(session: Session): Promise<void> {
    this.#sessions.splice(
      this.#sessions.findIndex((open) => open.session === session),
      1,
    );
    await session.close();
  }

  #sets(): { session: Session; set: ConnectionSet }[] {
    const sets: { session: Session; set: ConnectionSet }[] = [];
    if (this.#options.carrier === 'kernel') return sets;
    for (const { kept, session } of this.#sessions) {
      if (kept instanceof KeptListener) sets.push({ session, set: kept.connections });
    }
    return sets;
  }

  async #settle(): Promise<void> {
    await Promise.all(this.#sets().map(({ set }) => set.settle()));
  }

  #tellEnded(session: string, ids: number[]): void {
    // At the freeze the live numbers cross, and after a rollback there is nobody to tell.
    if (this.#state === 'frozen' || this.#state === 'ended') return;
    try {
      this.#send({ type: 'ended', session, ids });
    } catch (error) {
      // The successor does not read: luod's deadline ends the update.
      this.#options.link.report('preserve', LiveUpdateError.from(error));
    }
  }

  /** Sends the connections that wait, a pass at a time. */
  async #catchUp(): Promise<number> {
    let bytes = 0;
    for (const { session, set } of this.#sets()) {
      while (set.waiting > 0) {
        const { ids, fds } = set.takeWaiting(PASS_CONNECTIONS);
        const file = session.serialized(CONNECTIONS_TOKEN);
        if (file === undefined) break;
        this.#options.handover.outgoing.update(handleOf(file.data), set.passRecord(ids), fds);
        bytes += (await this.#pass(session, CONNECTIONS_TOKEN)) ?? 0;
      }
    }
    return bytes;
  }

  /** @returns the bytes that were sent; undefined, and nothing was, when the carrier cannot take it along. */
  async #pass(session: Session, token: Token): Promise<number | undefined> {
    this.#check();
    const pass = this.#options.handover.outgoing.takeChanged();
    if (this.#options.carrier === 'kernel') {
      for (const fd of pass.fds) {
        const crossing = kernelCrossing(fd);
        if (crossing.kind !== 'left') continue;
        this.#left.push({ session: session.name, what: `${crossing.what}, which only this kernel knows` });
        return undefined;
      }
    }
    const file = session.serialized(token);
    const image: Image = {
      compatible: IMAGE_COMPATIBLE,
      liveupdateNumber: 0n,
      sessions: [{ name: session.name, files: file === undefined ? [] : [file] }],
      flbs: [],
    };
    const bytes = this.#sendImage({ type: 'precopy' }, image, pass);
    this.#unanswered++;
    while (this.#unanswered >= PASS_WINDOW) {
      await new Promise<void>((resolve) => {
        this.#answered = resolve;
      });
      this.#answered = undefined;
      this.#check();
    }
    return bytes;
  }

  #sendImage(message: OldToSuccessor, image: Image, pass: Pass): number {
    const encoded = encodeHandover({ image, records: pass.records });
    const memfd = writeImageFile(encoded);
    try {
      this.#send(message, [memfd, ...pass.fds]);
    } finally {
      closeFd(memfd);
    }
    return encoded.length;
  }

  /**
   * Freezes, sends the rest, halts until the verdict. Returns only when the update was called off and the program serves
   * on, or with 'finish' for the caller to leave at once, without a turn of the event loop.
   * @throws {LiveUpdateError} the errno of the freeze callback or listener that failed; the program serves on.
   */
  async freeze(): Promise<Verdict> {
    this.#state = 'freezing';
    const at = now();
    await this.#settle();
    await this.#options.announceFreeze();
    // The program's listeners may have sent a last word.
    await this.#settle();
    await this.#catchUp();
    this.#check();
    await this.#reboot();
    const image = this.#image;
    this.#check();
    if (image === undefined)
      throw new LiveUpdateError('EOPNOTSUPP', 'live update is switched off in this program');
    this.#state = 'frozen';
    // From here to the verdict there is no await: the loop must not turn.
    const { handover, link } = this.#options;
    try {
      const inherited = this.#options.carrier === 'kernel' ? [] : this.#options.inherited();
      const pass = handover.outgoing.takeChanged();
      this.#sendImage(
        {
          type: 'frozen',
          at,
          sentAt: now(),
          inherited: inherited.map(({ begun, fds }) => ({ begun, fds: fds.length })),
        },
        image,
        { records: pass.records, fds: [...pass.fds, ...inherited.flatMap(({ fds }) => fds)] },
      );
      this.#direct.flushNow(FLUSH_MS);
    } catch (error) {
      // Nobody can have the whole image; luod hears of it and calls the update off.
      this.#state = 'freezing';
      throw error;
    }
    link.send({ type: 'frozen', left: this.#leftNow() });
    return this.#halt();
  }

  async #reboot(): Promise<void> {
    const rebooting = this.#options.orchestrator.reboot();
    if (!(rebooting instanceof Promise)) {
      this.#image = rebooting as Image | undefined;
      return;
    }
    this.#rebooting = rebooting.then((image) => {
      this.#image = image;
    });
    try {
      await this.#rebooting;
    } finally {
      this.#rebooting = undefined;
    }
  }

  #halt(): Verdict {
    const { link, commitFd } = this.#options;
    try {
      link.flushNow(FLUSH_MS);
    } catch (error) {
      // luod died: the loop below sees its end and lets the commit word decide.
      if (link.isOpen) throw error;
    }
    while (this.#verdict === undefined) {
      if (link.isOpen) {
        waitReadable(this.#directEnded ? [link.fd] : [link.fd, this.#direct.fd], -1);
        link.receiveNow();
        if (!this.#directEnded) this.#direct.receiveNow();
      } else if (!this.#directEnded && !isCommitted(commitFd)) {
        // The successor says when it has committed, or ends.
        waitReadable([this.#direct.fd], -1);
        this.#direct.receiveNow();
      } else {
        const reason = { code: 'EPIPE', message: 'luod died during the cut' };
        this.#verdict = isCommitted(commitFd)
          ? { kind: 'finish', reason: undefined }
          : { kind: 'unfreeze', reason };
      }
    }
    return this.#verdict.kind;
  }

  /** luod's verdict; takes effect when the halted image looks, or at once when it is not frozen. */
  decide(kind: Verdict, reason: ErrorReport | undefined): void {
    this.#verdict ??= { kind, reason };
  }

  get reason(): ErrorReport | undefined {
    return this.#verdict?.reason;
  }

  /**
   * After the commit: nothing this process still does may reach what the successor owns.
   * @param lingers Whether the event loop will turn again, so that connections that crossed must really be let go (`Lingering`
   *   does it) and not just be out of reach.
   */
  sever(lingers: boolean): void {
    this.#state = 'ended';
    for (const { kept } of this.#sessions) {
      if (kept instanceof KeptListener && !lingers) kept.connections.sever();
      // In a process that ends, 'finish' listeners may still write to memory; no other file needs taking apart.
      if (lingers || kept.file instanceof Memory) this.#options.handler(kept.file)?.sever?.(kept.file);
    }
  }

  /** Takes everything back: the program serves on as if no update had been tried. */
  async rollback(): Promise<void> {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#answered?.();
    this.#direct.close();
    closeFd(this.#options.commitFd);
    const rebooting = this.#rebooting;
    if (rebooting === undefined) {
      await this.#takeBack();
      return;
    }
    // A freeze of the program's own that hangs must not hang the program: it serves on, and is tidied up if the freeze
    // ever ends. Its failure was told by freeze().
    void rebooting.then(
      () => this.#takeBack(),
      () => this.#takeBack(),
    );
  }

  async #takeBack(): Promise<void> {
    const { orchestrator, handover } = this.#options;
    if (this.#image !== undefined) await orchestrator.cancelReboot();
    this.#image = undefined;
    for (const { session } of this.#sessions.splice(0).reverse()) await session.close();
    handover.outgoing = new OutgoingRecords();
  }
}

/**
 * Sessions freeze in the order of their creation. Things whose handlers may be asynchronous come first, so that the
 * built-in ones freeze in one go right before the halt, with no turn of the loop in between.
 */
function order(kept: readonly Kept[]): Kept[] {
  return [...kept].sort((a, b) => Number(a.kind !== 'keep') - Number(b.kind !== 'keep'));
}
