/**
 * One process of a service: spawned by luod, known by a secret in its environment, and, if the program uses
 * liveupdate, connected.
 *
 * It is started in a process group of its own, so that a kill takes what it started with it (`npm start` is a shell above a
 * node), and `gone` means all that could still act for it: the child was reaped and its wire has ended.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import {
  ENV_IMAGE,
  ENV_SOCKET,
  ENV_WORKER,
  ENV_WORKERS,
  type ImageToLuod,
  type LuodToImage,
  toWire,
} from '../handover/protocol.js';
import type { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { endOfProcess, openPidfd } from '../linux/pidfd.js';
import { watchFd } from '../linux/poll.js';
import { cacheOfPrograms } from './compile-cache.js';
import { Custody } from './custody.js';
import { ModestStart } from './modest-start.js';
import type { ImageRecord, RestoredImage } from './service-record.js';

export interface Exit {
  /** The exit status; null after a signal, or when nobody can tell any more. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Why it could not even be started. */
  readonly error: LiveUpdateError | undefined;
}

/** `exited with code 1`, `was killed by SIGKILL`, or why it did not start. */
export function howItEnded({ code, signal, error }: Exit): string {
  if (error !== undefined) return error.message;
  if (signal !== null) return `was killed by ${signal}`;
  return code === null ? 'ended, in a way that nobody saw' : `exited with code ${code}`;
}

export interface ImageEvents {
  message(image: ImageProcess, message: ImageToLuod, fds: number[]): void;
  gone(image: ImageProcess, exit: Exit): void;
}

export interface ImageOptions {
  readonly command: readonly string[];
  readonly cwd: string;
  readonly generation: number;
  readonly socket: string;
  /** For one of several workers. */
  readonly worker: { readonly index: number; readonly count: number } | undefined;
  /** Another image serves, and goes first until this one is ready. */
  readonly isModest: boolean;
  readonly events: ImageEvents;
}

export class ImageProcess {
  /** Counted on from the previous kernel's, once it is known. */
  generation: number;
  readonly command: readonly string[];
  readonly startedAt: number;
  /** By this the process shows which image it is. */
  readonly secret: string;
  /** What this image asked luod to hold, until it is in charge. */
  readonly custody = new Custody();
  /** Resolves when the process and everything that could act for it is gone. */
  readonly gone: Promise<Exit>;
  readonly #events: ImageEvents;
  readonly #gone = withResolvers<Exit>();
  /** The process that luod started, in a group of its own; undefined when it could not be. */
  #childPid: number | undefined;
  #wire: Wire | undefined;
  #hangUp: (() => void) | undefined;
  #exit: Exit | undefined;
  #pid: number | undefined;
  #modestStart: ModestStart | undefined;

  private constructor(
    options: Pick<ImageOptions, 'command' | 'generation' | 'events'>,
    secret: string,
    startedAt: number,
  ) {
    this.command = options.command;
    this.generation = options.generation;
    this.#events = options.events;
    this.secret = secret;
    this.startedAt = startedAt;
    this.gone = this.#gone.promise;
  }

