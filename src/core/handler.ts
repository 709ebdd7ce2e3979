/**
 * File handlers: who takes which file, and which FLBs its files need.
 *
 * Registered handlers are kept in order; the first whose canPreserve() says yes gets a file. A handler cannot leave while
 * files in any session belong to it (their unpreserve or finish would have nobody to call), nor while FLBs are
 * registered with it. A file belongs to its handler from the moment it was picked, so an asynchronous preserve that
 * is still under way holds it too.
 *
 * The list of a handler's FLBs is never changed in place: a file keeps the list it was counted for, and gives back
 * exactly that, whatever is registered or unregistered meanwhile.
 */
import { LiveUpdateError } from './errors.js';
import type { FlbRecord, FlbRegistry } from './flb.js';
import { checkFlb, checkHandler } from './names.js';
import type { FileHandler, Flb } from './types.js';

/** One registered handler. */
export interface HandlerRecord {
  readonly handler: FileHandler;
  /** Its FLBs in order of registration. Replaced, never changed. */
  flbs: readonly FlbRecord[];
  /** How many files, in any session, belong to it. */
  files: number;
}

const NONE: readonly FlbRecord[] = [];

/** The handlers of one orchestrator. Whether it is enabled and not rebooting is checked by the caller, first. */
export class HandlerRegistry {
  readonly #flbs: FlbRegistry;
  readonly #byName = new Map<string, HandlerRecord>();
  #inOrder: readonly HandlerRecord[] = [];

  constructor(flbs: FlbRegistry) {
    this.#flbs = flbs;
  }

  /** @throws EEXIST */
  register(handler: FileHandler): void {
    if (this.#byName.has(handler.compatible)) {
      throw refuse('EEXIST', 'registerFileHandler', handler, 'another handler has this compatible');
    }
    const record = { handler, flbs: NONE, files: 0 };
    this.#byName.set(handler.compatible, record);
    this.#inOrder = [...this.#inOrder, record];
  }

  /** @throws ENOENT, EBUSY */
  unregister(handler: FileHandler): void {
    const operation = 'unregisterFileHandler';
    const record = this.#find(handler);
    if (record === undefined) throw refuse('ENOENT', operation, handler, 'the handler is not registered');
    if (record.flbs.length > 0) throw refuse('EBUSY', operation, handler, 'FLBs are registered with it');
    if (record.files > 0) throw refuse('EBUSY', operation, handler, `${record.files} file(s) belong to it`);
    this.#byName.delete(handler.compatible);
    this.#inOrder = this.#inOrder.filter((other) => other !== record);
  }

  /** @throws EINVAL, for the door of registerFileHandler. */
  check(handler: FileHandler): void {
    checkHandler('registerFileHandler', handler);
  }

  /** @throws EINVAL, for the door of registerFlb. */
  checkFlb(handler: FileHandler, flb: Flb): void {
    checkFlb('registerFlb', flb);
    if (this.#find(handler) === undefined) {
      throw refuse('EINVAL', 'registerFlb', handler, 'the handler is not registered');
    }
  }

  /** @throws EEXIST, ENOSPC, EEXIST. After `checkFlb`. */
  registerFlb(handler: FileHandler, flb: Flb): void {
    const record = this.#find(handler)!;
    if (record.flbs.some((other) => other.flb === flb)) {
      throw refuse('EEXIST', 'registerFlb', handler, `FLB '${flb.compatible}' is registered with it already`);
    }
    record.flbs = [...record.flbs, this.#flbs.use(flb)];
  }

  /** @throws ENOENT */
  unregisterFlb(handler: FileHandler, flb: Flb): void {
    const record = this.#find(handler);
    const found = record?.flbs.find((other) => other.flb === flb);
    if (record === undefined || found === undefined) {
      throw refuse('ENOENT', 'unregisterFlb', handler, `FLB '${flb.compatible}' is not registered with it`);
    }
    record.flbs = record.flbs.filter((other) => other !== found);
    this.#flbs.disuse(found);
  }

  /** The first handler that takes `file`. */
  pick(file: unknown): HandlerRecord | undefined {
    const handlers = this.#inOrder;
    for (let i = 0; i < handlers.length; i++) {
      const { handler } = handlers[i]!;
      if (handler.ops.canPreserve(handler, file)) return handlers[i];
    }
    return undefined;
  }

  get(compatible: string): HandlerRecord | undefined {
    return this.#byName.get(compatible);
  }

  /** Its record, if it is this very object that is registered, and not another of the same compatible. */
  #find(handler: FileHandler): HandlerRecord | undefined {
    const record = this.#byName.get(handler.compatible);
    return record?.handler === handler ? record : undefined;
  }
}

function refuse(
  code: 'EEXIST' | 'ENOENT' | 'EBUSY' | 'EINVAL',
  operation: string,
  handler: FileHandler,
  text: string,
) {
  return new LiveUpdateError(code, text, { operation, handler: handler.compatible });
}
