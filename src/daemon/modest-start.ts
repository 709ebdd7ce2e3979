/**
 * A successor that starts is in nobody's way: until its program is ready, a second at most, the image that serves goes first.
 *
 * Where the kernel makes a scheduling group of each session (sched(7), autogroup), the two images are two groups, and the one that starts, with
 * its one busy thread, counts for more on a processor than the one that serves, whose weight is spread over V8's threads: clients waited up to 27 ms for a
 * successor's turn to end. In a control group of its own, as of systemd or a container, luod's session counts for nothing, and neither does this.
 */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';

/** A tenth of another group's share, when both want the same processor. */
const NICE = 10;
/** A machine that is busy all the time must not keep an update waiting for long. */
const MOST_MS = 1000;
/** The kernel takes ten such words a second, all together, from who is not root: EAGAIN. */
const AGAIN_MS = 20;

export class ModestStart {
  /** Of this process, whoever has its pid later, and whatever becomes of it: the right to write was looked at when it was opened. */
  #file: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  private constructor(file: number) {
    this.#file = file;
  }

  /**
   * The process `pid`, which leads a session of its own, begins modestly.
   * @returns undefined where that cannot be: no such groups, another user's process, too many requests, no descriptor left.
   */
  static begin(pid: number): ModestStart | undefined {
    const start = ModestStart.#open(pid);
    if (start === undefined) return undefined;
    if (start.#set(NICE) !== undefined) {
      start.gone();
      return undefined;
    }
    start.#timer = setTimeout(() => start.end(), MOST_MS).unref();
    return start;
  }

  /** One that the luod before this one began, and may not have lived to end. */
  static resume(pid: number): ModestStart | undefined {
    const start = ModestStart.#open(pid);
    if (start === undefined || start.#isModest()) return start;
    start.gone();
    return undefined;
  }

  static #open(pid: number): ModestStart | undefined {
    try {
      return new ModestStart(openSync(`/proc/${pid}/autogroup`, 'r+'));
    } catch {
      // Without this an update is what it is, only less smooth.
      return undefined;
    }
  }

  /** From now on it counts as much as others. May be called again. */
  end(): void {
    clearTimeout(this.#timer);
    if (this.#set(0) === 'EAGAIN') this.#timer = setTimeout(() => this.end(), AGAIN_MS).unref();
    else this.gone();
  }

  /** The process has ended. */
  gone(): void {
    clearTimeout(this.#timer);
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  /** @returns the errno of a failure. */
  #set(nice: number): string | undefined {
    if (this.#file === undefined) return undefined;
    try {
      writeSync(this.#file, String(nice));
      return undefined;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'EIO';
    }
  }

  #isModest(): boolean {
    try {
      return readFileSync(this.#file as number, 'latin1')
        .trimEnd()
        .endsWith(` nice ${NICE}`);
    } catch {
      // It has ended.
      return false;
    }
  }
}
