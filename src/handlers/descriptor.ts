/**
 * Live files that their owner knows by a descriptor alone: sockets, pipes, eventfds, timerfds, files, directories. One handler for
 * each kind, so that each can be named, and one more (memfd.ts) for memfds.
 *
 * Between processes of one kernel a descriptor is all there is to carry: bytes that wait in a socket or pipe, a timer that
 * runs, a position in a file belong to the open file, and the next owner has that very one. The record tells people, and a
 * carrier that cannot take the descriptor, what it was.
 */
import { LiveUpdateError } from '../core/errors.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { type FdKind, fdFacts } from '../linux/fd-facts.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { FdFile } from './fd-file.js';
import { memfdHandler } from './memfd.js';

/** A session's handlers, in the order in which they are asked. */
export function descriptorHandlers(handover: Handover): CarriedFileHandler<FdFile, unknown>[] {
  const kinds: FdKind[] = [
    'listener',
    'stream',
    'datagram',
    'pipe',
    'eventfd',
    'timerfd',
    'file',
    'directory',
  ];
  const memfd = memfdHandler(handover, { sizeMayChange: true }) as CarriedFileHandler<FdFile, unknown>;
  return [
    memfd,
    ...kinds.map((kind) => descriptorHandler(kind, handover) as CarriedFileHandler<FdFile, unknown>),
  ];
}

/** The `compatible` of a kind's handler. */
export function descriptorCompatible(kind: FdKind): string {
  return `liveupdate-${kind}-fd-v1`;
}

/** @param kind Which descriptors it takes. Its private data is its own descriptor. */
function descriptorHandler(kind: FdKind, handover: Handover): CarriedFileHandler<FdFile, number> {
  const compatible = descriptorCompatible(kind);
  const adopt = (handle: number): FdFile =>
    handover.incoming.adopt(handle, () => {
      const fd = handover.incoming.takeFd(handle);
      if (fdFacts(fd)?.kind === kind) return new FdFile(fd);
      closeFd(fd);
      throw new LiveUpdateError('EINVAL', `the descriptor is no ${kind}`, { handler: compatible });
    });
  return {
    compatible,
    adopt,
    custody: (file) => ({ bytes: toRecord(file.fd), fds: [file.fd] }),
    ops: {
      canPreserve: (_handler, file) => file instanceof FdFile && file.facts?.kind === kind,
      getId: (file) => file.identity,
      preserve(args) {
        const fd = dupFd(args.file!.fd);
        args.privateData = fd;
        args.serializedData = toSerializedData(handover.outgoing.put(toRecord(fd), [fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
        closeFd(args.privateData!);
        args.privateData = undefined;
      },
      freeze(args) {
        // Positions move on until now.
        handover.outgoing.update(handleOf(args.serializedData), toRecord(args.privateData!));
      },
      retrieve(args) {
        args.file = adopt(handleOf(args.serializedData));
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

function toRecord(fd: number): Buffer {
  return Buffer.from(JSON.stringify(fdFacts(fd)?.details ?? {}));
}
