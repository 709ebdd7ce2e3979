/**
 * A descriptor watched by the event loop, level-triggered: libuv's uv_poll, through koffi.
 *
 * koffi's handle stops silently when it is collected, swallows what its callback throws, and reports (status, events) and
 * not what its types say. So handles are pinned while they are open, and an exception becomes an uncaught one, as
 * everywhere in Node. On Node 26 nobody runs the promises and ticks behind its callback, until something else happens; so an
 * immediate is asked for, behind which they run. libuv sets O_NONBLOCK on the descriptor.
 */
import type { LiveUpdateError } from '../core/errors.js';
import { failure, type PollHandle, pollHandle } from './libc.js';

export interface FdEvents {
  readonly readable: boolean;
  readonly writable: boolean;
  readonly disconnect: boolean;
  /** The watch itself failed; nothing more will come. */
  readonly error: LiveUpdateError | undefined;
}

export interface Interest {
  readonly readable?: boolean;
  readonly writable?: boolean;
}

const pinned = new Set<FdWatch>();

// While Node takes itself down its loop turns once more, and koffi aborts the process when a callback cannot be called any more.
process.once('exit', () => {
  for (const watch of [...pinned]) watch.close();
});

let isTurning = false;

function runTicksSoon(): void {
  if (isTurning) return;
  isTurning = true;
  setImmediate(() => {
    isTurning = false;
  });
}

export class FdWatch {
  readonly #handle: PollHandle;
  readonly #callback: (...args: unknown[]) => void;
  #open = true;

  constructor(fd: number, interest: Interest, callback: (events: FdEvents) => void) {
    this.#callback = (...args) => {
      const [status, events] = args as [number, Omit<FdEvents, 'error'>];
      if (!this.#open) return;
      runTicksSoon();
      try {
        const error = status < 0 ? failure('poll', -status) : undefined;
        callback({ ...events, error });
      } catch (thrown) {
        process.nextTick(() => {
          throw thrown;
        });
      }
    };
    this.#handle = pollHandle(fd, interest, this.#callback);
    pinned.add(this);
  }

  /** Watches for something else from now on. */
  update(interest: Interest): void {
    if (this.#open) this.#handle.start(interest, this.#callback);
  }

  /** Keeps the event loop alive, which is the default. */
  ref(): void {
    // koffi dereferences a closed handle: SIGSEGV.
    if (this.#open) this.#handle.ref();
  }

  unref(): void {
    if (this.#open) this.#handle.unref();
  }

  /** Ends the watch; the descriptor stays open and the caller's. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#handle.stop();
    this.#handle.close();
    pinned.delete(this);
  }
}

/** @throws {LiveUpdateError} EBADF, EPERM for a file that cannot be polled. */
export function watchFd(fd: number, interest: Interest, callback: (events: FdEvents) => void): FdWatch {
  return new FdWatch(fd, interest, callback);
}
