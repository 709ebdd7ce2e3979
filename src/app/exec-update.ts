/**
 * An update in place: this process becomes the next program by execve(2), same pid, for programs that luod does not run. The
 * old image's part:
 *
 *   state       what happens                                                       way back
 *   preserving  the command is looked at; everything is preserved, and duplicated  close the sessions, the duplicates;
 *               where it might be closed meanwhile; the program serves, and        read again
 *               comes to rest (draining.ts)
 *   freezing    'freeze' listeners run; the orchestrator freezes                   the same, when the freeze has ended
 *   frozen      no turn of the loop: all passes go into one memfd, 'finish'        unfreeze
 *               listeners run, execve
 *
 * It preserves in the order of an update under luod and leaves the same passes, so a handler cannot tell the difference; but
 * connections cross with the freeze alone, since nobody could adopt them before. From the frozen state on not a byte is read or
 * written, as in a halted predecessor, until execve ends this image; everything that is not named to the next one is
 * closed by the kernel then. execve fails without having done anything, and so the program serves on.
 */
import cluster from 'node:cluster';
import { isMainThread } from 'node:worker_threads';
import { LiveUpdateError } from '../core/errors.js';
import type { LiveUpdate, Session } from '../core/index.js';
import { withResolvers } from '../core/resolvers.js';
import type { Image, Token } from '../core/types.js';
import type { Handover } from '../handlers/carried.js';
import { encodeHandover } from '../handover/codec.js';
import { ENV_INHERITANCE, type EncodedPass, writeInheritance } from '../handover/inheritance.js';
import { execve } from '../linux/exec.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { Draining } from './draining.js';
import { ipcChannel } from './ipc-channel.js';
import { CONNECTIONS_TOKEN, FILE_TOKEN, type Kept, KeptListener } from './kept.js';
import { type NextProgram, nextProgram } from './next-program.js';
import { OutgoingSessions, passImage, preserveOrder, requireOpen } from './outgoing-sessions.js';

/** For callbacks and listeners of the program's own, as long as luod waits by default. */
const DEADLINE_MS = 30_000;

export interface ExecUpdateOptions {
  readonly orchestrator: LiveUpdate;
  readonly handover: Handover;
  readonly kept: readonly Kept[];
  /** The default is what this process runs. */
  readonly command: readonly string[] | undefined;
  /** Of the next image. */
  readonly generation: number;
  /** Runs the program's 'freeze' listeners. */
  readonly announceFreeze: () => Promise<void>;
  /** Runs the program's 'finish' listeners. */
  readonly announceFinish: () => void;
}

export class ExecUpdate {
  readonly #options: ExecUpdateOptions;
  readonly #sessions: OutgoingSessions;
  readonly #draining: Draining;
  readonly #passes: EncodedPass[] = [];
  #state: 'preserving' | 'freezing' | 'frozen' | 'ended' = 'preserving';

  constructor(options: ExecUpdateOptions) {
    this.#options = options;
    this.#sessions = new OutgoingSessions(options);
    this.#draining = new Draining(options.kept);
  }

  get isFrozen(): boolean {
    return this.#state === 'frozen';
  }

  /** Whether everything was taken back, if the update was called off: a callback that hangs is not. */
  get isTidy(): boolean {
    return this.#sessions.isTidy;
  }

