/** luod's end of its conversation with the keeper (keeper.ts): everything is told before it is answered for. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { LiveUpdateError } from '../core/errors.js';
import { reportedError } from '../core/reported-error.js';
import { withResolvers } from '../core/resolvers.js';
import { dial } from '../handover/dial.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { endOfProcess, openPidfd, parentOf } from '../linux/pidfd.js';
import { watchFd } from '../linux/poll.js';
import { removeStale } from './socket-path.js';

// From any folder below src/ or dist/, whichever this module was bundled into.
export const KEEPER_PROCESS = fileURLToPath(new URL('../daemon/keeper-process.js', import.meta.url));
/** How long luod waits for the keeper to take what it is told. It does nothing else. */
const FLUSH_MS = 5000;
/** How long a new luod waits for what is kept: one that slept has to start, and to be there. */
const ANSWER_MS = 30_000;

export interface KeptItem {
  readonly group: string;
  readonly item: string;
  readonly record: unknown;
  /** The receiver's to close. */
  readonly fds: number[];
}

/** Where things are put so that they outlive luod. */
export interface Store {
  put(group: string, item: string, record: object, fds: readonly number[]): void;
  /** A new record for descriptors that were put before. */
  amend(group: string, item: string, record: object): void;
  drop(group: string, item?: string): void;
}

/** What a luod needs to take this one's place in the same process. */
export interface Succession {
  /** Where a keeper has everything. */
  readonly keeper: string;
  /** Variables for its environment. */
  readonly environment: Readonly<Record<string, string>>;
  /** Nothing comes of it. */
  callOff(): void;
}

/** A store that is there when luod is killed. */
export interface LastingStore extends Store {
  /** @param tellAll Puts everything there is; called for each new keeper. */
  onReplaced(tellAll: () => void): void;
  /** Prepares for another luod in this process. @throws {LiveUpdateError} EOPNOTSUPP when there is no keeper; ECHILD. */
  handOver(): Promise<Succession>;
  /** An orderly end: nothing is kept any more. */
  bye(): void;
}

/** A keeper, as luod has it: a process that may die like any. */
export interface KeeperHandle extends Store {
  readonly isOpen: boolean;
  /** Told when the keeper is gone, which luod then has to replace. */
  onLost(lost: () => void): void;
  /** Makes sure that it answers others, as the next luod. */
  wake(): void;
  /** An orderly end: the keeper ends, too. */
  bye(): void;
}

/** Keeps nothing: for a luod that may not be killed. */
export const noStore: Store = { put: () => undefined, amend: () => undefined, drop: () => undefined };

export class KeeperLink implements KeeperHandle {
  readonly #wire: Wire;
  readonly #items: KeptItem[] = [];
  readonly #told = withResolvers<void>();
  #pid: number | undefined;
  #lost: (() => void) | undefined;