  /** Starts a process. One that cannot be started is `gone`, with the reason, at a later turn of the loop. */
  static start(options: ImageOptions): ImageProcess {
    const image = new ImageProcess(options, randomBytes(24).toString('base64url'), Date.now());
    const [file, ...args] = options.command;
    const child = spawn(file as string, args, {
      // A group of its own may not read from the terminal that luod is in the foreground of.
      stdio: [process.stdin.isTTY ? 'ignore' : 'inherit', 'inherit', 'inherit'],
      detached: true,
      cwd: options.cwd,
      env: {
        ...process.env,
        ...cacheOfPrograms(options.socket, process.env),
        [ENV_SOCKET]: options.socket,
        [ENV_IMAGE]: image.secret,
        // Undefined is not in it: this luod may itself be the child of a worker.
        [ENV_WORKER]: options.worker?.index.toString(),
        [ENV_WORKERS]: options.worker?.count.toString(),
      },
    });
    image.#childPid = child.pid;
    image.#pid = child.pid;
    if (options.isModest && child.pid !== undefined) image.#modestStart = ModestStart.begin(child.pid);
    child.once('error', (cause) => {
      // Only a failed start ends here; kill() goes by pid.
      const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
      const reason = isMissing ? `no such command, or no folder ${options.cwd}` : cause.message;
      const error = LiveUpdateError.from(new StartError(file as string, reason, cause));
      image.#exited({ code: 127, signal: null, error });
    });
    child.once('exit', (code, signal) => image.#exited({ code, signal, error: undefined }));
    return image;
  }

  /** A process of the luod before this one, which may have ended meanwhile: that is told at a later turn of the loop. */
  static restore(record: RestoredImage, events: ImageEvents): ImageProcess {
    const image = new ImageProcess({ ...record, events }, record.secret, record.startedAt);
    image.#childPid = record.childPid;
    image.#pid = record.pid;
    const ended = (end: Pick<Exit, 'code' | 'signal'>) => image.#exited({ ...end, error: undefined });
    const { pidfd } = record;
    if (pidfd === undefined) {
      // Without its descriptor it cannot be told from another process that got its pid.
      setImmediate(ended, { code: null, signal: null });
      return image;
    }
    image.#modestStart = ModestStart.resume(record.childPid);
    image.#modestStart?.end();
    const watch = watchFd(pidfd, { readable: true }, () => {
      watch.close();
      const end = endOfProcess(pidfd, record.childPid);
      closeFd(pidfd);
      ended(end);
    });
    return image;
  }

  /** As the keeper shall have it; undefined when the process could not be started. */
  record(role: ImageRecord['role'], client: string | undefined): ImageRecord | undefined {
    const { command, secret, generation, startedAt } = this;
    const [childPid, pid] = [this.#childPid, this.#pid];
    if (childPid === undefined || pid === undefined) return undefined;
    return { role, command: [...command], secret, generation, startedAt, childPid, pid, client };
  }

  /**
   * A descriptor of the process, for the caller to close; undefined when it has ended.
   * @throws {LiveUpdateError} EMFILE; ENOSYS before Linux 5.3.
   */
  openPidfd(): number | undefined {
    if (this.#childPid === undefined || this.#exit !== undefined) return undefined;
    return openPidfd(this.#childPid);
  }

  /** The program's own pid once it said hello (a shell may stand above it), else the child's. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** Whether the program uses liveupdate. */
  get isConnected(): boolean {
    return this.#wire !== undefined;
  }

  get exit(): Exit | undefined {
    return this.#exit;
  }

  /**
   * The program said hello over `wire`.
   * @param hangUp Closes the wire.
   */
  connect(wire: Wire, pid: number, hangUp: () => void): void {
    this.#wire = wire;
    this.#pid = pid;
    this.#hangUp = hangUp;
  }

  receive(message: ImageToLuod, fds: number[]): void {
    if (message.type === 'ready') this.#modestStart?.end();
    switch (message.type) {
      case 'hold':
        this.custody.hold(message.session, {
          compatible: message.compatible,
          bytes: Buffer.from(message.record, 'base64'),
          fds,
          since: Date.now(),
        });
        break;
      case 'release':
        this.custody.release(message.session);
        break;
      default:
        for (const fd of fds) closeFd(fd);
    }
    this.#events.message(this, message, fds);
  }

  /** The wire ended: the program is dead or dying. */
  disconnected(): void {
    if (this.#exit !== undefined) this.#end(this.#exit);
  }

  #exited(exit: Exit): void {
    if (this.#exit !== undefined) return;
    this.#exit = exit;
    this.#modestStart?.gone();
    // The child may be a wrapper that left its program behind; it is not gone before its program is.
    if (this.#wire === undefined || !this.#wire.isOpen) this.#end(exit);
    else this.kill('SIGKILL');
  }

  #end(exit: Exit): void {
    this.#gone.resolve(exit);
    this.#events.gone(this, exit);
  }

  /** Tells the program. One that is gone, or does not use liveupdate, is not told; `gone` tells of the first. */
  send(message: LuodToImage, fds: readonly number[] = []): void {
    this.#wire?.send(toWire(message), fds);
  }

  /** Signals the program alone, as a terminal or an operator would. */
  signal(signal: NodeJS.Signals): void {
    if (this.#pid !== undefined) kill(this.#pid, signal);
  }

  /** Signals the whole group. */
  kill(signal: NodeJS.Signals): void {
    if (this.#childPid !== undefined) kill(-this.#childPid, signal);
  }

  /** Closes luod's end of everything. */
  close(): void {
    this.#hangUp?.();
    this.custody.clear();
  }
}

class StartError extends Error {
  readonly code: string;

  constructor(file: string, reason: string, cause: Error) {
    super(`cannot start '${file}': ${reason}`, { cause });
    this.code = (cause as NodeJS.ErrnoException).code ?? 'EIO';
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // It is gone already, which is what a signal wants to bring about or can no longer reach.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
