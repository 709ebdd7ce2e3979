/**
 * What eventfds and timerfds have in common: a descriptor from which a count is taken, and the handler that carries it.
 *
 * The count is the kernel's, and so is the time that a timer has left: both cross with the descriptor, and nothing is saved. Taking
 * and telling ('count') are one step, so that each count is told by exactly one image. Before the commit the new image
 * may neither take nor add: the old one still does.
 */
import { EventEmitter } from 'node:events';
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { takeCount } from '../linux/eventfd.js';
import { closeFd, OwnedFd } from '../linux/fd.js';
import { type FdKind, fdFacts } from '../linux/fd-facts.js';
import { type FdWatch, watchFd } from '../linux/poll.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';

export interface CountEvents {
  /** What was taken. Listening for it begins to take; without a listener the count waits in the kernel. */
  count: [count: bigint];
  close: [];
}

export abstract class CountFd extends EventEmitter<CountEvents> implements Disposable {
  readonly #fd: OwnedFd;
  #watch: FdWatch | undefined;
  #isOpen = true;
  #isHeld: boolean;
  #isRef = true;

  /** @param options.held It still is another image's. */
  constructor(fd: number, options: { held: boolean }) {
    super();
    this.#fd = new OwnedFd(fd);
    this.#isHeld = options.held;
    (this as EventEmitter).on('newListener', (event) => {
      if (event === 'count') this.#listen();
    });
    (this as EventEmitter).on('removeListener', (event) => {
      if (event === 'count' && this.listenerCount('count') === 0) this.#deafen();
    });
  }

  #listen(): void {
    if (this.#watch !== undefined || this.#isHeld || !this.#isOpen) return;
    this.#watch = watchFd(this.#fd.fd, { readable: true }, () => {
      const count = this.take();
      if (count !== undefined) this.emit('count', count);
    });
    if (!this.#isRef) this.#watch.unref();
  }

  #deafen(): void {
    this.#watch?.close();
    this.#watch = undefined;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** The descriptor; this object closes it. @throws {LiveUpdateError} EBADF when it was closed. */
  get fd(): number {
    return this.#fd.fd;
  }

  /** The descriptor, for what only the image in charge may do. @throws {LiveUpdateError} EBADF; EBUSY before the commit. */
  protected get ownFd(): number {
    if (this.#isHeld) {
      throw new LiveUpdateError('EBUSY', 'before ready() the image before still uses it', {
        operation: this.constructor.name,
      });
    }
    return this.#fd.fd;
  }

  /**
   * Takes the count now.
   * @returns undefined when there is none.
   * @throws {LiveUpdateError} EBADF when it was closed; EBUSY in a new image before `ready()`.
   */
  take(): bigint | undefined {
    return takeCount(this.ownFd);
  }

  /** Keeps the event loop alive while 'count' is listened for, which is the default. */
  ref(): this {
    this.#isRef = true;
    this.#watch?.ref();
    return this;
  }

  unref(): this {
    this.#isRef = false;
    this.#watch?.unref();
    return this;
  }

  /** Closes it; again is harmless. */
  close(): void {
    if (!this.#isOpen) return;
    this.letGo();
    setImmediate(() => this.emit('close'));
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** @internal It is this image's own from now on. */
  start(): void {
    this.#isHeld = false;
    if (this.listenerCount('count') > 0) this.#listen();
  }

  /** @internal Closes it without a word. */
  letGo(): void {
    this.#isOpen = false;
    this.#deafen();
    this.#fd.close();
  }
}

export interface CountKind<T extends CountFd> {
  readonly compatible: string;
  readonly kind: FdKind;
  readonly type: new (fd: number, options: { held: boolean }) => T;
}

const OPEN = Buffer.from('open');
const CLOSED = Buffer.from('closed');

export function countHandler<T extends CountFd>(
  handover: Handover,
  { compatible, kind, type }: CountKind<T>,
): CarriedFileHandler<T> {
  const adopt = (handle: number): T =>
    handover.incoming.adopt(handle, () => {
      const fd = handover.incoming.takeFd(handle);
      if (fdFacts(fd)?.kind === kind) return new type(fd, { held: true });
      closeFd(fd);
      throw new LiveUpdateError('EINVAL', `the descriptor is no ${kind}`, { handler: compatible });
    });
  return {
    compatible,
    adopt,
    custody: ({ fd }) => ({ bytes: OPEN, fds: [fd] }),
    start: (file) => file.start(),
    sever: (file) => file.letGo(),
    onGone(file, callback) {
      if (file.isOpen) file.once('close', callback);
      else setImmediate(callback);
    },
    ops: {
      canPreserve: (_handler, file) => file instanceof type,
      preserve(args: FileOpArgs<T>) {
        args.serializedData = toSerializedData(handover.outgoing.put(OPEN, [args.file!.fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      freeze(args) {
        if (!args.file!.isOpen) handover.outgoing.update(handleOf(args.serializedData), CLOSED);
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const file = adopt(handle);
        if (CLOSED.equals(handover.incoming.bytes(handle))) file.close();
        args.file = file;
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined) handover.incoming.adopted<T>(handle)?.letGo();
        handover.incoming.drop(handle);
      },
    },
  };
}
