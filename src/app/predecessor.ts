/**
 * The old image's part of an update: preserve while serving, freeze, halt, and leave or go on.
 *
 *   state       what may happen                                   next
 *   preserving  records cross in passes, the program serves       preserved, ended
 *   preserved   new connections wait for the next pass            rolling, freezing, ended
 *   rolling     batches of connections move, both images serve    preserved, ended
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
import { setTimeout as sleep } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import type { LiveUpdate, Session } from '../core/index.js';
import { withResolvers } from '../core/resolvers.js';
import type { Image, Token } from '../core/types.js';
import { type CarriedFileHandler, type Handover, handleOf } from '../handlers/carried.js';
import type { ConnectionSet } from '../handlers/connection-set.js';
import { encodeHandover } from '../handover/codec.js';
import { isCommitted } from '../handover/commit-word.js';
import { readImageFile, writeImageFile } from '../handover/image-file.js';
import { kernelCrossing } from '../handover/kernel-crossing.js';
import {
  type Carrier,
  type ErrorReport,
  type Left,
  now,
  type OldToSuccessor,
  type SuccessorToOld,
  toWire,
} from '../handover/protocol.js';
import type { Pass } from '../handover/records.js';
import { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { MAX_FDS_PER_MESSAGE, waitReadable } from '../linux/scm-rights.js';
import { collectGarbage } from './garbage.js';
import { CONNECTIONS_TOKEN, FILE_TOKEN, type Kept, KeptListener } from './kept.js';
import type { InheritedWire } from './late-arrivals.js';
import type { LuodLink } from './luod-link.js';
import { OutgoingSessions, passImage, preserveOrder, requireOpen } from './outgoing-sessions.js';
import type { Occasion } from './rehearsal.js';
import { StandBy } from './stand-by.js';

/** Connections of one pass: as many as one message takes descriptors of beside the image's, few enough to leave the program its turn in between. */
const PASS_CONNECTIONS = MAX_FDS_PER_MESSAGE - 1;
/** And so much that they tell ahead: a millisecond's work. */
const PASS_BYTES = 256 << 10;
/** What crossed leaves objects that live until the cut. After so many connections they are moved on: V8, which waits longer, then halts the program for all at once. */
const COLLECTED_CONNECTIONS = 1000;
/** Passes on their way without an answer. */
const PASS_WINDOW = 2;
/** Connections that move at once ahead of the cut. Each waits for all of its batch: with 128 twice as long as with 16, which is as long as with 4. */
const BATCH_CONNECTIONS = 16;
/** How long a rollback waits for the end of a successor that may give connections back. */
const GIVE_BACK_MS = 5000;
/** How long a frozen image waits for a successor that does not read. luod's own deadline is the real one. */
const FLUSH_MS = 10_000;

type State = 'preserving' | 'preserved' | 'rolling' | 'freezing' | 'frozen' | 'ended';

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
  /** Has the code of the freeze compiled, for these sets, and warm. @throws {LiveUpdateError} EINVAL when a state cannot be cloned. */
  readonly rehearse: (sets: readonly ConnectionSet[], occasion: Occasion) => Promise<void>;
  /** Runs the program's 'freeze' listeners. */
  readonly announceFreeze: () => Promise<void>;
  /** Whether the process ends with this image; not on the stage of a rehearsal. */
  readonly endsProcess: boolean;
  /**
   * How long it may stand still, in milliseconds, each time that nobody reads what it says or says what it waits for. Default: 10 seconds,
   * and for luod's verdict until it comes.
   */
  readonly haltMs?: number | undefined;
}

export class Predecessor {
  readonly #options: PredecessorOptions;
  readonly #direct: Wire;
  readonly #sessions: OutgoingSessions;
  #state: State = 'preserving';
  #directEnded = false;
  readonly #standBy: StandBy;
  readonly #directEnd = withResolvers<void>();
  readonly #flushMs: number;
  readonly #verdictMs: number;
  #unanswered = 0;
  #warming: Promise<void> | undefined;
  #answered: (() => void) | undefined;
  /** What this image cannot hand over to its carrier, but for connections, which come and go. */
  readonly #left: Left[] = [];
  #verdict: { kind: Verdict; reason: ErrorReport | undefined } | undefined;
  /** Of a lingering image: the next one is gone. */
  #directGone: (() => void) | undefined;

