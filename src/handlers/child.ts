/**
 * A child process that outlives the image that started it: its pid, its pipes with every byte in them, and how it ends.
 *
 * A process has one parent for good, and only a parent is told of an end. So the next image watches it by a pidfd, which crosses
 * as its pipes do, and asks the kernel how it ended (PIDFD_GET_INFO, Linux 6.15; before that it can be seen while nobody has waited
 * for it, and luod, which gets the orphan, leaves it a second for that). Where nobody can tell, code and signal are null.
 *
 * The image that started it is its parent as long as it lives, and hears of the end from libuv. 'exit' is told by one image: the one
 * that runs when the end is noticed. An end in mid-cut waits for the next.
 *
 * Its pipes are Node's: unix sockets, carried as connections (connection.ts). It is started in a session of its own, since luod
 * ends the process group of an image with the image.
 *
 *   stdio     'pipe' crosses; 'ignore' and 'inherit' need nothing; 'ipc' is refused: Node's channel has no end that could be carried
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { Socket } from 'node:net';
import { constants } from 'node:os';
import { LiveUpdateError } from '../core/errors.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { closeFd, OwnedFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { type EndOfProcess, endOfProcess, openPidfd, signalPidfd } from '../linux/pidfd.js';
import { type FdWatch, watchFd } from '../linux/poll.js';
import type { Directions } from './adopted-socket.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { CHILD_COMPATIBLE } from './child-record.js';
import { Connection } from './connection.js';
import { recordedFileHandler } from './recorded-file.js';

/** stdin, stdout, stderr, seen from this side. */
const DIRECTIONS: readonly Directions[] = [
  { readable: false, writable: true },
  { readable: true, writable: false },
  { readable: true, writable: false },
];

export type ChildStdio = 'pipe' | 'ignore' | 'inherit';

export interface ChildOptions extends Pick<SpawnOptions, 'cwd' | 'env' | 'argv0' | 'uid' | 'gid'> {
  /** For stdin, stdout and stderr. Default: 'pipe' for each. */
  readonly stdio?: readonly [ChildStdio, ChildStdio, ChildStdio];
}

export interface ChildEvents {
  /** It ended; both are null when nobody can tell how. */
  exit: [code: number | null, signal: NodeJS.Signals | null];
  /** It ended, and its pipes have. */
  close: [code: number | null, signal: NodeJS.Signals | null];
}

/** A pipe at the freeze: undefined for none, or one that had closed by the time that it was preserved. */
interface SavedPipe {
  readonly isOpen: boolean;
  readonly pending: Uint8Array | undefined;
}

interface Saved {
  readonly pid: number;
  readonly exit: EndOfProcess | undefined;
  /** Whether there is a pipe at all, by number. */
  readonly piped: readonly boolean[];
  readonly pipes: readonly (SavedPipe | undefined)[];
}

/** `keep()` takes it. */
export class KeptChild extends EventEmitter<ChildEvents> {
  readonly pid: number;
  /** The child's own input, output and errors; null without a pipe. One that closed in an image before is closed. */
  readonly stdin: Socket | null;
  readonly stdout: Socket | null;
  readonly stderr: Socket | null;
  readonly #pidfd: OwnedFd;
  readonly #connections: readonly (Connection | undefined)[];
  readonly #piped: readonly boolean[];
  #process: ChildProcess | undefined;
  #watch: FdWatch | undefined;
  #exit: EndOfProcess | undefined;
  #isClosed = false;
  #isRef = true;
  /** It still is another image's. */
  #isHeld = false;

