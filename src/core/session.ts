/**
 * Sessions: a named container of files, the unit that an owner creates, retrieves and finishes.
 *
 * A `Session` is a handle, as a session's file descriptor is in the kernel: whoever holds it owns the session.
 *
 * Happy path:
 *   1. createSession(name)                    the old image
 *   2. session.preserve(file, token) ...
 *   3. reboot                                 the handle must still be open, else there is nothing to carry
 *   4. retrieveSession(name)                  the new image
 *   5. session.retrieve(token) ...            in any order, or not at all
 *   6. session.finish()                       the commit: every file leaves the orchestrator
 *   7. session.close()
 *
 * Unhappy paths:
 * - The owner of an outgoing session closes it (or dies, and whoever watches over it closes it): its files are
 *   unpreserved, newest first, and go on living with whoever holds them.
 * - finish() is refused by a canFinish(): nothing is finished; try again.
 * - The owner of a retrieved session closes it unfinished: finish is tried. Refused, the session is abandoned: it and its
 *   files stay with the orchestrator, listed, until this image is gone.
 *
 * States and what each allows are the table in states.ts. Every operation enters the gate, then takes the session's
 * lock, then asks the table: whoever had to wait finds the session as it is by then (EBADF if it was closed meanwhile).
 *
 * Every method answers synchronously, result or exception, unless it had to wait for an asynchronous callback or for a
 * lock; then it answers with a promise (sequence.ts). Common to all that change something:
 * EBADF (this handle is closed), EBUSY (a reboot has succeeded, lock.ts; or one of the operation's own callbacks
 * called back into the session), EIO (a callback that cannot fail failed after all and there is no onError, faults.ts:
 * the operation *is* done).
 */
import { LiveUpdateError } from './errors.js';
import { type Faults, inContext } from './faults.js';
import type { Orchestrator, SessionRecord } from './orchestrator.js';
import type { Door, Steps } from './sequence.js';
import { admit, SESSION_STATES, type SessionOperation, type SessionState } from './states.js';
import type { MaybePromise, SerializedFile, Token } from './types.js';

export class Session implements AsyncDisposable {
  readonly name: string;
  /** Whether it came from the previous image: retrieve and finish it. Else it is outgoing: preserve into it. */
  readonly isIncoming: boolean;
  readonly #orchestrator: Orchestrator;
  readonly #record: SessionRecord;
  /** Of the last operation: a session does the same many times over, and a hundred thousand of them do little. */
  #door: SessionDoor | undefined;

  /** @internal Sessions come from createSession() and retrieveSession(). */
  constructor(orchestrator: Orchestrator, record: SessionRecord) {
    this.name = record.name;
    this.isIncoming = record.direction === 'incoming';
    this.#orchestrator = orchestrator;
    this.#record = record;
  }

  #doorTo(operation: SessionOperation): Door {
    if (this.#door?.operation !== operation)
      this.#door = new SessionDoor(this.#orchestrator, this.#record, operation);
    return this.#door;
  }

  get state(): SessionState {
    return this.#record.state;
  }

  /**
   * Preserves `file` under `token` for the next image (LIVEUPDATE_SESSION_PRESERVE_FD). Outgoing sessions only.
   *
   * Callbacks, in order: canPreserve() of each handler until one takes it; its getId(); for each of its FLBs that no other
   * file depends on, flb.preserve(); handler.preserve(). When one fails, those before are undone backwards.
   *
   * @throws {LiveUpdateError} checked in this order:
   * - EOPNOTSUPP: live update is off
   * - EINVAL: the session is incoming; `token` is no u64
   * - EEXIST: the token is in use in this session
   * - EBADF: `file` is null or undefined
   * - ENOENT: no handler takes it
   * - EBUSY: the file is preserved already, in any session, or retrieved and not finished
   * - what flb.preserve() or handler.preserve() failed with; EINVAL when they leave data that is no u64
   */
  preserve(file: unknown, token: Token): MaybePromise<void> {
    this.#orchestrator.requireEnabled('preserve');
    return this.#orchestrator.runner.run(this.#record.files.preserve(file, token), this.#doorTo('preserve'));
  }