  constructor(options: PredecessorOptions) {
    this.#options = options;
    this.#flushMs = options.haltMs ?? FLUSH_MS;
    this.#verdictMs = options.haltMs ?? -1;
    this.#sessions = new OutgoingSessions(options);
    this.#direct = new Wire(options.directFd, {
      message: (message, fds) => {
        this.#take(message as unknown as SuccessorToOld, fds);
      },
      closed: () => {
        this.#directEnded = true;
        this.#answered?.();
        this.#directGone?.();
        this.#directEnd.resolve();
      },
    });
    this.#standBy = new StandBy(this.#direct);
  }

  #take(message: SuccessorToOld, fds: number[]): void {
    if (message.type === 'back') this.#takeBackMoved(message.session, fds);
    else for (const fd of fds) closeFd(fd);
    switch (message.type) {
      case 'ack':
        this.#unanswered--;
        this.#answered?.();
        break;
      case 'committed':
        // That it was is looked up in the word itself.
        this.#standBy.committed(message.announces === true);
        break;
      case 'announced':
        this.#standBy.settled();
        break;
    }
  }

  /** After the commit: the wire over which a lingering image hands on what could not cross in the cut. */
  takeDirect(gone: () => void): Wire {
    this.#directGone = gone;
    return this.#direct;
  }

  /** Of an image that does not end with its process: nothing more is to be handed on. */
  close(): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#direct.close();
    closeFd(this.#options.commitFd);
  }

  /** Everything is preserved, and the freeze has not begun. */
  get isPreserved(): boolean {
    return this.#state === 'preserved';
  }

  get isFrozen(): boolean {
    return this.#state === 'frozen';
  }

  /** Whether everything was taken back, if the update was called off: a callback that hangs is not. */
  get isTidy(): boolean {
    return this.#sessions.isTidy;
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
  async preserve(): Promise<{ bytes: number; left: Left[]; rolls: boolean }> {
    let bytes = 0;
    const acrossKernel = this.#options.carrier === 'kernel';
    for (const kept of preserveOrder(this.#options.kept)) {
      this.#check();
      if (acrossKernel && kept instanceof KeptListener && !kept.file.isOpen) continue;
      requireOpen(kept);
      const session = await this.#sessions.open(kept);
      const sent = await this.#pass(session, FILE_TOKEN);
      if (sent === undefined) await this.#sessions.close(session);
      else bytes += sent;
      if (!(kept instanceof KeptListener) || acrossKernel) continue;
      await session.preserve(kept.connections, CONNECTIONS_TOKEN);
      bytes += (await this.#pass(session, CONNECTIONS_TOKEN)) ?? 0;
      const ended: number[] = [];
      await kept.connections.preserve((id) => {
        // One message for all that ended in this turn of the loop.
        if (ended.push(id) === 1) setImmediate(() => this.#tellEnded(kept.session, ended.splice(0)));
      });
    }
    bytes += await this.#catchUp();
    bytes += await this.#rehearse('first');
    this.#check();
    this.#send({ type: 'precopied' });
    this.#state = 'preserved';
    return { bytes, left: this.#leftNow(), rolls: this.#rolling().length > 0 };
  }

  async #rehearse(occasion: Occasion): Promise<number> {
    const sets = this.#sets().map(({ set }) => set);
    await this.#options.rehearse(sets, occasion);
    return await this.#catchUp();
  }

  /**
   * The freeze had to wait and is about to come: sends the connections that came meanwhile, so that they cost no blackout.
   * @returns the bytes that were sent.
   * @throws {LiveUpdateError} ECANCELED when called off; EPIPE when the successor is gone.
   */
  warmUp(): Promise<number> {
    const work = this.#warmUpNow();
    this.#warming = work.then(
      () => undefined,
      // It is told by `work`.
      () => undefined,
    );
    return work;
  }

  async #warmUpNow(): Promise<number> {
    const bytes = await this.#catchUp();
    try {
      return bytes + (await this.#rehearse('again'));
    } catch (error) {
      // A state that cannot be cloned may be another one by the freeze, which is where it counts.
      if (LiveUpdateError.from(error).code !== 'EINVAL') throw error;
      return bytes;
    }
  }

  /** The sets whose connections move ahead of the cut. */
  #rolling(): { session: string; set: ConnectionSet }[] {
    if (this.#options.carrier === 'kernel') return [];
    return [...this.#sessions].flatMap(({ kept }) =>
      kept instanceof KeptListener && kept.cut === 'rolling'
        ? [{ session: kept.session, set: kept.connections }]
        : [],
    );
  }

  /**
   * Moves the connections of rolling listeners, a batch at a time; the event loop turns in between. What is busy now moves in the cut.
   * @returns how many the successor serves.
   * @throws {LiveUpdateError} EINVAL when a state cannot be cloned; ECANCELED, EPIPE.
   */
  async roll(): Promise<number> {
    this.#state = 'rolling';
    let moved = 0;
    for (const { session, set } of this.#rolling()) {
      for (;;) {
        this.#check();
        const record = set.takeBatch(BATCH_CONNECTIONS);
        if (record === undefined) break;
        const file = writeImageFile(record);
        try {
          this.#send({ type: 'roll', session }, [file]);
        } finally {
          closeFd(file);
        }
        this.#unanswered++;
        await this.#answers(1);
      }
      moved += set.moved;
    }
    this.#state = 'preserved';
    return moved;
  }

  /** The successor will not take over, and gives back what it served. */
  #takeBackMoved(session: string, fds: number[]): void {
    const file = fds.shift();
    for (const fd of fds) closeFd(fd);
    const found = this.#rolling().find((one) => one.session === session);
    if (file === undefined) return;
    const record = readImageFile(file);
    found?.set.takeBack(record);
  }

  /** Waits until fewer than `window` messages are unanswered. */
  async #answers(window: number): Promise<void> {
    while (this.#unanswered >= window) {
      await new Promise<void>((resolve) => {
        this.#answered = resolve;
      });
      this.#answered = undefined;
      this.#check();
    }
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
    let uncollected = 0;
    for (const { session, set } of this.#sets()) {
      while (set.waiting > 0) {
        const { ids, fds } = set.takeWaiting(PASS_CONNECTIONS, PASS_BYTES);
        const file = session.serialized(CONNECTIONS_TOKEN);
        if (file === undefined) break;
        this.#options.handover.outgoing.update(handleOf(file.data), set.passRecord(ids), fds);
        bytes += (await this.#pass(session, CONNECTIONS_TOKEN)) ?? 0;
        uncollected += ids.length;
        // Not in the blackout.
        if (uncollected < COLLECTED_CONNECTIONS || this.#state === 'freezing') continue;
        collectGarbage('young');
        uncollected = 0;
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
    const bytes = this.#sendImage({ type: 'precopy' }, passImage(session, token), pass);
    this.#unanswered++;
    await this.#answers(PASS_WINDOW);
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
    if (this.#warming !== undefined) {
      // luod waits for it no longer; but only one can send passes.
      await this.#warming;
      this.#check();
    }
    const at = now();
    await this.#settle();
    await this.#options.announceFreeze();
    // The program's listeners may have sent a last word.
    await this.#settle();
    await this.#catchUp();
    this.#check();
    const image = await this.#sessions.reboot();
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
          leaves: this.#options.endsProcess,
          inherited: inherited.map(({ begun, fds }) => ({ begun, fds: fds.length })),
        },
        image,
        { records: pass.records, fds: [...pass.fds, ...inherited.flatMap(({ fds }) => fds)] },
      );
      this.#direct.flushNow(this.#flushMs);
    } catch (error) {
      // Nobody can have the whole image; luod hears of it and calls the update off.
      this.#state = 'freezing';
      throw error;
    }
    link.send({ type: 'frozen', left: this.#leftNow() });
    return this.#halt();
  }

  #halt(): Verdict {
    const { link, commitFd } = this.#options;
    try {
      link.flushNow(this.#flushMs);
    } catch (error) {
      // luod died: the loop below sees its end and lets the commit word decide.
      if (link.isOpen) throw error;
    }
    while (this.#verdict === undefined) {
      if (link.isOpen) {
        this.#await(this.#directEnded ? [link.fd] : [link.fd, this.#direct.fd]);
        link.receiveNow();
        if (!this.#directEnded) this.#direct.receiveNow();
      } else if (!this.#directEnded && !isCommitted(commitFd)) {
        // The successor says when it has committed, or ends.
        this.#await([this.#direct.fd]);
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

  #await(fds: number[]): void {
    if (waitReadable(fds, this.#verdictMs).length === 0)
      throw new LiveUpdateError('ETIMEDOUT', 'no verdict came', { operation: 'halt' });
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
   * @returns what failed. Then something of the successor's is still in reach: this process has to end.
   */
  sever(lingers: boolean): LiveUpdateError[] {
    this.#state = 'ended';
    const failures: LiveUpdateError[] = [];
    for (const { kept } of this.#sessions) {
      try {
        if (kept instanceof KeptListener && !lingers) {
          // The listener itself goes with all others: leave().
          for (const fd of kept.connections.sever()) this.#standBy.add(fd);
        } else this.#options.handler(kept.file)?.sever?.(kept.file);
      } catch (error) {
        failures.push(LiveUpdateError.from(error, { operation: 'sever', session: kept.session }));
      }
    }
    return failures;
  }

  /** After `sever`: frees the ports that are this process's own, unless it lingers, and tells the successor. */
  leave(lingers: boolean): void {
    this.#standBy.leave(lingers);
  }

  /**
   * After that, in an image that ends: stands still while the successor is busiest, a second at most.
   * @param limitMs In how many milliseconds luod kills this process.
   */
  standBy(limitMs: number): void {
    this.#standBy.wait(limitMs);
  }

  /**
   * Takes everything back: the program serves on as if no update had been tried.
   * @returns how many connections ended with a successor that served them ahead of the commit and could not give them back.
   */
  async rollback(): Promise<number> {
    if (this.#state === 'ended') return 0;
    this.#state = 'ended';
    this.#answered?.();
    const rolling = this.#rolling().filter(({ set }) => set.moved > 0);
    if (rolling.length > 0 && !this.#directEnded) {
      // The successor is dead, or about to be; what it gave back is in the socket.
      const late = sleep(GIVE_BACK_MS, undefined, { ref: false });
      await Promise.race([this.#directEnd.promise, late]);
    }
    const lost = rolling.reduce((count, { set }) => count + set.loseMoved(), 0);
    this.#direct.close();
    closeFd(this.#options.commitFd);
    await this.#sessions.rollback();
    return lost;
  }
}
