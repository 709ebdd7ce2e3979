/**
 * One process of a service: spawned by luod, known by a secret in its environment, and, if the program uses
 * liveupdate, connected.
 *
 * It is started in a process group of its own, so that a kill takes what it started with it (`npm start` is a shell above a
 * node), and `gone` means all that could still act for it: the child was reaped and its wire has ended.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import { ENV_IMAGE, ENV_SOCKET, type ImageToLuod, type LuodToImage, toWire } from '../handover/protocol.js';
import type { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { Custody } from './custody.js';

export interface Exit {
  /** The exit status; null after a signal. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Why it could not even be started. */
  readonly error: LiveUpdateError | undefined;
}

/** `exited with code 1`, `was killed by SIGKILL`, or why it did not start. */
export function howItEnded({ code, signal, error }: Exit): string {
  return error?.message ?? (signal === null ? `exited with code ${code}` : `was killed by ${signal}`);
}

export interface ImageEvents {
  message(image: ImageProcess, message: ImageToLuod, fds: number[]): void;
  gone(image: ImageProcess, exit: Exit): void;
}

export class ImageProcess {
  /** Counted on from the previous kernel's, once it is known. */
  generation: number;
  readonly command: readonly string[];
  readonly startedAt = Date.now();
  /** By this the process shows which image it is. */
  readonly secret = randomBytes(24).toString('base64url');
  /** What this image asked luod to hold, until it is in charge. */
  readonly custody = new Custody();
  /** Resolves when the process and everything that could act for it is gone. */
  readonly gone: Promise<Exit>;
  readonly #events: ImageEvents;
  readonly #child: ChildProcess;
  readonly #gone = withResolvers<Exit>();
  #wire: Wire | undefined;
  #exit: Exit | undefined;
  #pid: number | undefined;

  constructor(options: {
    command: readonly string[];
    generation: number;
    socket: string;
    events: ImageEvents;
  }) {
    this.command = options.command;
    this.generation = options.generation;
    this.#events = options.events;
    this.gone = this.#gone.promise;
    const [file, ...args] = options.command;
    this.#child = spawn(file as string, args, {
      // A group of its own may not read from the terminal that luod is in the foreground of.
      stdio: [process.stdin.isTTY ? 'ignore' : 'inherit', 'inherit', 'inherit'],
      detached: true,
      env: { ...process.env, [ENV_SOCKET]: options.socket, [ENV_IMAGE]: this.secret },
    });
    this.#pid = this.#child.pid;
    this.#child.once('error', (cause) => {
      // Only a failed start ends here; kill() goes by pid.
      const reason = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such command' : cause.message;
      this.#exited({
        code: 127,
        signal: null,
        error: LiveUpdateError.from(new StartError(file as string, reason, cause)),
      });
    });
    this.#child.once('exit', (code, signal) => this.#exited({ code, signal, error: undefined }));
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

  /** The program said hello over `wire`. */
  connect(wire: Wire, pid: number): void {
    this.#wire = wire;
    this.#pid = pid;
  }

  receive(message: ImageToLuod, fds: number[]): void {
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
    if (this.#child.pid !== undefined) kill(-this.#child.pid, signal);
  }

  /** Closes luod's end of everything. */
  close(): void {
    this.#wire?.close();
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
