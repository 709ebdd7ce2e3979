/**
 * LiveUpdate: the orchestrator's public face, `include/linux/liveupdate.h` in TypeScript.
 *
 * One for each image, that is, for each program. It knows no transport and no operating system. Who replaces the image
 * (a carrier) calls reboot() and carries the Image that it returns; in the new image, the same carrier gives it to the
 * new LiveUpdate, which asks for it when its device is opened first.
 *
 * Life of an update:
 *   1. The old image registers handlers and FLBs, opens the device, creates sessions, preserves files. It serves.
 *   2. reboot(): everything is locked and frozen; an Image comes out.
 *   3. The carrier brings it over. The old image is locked until it is gone.
 *   4. The new image registers the handlers it has, opens the device (the Image is deserialized), retrieves, finishes.
 *
 * Unhappy paths:
 * - A freeze fails: undone, unlocked, the error thrown; try again.
 * - The carrier cannot bring it over, or the new image refuses: cancelReboot() unfreezes and unlocks the old image.
 * - The new image lacks a handler, or the Image is broken: its device gives EIO for good. The old image can still
 *   be there: cancelReboot().
 *
 * Synchronous or not: every method that says MaybePromise returns its result, or throws, at once, unless an asynchronous
 * callback or a lock made it wait; then it is a promise. `await` takes both (sequence.ts).
 *
 * Locks, outermost first: gate (mutations share it, a reboot has it alone), session, FLB (lock.ts).
 */
import { Device } from './device.js';
import { type ErrorContext, LiveUpdateError } from './errors.js';
import { type Faults, inContext } from './faults.js';
import type { FlbInfo } from './flb.js';
import { freeze, restore, unfreeze } from './image.js';
import { Orchestrator, type SessionRecord } from './orchestrator.js';
import { isThenable, type Steps } from './sequence.js';
import { Session } from './session.js';
import type { SessionInfo } from './states.js';
import type { FileHandler, Flb, Image, MaybePromise } from './types.js';

export interface LiveUpdateOptions {
  /** The switch (the kernel's `liveupdate=` parameter). Default: on. */
  enabled?: boolean;
  /** Where the image that came in is asked for, by the first open(). Undefined from it: nothing came in. */
  incoming?: () => MaybePromise<Image | undefined>;
  /**
   * Told of each callback that cannot fail (unpreserve, unfreeze, finish) and did. With it, the operation goes on and
   * succeeds; without it, the operation is done to its end and then throws EIO (faults.ts).
   */
  onError?: (error: LiveUpdateError) => void;
}

export class LiveUpdate {
  readonly #orchestrator: Orchestrator;
  readonly #supplier: (() => MaybePromise<Image | undefined>) | undefined;

  constructor(options: LiveUpdateOptions = {}) {
    this.#orchestrator = new Orchestrator(options.enabled ?? true, options.onError);
    this.#supplier = options.incoming;
  }

  /** Whether live update is on (liveupdate_enabled). An incoming image of an unknown form switches it off. */
  get enabled(): boolean {
    return this.#orchestrator.enabled;
  }

  /** How many live updates led to this image; 0 when it came from none. The next image gets one more. */
  get liveupdateNumber(): bigint {
    return this.#orchestrator.liveupdateNumber;
  }

  // ---- handlers and FLBs --------------------------------------------------------------------------------------

  /**
   * Registers a handler (liveupdate_register_file_handler). Handlers are asked in order of registration. Calls nothing.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. EINVAL: its `compatible` is not 1 to 47
   * bytes without NUL, or canPreserve, preserve, unpreserve, retrieve or finish is missing. EBUSY: a reboot is
   * running or has succeeded. EEXIST: another handler has this `compatible`.
   */
  registerFileHandler<File, Private>(handler: FileHandler<File, Private>): void {
    const { handlers } = this.#on('registerFileHandler');
    handlers.check(handler as FileHandler);
    this.#orchestrator.requireOpenGate('registerFileHandler');
    handlers.register(handler as FileHandler);
  }

