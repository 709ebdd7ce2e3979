/**
 * One end of a pipe or fifo, as Node's `net.Socket` on its descriptor.
 *
 * It is a connection of one direction (connection.ts): what waits in the pipe is the kernel's; what was read and not consumed, or
 * written and not taken, is saved at the freeze. Two things differ. A pipe has no shutdown(2), so that the other end hears of
 * an end in mid-update only when that update is over. And luod holds it: a program that is started again after a crash goes on
 * reading where the dead one had, which is what a pipe is for; the other end need not know.
 */
import { Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { accessMode, closeFd, isPipe } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import type { Directions } from './adopted-socket.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { Connection } from './connection.js';

const COMPATIBLE = 'liveupdate-pipe-v1';
const READ_ONLY = 0;
const WRITE_ONLY = 1;

interface Saved extends Directions {
  readonly isOpen: boolean;
  /** What user space held, in the form of a connection's. */
  readonly pending: Uint8Array | undefined;
}

/** An end of a pipe that a program reads or writes. */
export class PipeEnd implements Directions {
  readonly connection: Connection;
  readonly readable: boolean;
  readonly writable: boolean;

  constructor(connection: Connection, { readable, writable }: Directions) {
    this.connection = connection;
    this.readable = readable;
    this.writable = writable;
  }

  /** The end behind a socket; undefined when that is no pipe. */
  static of(socket: Socket): PipeEnd | undefined {
    const fd = handleFd(socket);
    if (fd === undefined || !isPipe(fd)) return undefined;
    const mode = accessMode(fd);
    // A fifo may be open for both, so as to outlive its writers, and be read alone.
    const directions = {
      readable: mode !== WRITE_ONLY && socket.readable,
      writable: mode !== READ_ONLY && socket.writable,
    };
    return new PipeEnd(Connection.from(socket) ?? Connection.of(socket), directions);
  }

  /** Owns `fd` also when it throws. @throws {LiveUpdateError} EINVAL when it is no pipe, or the record is damaged. */
  static adopt(fd: number, record: Uint8Array): PipeEnd {
    let saved: Saved;
    try {
      saved = parse(record);
      if (!isPipe(fd))
        throw new LiveUpdateError('EINVAL', 'the descriptor is no pipe', { handler: COMPATIBLE });
    } catch (error) {
      closeFd(fd);
      throw error;
    }
    const { readable, writable } = saved;
    const end = new PipeEnd(Connection.adopt(fd, { readable, writable }), saved);
    end.connection.hold();
    return end;
  }

  get socket(): Socket {
    return this.connection.socket;
  }

  /** @throws {LiveUpdateError} EBADF when it is closed. */
  get fd(): number {
    const fd = handleFd(this.socket);
    if (fd === undefined) throw new LiveUpdateError('EBADF', 'the pipe is closed', { handler: COMPATIBLE });
    return fd;
  }

  toRecord(pending?: Uint8Array): Buffer {
    const { readable, writable } = this;
    const saved: Saved = { readable, writable, isOpen: this.connection.isOpen, pending };
    return serializeValue(saved);
  }

  restore(record: Uint8Array): void {
    const { isOpen, pending } = parse(record);
    if (pending !== undefined) this.connection.restore(pending);
    if (!isOpen) this.socket.destroy();
  }
}

function parse(record: Uint8Array): Saved {
  const saved = deserializeValue(record) as Saved;
  if (typeof saved?.readable === 'boolean' && typeof saved.writable === 'boolean') return saved;
  throw new LiveUpdateError('EINVAL', 'a damaged record of a pipe', { handler: COMPATIBLE });
}

export function pipeHandler(handover: Handover): CarriedFileHandler<PipeEnd> {
  const adopt = (handle: number): PipeEnd =>
    handover.incoming.adopt(handle, () =>
      PipeEnd.adopt(handover.incoming.takeFd(handle), handover.incoming.bytes(handle)),
    );
  return {
    compatible: COMPATIBLE,
    adopt,
    custody: (end) => ({ bytes: end.toRecord(), fds: [end.fd] }),
    toFile: (value) => (value instanceof Socket ? PipeEnd.of(value) : undefined),
    toObject: ({ socket }) => socket,
    start({ connection }, onFlow) {
      if (connection.crossed) connection.arm(undefined, undefined, onFlow);
    },
    sever: ({ connection }) => connection.detach(),
    onGone: ({ connection }, callback) => connection.whenClosed(callback),
    ops: {
      canPreserve: (_handler, file) => file instanceof PipeEnd,
      getId: ({ socket }) => socket,
      preserve(args: FileOpArgs<PipeEnd>) {
        const { fd } = args.file!;
        args.serializedData = toSerializedData(handover.outgoing.put(args.file!.toRecord(), [fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      freeze(args) {
        const { connection } = args.file!;
        const pending = connection.isOpen ? connection.pending() : undefined;
        handover.outgoing.update(handleOf(args.serializedData), args.file!.toRecord(pending));
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const end = adopt(handle);
        end.restore(handover.incoming.bytes(handle));
        args.file = end;
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined) handover.incoming.adopted<PipeEnd>(handle)?.socket.destroy();
        handover.incoming.drop(handle);
      },
    },
  };
}
