/**
 * A successor that starts is in nobody's way: until its program is ready, a second at most, the image that serves goes first.
 *
 * Where the kernel makes a scheduling group of each session (sched(7), autogroup), the two images are two groups, and the one that starts, with
 * its one busy thread, counts for more on a processor than the one that serves, whose weight is spread over V8's threads: clients waited up to 27 ms for a
 * successor's turn to end. In a control group of its own, as of systemd or a container, luod's session counts for nothing, and neither does this.
 */
import { readFileSync, writeFileSync } from 'node:fs';

/** A tenth of another group's share, when both want the same processor. */
const NICE = 10;
/** A machine that is busy all the time must not keep an update waiting for long. */
const MOST_MS = 1000;
/** The kernel takes ten such words a second, all together, from who is not root: EAGAIN. */
const AGAIN_MS = 20;

export class ModestStart {
  readonly #pid: number;
  #isLowered = true;
  #timer: NodeJS.Timeout | undefined;

  private constructor(pid: number) {
    this.#pid = pid;
  }

  /**
   * The process `pid`, which leads a session of its own, begins modestly.
   * @returns undefined where that cannot be: no such groups, another user's process, too many requests.
   */
  static begin(pid: number): ModestStart | undefined {
    const start = new ModestStart(pid);
    if (start.#set(NICE) !== undefined) return undefined;
    start.#timer = setTimeout(() => start.end(), MOST_MS).unref();
    return start;
  }

  /** One that the luod before this one began, and may not have lived to end. */
  static resume(pid: number): ModestStart | undefined {
    const start = new ModestStart(pid);
    return start.#isModest() ? start : undefined;
  }

  /** From now on it counts as much as others. May be called again. */
  end(): void {
    clearTimeout(this.#timer);
    if (!this.#isLowered) return;
    if (this.#set(0) === 'EAGAIN') this.#timer = setTimeout(() => this.end(), AGAIN_MS).unref();
    else this.#isLowered = false;
  }

  /** The process has ended: its pid may be another's. */
  gone(): void {
    this.#isLowered = false;
    clearTimeout(this.#timer);
  }

  get #file(): string {
    return `/proc/${this.#pid}/autogroup`;
  }

  /** @returns the errno of a failure: without this an update is what it is, only less smooth. */
  #set(nice: number): string | undefined {
    try {
      writeFileSync(this.#file, String(nice));
      return undefined;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'EIO';
    }
  }

  #isModest(): boolean {
    try {
      return readFileSync(this.#file, 'latin1').trimEnd().endsWith(` nice ${NICE}`);
    } catch {
      // It has ended, or there are no such groups.
      return false;
    }
  }
}