  /**
   * Takes one file out again. Outgoing sessions only. This one is ours: the kernel takes out whole sessions, by close;
   * in a program a single connection can end at any moment.
   *
   * Callbacks, in order: handler.unpreserve(); in reverse, flb.unpreserve() of each FLB whose last file this was.
   *
   * @throws {LiveUpdateError} EINVAL: the session is incoming. ENOENT: no file has this token.
   */
  unpreserve(token: Token): MaybePromise<void> {
    return this.#orchestrator.runner.run(this.#record.files.unpreserve(token), this.#doorTo('unpreserve'));
  }

  /**
   * The live file under `token` again (LIVEUPDATE_SESSION_RETRIEVE_FD). Incoming sessions only. In any order; a second
   * call returns the same file, or throws the same error, without calling the handler again.
   *
   * Callbacks, in order: handler.retrieve(); getId() of what it made.
   *
   * @throws {LiveUpdateError} EINVAL: the session is outgoing. ENOENT: no file has this token, or it is finished.
   * What handler.retrieve() failed with; EIO when it made no file.
   */
  retrieve<File = unknown>(token: Token): MaybePromise<File> {
    const { runner } = this.#orchestrator;
    return runner.run(this.#record.files.retrieve(token), this.#doorTo('retrieve')) as MaybePromise<File>;
  }

  /**
   * The commit (LIVEUPDATE_SESSION_FINISH): every file leaves the orchestrator and belongs to its owner alone. Incoming
   * sessions only. A session without files, or finished already, has nothing to do.
   *
   * Callbacks, in order: canFinish() of each file in order of preservation, until one says no; then for each file, in
   * reverse: handler.finish(), also of one never retrieved; in reverse, flb.finish() of each FLB whose last
   * file this was (before it flb.retrieve(), if nobody asked for it).
   *
   * @throws {LiveUpdateError} EINVAL: the session is outgoing, or `reserved` is not 0. EBUSY: a canFinish() said no;
   * nothing is finished, try again. What a canFinish() threw; nothing is finished either.
   */
  finish(options: { reserved?: number } = {}): MaybePromise<void> {
    const { runner } = this.#orchestrator;
    return runner.run(this.#finish(options.reserved ?? 0), this.#doorTo('finish'));
  }

  *#finish(reserved: number): Steps<void> {
    const record = this.#record;
    this.#checkReserved('finish', reserved);
    const token = yield* record.files.findUnfinishable();
    if (token !== undefined) {
      const context = { operation: 'finish', session: this.name, token };
      throw new LiveUpdateError('EBUSY', 'canFinish() says no: nothing was finished', context);
    }
    const faults = yield* record.files.finishAll();
    record.state = 'finished';
    this.#orchestrator.faults.conclude(faults, { operation: 'finish', session: this.name });
  }

  /**
   * Whether finish() would be refused now, without finishing anything: for those who commit several sessions together.
   * Ours. Incoming sessions only.
   *
   * Callbacks, in order: canFinish() of each file in order of preservation, until one says no.
   *
   * @throws {LiveUpdateError} EINVAL: the session is outgoing. What a canFinish() threw.
   */
  canFinish(): MaybePromise<boolean> {
    return this.#orchestrator.runner.run(this.#canFinish(), this.#doorTo('finish'));
  }

  *#canFinish(): Steps<boolean> {
    return (yield* this.#record.files.findUnfinishable()) === undefined;
  }

  /**
   * One file as it would be written into an image now; undefined when no file has this token. Ours: for carriers that
   * bring over before the freeze what is known by then. Takes no lock and calls nothing.
   */
  serialized(token: Token): SerializedFile | undefined {
    return this.#record.files.serializedFile(token);
  }

  /**
   * The session's name, as its owner's next generation would ask for it (LIVEUPDATE_SESSION_GET_NAME).
   * @throws {LiveUpdateError} EBADF: this handle is closed. EINVAL: `reserved` is not 0.
   */
  getName(options: { reserved?: number } = {}): string {
    admit(this.#record.state, 'getName', this.name);
    this.#checkReserved('getName', options.reserved ?? 0);
    return this.name;
  }

  /**
   * Gives the handle up.
   *
   * Outgoing: every file is unpreserved, in reverse order of preservation (callbacks as in unpreserve), and the name is
   * free again. Incoming: finish is tried (callbacks as in finish); when it says EBUSY the session is abandoned, and
   * close succeeds all the same.
   *
   * @throws {LiveUpdateError} EBADF: it is closed already. What a canFinish() threw; the session is abandoned then.
   */
  close(): MaybePromise<void> {
    return this.#orchestrator.runner.run(this.#close(), this.#doorTo('close'));
  }

  *#close(): Steps<void> {
    const orchestrator = this.#orchestrator;
    const record = this.#record;
    let faults: Faults;
    if (this.isIncoming) {
      let refused = true;
      try {
        refused = (yield* record.files.findUnfinishable()) !== undefined;
      } finally {
        if (refused) record.state = 'abandoned';
      }
      if (refused) return;
      faults = yield* record.files.finishAll();
    } else {
      faults = yield* record.files.unpreserveAll();
    }
    orchestrator.removeSession(record);
    orchestrator.faults.conclude(faults, { operation: 'close', session: this.name });
  }

  /** close(), unless it is closed already. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (SESSION_STATES[this.state].close !== 'EBADF') await this.close();
  }

  #checkReserved(operation: string, reserved: number): void {
    if (reserved === 0) return;
    throw new LiveUpdateError('EINVAL', 'reserved must be 0', { operation, session: this.name });
  }
}

/** The way into a session and out again, for one operation: gate, lock, table. */
class SessionDoor implements Door {
  readonly #orchestrator: Orchestrator;
  readonly #record: SessionRecord;
  readonly operation: SessionOperation;

  constructor(orchestrator: Orchestrator, record: SessionRecord, operation: SessionOperation) {
    this.#orchestrator = orchestrator;
    this.#record = record;
    this.operation = operation;
  }

  /** @throws EBADF, EINVAL, EBUSY, also as the promise's rejection. */
  enter(steps: Steps<unknown>): Promise<void> | undefined {
    const { gate } = this.#orchestrator;
    const { lock, state, name } = this.#record;
    // A closed handle leads nowhere, whatever the gate says.
    if (SESSION_STATES[state][this.operation] === 'EBADF') admit(state, this.operation, name);
    let inside = false;
    try {
      const passage = gate.enter(steps);
      if (passage !== undefined) return this.#enterLater(steps, passage);
      inside = true;
      const turn = lock.acquire(steps);
      if (turn !== undefined) return this.#admitLater(turn);
    } catch (error) {
      if (inside) gate.leave();
      throw this.#inContext(error);
    }
    this.#admit();
    return undefined;
  }

  async #enterLater(steps: Steps<unknown>, passage: Promise<void>): Promise<void> {
    try {
      await passage;
    } catch (error) {
      throw this.#inContext(error);
    }
    await this.#admitLater(this.#record.lock.acquire(steps));
  }

  async #admitLater(turn: Promise<void> | undefined): Promise<void> {
    await turn;
    this.#admit();
  }

  /** The table. Whoever is not admitted leaves. */
  #admit(): void {
    try {
      admit(this.#record.state, this.operation, this.#record.name);
    } catch (error) {
      this.leave();
      throw error;
    }
  }

  leave(): void {
    this.#record.lock.release();
    this.#orchestrator.gate.leave();
  }

  #inContext(error: unknown): LiveUpdateError {
    return inContext(error, { operation: this.operation, session: this.#record.name });
  }
}
