/**
 * Files: what happens to one preserved file, from preserve to finish.
 *
 * A session holds a set of files, in order of preservation, each under its owner's token. This module does the work on
 * the set; session.ts says when it is allowed and holds the locks.
 *
 * Life of a file:
 *   1. preserve   a handler takes it; its FLBs are counted; handler.preserve() saves it. Heavy, while all goes on.
 *   2. freeze     the last word before the reboot: what changed since.
 *   3. (reboot)   {compatible, data, token} crosses. Nothing else does.
 *   4. retrieve   handler.retrieve() makes the live file again. In any order, or never.
 *   5. finish     handler.finish(): the commit. The orchestrator lets go; the owner keeps the file.
 *
 * And back: unpreserve undoes 1, unfreeze undoes 2. Each way back is the mirror of its way in:
 *
 *     preserve:    claim identity → FLBs in order, count → handler.preserve
 *     unpreserve:  handler.unpreserve → FLBs in reverse, uncount → release identity
 *
 * One file is preserved once in the whole system. Its identity is what its handler's getId() says, else the file
 * object itself; it is claimed by preserve (before any callback, so two sessions cannot race) and by retrieve, and
 * released by unpreserve and finish.
 *
 * Unhappy paths:
 * - preserve fails anywhere: what was done so far is undone backwards; nothing remains.
 * - preserve or freeze leave a serializedData that is no u64: the callback is taken back (unpreserve, unfreeze), EINVAL.
 * - freeze fails: this file is not unfrozen, it never froze; those before it are, in order of preservation.
 * - retrieve fails: the error is kept, and repeated without a second call; finish() is told by retrieveStatus.
 * - getId fails after a successful retrieve: so does the retrieve, but args.file stays, for finish() to clean up.
 * - unpreserve, unfreeze and finish throw: see faults.ts. Every other file is done first.
 *
 * Speed: a hundred thousand files pass here while the world stands still. The loops make no closures, arrays or error
 * contexts for a file that behaves, one args object serves all its callbacks, and only a real promise is waited for.
 */
import { LiveUpdateError } from './errors.js';
import { type FaultReporter, type Faults, inContext } from './faults.js';
import { FileTable } from './file-table.js';
import type { FlbRecord, FlbRegistry } from './flb.js';
import type { HandlerRecord, HandlerRegistry } from './handler.js';
import type { Holder, Identities } from './identities.js';
import { isCompatible, isU64 } from './names.js';
import { isThenable, type Steps } from './sequence.js';
import { type FileInfo, type FileState, nextState } from './states.js';
import type { FileHandler, FileOpArgs, SerializedFile, Token } from './types.js';

/**
 * `struct luo_file`, and the `struct liveupdate_file_op_args` that its callbacks receive: one object for both, since
 * a hundred thousand of anything is felt. Callbacks know it by the args' interface.
 */
class PreservedFile implements FileOpArgs, Holder {
  readonly handler: FileHandler;
  retrieveStatus = 0;
  file: unknown;
  serializedData: bigint;
  privateData: unknown = undefined;

  readonly token: Token;
  readonly owner: HandlerRecord;
  /** The FLBs that were counted for it. An incoming file has none: the image only says how many files there are. */
  readonly flbs: readonly FlbRecord[];
  state: FileState;
  identity: unknown = undefined;
  hold: Holder['hold'] = 'none';

  private constructor(
    token: Token,
    owner: HandlerRecord,
    flbs: readonly FlbRecord[],
    file: unknown,
    data: bigint,
    state: FileState,
  ) {
    this.handler = owner.handler;
    this.file = file;
    this.serializedData = data;
    this.token = token;
    this.owner = owner;
    this.flbs = flbs;
    this.state = state;
  }

  static outgoing(token: Token, owner: HandlerRecord, file: unknown): PreservedFile {
    return new PreservedFile(token, owner, owner.flbs, file, 0n, 'preserved');
  }

  static incoming(token: Token, owner: HandlerRecord, data: bigint): PreservedFile {
    return new PreservedFile(token, owner, NO_FLBS, undefined, data, 'incoming');
  }
}

/** What all sessions of one orchestrator share. */
export interface Shared {
  readonly handlers: HandlerRegistry;
  readonly flbs: FlbRegistry;
  readonly faults: FaultReporter;
  readonly identities: Identities;
}

