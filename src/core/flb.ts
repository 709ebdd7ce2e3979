/**
 * FLBs: shared state that lives exactly as long as files depend on it.
 *
 * Some files stand on something that they share: IOMMU page tables under many devices, one table of users under many
 * connections. Such a File-Lifecycle-Bound object is registered with the handlers whose files need it. Nobody preserves
 * or finishes it by hand; it follows the files.
 *
 * Life, in the old image (outgoing):
 *   1. The first file that depends on it is preserved: flb.preserve() makes `data` (for the next image) and `obj` (live).
 *   2. More files: the count rises. Fewer: it falls.
 *   3. The last one is unpreserved: flb.unpreserve(). Or the image is replaced, and {compatible, data, count} goes over.
 *
 * Life, in the new image (incoming):
 *   1. Somebody asks with getIncoming(), or the last file finishes: flb.retrieve(data) makes `obj`, once.
 *   2. Each finished file lowers the count that came with the image.
 *   3. At zero: flb.finish(obj), once. From then on ENODATA.
 *
 * The two lives have their own counts, data, objects and locks, and never touch: an image can receive an FLB and
 * send it on at the same time. The outgoing life belongs to the Flb object; the incoming one to its `compatible`.
 *
 * References: getIncoming and getOutgoing lend the object, and the puts give it back. A lent object is not taken away: finish
 * (or unpreserve) waits until the count is zero *and* the last reference is back; then the put runs it. As for
 * the kernel, a reference counts like one more file, except that it does not enter the image.
 *
 * Unhappy paths:
 * - flb.preserve() fails: nothing was counted; the file's own preserve fails with that error and goes back.
 * - flb.retrieve() fails: the error is kept and repeated, without a second call, for every getIncoming. finish() is
 *   not called for an object that never was; when retrieve() fails because the last file finished, that is a fault
 *   (faults.ts), since the file's finish cannot fail.
 * - unregisterFlb while files depend on it: each file remembers the FLBs it was counted for, and gives back those. But
 *   an FLB without handlers is not in the list, so it is not written to the image.
 * - A file finishes whose handler has an FLB that did not come with the image (the new program added it): nothing.
 *
 * Locks: each life has its Mutex, held while its callbacks run; innermost of all. Two files that are being preserved in
 * two sessions cannot both be the first.
 */
import { type ErrnoCode, type ErrorContext, LiveUpdateError } from './errors.js';
import { type FaultReporter, type Faults, inContext } from './faults.js';
import { Mutex } from './lock.js';
import { FLB_LIMIT, isU64 } from './names.js';
import { isThenable, type Runner, type Steps } from './sequence.js';
import type { Flb, FlbOpArgs, SerializedFlb, Token } from './types.js';

/** One FLB, for listings: how many files, and how many references, it has in each life. */
export interface FlbInfo {
  readonly compatible: string;
  /** With how many handlers it is registered. 0: it only came with an image. */
  readonly users: number;
  readonly outgoing: { readonly count: number; readonly references: number };
  /** Undefined when it did not come with an image. */
  readonly incoming:
    | { readonly count: number; readonly references: number; readonly finished: boolean }
    | undefined;
}

/** `struct luo_flb_private_state`, outgoing. */
interface OutgoingState {
  count: number;
  references: number;
  /** Whether `args` holds what flb.preserve() made. */
  live: boolean;
  readonly args: FlbOpArgs;
  readonly lock: Mutex;
}

/** `struct luo_flb_private_state`, incoming. */
interface IncomingState {
  readonly data: bigint;
  count: number;
  references: number;
  /** Made by the retrieve; its `flb` is the one that retrieved it. */
  args: FlbOpArgs | undefined;
  error: LiveUpdateError | undefined;
  finished: boolean;
  readonly lock: Mutex;
}

/** One Flb object as the orchestrator knows it: `struct luo_flb_private`. */
export interface FlbRecord {
  readonly flb: Flb;
  /** With how many handlers it is registered. In the global list while there is one. */
  users: number;
  readonly outgoing: OutgoingState;
}

/** The FLBs of one orchestrator: the global list, and what came in. */
export class FlbRegistry {
  readonly #runner: Runner;
  readonly #faults: FaultReporter;
  /** Every Flb object ever seen; its outgoing life outlasts its registration. */
  readonly #records = new WeakMap<Flb, FlbRecord>();
  /** The global list: registered FLBs in order of registration, by compatible. */
  readonly #registered = new Map<string, FlbRecord>();
  /** What the image brought, by compatible. Undefined: no image. */
  #incoming: Map<string, IncomingState> | undefined;

  constructor(runner: Runner, faults: FaultReporter) {
    this.#runner = runner;
    this.#faults = faults;
  }

  // ---- registration -------------------------------------------------------------------------------------------

