/**
 * The orchestrator's contract in types: what a file handler, a File-Lifecycle-Bound object and an image are.
 *
 * The names and meanings are those of `include/linux/liveupdate.h`; each declaration names its symbol there. Two
 * things differ because the language does: a callback fails by throwing (or rejecting) instead of returning a
 * negative number, and a callback may be asynchronous. A callback that returns a plain value costs no microtask.
 */

/** A value now, or a promise of it. `await` takes both; only asynchronous callbacks make the second. */
export type MaybePromise<T> = T | PromiseLike<T>;

/** The owner's own u64 that names a file inside its session. */
export type Token = bigint;

/**
 * What a file callback receives: `struct liveupdate_file_op_args`. The orchestrator keeps one per preserved file and
 * hands the same object to every callback of that file.
 */
export interface FileOpArgs<File = unknown, Private = unknown> {
  /** The file handler being called. */
  readonly handler: FileHandler<File, Private>;
  /** 0: retrieve was not attempted; 1: it succeeded; negative: it failed, and this is the errno. */
  retrieveStatus: number;
  /** The live file. `retrieve` sets it; every other callback reads it. Undefined in `finish` of a file never retrieved. */
  file: File | undefined;
  /** The opaque u64 by which the handler finds its saved state again. `preserve` and `freeze` may set it. */
  serializedData: bigint;
  /** Runtime state that is not handed over. Set in `preserve`, given up in `unpreserve`. */
  privateData: Private | undefined;
}

/** Callbacks for one kind of live file: `struct liveupdate_file_ops`. */
export interface FileOps<File = unknown, Private = unknown> {
  /** Required. A light check whether this handler takes `file`. The first registered handler that says yes gets it. */
  canPreserve(handler: FileHandler<File, Private>, file: unknown): boolean;
  /** Required. Saves what the file needs; heavy work belongs here, while the old image still serves. */
  preserve(args: FileOpArgs<File, Private>): MaybePromise<void>;
  /** Required. Gives back what `preserve` took. Cannot fail. */
  unpreserve(args: FileOpArgs<File, Private>): MaybePromise<void>;
  /** Optional. The last word of the old image: stop the file and save what changed since `preserve`. */
  freeze?(args: FileOpArgs<File, Private>): MaybePromise<void>;
  /** Optional. Undoes `freeze` when the update is called off. Cannot fail. */
  unfreeze?(args: FileOpArgs<File, Private>): MaybePromise<void>;
  /** Required. Rebuilds the file in the new image and sets `args.file`. */
  retrieve(args: FileOpArgs<File, Private>): MaybePromise<void>;
  /** Optional. Whether everything that `finish` needs is in place. `false` keeps the whole session unfinished. */
  canFinish?(args: FileOpArgs<File, Private>): MaybePromise<boolean>;
  /** Required. Final clean-up in the new image, also of a file that was never retrieved. Cannot fail. */
  finish(args: FileOpArgs<File, Private>): MaybePromise<void>;
  /**
   * Optional. The identity by which one file is preserved once in the whole system (Linux 7.2's `get_id`). Two
   * files with the same identity (by `SameValueZero`) are one file. Default: the file object itself.
   */
  getId?(file: File): unknown;
}

/** One `compatible` string and the callbacks for it: `struct liveupdate_file_handler`. */
export interface FileHandler<File = unknown, Private = unknown> {
  readonly ops: FileOps<File, Private>;
  /** At most 47 bytes of UTF-8, unique among handlers. It changes whenever the serialized form does. */
  readonly compatible: string;
}

/** What an FLB callback receives: `struct liveupdate_flb_op_args`. */
export interface FlbOpArgs<Obj = unknown> {
  readonly flb: Flb<Obj>;
  /** `preserve` sets it; `unpreserve` and `retrieve` read it. */
  data: bigint;
  /** `preserve` and `retrieve` set it; `unpreserve` and `finish` read it. */
  obj: Obj | undefined;
}

/** Callbacks for shared state whose life is bound to files: `struct liveupdate_flb_ops`. */
export interface FlbOps<Obj = unknown> {
  /** Required. The first file that depends on this FLB is being preserved. */
  preserve(args: FlbOpArgs<Obj>): MaybePromise<void>;
  /** Required. The last such file was unpreserved. Cannot fail. */
  unpreserve(args: FlbOpArgs<Obj>): MaybePromise<void>;
  /** Required. Someone asks for the object in the new image for the first time (or the last file finishes). */
  retrieve(args: FlbOpArgs<Obj>): MaybePromise<void>;
  /** Required. The last dependent file was finished. Cannot fail. */
  finish(args: FlbOpArgs<Obj>): MaybePromise<void>;
}

/** A File-Lifecycle-Bound object: `struct liveupdate_flb`. */
export interface Flb<Obj = unknown> {
  readonly ops: FlbOps<Obj>;
  /** At most 47 bytes of UTF-8, unique among registered FLBs. */
  readonly compatible: string;
}

/** One preserved file in an image (Linux: `struct luo_file_ser`). */
export interface SerializedFile {
  readonly compatible: string;
  readonly data: bigint;
  readonly token: Token;
}

/** One session in an image (Linux: `struct luo_session_ser`). */
export interface SerializedSession {
  readonly name: string;
  readonly files: readonly SerializedFile[];
}

/** One FLB in an image (Linux: `struct luo_flb_ser`). */
export interface SerializedFlb {
  readonly compatible: string;
  readonly data: bigint;
  /** How many files of the image depend on it. */
  readonly count: number;
}

/** Everything that the old image leaves to the new one. Who carries it is no concern of the orchestrator. */
export interface Image {
  /** `IMAGE_COMPATIBLE` of the orchestrator that wrote it. */
  readonly compatible: string;
  /** How many live updates there have been, this one included. */
  readonly liveupdateNumber: bigint;
  readonly sessions: readonly SerializedSession[];
  readonly flbs: readonly SerializedFlb[];
}
