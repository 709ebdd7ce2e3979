/**
 * The program's end of its conversation with luod: dial, hello, welcome, and messages from then on.
 */
import { LiveUpdateError } from '../core/errors.js';
import { reportedError } from '../core/reported-error.js';
import { dial } from '../handover/dial.js';
import {
  type ImageToLuod,
  type LuodToImage,
  type Phase,
  PROTOCOL_VERSION,
  toWire,
} from '../handover/protocol.js';
import { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';

export interface LinkEvents {
  message(message: LuodToImage, fds: number[]): void;
  /** luod is gone. */
  closed(error: LiveUpdateError | undefined): void;
}

export interface Welcome {
  readonly message: Extract<LuodToImage, { type: 'welcome' }>;
  readonly fds: number[];
}

export class LuodLink {
  readonly #wire: Wire;
  #events: LinkEvents | undefined;
  #backlog: { message: LuodToImage; fds: number[] }[] = [];
  #closed: { error: LiveUpdateError | undefined } | undefined;
  #welcome: { resolve: (welcome: Welcome) => void; reject: (error: LiveUpdateError) => void } | undefined;

  private constructor(fd: number) {
    this.#wire = new Wire(fd, {
      message: (message, fds) => this.#take(message as unknown as LuodToImage, fds),
      closed: (error) => {
        this.#welcome?.reject(error ?? new LiveUpdateError('EPIPE', 'luod closed the connection'));
        this.#welcome = undefined;
        this.#closed = { error };
        this.#events?.closed(error);
      },
    });
  }

  /**
   * Connects to luod and says which image this is.
   * @throws {LiveUpdateError} ENOENT or ECONNREFUSED when no luod listens at `path`; the errno with which luod refuses.
   */
  static async connect(path: string, image: string): Promise<{ link: LuodLink; welcome: Welcome }> {
    const link = new LuodLink(await dial(path));
    const welcome = await new Promise<Welcome>((resolve, reject) => {
      link.#welcome = { resolve, reject };
      link.send({ type: 'hello', protocol: PROTOCOL_VERSION, image, pid: process.pid });
    });
    return { link, welcome };
  }

  /** Over a socket at whose other end stands a luod that knows this image already. Owns `fd`. */
  static over(fd: number): LuodLink {
    return new LuodLink(fd);
  }

  #take(message: LuodToImage, fds: number[]): void {
    const waiting = this.#welcome;
    if (waiting !== undefined && message.type === 'welcome') {
      this.#welcome = undefined;
      waiting.resolve({ message, fds });
    } else if (waiting !== undefined && message.type === 'refused') {
      this.#welcome = undefined;
      for (const fd of fds) closeFd(fd);
      const { code, message: text } = message.error;
      const refusal = { code, message: `luod refused this image: ${text}` };
      waiting.reject(reportedError(refusal, { operation: 'hello' }));
    } else if (this.#events === undefined) this.#backlog.push({ message, fds });
    else this.#events.message(message, fds);
  }

  /** Delivers to `events` from now on, beginning with what came since the welcome. */
  listen(events: LinkEvents): void {
    this.#events = events;
    for (const { message, fds } of this.#backlog.splice(0)) events.message(message, fds);
    if (this.#closed !== undefined) events.closed(this.#closed.error);
  }

  /** Tells luod, if it is still there: see `Wire.send`. */
  send(message: ImageToLuod, fds: readonly number[] = []): void {
    this.#wire.send(toWire(message), fds);
  }

  /** Answers a luod that took over: from here on it hears this image. The first of two may end a line that was begun. */
  resume(): void {
    for (let time = 0; time < 2; time++) this.send({ type: 'resume' });
  }

  /** Tells luod what failed here. */
  report(phase: Phase, error: LiveUpdateError): void {
    this.send({ type: 'failed', phase, error: { code: error.code, message: error.message } });
  }

  get isOpen(): boolean {
    return this.#wire.isOpen;
  }

  get fd(): number {
    return this.#wire.fd;
  }

  flushNow(timeoutMs: number): void {
    this.#wire.flushNow(timeoutMs);
  }

  receiveNow(): void {
    this.#wire.receiveNow();
  }

  /** Ends the conversation. No event follows. */
  close(): void {
    this.#wire.close();
  }

  /** Lets the process end although luod is connected. */
  unref(): void {
    this.#wire.unref();
  }
}