  /** One more handler uses `flb`. @throws ENOSPC, EEXIST for the first one. */
  use(flb: Flb): FlbRecord {
    const record = this.#record(flb);
    if (record.users === 0) {
      const context = { operation: 'registerFlb', handler: flb.compatible };
      if (this.#registered.size >= FLB_LIMIT) {
        throw new LiveUpdateError('ENOSPC', `there are ${FLB_LIMIT} FLBs already`, context);
      }
      if (this.#registered.has(flb.compatible)) {
        throw new LiveUpdateError('EEXIST', 'another FLB has this compatible', context);
      }
      this.#registered.set(flb.compatible, record);
    }
    record.users++;
    return record;
  }

  /** One handler less uses it. */
  disuse(record: FlbRecord): void {
    record.users--;
    if (record.users === 0) this.#registered.delete(record.flb.compatible);
  }

  #record(flb: Flb): FlbRecord {
    let record = this.#records.get(flb);
    if (record === undefined) {
      const args: FlbOpArgs = { flb, data: 0n, obj: undefined };
      const outgoing = { count: 0, references: 0, live: false, args, lock: new Mutex(this.#runner) };
      record = { flb, users: 0, outgoing };
      this.#records.set(flb, record);
    }
    return record;
  }

  // ---- outgoing: count a file in, count it out ----------------------------------------------------------------

  /** A file that depends on it is being preserved. @throws what flb.preserve() throws; then nothing was counted. */
  *count(record: FlbRecord, session: string, token: Token): Steps<void> {
    const { outgoing } = record;
    const turn = outgoing.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      if (!outgoing.live) yield* this.#preserve(record, session, token);
      outgoing.count++;
    } finally {
      outgoing.lock.release();
    }
  }