  /**
   * Takes a handler out (liveupdate_unregister_file_handler).
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. EBUSY: a reboot is running or has succeeded.
   * ENOENT: it is not registered. EBUSY: FLBs are registered with it, or files in any session belong to it.
   */
  unregisterFileHandler<File, Private>(handler: FileHandler<File, Private>): void {
    const { handlers } = this.#on('unregisterFileHandler');
    this.#orchestrator.requireOpenGate('unregisterFileHandler');
    handlers.unregister(handler as FileHandler);
  }

  /**
   * Binds an FLB to the files of a handler (liveupdate_register_flb). One FLB may serve many handlers. Files that are
   * preserved already do not depend on it.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. EINVAL: its `compatible` is not 1 to 47 bytes
   * without NUL, a callback is missing, or the handler is not registered. EBUSY: a reboot is running or has
   * succeeded. EEXIST: it is with this handler already. For its first handler: ENOSPC: there are 63 FLBs; EEXIST:
   * another FLB has this `compatible`.
   */
  registerFlb<File, Private, Obj>(handler: FileHandler<File, Private>, flb: Flb<Obj>): void {
    const { handlers } = this.#on('registerFlb');
    handlers.checkFlb(handler as FileHandler, flb as Flb);
    this.#orchestrator.requireOpenGate('registerFlb');
    handlers.registerFlb(handler as FileHandler, flb as Flb);
  }

  /**
   * Undoes registerFlb (liveupdate_unregister_flb). Files that depend on it give it back as ever; without any handler it
   * is not written into an image.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. EBUSY: a reboot is running or has succeeded.
   * ENOENT: it is not registered with this handler.
   */
  unregisterFlb<File, Private, Obj>(handler: FileHandler<File, Private>, flb: Flb<Obj>): void {
    const { handlers } = this.#on('unregisterFlb');
    this.#orchestrator.requireOpenGate('unregisterFlb');
    handlers.unregisterFlb(handler as FileHandler, flb as Flb);
  }

  /**
   * Lends the object that the previous image left (liveupdate_flb_get_incoming); flb.retrieve() makes it at the first
   * call. Give it back with putIncoming(). For callbacks too: the gate is not taken.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. ENODATA: nothing came in (or the device was
   * not opened yet). ENOENT: the image did not bring it. ENODATA: it is finished. What flb.retrieve() failed
   * with: the same error each time. EBUSY: called from a callback of this very FLB.
   */
  getIncoming<Obj>(flb: Flb<Obj>): MaybePromise<Obj> {
    const { flbs, runner } = this.#on('getIncoming');
    return runner.run(flbs.getIncoming(flb as Flb)) as MaybePromise<Obj>;
  }

  /**
   * Gives a reference back (liveupdate_flb_put_incoming). When all files are finished and this was the last one, flb.finish() is called.
   * @throws {LiveUpdateError} EOPNOTSUPP: live update is off. EINVAL: no reference is out. EIO: flb.finish() failed and
   * there is no onError.
   */
  putIncoming<Obj>(flb: Flb<Obj>): MaybePromise<void> {
    const { flbs, runner } = this.#on('putIncoming');
    return runner.run(flbs.putIncoming(flb as Flb));
  }

  /**
   * Lends the live object that preserved files depend on (liveupdate_flb_get_outgoing). Give it back with
   * putOutgoing(). For callbacks too: the gate is not taken.
   * @throws {LiveUpdateError} EOPNOTSUPP: live update is off. ENOENT: there is none. EBUSY: called from a callback of
   * this very FLB.
   */
  getOutgoing<Obj>(flb: Flb<Obj>): MaybePromise<Obj> {
    const { flbs, runner } = this.#on('getOutgoing');
    return runner.run(flbs.getOutgoing(flb as Flb)) as MaybePromise<Obj>;
  }

  /**
   * Gives a reference back (liveupdate_flb_put_outgoing). When no file depends on it and this was the last one, flb.unpreserve() is called.
   * @throws {LiveUpdateError} EOPNOTSUPP: live update is off. EINVAL: no reference is out. EIO: flb.unpreserve() failed
   * and there is no onError.
   */
  putOutgoing<Obj>(flb: Flb<Obj>): MaybePromise<void> {
    const { flbs, runner } = this.#on('putOutgoing');
    return runner.run(flbs.putOutgoing(flb as Flb));
  }

