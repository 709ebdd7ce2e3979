/** The handler of a file that is one record and some descriptors, written at preserve and again at the freeze. */
import type { FileOpArgs } from '../core/types.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';

/** How one kind of file is written down and built again. */
export interface RecordedFile<File> {
  readonly compatible: string;
  readonly isOurs: (file: unknown) => file is File;
  /** The descriptors that cross, borrowed; default: none. @throws {LiveUpdateError} when the file was closed. */
  fds?(file: File): readonly number[];
  /** @param atFreeze Whether the image stands still: what only its user space knows belongs into the record then, and not before. */
  toRecord(file: File, atFreeze: boolean): Uint8Array;
  /** Builds the file, silent until the commit, from the record of a pass. @throws {LiveUpdateError} EINVAL for a damaged one. */
  adopt(record: Uint8Array, takeFd: () => number): File;
  /** Brings it to what the freeze recorded. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore(file: File, record: Uint8Array): void;
  /** It came, and the program did not want it. */
  abandon?(file: File): void;
}

/** @param rest The handler's optional parts. */
export function recordedFileHandler<File>(
  handover: Handover,
  kind: RecordedFile<File>,
  rest: Omit<CarriedFileHandler<File>, 'compatible' | 'adopt' | 'ops'>,
): CarriedFileHandler<File> {
  const adopt = (handle: number): File => {
    const { incoming } = handover;
    return incoming.adopt(handle, () => kind.adopt(incoming.bytes(handle), () => incoming.takeFd(handle)));
  };
  return {
    ...rest,
    compatible: kind.compatible,
    adopt,
    ops: {
      canPreserve: (_handler, file) => kind.isOurs(file),
      preserve(args: FileOpArgs<File>) {
        const fds = kind.fds?.(args.file!) ?? [];
        args.serializedData = toSerializedData(handover.outgoing.put(kind.toRecord(args.file!, false), fds));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      freeze(args) {
        handover.outgoing.update(handleOf(args.serializedData), kind.toRecord(args.file!, true));
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const file = adopt(handle);
        kind.restore(file, handover.incoming.bytes(handle));
        args.file = file;
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        const unwanted = args.file === undefined ? handover.incoming.adopted<File>(handle) : undefined;
        if (unwanted !== undefined) kind.abandon?.(unwanted);
        handover.incoming.drop(handle);
      },
    },
  };
}