  *#preserve(record: FlbRecord, session: string, token: Token): Steps<void> {
    const { flb, outgoing } = record;
    const { args } = outgoing;
    try {
      const pending = flb.ops.preserve(args);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      forget(args);
      throw inContext(error, { operation: 'preserve', session, token, handler: flb.compatible });
    }
    outgoing.live = true;
    if (isU64(args.data)) return;
    const context: ErrorContext = { operation: 'preserve', session, token, handler: flb.compatible };
    const faults = yield* this.#unpreserve(record, undefined, context);
    throw this.#faults.combine(
      new LiveUpdateError('EINVAL', 'flb.preserve() left data that is no u64', context),
      faults,
    );
  }

  /** The mirror of `count`: a file that depends on it was unpreserved, or could not be preserved. Cannot fail. */
  *uncount(record: FlbRecord, before: Faults, session: string, token: Token): Steps<Faults> {
    const { outgoing, flb } = record;
    const turn = outgoing.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      outgoing.count--;
      if (outgoing.count > 0 || outgoing.references > 0) return before;
      return yield* this.#unpreserve(record, before, {
        operation: 'unpreserve',
        session,
        token,
        handler: flb.compatible,
      });
    } finally {
      outgoing.lock.release();
    }
  }

  *#unpreserve({ flb, outgoing }: FlbRecord, before: Faults, context: ErrorContext): Steps<Faults> {
    let faults = before;
    try {
      const pending = flb.ops.unpreserve(outgoing.args);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      faults = this.#faults.report(faults, error, context);
    }
    outgoing.live = false;
    forget(outgoing.args);
    return faults;
  }

  /** Lends the live object. @throws ENOENT when there is none. */
  *getOutgoing(flb: Flb): Steps<unknown> {
    const { outgoing } = this.#record(flb);
    const turn = outgoing.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      if (!outgoing.live) throw refuse('ENOENT', 'getOutgoing', flb, 'no preserved file depends on it');
      outgoing.references++;
      return outgoing.args.obj;
    } finally {
      outgoing.lock.release();
    }
  }

  /** Takes a reference back. @throws EINVAL when none is out; EIO for a fault. */
  *putOutgoing(flb: Flb): Steps<void> {
    const record = this.#record(flb);
    const { outgoing } = record;
    const context: ErrorContext = { operation: 'putOutgoing', handler: flb.compatible };
    let faults: Faults;
    const turn = outgoing.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      if (outgoing.references === 0) throw refuse('EINVAL', 'putOutgoing', flb, 'no reference is out');
      outgoing.references--;
      if (outgoing.count === 0 && outgoing.references === 0) {
        faults = yield* this.#unpreserve(record, undefined, context);
      }
    } finally {
      outgoing.lock.release();
    }
    this.#faults.conclude(faults, context);
  }

  // ---- incoming -----------------------------------------------------------------------------------------------

  /** What the image brought. Checked by the caller. */
  restore(flbs: readonly SerializedFlb[]): void {
    this.#incoming = new Map();
    for (const { compatible, data, count } of flbs) {
      const lock = new Mutex(this.#runner);
      const state = { data, count, references: 0, args: undefined, error: undefined, finished: false, lock };
      this.#incoming.set(compatible, state);
    }
  }

  /** Lends the object, retrieving it first if nobody has. @throws ENODATA, ENOENT, what flb.retrieve() threw. */
  *getIncoming(flb: Flb): Steps<unknown> {
    if (this.#incoming === undefined) throw refuse('ENODATA', 'getIncoming', flb, 'nothing came in');
    const incoming = this.#incoming.get(flb.compatible);
    if (incoming === undefined) throw refuse('ENOENT', 'getIncoming', flb, 'the image did not bring it');
    const turn = incoming.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      if (incoming.finished) throw refuse('ENODATA', 'getIncoming', flb, 'it is finished');
      const args = yield* this.#retrieve(incoming, flb);
      incoming.references++;
      return args.obj;
    } finally {
      incoming.lock.release();
    }
  }

  *#retrieve(incoming: IncomingState, flb: Flb): Steps<FlbOpArgs> {
    if (incoming.error !== undefined) throw incoming.error;
    if (incoming.args !== undefined) return incoming.args;
    const args: FlbOpArgs = { flb, data: incoming.data, obj: undefined };
    try {
      const pending = flb.ops.retrieve(args);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      incoming.error = inContext(error, { operation: 'getIncoming', handler: flb.compatible });
      throw incoming.error;
    }
    incoming.args = args;
    return args;
  }

  /** Takes a reference back. @throws EINVAL when none is out; EIO for a fault. */
  *putIncoming(flb: Flb): Steps<void> {
    const incoming = this.#incoming?.get(flb.compatible);
    if (incoming === undefined) throw refuse('EINVAL', 'putIncoming', flb, 'no reference is out');
    const context: ErrorContext = { operation: 'putIncoming', handler: flb.compatible };
    let faults: Faults;
    const turn = incoming.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      if (incoming.references === 0) throw refuse('EINVAL', 'putIncoming', flb, 'no reference is out');
      incoming.references--;
      if (incoming.count === 0 && incoming.references === 0) {
        faults = yield* this.#finish(incoming, flb, undefined, context);
      }
    } finally {
      incoming.lock.release();
    }
    this.#faults.conclude(faults, context);
  }

  /** A file that depends on it was finished. Cannot fail. */
  *finishFile({ flb }: FlbRecord, before: Faults, session: string, token: Token): Steps<Faults> {
    const incoming = this.#incoming?.get(flb.compatible);
    if (incoming === undefined) return before;
    const turn = incoming.lock.acquire(this.#runner.current);
    if (turn !== undefined) yield turn;
    try {
      if (incoming.count === 0) return before;
      incoming.count--;
      if (incoming.count > 0 || incoming.references > 0) return before;
      const context: ErrorContext = { operation: 'finish', session, token, handler: flb.compatible };
      return yield* this.#finish(incoming, flb, before, context);
    } finally {
      incoming.lock.release();
    }
  }

  *#finish(incoming: IncomingState, flb: Flb, before: Faults, context: ErrorContext): Steps<Faults> {
    // Its retrieve failed and that was told to whoever asked: there is no object to finish.
    if (incoming.error !== undefined) return before;
    let args: FlbOpArgs;
    try {
      args = yield* this.#retrieve(incoming, flb);
    } catch (error) {
      return this.#faults.report(before, error, context);
    }
    let faults = before;
    try {
      const pending = args.flb.ops.finish(args);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      faults = this.#faults.report(faults, error, context);
    }
    incoming.finished = true;
    incoming.args = undefined;
    return faults;
  }

  // ---- what the next image gets, and listings -----------------------------------------------------------------

  /** The FLBs that files of this image depend on, in order of registration. */
  serialize(): SerializedFlb[] {
    const flbs: SerializedFlb[] = [];
    for (const [compatible, { outgoing }] of this.#registered) {
      if (outgoing.count > 0) flbs.push({ compatible, data: outgoing.args.data, count: outgoing.count });
    }
    return flbs;
  }

  list(): FlbInfo[] {
    const names = new Set([...this.#registered.keys(), ...(this.#incoming?.keys() ?? [])]);
    return Array.from(names, (compatible) => {
      const registered = this.#registered.get(compatible);
      const incoming = this.#incoming?.get(compatible);
      return {
        compatible,
        users: registered?.users ?? 0,
        outgoing: {
          count: registered?.outgoing.count ?? 0,
          references: registered?.outgoing.references ?? 0,
        },
        incoming: incoming && {
          count: incoming.count,
          references: incoming.references,
          finished: incoming.finished,
        },
      };
    });
  }
}

/** What a failed or undone preserve leaves in the arguments: nothing. */
function forget(args: FlbOpArgs): void {
  args.data = 0n;
  args.obj = undefined;
}

function refuse(code: ErrnoCode, operation: string, flb: Flb, text: string): LiveUpdateError {
  return new LiveUpdateError(code, text, { operation, handler: flb.compatible });
}