  private constructor(pid: number, pidfd: number, sockets: readonly (Socket | null)[]) {
    super();
    this.pid = pid;
    this.#pidfd = new OwnedFd(pidfd);
    [this.stdin = null, this.stdout = null, this.stderr = null] = sockets;
    this.#piped = sockets.map((socket) => socket !== null);
    this.#connections = sockets.map((socket) => {
      if (socket === null || socket.destroyed) return undefined;
      const connection = Connection.from(socket) ?? Connection.of(socket);
      // luod and the next image hold duplicates: closing this one alone would tell the child nothing.
      connection.watchEnd(() => undefined);
      connection.whenClosed(() => this.#closeIfOver());
      return connection;
    });
  }

  /**
   * Starts a process, in a session of its own.
   * @throws {LiveUpdateError} ENOENT when there is no such command or folder; EACCES; EOPNOTSUPP for other stdio than 'pipe',
   *   'ignore' and 'inherit'; ENOSYS before Linux 5.3.
   */
  static async spawn(
    command: string,
    args: readonly string[] = [],
    options: ChildOptions = {},
  ): Promise<KeptChild> {
    const stdio = options.stdio ?? ['pipe', 'pipe', 'pipe'];
    const foreign = stdio.find((one) => one !== 'pipe' && one !== 'ignore' && one !== 'inherit');
    if (stdio.length !== 3 || foreign !== undefined) {
      const text = `stdio is three of 'pipe', 'ignore' and 'inherit'; ${String(foreign ?? stdio.length)} cannot be carried`;
      throw new LiveUpdateError('EOPNOTSUPP', text, { operation: 'spawn' });
    }
    const child = spawn(command, args, { ...options, stdio: [...stdio], detached: true });
    const pidfd = child.pid === undefined ? undefined : openPidfd(child.pid);
    try {
      await once(child, 'spawn');
    } catch (cause) {
      if (pidfd !== undefined) closeFd(pidfd);
      throw LiveUpdateError.from(cause, { operation: 'spawn' });
    }
    const kept = new KeptChild(child.pid as number, pidfd as number, [
      child.stdin as Socket | null,
      child.stdout as Socket | null,
      child.stderr as Socket | null,
    ]);
    kept.#process = child;
    child.once('exit', (code, signal) => kept.#exited({ code, signal }));
    return kept;
  }

  /** The process of another image, silent until `start`. Owns `fds` also when it throws. @throws {LiveUpdateError} EINVAL. */
  static adopt(record: Uint8Array, takeFd: () => number): KeptChild {
    const { pid, exit, piped, pipes } = parse(record);
    const pidfd = takeFd();
    const sockets = piped.map((isPiped, number) => {
      if (!isPiped) return null;
      if (pipes[number] !== undefined) {
        const connection = Connection.adopt(takeFd(), DIRECTIONS[number] as Directions);
        connection.hold();
        return connection.socket;
      }
      const closed = new Socket();
      closed.destroy();
      return closed;
    });
    const child = new KeptChild(pid, pidfd, sockets);
    child.#exit = exit;
    child.#isHeld = true;
    return child;
  }

  get exitCode(): number | null {
    return this.#exit?.code ?? null;
  }

  get signalCode(): NodeJS.Signals | null {
    return this.#exit?.signal ?? null;
  }

  /** Whether its end was noticed. */
  get hasExited(): boolean {
    return this.#exit !== undefined;
  }

  /** Whether there is nothing left to keep. */
  get isOver(): boolean {
    return this.#isClosed;
  }

  /**
   * Sends a signal, to this process and no other.
   * @returns false when it has ended.
   * @throws {LiveUpdateError} EINVAL for what is no signal; EPERM; EBUSY in a new image before `ready()`.
   */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    const number = typeof signal === 'number' ? signal : constants.signals[signal];
    if (number === undefined)
      throw new LiveUpdateError('EINVAL', `no signal '${signal}'`, { operation: 'kill' });
    if (this.#isHeld) {
      throw new LiveUpdateError('EBUSY', 'before ready() the child is the image’s before', {
        operation: 'kill',
      });
    }
    if (this.#exit !== undefined) return false;
    return signalPidfd(this.#pidfd.fd, number);
  }

  /** Keeps the event loop alive as long as the process runs, which is the default. */
  ref(): this {
    this.#isRef = true;
    this.#process?.ref();
    this.#watch?.ref();
    return this;
  }

  unref(): this {
    this.#isRef = false;
    this.#process?.unref();
    this.#watch?.unref();
    return this;
  }

  #exited(end: EndOfProcess): void {
    if (this.#exit !== undefined) return;
    this.#exit = end;
    this.#watch?.close();
    this.emit('exit', end.code, end.signal);
    // As Node does: what nobody listens to would never come to its end.
    this.stdin?.destroy();
    for (const output of [this.stdout, this.stderr]) {
      if (output?.readable && output.listenerCount('data') + output.listenerCount('readable') === 0)
        output.resume();
    }
    this.#closeIfOver();
  }

  #closeIfOver(): void {
    if (this.#isClosed || this.#exit === undefined) return;
    if (this.#connections.some((connection) => connection?.socket.closed === false)) return;
    this.#isClosed = true;
    this.#pidfd.close();
    this.emit('close', this.exitCode, this.signalCode);
  }

  /** @internal Calls back when there is nothing left to keep. */
  whenOver(callback: () => void): void {
    if (this.#isClosed) setImmediate(callback);
    else this.once('close', callback);
  }

  /** @internal The descriptors to carry: of the process, and of its pipes that are open. */
  get fds(): number[] {
    if (this.#isClosed)
      throw new LiveUpdateError('EBADF', 'the child process has ended', { handler: CHILD_COMPATIBLE });
    return [this.#pidfd.fd, ...this.#connections.flatMap((one) => fdOf(one) ?? [])];
  }

  /** @internal @param atFreeze With what user space holds. */
  toRecord(atFreeze: boolean): Buffer {
    const pipes = this.#connections.map((one): SavedPipe | undefined => {
      const isOpen = fdOf(one) !== undefined;
      if (!isOpen && !atFreeze) return undefined;
      return { isOpen, pending: isOpen && atFreeze ? one?.pending() : undefined };
    });
    const saved: Saved = { pid: this.pid, exit: this.#exit, piped: this.#piped, pipes };
    return serializeValue(saved);
  }

  /** @internal What changed until the freeze. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore(record: Uint8Array): void {
    const { exit, pipes } = parse(record);
    this.#exit = exit;
    pipes.forEach((saved, number) => {
      const connection = this.#connections[number];
      if (saved === undefined || connection === undefined) return;
      if (saved.pending !== undefined) connection.restore(saved.pending);
      if (!saved.isOpen) connection.socket.destroy();
    });
  }

  /** @internal After the commit: the pipes flow, and the process is watched. */
  start(onFlow: () => void): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    for (const connection of this.#connections) connection?.arm(undefined, undefined, onFlow);
    if (this.#exit !== undefined) {
      this.#closeIfOver();
      return;
    }
    this.#watch = watchFd(this.#pidfd.fd, { readable: true }, () => {
      this.#exited(endOfProcess(this.#pidfd.fd, this.pid));
    });
    if (!this.#isRef) this.#watch.unref();
  }

  /** @internal Nobody wants it any more: it is asked to end. */
  abandon(): void {
    if (!this.#isClosed) signalPidfd(this.#pidfd.fd, constants.signals.SIGTERM);
    this.letGo();
  }

  /** @internal Lets go of everything without a word; the process runs on. */
  letGo(): void {
    this.emit = () => false;
    this.#watch?.close();
    this.#process?.unref();
    for (const connection of this.#connections) connection?.detach();
    this.#exit ??= { code: null, signal: null };
    this.#isClosed = true;
    this.#pidfd.close();
  }
}

function fdOf(connection: Connection | undefined): number | undefined {
  return connection === undefined ? undefined : handleFd(connection.socket);
}

function parse(record: Uint8Array): Saved {
  const saved = deserializeValue(record) as Saved;
  if (Number.isInteger(saved?.pid) && saved.piped?.length === 3 && saved.pipes?.length === 3) return saved;
  throw new LiveUpdateError('EINVAL', 'a damaged record of a child process', { handler: CHILD_COMPATIBLE });
}

export function childHandler(handover: Handover): CarriedFileHandler<KeptChild> {
  return recordedFileHandler(
    handover,
    {
      compatible: CHILD_COMPATIBLE,
      isOurs: (file) => file instanceof KeptChild,
      fds: (child) => child.fds,
      toRecord: (child, atFreeze) => child.toRecord(atFreeze),
      adopt: (record, takeFd) => KeptChild.adopt(record, takeFd),
      restore: (child, record) => child.restore(record),
      abandon: (child) => child.abandon(),
    },
    {
      custody: (child) => ({ bytes: child.toRecord(false), fds: child.fds }),
      start: (child, onFlow) => child.start(onFlow),
      sever: (child) => child.letGo(),
      onGone: (child, callback) => child.whenOver(callback),
    },
  );
}