  /** @param fd luod's end of a socket whose other end a keeper reads, now or when it wakes up; the link owns it. */
  constructor(fd: number) {
    this.#told.promise.catch(() => undefined);
    this.#wire = new Wire(fd, {
      message: (message, fds) => this.#take(message, fds),
      closed: (error) => {
        this.#told.reject(error ?? new LiveUpdateError('EPIPE', 'the keeper is gone'));
        this.#lost?.();
      },
    });
  }

  /**
   * Finds the keeper that a luod before this one left, or starts one.
   * @param patienceMs How long it shall wait for a next luod when this one is killed.
   * @returns the link, and what was kept.
   * @throws {LiveUpdateError} EBUSY when another luod is in charge of it; ETIMEDOUT when it does not answer; ECHILD when it does not start.
   */
  static async open(path: string, patienceMs: number): Promise<{ link: KeeperLink; items: KeptItem[] }> {
    const found = await KeeperLink.find(path);
    if (found !== undefined) return found;
    await start(path, patienceMs);
    return KeeperLink.#join(await dial(path));
  }

  /**
   * The keeper that a luod before this one left, and what it has.
   * @returns undefined when there is none.
   * @throws {LiveUpdateError} EBUSY when another luod is in charge of it; ETIMEDOUT when it does not answer.
   */
  static async find(path: string): Promise<{ link: KeeperLink; items: KeptItem[] } | undefined> {
    let fd: number;
    try {
      fd = await dial(path);
    } catch (error) {
      const { code } = LiveUpdateError.from(error);
      if (code !== 'ENOENT' && code !== 'ECONNREFUSED') throw error;
      return undefined;
    }
    return KeeperLink.#join(fd);
  }

  static async #join(fd: number): Promise<{ link: KeeperLink; items: KeptItem[] }> {
    const link = new KeeperLink(fd);
    try {
      const items = await link.#all('open');
      if (link.#pid !== undefined) reapAtEnd(link.#pid);
      return { link, items };
    } catch (error) {
      link.#wire.close();
      throw error;
    }
  }

  /** Looks at what is kept, and leaves it. @throws {LiveUpdateError} ENOENT, ECONNREFUSED when there is no keeper. */
  static async look(path: string): Promise<KeptItem[]> {
    const link = new KeeperLink(await dial(path));
    try {
      return await link.#all('take');
    } finally {
      link.#wire.close();
    }
  }

  async #all(word: 'open' | 'take'): Promise<KeptItem[]> {
    this.#wire.send({ type: word });
    const text = `the keeper has not answered for ${ANSWER_MS / 1000} s, and has what it was given as long as it waits; are all of luod's files there?`;
    const late = setTimeout(() => this.#told.reject(new LiveUpdateError('ETIMEDOUT', text)), ANSWER_MS);
    try {
      await this.#told.promise;
    } catch (error) {
      for (const { fds } of this.#items) for (const fd of fds) closeFd(fd);
      throw error;
    } finally {
      clearTimeout(late);
    }
    return this.#items.splice(0);
  }

  #take(message: WireMessage, fds: number[]): void {
    if (message.type === 'item') {
      const { group, item, record } = message as unknown as KeptItem;
      this.#items.push({ group, item, record, fds });
    } else if (message.type === 'end') {
      // Not the socket's credentials: those are of who made it listen, which was luod for a keeper that slept.
      if (typeof message.pid === 'number') this.#pid = message.pid;
      this.#told.resolve();
    } else if (message.type === 'refused')
      this.#told.reject(reportedError(message.error as { code: string; message: string }));
  }

  get isOpen(): boolean {
    return this.#wire.isOpen;
  }

  onLost(lost: () => void): void {
    this.#lost = lost;
  }

  wake(): void {
    // It is.
  }

  put(group: string, item: string, record: object, fds: readonly number[]): void {
    this.#tell({ type: 'put', group, item, record }, fds);
  }

  amend(group: string, item: string, record: object): void {
    this.#tell({ type: 'put', group, item, record, keep: true }, []);
  }

  drop(group: string, item?: string): void {
    this.#tell({ type: 'drop', group, item }, []);
  }

  #tell(message: WireMessage, fds: readonly number[]): void {
    this.#wire.send(message, fds);
    this.flush();
  }

  /** What is in the socket reaches the keeper whatever becomes of luod; what waits in luod would not. */
  flush(): void {
    if (this.#wire.isOpen) this.#wire.flushNow(FLUSH_MS);
  }

  /**
   * For a keeper that does not read now.
   * @returns false when the socket has no room for all of it, of which the rest waits in luod.
   */
  write(message: WireMessage, fds: readonly number[] = []): boolean {
    this.#wire.send(message, fds);
    try {
      this.#wire.flushNow(0);
      return true;
    } catch (error) {
      if (LiveUpdateError.from(error).code !== 'ETIMEDOUT') throw error;
      return false;
    }
  }

  /** Leaves everything with the keeper, for another luod. */
  leave(): void {
    this.#lost = undefined;
    this.#wire.close();
  }

  bye(): void {
    this.#lost = undefined;
    this.#tell({ type: 'bye' }, []);
    this.#wire.close();
  }
}

/**
 * A luod that replaced itself has the keeper of the one before for a child, of which Node knows nothing: when it ends, somebody has to
 * wait for it.
 */
function reapAtEnd(pid: number): void {
  if (parentOf(pid) !== process.pid) return;
  const pidfd = openPidfd(pid);
  const watch = watchFd(pidfd, { readable: true }, () => {
    watch.close();
    endOfProcess(pidfd, pid);
    closeFd(pidfd);
  });
  watch.unref();
}

async function start(path: string, patienceMs: number): Promise<void> {
  removeStale(path);
  // In a session of its own: what is meant for luod and its terminal must not reach it.
  const child = spawn(process.execPath, [KEEPER_PROCESS, path, String(patienceMs)], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: '/',
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('error', (error) => reject(LiveUpdateError.from(error)));
    child.once('exit', (code) => reject(new LiveUpdateError('ECHILD', `the keeper ended with ${code}`)));
  });
  child.removeAllListeners();
  child.stdout.destroy();
  child.unref();
}