  // ---- the device and sessions --------------------------------------------------------------------------------

  /**
   * Opens the device. The first time, asks `incoming` for the image and deserializes it.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is switched off. EBUSY: it is open, or being opened.
   * EIO: the image could not be supplied or deserialized, now or before; `cause` says why. EBUSY: the first open, and
   * a reboot has succeeded.
   */
  open(): MaybePromise<Device> {
    return this.#orchestrator.runner.run(this.#openDevice());
  }

  *#openDevice(): Steps<Device> {
    const orchestrator = this.#orchestrator;
    const context = { operation: 'open' };
    if (!orchestrator.wanted) throw new LiveUpdateError('EOPNOTSUPP', 'live update is off', context);
    if (orchestrator.deviceOpen || orchestrator.arrival === 'restoring') {
      throw new LiveUpdateError('EBUSY', 'the device is open already', context);
    }
    orchestrator.requireArrival(context);
    orchestrator.deviceOpen = true;
    try {
      if (orchestrator.arrival === 'pending') yield* this.#receive(context, this.#supplier);
    } catch (error) {
      orchestrator.deviceOpen = false;
      orchestrator.requireArrival(context);
      throw error;
    }
    return new Device(this, () => {
      orchestrator.deviceOpen = false;
    });
  }

  /**
   * Takes in what the previous image left, for programs that do without the device. Once.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is switched off. EIO: it failed before. EBUSY: it
   * happened before, also by an open() that found nothing; a reboot has succeeded. EINVAL: the image's `compatible` is
   * unknown (live update is off from now on), or its content is out of range, doubled or does not add up. ENOENT: the
   * handler of a file is not registered. After EINVAL or ENOENT it stays failed; what was restored before is left.
   */
  deserialize(image: Image): MaybePromise<void> {
    return this.#orchestrator.runner.run(this.#deserialize(image));
  }

  *#deserialize(image: Image): Steps<void> {
    const orchestrator = this.#orchestrator;
    const context = { operation: 'deserialize' };
    if (!orchestrator.wanted) throw new LiveUpdateError('EOPNOTSUPP', 'live update is off', context);
    orchestrator.requireArrival(context);
    if (orchestrator.arrival !== 'pending') {
      throw new LiveUpdateError('EBUSY', 'what came in was deserialized already', context);
    }
    yield* this.#receive(context, () => image);
  }

  *#receive(
    context: ErrorContext,
    supplier: (() => MaybePromise<Image | undefined>) | undefined,
  ): Steps<void> {
    const orchestrator = this.#orchestrator;
    orchestrator.arrival = 'restoring';
    try {
      const passage = orchestrator.enter(context);
      if (passage !== undefined) yield passage;
    } catch (error) {
      orchestrator.arrival = 'pending';
      throw error;
    }
    try {
      const supplied = supplier?.();
      const image = (isThenable(supplied) ? yield supplied : supplied) as Image | undefined;
      if (image !== undefined) restore(orchestrator, image);
      orchestrator.arrival = 'restored';
    } catch (error) {
      orchestrator.arrival = 'failed';
      orchestrator.failure = inContext(error, context);
      throw orchestrator.failure;
    } finally {
      orchestrator.gate.leave();
    }
  }

  /**
   * A new outgoing session. Calls nothing.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. EBUSY: a reboot has succeeded. EIO: the incoming
   * image could not be deserialized. EINVAL: the name is not 1 to 63 bytes without NUL. EEXIST: an outgoing session
   * has this name.
   */
  createSession(name: string): MaybePromise<Session> {
    return this.#orchestrator.runner.run(this.#session('createSession', name));
  }

  /**
   * A session that came from the previous image. Once for each. Calls nothing.
   * @throws {LiveUpdateError} in this order: EOPNOTSUPP: live update is off. EBUSY: a reboot has succeeded. EIO: the incoming
   * image could not be deserialized. ENOENT: no incoming session has this name. EINVAL: it was retrieved already.
   */
  retrieveSession(name: string): MaybePromise<Session> {
    return this.#orchestrator.runner.run(this.#session('retrieveSession', name));
  }

  *#session(operation: 'createSession' | 'retrieveSession', name: string): Steps<Session> {
    const orchestrator = this.#orchestrator;
    orchestrator.requireEnabled(operation);
    const context = { operation, session: String(name) };
    const passage = orchestrator.enter(context);
    if (passage !== undefined) yield passage;
    let record: SessionRecord;
    try {
      orchestrator.requireArrival(context);
      record = orchestrator[operation](name);
    } finally {
      orchestrator.gate.leave();
    }
    return new Session(orchestrator, record);
  }

  // ---- the reboot ---------------------------------------------------------------------------------------------

  /**
   * Freezes everything outgoing and returns what the next image needs (liveupdate_reboot). Waits for mutations in progress;
   * those that come meanwhile wait for it. After success everything stays locked: every mutation gets EBUSY, until this
   * image is gone or cancelReboot(). When live update is off: nothing, undefined.
   *
   * Callbacks, in order: freeze() of each file that has one; sessions in order of creation, files in order of preservation.
   * When one fails, unfreeze(): the failing session's files before it in order of preservation, then the sessions
   * before it, newest first, each in order of preservation.
   *
   * @throws {LiveUpdateError} EBUSY: a reboot has succeeded already; or called from a callback. What a freeze() failed
   * with; EINVAL when it left data that is no u64. Everything is unlocked then, and works as before.
   */
  reboot(): MaybePromise<Image | undefined> {
    return this.#orchestrator.runner.run(this.#reboot());
  }

  *#reboot(): Steps<Image | undefined> {
    const orchestrator = this.#orchestrator;
    if (!orchestrator.enabled) return undefined;
    const { gate } = orchestrator;
    try {
      const passage = gate.close(orchestrator.runner.current);
      if (passage !== undefined) yield passage;
    } catch (error) {
      throw inContext(error, { operation: 'reboot' });
    }
    try {
      const image = yield* freeze(orchestrator);
      gate.shut();
      return image;
    } catch (error) {
      gate.open();
      throw error;
    }
  }

  /**
   * Calls a successful reboot off and unlocks. This one is ours: a kernel that has frozen does not come back, but a program
   * whose successor refuses does.
   *
   * Callbacks, in order: unfreeze() of each file that has one; sessions newest first, files in order of preservation.
   *
   * @throws {LiveUpdateError} EINVAL: no successful reboot is pending. EIO: an unfreeze() failed and there is no onError;
   * everything is unfrozen and unlocked all the same.
   */
  cancelReboot(): MaybePromise<void> {
    return this.#orchestrator.runner.run(this.#cancelReboot());
  }

  *#cancelReboot(): Steps<void> {
    const orchestrator = this.#orchestrator;
    const { gate, runner } = orchestrator;
    const context = { operation: 'cancelReboot' };
    if (gate.state !== 'shut')
      throw new LiveUpdateError('EINVAL', 'no successful reboot is pending', context);
    gate.retake(runner.current);
    let faults: Faults;
    try {
      faults = yield* unfreeze(orchestrator);
    } finally {
      gate.open();
    }
    orchestrator.faults.conclude(faults, context);
  }

  // ---- listings -----------------------------------------------------------------------------------------------

  /** Every session as it is now: incoming ones in the image's order, then outgoing ones in order of creation. */
  sessions(): readonly SessionInfo[] {
    return this.#orchestrator.list();
  }

  /** Every FLB as it is now: registered ones in order of registration, then those that only came in. */
  flbs(): readonly FlbInfo[] {
    return this.#orchestrator.flbs.list();
  }

  /** @throws EOPNOTSUPP */
  #on(operation: string): Orchestrator {
    this.#orchestrator.requireEnabled(operation);
    return this.#orchestrator;
  }
}