const NO_TOKEN = 'a token is a bigint from 0 to 2^64-1';
const NO_FLBS: readonly FlbRecord[] = [];

/** The files of one session: `struct luo_file_set`. */
export class FileSet {
  readonly #session: string;
  readonly #shared: Shared;
  readonly #files = new FileTable<PreservedFile>();
  /** Those whose identity was noted, for Identities. A hundred thousand sessions have none of either. */
  #retrieved: Holder[] | undefined;
  /** What retrieve() failed with. */
  #failures: Map<PreservedFile, LiveUpdateError> | undefined;

  constructor(session: string, shared: Shared) {
    this.#session = session;
    this.#shared = shared;
  }

  get size(): number {
    return this.#files.size;
  }

  list(): FileInfo[] {
    return this.#files.toArray().map(({ token, handler, state }) => {
      return { token, handler: handler.compatible, state };
    });
  }

  serializedFile(token: Token): SerializedFile | undefined {
    const record = isU64(token) ? this.#files.get(token) : undefined;
    return record && serializedOf(record);
  }

  // ---- the old image: preserve, and back ----------------------------------------------------------------------

  /** @throws EINVAL, EEXIST, EBADF, ENOENT, EBUSY, what flb.preserve() or handler.preserve() throw. */
  *preserve(file: unknown, token: Token): Steps<void> {
    const record = this.#admit(file, token);
    const { flbs } = record;
    let counted = 0;
    try {
      for (; counted < flbs.length; counted++) {
        yield* this.#shared.flbs.count(flbs[counted]!, this.#session, token);
      }
      const pending = record.handler.ops.preserve(record);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      const faults = yield* this.#giveBack(record, counted, undefined);
      throw this.#shared.faults.combine(this.#context(error, 'preserve', token, record.owner), faults);
    }
    if (!isU64(record.serializedData)) yield* this.#refuseData(record);
    this.#files.add(record);
  }

  /** The checks of preserve, in the contract's order. The file's identity and its handler are held when it returns. */
  #admit(file: unknown, token: Token): PreservedFile {
    const { handlers, identities } = this.#shared;
    if (!isU64(token)) throw this.#refuse('EINVAL', 'preserve', NO_TOKEN);
    if (this.#files.has(token)) throw this.#refuse('EEXIST', 'preserve', 'the token is in use', token);
    if (file === undefined || file === null)
      throw this.#refuse('EBADF', 'preserve', 'there is no file', token);
    let identity: unknown;
    let owner: HandlerRecord | undefined;
    try {
      owner = handlers.pick(file);
      identity = owner === undefined ? undefined : identify(owner.handler, file);
    } catch (error) {
      throw this.#context(error, 'preserve', token, owner);
    }
    if (owner === undefined) throw this.#refuse('ENOENT', 'preserve', 'no handler takes this file', token);
    const record = PreservedFile.outgoing(token, owner, file);
    if (!identities.claim(record, identity)) {
      const text = 'the file is preserved already, or retrieved and not finished';
      throw this.#refuse('EBUSY', 'preserve', text, token, owner);
    }
    owner.files++;
    return record;
  }

  /** The handler preserved the file and left data that no image can hold: taken back. */
  *#refuseData(record: PreservedFile): Steps<never> {
    const faults = yield* this.#unpreserve(record, undefined);
    const text = 'preserve() left a serializedData that is no u64';
    const error = this.#refuse('EINVAL', 'preserve', text, record.token, record.owner);
    throw this.#shared.faults.combine(error, faults);
  }

  /** @throws EINVAL, ENOENT; EIO for faults. */
  *unpreserve(token: Token): Steps<void> {
    if (!isU64(token)) throw this.#refuse('EINVAL', 'unpreserve', NO_TOKEN);
    const record = this.#files.get(token);
    if (record === undefined) throw this.#refuse('ENOENT', 'unpreserve', 'no file has this token', token);
    this.#files.delete(token);
    const faults = yield* this.#unpreserve(record, undefined);
    if (faults !== undefined) {
      this.#shared.faults.conclude(faults, { operation: 'unpreserve', session: this.#session, token });
    }
  }

  /** All files, in reverse order of preservation. */
  *unpreserveAll(): Steps<Faults> {
    const records = this.#files.toArray();
    let faults: Faults;
    for (let i = records.length - 1; i >= 0; i--) {
      faults = yield* this.#unpreserve(records[i]!, faults);
      this.#files.delete(records[i]!.token);
    }
    return faults;
  }

  *#unpreserve(record: PreservedFile, before: Faults): Steps<Faults> {
    let faults = before;
    try {
      const pending = record.handler.ops.unpreserve(record);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      faults = this.#fault(faults, error, 'unpreserve', record);
    }
    record.state = nextState(record.state, 'unpreserve');
    return yield* this.#giveBack(record, record.flbs.length, faults);
  }

  /** The last part of unpreserve, and all of it for a preserve that failed: FLBs in reverse, then the identity. */
  *#giveBack(record: PreservedFile, counted: number, before: Faults): Steps<Faults> {
    let faults = before;
    for (let i = counted - 1; i >= 0; i--) {
      faults = yield* this.#shared.flbs.uncount(record.flbs[i]!, faults, this.#session, record.token);
    }
    this.#shared.identities.release(record);
    record.owner.files--;
    return faults;
  }

  // ---- the reboot: freeze, and back ---------------------------------------------------------------------------

  /**
   * In order of preservation; each is written down as it is then, since whatever comes later finds it out of the caches.
   * @throws what freeze() throws, after unfreezing those before it; EINVAL for bad data.
   */
  *freeze(): Steps<SerializedFile[]> {
    const records = this.#files.toArray();
    const written: SerializedFile[] = [];
    let frozen = 0;
    try {
      while (frozen < records.length) {
        const record = records[frozen]!;
        const { ops } = record.handler;
        if (ops.freeze !== undefined) {
          const pending = ops.freeze(record);
          if (isThenable(pending)) yield pending;
        }
        record.state = nextState(record.state, 'freeze');
        frozen++;
        if (!isU64(record.serializedData)) {
          const text = 'freeze() left a serializedData that is no u64';
          throw this.#refuse('EINVAL', 'freeze', text, record.token, record.owner);
        }
        written.push(serializedOf(record));
      }
      return written;
    } catch (error) {
      const failed = records[Math.min(frozen, records.length - 1)]!;
      const cause = this.#context(error, 'freeze', failed.token, failed.owner);
      const faults = yield* this.#unfreeze(records, frozen, undefined);
      throw this.#shared.faults.combine(cause, faults);
    }
  }

  /** All files, in order of preservation. */
  *unfreeze(before: Faults): Steps<Faults> {
    return yield* this.#unfreeze(this.#files.toArray(), this.#files.size, before);
  }

  *#unfreeze(records: readonly PreservedFile[], count: number, before: Faults): Steps<Faults> {
    let faults = before;
    for (let i = 0; i < count; i++) {
      const record = records[i]!;
      const { ops } = record.handler;
      try {
        if (ops.unfreeze !== undefined) {
          const pending = ops.unfreeze(record);
          if (isThenable(pending)) yield pending;
        }
      } catch (error) {
        faults = this.#fault(faults, error, 'unfreeze', record);
      }
      record.state = nextState(record.state, 'unfreeze');
    }
    return faults;
  }

  // ---- the new image: restore, retrieve, finish ---------------------------------------------------------------

  /** A file that came with the image. @throws EINVAL, ENOENT. */
  restore({ compatible, data, token }: SerializedFile): void {
    const operation = 'deserialize';
    if (!isU64(token) || !isU64(data)) throw this.#refuse('EINVAL', operation, 'token and data are u64');
    const owner = this.#shared.handlers.get(compatible);
    if (owner === undefined) {
      if (!isCompatible(compatible)) throw this.#refuse('EINVAL', operation, 'bad compatible', token);
      const context = { operation, session: this.#session, token, handler: compatible };
      throw new LiveUpdateError('ENOENT', 'no handler of this compatible is registered', context);
    }
    if (this.#files.has(token)) throw this.#refuse('EINVAL', operation, 'the token came twice', token, owner);
    this.#files.add(PreservedFile.incoming(token, owner, data));
    owner.files++;
  }

  /** @throws EINVAL, ENOENT, what retrieve() throws or threw, EIO when it made no file. */
  *retrieve(token: Token): Steps<unknown> {
    if (!isU64(token)) throw this.#refuse('EINVAL', 'retrieve', NO_TOKEN);
    const record = this.#files.get(token);
    if (record === undefined) throw this.#refuse('ENOENT', 'retrieve', 'no file has this token', token);
    if (record.state === 'failed') throw this.#failures?.get(record);
    if (record.state === 'retrieved') return record.file;
    try {
      const pending = record.handler.ops.retrieve(record);
      if (isThenable(pending)) yield pending;
    } catch (error) {
      record.file = undefined;
      throw this.#failRetrieve(record, error);
    }
    this.#admitRetrieved(record);
    return record.file;
  }

  #admitRetrieved(record: PreservedFile): void {
    const { file, handler, owner, token } = record;
    try {
      if (file === undefined || file === null) {
        record.file = undefined;
        throw this.#refuse('EIO', 'retrieve', 'retrieve() made no file', token, owner);
      }
      this.#retrieved = this.#shared.identities.note(record, identify(handler, file), this.#retrieved);
    } catch (error) {
      throw this.#failRetrieve(record, error);
    }
    record.retrieveStatus = 1;
    record.state = nextState(record.state, 'retrieve');
  }

  #failRetrieve(record: PreservedFile, error: unknown): LiveUpdateError {
    const failure = this.#context(error, 'retrieve', record.token, record.owner);
    this.#failures ??= new Map();
    this.#failures.set(record, failure);
    record.retrieveStatus = failure.errno;
    record.state = nextState(record.state, 'retrieveFailed');
    return failure;
  }

  /** Asks every canFinish(), in order, until one says no. Returns that file's token. @throws what canFinish() throws. */
  *findUnfinishable(): Steps<Token | undefined> {
    const records = this.#files.toArray();
    for (let i = 0; i < records.length; i++) {
      const record = records[i]!;
      const { ops } = record.handler;
      if (ops.canFinish === undefined) continue;
      try {
        const answer = ops.canFinish(record);
        if (!(isThenable(answer) ? yield answer : answer)) return record.token;
      } catch (error) {
        throw this.#context(error, 'finish', record.token, record.owner);
      }
    }
    return undefined;
  }

  /** All files, in reverse order of preservation: handler, FLBs in reverse, identity. */
  *finishAll(): Steps<Faults> {
    const records = this.#files.toArray();
    let faults: Faults;
    for (let i = records.length - 1; i >= 0; i--) {
      const record = records[i]!;
      const { owner } = record;
      try {
        const pending = record.handler.ops.finish(record);
        if (isThenable(pending)) yield pending;
      } catch (error) {
        faults = this.#fault(faults, error, 'finish', record);
      }
      record.state = nextState(record.state, 'finish');
      const { flbs } = owner;
      for (let f = flbs.length - 1; f >= 0; f--) {
        faults = yield* this.#shared.flbs.finishFile(flbs[f]!, faults, this.#session, record.token);
      }
      this.#shared.identities.release(record);
      owner.files--;
    }
    this.#files.clear();
    this.#failures = undefined;
    if (this.#retrieved !== undefined) this.#shared.identities.forget(this.#retrieved);
    return faults;
  }

  // ---- small things -------------------------------------------------------------------------------------------

  #refuse(
    code: 'EINVAL' | 'EEXIST' | 'EBADF' | 'ENOENT' | 'EBUSY' | 'EIO',
    operation: string,
    text: string,
    token?: Token,
    owner?: HandlerRecord,
  ): LiveUpdateError {
    const context = { operation, session: this.#session };
    return new LiveUpdateError(code, text, {
      ...context,
      ...(token === undefined ? {} : { token }),
      ...(owner === undefined ? {} : { handler: owner.handler.compatible }),
    });
  }

  #context(
    error: unknown,
    operation: string,
    token: Token,
    owner: HandlerRecord | undefined,
  ): LiveUpdateError {
    const context = { operation, session: this.#session, token };
    return inContext(
      error,
      owner === undefined ? context : { ...context, handler: owner.handler.compatible },
    );
  }

  #fault(faults: Faults, error: unknown, operation: string, record: PreservedFile): Faults {
    const handler = record.handler.compatible;
    return this.#shared.faults.report(faults, error, {
      operation,
      session: this.#session,
      token: record.token,
      handler,
    });
  }
}

function serializedOf({ handler, serializedData, token }: PreservedFile): SerializedFile {
  return { compatible: handler.compatible, data: serializedData, token };
}

function identify(handler: FileHandler, file: unknown): unknown {
  const { ops } = handler;
  return ops.getId === undefined ? file : ops.getId(file);
}
