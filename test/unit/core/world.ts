/** Handlers and FLBs that write down every call, and fail or take their time where a test says so. */
import { expect } from 'vitest';
import {
  type FileHandler,
  type FileOpArgs,
  type FileOps,
  type Flb,
  type FlbOps,
  type Image,
  LiveUpdate,
  LiveUpdateError,
  type LiveUpdateOptions,
  type MaybePromise,
  type Session,
} from '../../../src/core/index.js';

export class Thing {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/** What a callback does besides being written down. */
export type Behaviour = Partial<Record<string, () => unknown>>;

export class World {
  readonly trace: string[] = [];

  /** What was called since the last time this was asked. */
  calls(): string[] {
    return this.trace.splice(0);
  }

  handler(
    compatible: string,
    behaviour: Behaviour = {},
    more: Partial<FileOps<Thing>> = {},
  ): FileHandler<Thing> & { ops: FileOps<Thing> } {
    const { trace } = this;
    const note = (operation: string, args: FileOpArgs<Thing>): MaybePromise<void> => {
      const what = args.file?.name ?? `#${args.serializedData}`;
      this.trace.push(`${compatible}.${operation}(${what})`);
      return behaviour[operation]?.() as MaybePromise<void>;
    };
    const ops: FileOps<Thing> = {
      canPreserve: (_handler, file) => file instanceof Thing && file.name.startsWith(compatible[0]!),
      preserve(args) {
        args.serializedData = BigInt(args.file!.name.slice(1));
        return note('preserve', args);
      },
      unpreserve: (args) => note('unpreserve', args),
      freeze: (args) => note('freeze', args),
      unfreeze: (args) => note('unfreeze', args),
      retrieve(args) {
        const pending = note('retrieve', args);
        args.file = new Thing(`${compatible[0]}${args.serializedData}`);
        return pending;
      },
      canFinish(args): MaybePromise<boolean> {
        const what = args.file?.name ?? `#${args.serializedData}`;
        trace.push(`${compatible}.canFinish(${what},${args.retrieveStatus})`);
        return (behaviour.canFinish?.() ?? true) as MaybePromise<boolean>;
      },
      finish: (args) => note('finish', args),
      ...more,
    };
    return { compatible, ops };
  }

  flb(compatible: string, behaviour: Behaviour = {}, more: Partial<FlbOps<string>> = {}): Flb<string> {
    const note = (operation: string): MaybePromise<void> => {
      this.trace.push(`${compatible}.${operation}`);
      return behaviour[operation]?.() as MaybePromise<void>;
    };
    const ops: FlbOps<string> = {
      preserve(args) {
        args.data = 7n;
        args.obj = `${compatible}:out`;
        return note('preserve');
      },
      unpreserve: () => note('unpreserve'),
      retrieve(args) {
        args.obj = `${compatible}:in:${args.data}`;
        return note('retrieve');
      },
      finish: () => note('finish'),
      ...more,
    };
    return { compatible, ops };
  }
}

/** The value of something that must not have become a promise. */
export function now<T>(value: MaybePromise<T>): T {
  expect(value).not.toBeInstanceOf(Promise);
  return value as T;
}

/** The errno that `call` throws, synchronously. */
export function errnoOf(call: () => unknown): string {
  return errorOf(call).code;
}

export function errorOf(call: () => unknown): LiveUpdateError {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(LiveUpdateError);
    return error as LiveUpdateError;
  }
  throw new Error('nothing was thrown');
}

/** The errno that a promise rejects with. */
export async function errnoLater(value: unknown): Promise<string> {
  expect(value).toBeInstanceOf(Promise);
  try {
    await value;
  } catch (error) {
    expect(error).toBeInstanceOf(LiveUpdateError);
    return (error as LiveUpdateError).code;
  }
  throw new Error('nothing was thrown');
}

export function fail(message = 'on purpose'): () => never {
  return () => {
    throw new Error(message);
  };
}

/** A behaviour that waits until it is let go. */
export function gate(): { wait: () => Promise<void>; go: () => void; fail: (error: Error) => void } {
  let go!: () => void;
  let fail!: (error: Error) => void;
  const promise = new Promise<void>((yes, no) => {
    go = yes;
    fail = no;
  });
  return { wait: () => promise, go, fail };
}

export async function turns(count = 20): Promise<void> {
  for (let i = 0; i < count; i++) await undefined;
}

/** An orchestrator with these handlers. */
export function started(
  handlers: readonly FileHandler<Thing>[],
  options: LiveUpdateOptions = {},
): LiveUpdate {
  const liveupdate = new LiveUpdate(options);
  for (const handler of handlers) liveupdate.registerFileHandler(handler);
  return liveupdate;
}

/** The next image: a new orchestrator with these handlers that took in what `from` leaves. */
export function next(
  from: LiveUpdate,
  handlers: readonly FileHandler<Thing>[],
  options?: LiveUpdateOptions,
): LiveUpdate {
  const liveupdate = started(handlers, options);
  liveupdate.deserialize(now(from.reboot()) as Image);
  return liveupdate;
}

export function create(liveupdate: LiveUpdate, name: string, ...files: [string, bigint][]): Session {
  const session = now(liveupdate.createSession(name));
  for (const [file, token] of files) now(session.preserve(new Thing(file), token));
  return session;
}
