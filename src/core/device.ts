/**
 * The device: the one door to the sessions, as /dev/liveupdate is in the kernel.
 *
 * One opener in the whole system: whoever has it open is the agent that creates sessions and hands them out. The first
 * open deserializes what came in. Closing lets the next one in; sessions outlive it.
 */
import { LiveUpdateError } from './errors.js';
import type { LiveUpdate } from './liveupdate.js';
import type { Session } from './session.js';
import type { MaybePromise } from './types.js';

export class Device implements AsyncDisposable {
  readonly #liveupdate: LiveUpdate;
  #release: (() => void) | undefined;

  /** @internal Devices come from LiveUpdate.open(). */
  constructor(liveupdate: LiveUpdate, release: () => void) {
    this.#liveupdate = liveupdate;
    this.#release = release;
  }

  /**
   * A new outgoing session (LIVEUPDATE_IOCTL_CREATE_SESSION).
   * @throws {LiveUpdateError} EBADF: the device is closed. Else as LiveUpdate.createSession().
   */
  createSession(name: string): MaybePromise<Session> {
    this.#requireOpen('createSession');
    return this.#liveupdate.createSession(name);
  }

  /**
   * A session that came from the previous image (LIVEUPDATE_IOCTL_RETRIEVE_SESSION).
   * @throws {LiveUpdateError} EBADF: the device is closed. Else as LiveUpdate.retrieveSession().
   */
  retrieveSession(name: string): MaybePromise<Session> {
    this.#requireOpen('retrieveSession');
    return this.#liveupdate.retrieveSession(name);
  }

  /** Lets the next one in. @throws {LiveUpdateError} EBADF: it is closed already. */
  close(): void {
    this.#requireOpen('close')();
    this.#release = undefined;
  }

  /** close(), unless it is closed already. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#release !== undefined) this.close();
  }

  #requireOpen(operation: string): () => void {
    if (this.#release === undefined)
      throw new LiveUpdateError('EBADF', 'the device is closed', { operation });
    return this.#release;
  }
}
