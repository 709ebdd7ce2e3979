/**
 * One service's part in leaving this kernel: its image preserves while it serves, freezes, and halts; luod gathers
 * what it hands over.
 *
 *   state        what may happen                                         next
 *   preserving   passes come in; the program serves                      preserved, over
 *   preserved    the kernel is given the memfds                          freezing, over
 *   freezing     the image freezes, sends the rest, halts                frozen, over
 *   frozen       the reboot, in which the halted process ends            over
 *   over         called off: the program serves on, or is dead
 *
 * Until the kernel is left there is nothing that cannot be taken back: the image is halted, not ended, and every
 * connection is still its own.
 */
import { withResolvers } from '../core/resolvers.js';
import type { Image, SerializedSession } from '../core/types.js';
import { createCommitWord } from '../handover/commit-word.js';
import type { ErrorReport, ImageToLuod, Left, OldToSuccessor, Phase } from '../handover/protocol.js';
import { toWire } from '../handover/protocol.js';
import { readHandover } from '../handover/received.js';
import type { PassRecord } from '../handover/records.js';
import { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { socketPair } from '../linux/socketpair.js';
import type { Exit, ImageProcess } from './image-process.js';
import { DEFAULT_LEAVE_MS, type Deadlines, exitReport, Phases, reportOf, settles } from './phases.js';

/** A record with its descriptors, luod's own. */
export interface GatheredRecord {
  bytes: Uint8Array;
  fds: number[];
}

export class Departure {
  readonly service: string;
  readonly image: ImageProcess;
  readonly #deadlines: Deadlines;
  readonly #phases: Phases;
  readonly #preserved = withResolvers<Left[]>();
  readonly #frozen = withResolvers<Left[]>();
  readonly #handedOver = withResolvers<Image>();
  readonly #unfrozen = withResolvers<void>();
  readonly #records = new Map<number, GatheredRecord>();
  readonly #sessions = new Map<string, SerializedSession>();
  #direct: Wire | undefined;
  #phase: Phase = 'preserve';

  constructor(options: { service: string; image: ImageProcess; deadlines: Deadlines }) {
    this.service = options.service;
    this.image = options.image;
    this.#deadlines = options.deadlines;
    this.#phases = new Phases(options.deadlines);
  }

  /** What was handed over so far, by handle. */
  get records(): ReadonlyMap<number, GatheredRecord> {
    return this.#records;
  }

  get sessions(): Iterable<SerializedSession> {
    return this.#sessions.values();
  }

  message(_image: ImageProcess, message: ImageToLuod): void {
    switch (message.type) {
      case 'failed':
        this.#phases.fail({ phase: message.phase, error: message.error });
        break;
      case 'preserved':
        this.#preserved.resolve(message.left ?? []);
        break;
      case 'frozen':
        this.#frozen.resolve(message.left ?? []);
        break;
      case 'unfrozen':
        this.#unfrozen.resolve();
        break;
    }
  }

  gone(_image: ImageProcess, exit: Exit): void {
    this.#phases.fail({ phase: this.#phase, error: exitReport(`'${this.service}'`, exit) });
  }

  cancel(reason: string): void {
    this.#phases.fail({ phase: this.#phase, error: { code: 'ECANCELED', message: reason } });
  }

  /**
   * Gathers what the image hands over while it serves.
   * @returns what cannot be taken along.
   * @throws {PhaseError}
   */
  async preserve(): Promise<Left[]> {
    const [image, own] = socketPair();
    // The wire owns its end from here; close() gives it up.
    this.#direct = new Wire(own, {
      message: (message, fds) => this.#take(message as unknown as OldToSuccessor, fds),
      closed: () => undefined,
    });
    let commitFd = -1;
    try {
      commitFd = createCommitWord();
      this.image.send({ type: 'preserve', carrier: 'kernel' }, [image, commitFd]);
    } finally {
      closeFd(image);
      if (commitFd !== -1) closeFd(commitFd);
    }
    return await this.#phases.wait(
      'preserve',
      this.#preserved.promise,
      `'${this.service}' did not preserve its files`,
    );
  }

  /**
   * Freezes and halts the image.
   * @returns the image that the next one is built from, and what stays behind.
   * @throws {PhaseError}
   */
  async freeze(): Promise<{ image: Image; left: Left[] }> {
    this.#phase = 'freeze';
    this.image.send({ type: 'freeze' });
    const late = `'${this.service}' did not freeze`;
    const left = await this.#phases.wait('freeze', this.#frozen.promise, late);
    return { image: await this.#phases.wait('freeze', this.#handedOver.promise, late), left };
  }

  #take(message: OldToSuccessor, fds: number[]): void {
    try {
      switch (message.type) {
        case 'precopy': {
          const { image, records } = readHandover(fds);
          for (const session of image.sessions) this.#sessions.set(session.name, session);
          this.#add(records, fds);
          this.#direct?.send(toWire({ type: 'ack' }));
          break;
        }
        case 'frozen': {
          const { image, records } = readHandover(fds);
          this.#add(records, fds);
          this.#handedOver.resolve(image);
          break;
        }
        default:
          for (const fd of fds) closeFd(fd);
      }
    } catch (error) {
      this.#phases.fail({ phase: this.#phase, error: reportOf(error) });
    }
  }

  #add(records: readonly PassRecord[], fds: readonly number[]): void {
    for (const { handle, bytes, fdStart, fdCount } of records) {
      const own = fds.slice(fdStart, fdStart + fdCount);
      const known = this.#records.get(handle);
      if (known === undefined) this.#records.set(handle, { bytes, fds: own });
      else {
        known.bytes = bytes;
        known.fds.push(...own);
      }
    }
  }

  /**
   * Lets the program go on.
   * @returns whether it does; false when it is dead, or so stuck that it had to be killed.
   */
  async callOff(reason: ErrorReport): Promise<boolean> {
    this.close();
    if (this.image.exit !== undefined) return false;
    this.image.send({ type: 'unfreeze', reason });
    const limit = this.#deadlines.finish ?? DEFAULT_LEAVE_MS;
    const answered = Promise.race([this.#unfrozen.promise, this.image.gone]);
    if ((await settles(answered, limit)) && this.image.exit === undefined) return true;
    this.image.kill('SIGKILL');
    await this.image.gone;
    return false;
  }

  /** Closes luod's ends and descriptors. */
  close(): void {
    this.#direct?.close();
    this.#direct = undefined;
    for (const { fds } of this.#records.values()) for (const fd of fds) closeFd(fd);
    this.#records.clear();
  }
}