  /**
   * Never returns when it succeeds. After a failure `rollback()` is due.
   * @throws {LiveUpdateError} what nextProgram() and execve(2) say; the errno of the callback or listener that failed; EBUSY for a
   *   closed listener with live connections; ETIMEDOUT for callbacks that take too long; EMFILE, ENOMEM, ENOSPC;
   *   EOPNOTSUPP in a worker thread, in a worker of a cluster, and when live update is switched off.
   */
  async run(): Promise<never> {
    requireReplaceable();
    const program = await nextProgram(this.#options.command);
    await this.#inTime(this.#preserve(), 'preserve');
    await this.#draining.rest();
    this.#state = 'freezing';
    const image = await this.#inTime(this.#freeze(), 'freeze');
    if (image === undefined)
      throw new LiveUpdateError('EOPNOTSUPP', 'live update is switched off in this program');
    this.#state = 'frozen';
    // From here on there is no await: the loop must not turn.
    return this.#replace(program, image);
  }

  /** Takes everything back: the program serves on as if no update had been tried. */
  async rollback(): Promise<void> {
    this.#state = 'ended';
    this.#draining.wake();
    for (const { fds } of this.#passes.splice(0)) for (const fd of fds) closeFd(fd);
    await this.#sessions.rollback();
  }

  async #inTime<T>(work: Promise<T>, phase: string): Promise<T> {
    const { promise: late, reject } = withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new LiveUpdateError('ETIMEDOUT', `not done within ${DEADLINE_MS} ms`, { operation: phase }));
    }, DEADLINE_MS);
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** @throws {LiveUpdateError} ECANCELED: it took too long, and is taken back already. */
  #check(): void {
    if (this.#state === 'ended') throw new LiveUpdateError('ECANCELED', 'the update was called off');
  }

  async #preserve(): Promise<void> {
    for (const kept of preserveOrder(this.#options.kept)) {
      this.#check();
      requireOpen(kept);
      const session = await this.#sessions.open(kept);
      this.#pass(session, FILE_TOKEN);
      if (!(kept instanceof KeptListener)) continue;
      await session.preserve(kept.connections, CONNECTIONS_TOKEN);
      this.#pass(session, CONNECTIONS_TOKEN);
      // None crosses before the freeze, so that there is nobody to tell of its end.
      await kept.connections.preserve(() => undefined);
    }
  }

  /** Duplicates what a session put into records: the program may close its own until the freeze. */
  #pass(session: Session, token: Token): void {
    this.#check();
    const { records, fds } = this.#options.handover.outgoing.takeChanged();
    const image = passImage(session, token);
    const duplicates: number[] = [];
    this.#passes.push({ encoded: encodeHandover({ image, records }), fds: duplicates });
    for (const fd of fds) duplicates.push(dupFd(fd));
  }

  async #freeze(): Promise<Image | undefined> {
    await this.#settle();
    await this.#options.announceFreeze();
    // The program's listeners may have sent a last word.
    await this.#settle();
    this.#check();
    return this.#sessions.reboot();
  }

  async #settle(): Promise<void> {
    for (const kept of this.#options.kept) if (kept instanceof KeptListener) await kept.connections.settle();
  }

  #replace({ path, argv }: NextProgram, image: Image): never {
    const { handover, generation, announceFinish } = this.#options;
    const { records, fds } = handover.outgoing.takeChanged();
    const encoded = encodeHandover({ image, records });
    // Here rollback() finds what had to be duplicated; the others are the program's.
    const duplicates: number[] = [];
    this.#passes.push({ encoded, fds: duplicates });
    const own = oneEach(fds, duplicates);
    const passes = [...this.#passes.slice(0, -1), { encoded, fds: own }];
    const { fd: memfd, variable } = writeInheritance(generation, passes);
    try {
      const channel = ipcChannel();
      announceFinish();
      const env = { ...process.env, ...channel?.env, [ENV_INHERITANCE]: variable };
      const inherited = [memfd, ...passes.flatMap((pass) => pass.fds)];
      return execve(path, argv, env, channel === undefined ? inherited : [...inherited, channel.fd]);
    } finally {
      closeFd(memfd);
    }
  }
}

/** `fds`, but a duplicate for each that stands there twice, or is one of the standard ones, which stay what they are. */
function oneEach(fds: readonly number[], duplicates: number[]): number[] {
  const seen = new Set([0, 1, 2]);
  return fds.map((fd) => {
    if (!seen.has(fd)) {
      seen.add(fd);
      return fd;
    }
    const duplicate = dupFd(fd);
    duplicates.push(duplicate);
    return duplicate;
  });
}

/** @throws {LiveUpdateError} EOPNOTSUPP for a process, or a part of one, that cannot be replaced from inside. */
function requireReplaceable(): void {
  const operation = 'update';
  if (!isMainThread)
    throw new LiveUpdateError('EOPNOTSUPP', 'only the main thread can replace the process', { operation });
  if (cluster.isWorker) {
    const text = "the listeners of a cluster worker are its parent process's; reload the cluster instead";
    throw new LiveUpdateError('EOPNOTSUPP', text, { operation });
  }
}
