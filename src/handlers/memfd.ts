/**
 * Any memfd, by its descriptor: what the kernel's own memfd handler ("memfd-v2") does across a kexec, between processes.
 *
 * Contents, size and seals are the file's and cross with it. The position belongs to one open file, and so does the
 * access mode: the next image gets an open file of its own, O_RDWR, with the position of the freeze.
 *
 * The kernel keeps a preserved memfd from growing or shrinking. In user space only a seal could, and a seal is for ever, so
 * that here a file that changed its size while it was preserved makes the freeze fail.
 */
import { openSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd, dupFd, seek, tell } from '../linux/fd.js';
import { isMemfd, memfdSize } from '../linux/memfd.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { FdFile } from './fd-file.js';

const COMPATIBLE = 'liveupdate-memfd-v1';

interface Preserved {
  /** Our own descriptor of the owner's open file. */
  readonly fd: number;
  readonly size: number;
}

/**
 * @param options.sizeMayChange For a carrier that hands on the very file, whatever its size is by then: the freeze does not fail.
 */
export function memfdHandler(
  handover: Handover,
  options: { sizeMayChange?: boolean } = {},
): CarriedFileHandler<FdFile, Preserved> {
  const adopt = (handle: number): FdFile =>
    handover.incoming.adopt(handle, () => {
      const fd = handover.incoming.takeFd(handle);
      try {
        if (!isMemfd(fd)) {
          throw new LiveUpdateError('EINVAL', 'the descriptor is no memfd', { handler: COMPATIBLE });
        }
        return new FdFile(openSync(`/proc/self/fd/${fd}`, 'r+'));
      } finally {
        closeFd(fd);
      }
    });
  return {
    compatible: COMPATIBLE,
    adopt,
    custody: (file) => ({ bytes: toRecord(tell(file.fd)), fds: [file.fd] }),
    ops: {
      canPreserve: (_handler, file) => file instanceof FdFile && isMemfd(file.fd),
      getId: (file) => file.identity,
      preserve(args) {
        const fd = dupFd(args.file!.fd);
        args.privateData = { fd, size: memfdSize(fd) };
        args.serializedData = toSerializedData(handover.outgoing.put(toRecord(tell(fd)), [fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
        closeFd(args.privateData!.fd);
        args.privateData = undefined;
      },
      freeze(args) {
        const { fd, size } = args.privateData!;
        const now = memfdSize(fd);
        if (now !== size && options.sizeMayChange !== true) {
          throw new LiveUpdateError('EPERM', `it had ${size} bytes when it was preserved and has ${now}`, {
            handler: COMPATIBLE,
          });
        }
        handover.outgoing.update(handleOf(args.serializedData), toRecord(tell(fd)));
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const file = adopt(handle);
        seek(file.fd, fromRecord(handover.incoming.bytes(handle)));
        args.file = file;
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined) {
          const adopted = handover.incoming.adopted<FdFile>(handle);
          if (adopted !== undefined) closeFd(adopted.fd);
        }
        handover.incoming.drop(handle);
      },
    },
  };
}

/** A record is the position. */
function toRecord(position: number): Buffer {
  const record = Buffer.alloc(8);
  record.writeBigUInt64LE(BigInt(position));
  return record;
}

function fromRecord(record: Uint8Array): number {
  if (record.length !== 8) {
    throw new LiveUpdateError('EINVAL', 'a damaged record', { handler: COMPATIBLE });
  }
  return Number(Buffer.from(record).readBigUInt64LE());
}
