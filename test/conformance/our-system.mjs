// Our orchestrator behind the kernel's ioctls: the same numbers, structs and checks, in the order of the kernel's
// dispatcher, and then the operation of the library. Descriptors are real ones, so that both sides count alike.

import { closeSync, openSync } from 'node:fs';
import { ERRNO, LiveUpdate, LiveUpdateError } from '../../build/core/index.js';
import { FdFile } from '../../build/handlers/fd-file.js';
import { memfdHandler } from '../../build/handlers/memfd.js';
import { decodeHandover, encodeHandover } from '../../build/handover/codec.js';
import { IncomingRecords, OutgoingRecords } from '../../build/handover/records.js';
import { dupFd, LIVEUPDATE_IOCTL, LIVEUPDATE_STRUCT } from '../../build/linux/index.js';

const byNumber = new Map(
  Object.entries(LIVEUPDATE_IOCTL).map(([operation, number]) => [number & 0xff, operation]),
);
const ON_DEVICE = new Set(['createSession', 'retrieveSession']);
const ON_INCOMING = new Set(['retrieveFd', 'finish']);
/** Bytes of the first form of each struct, which is all there has been. */
const MIN_SIZE = LIVEUPDATE_STRUCT;
const TEST_FLBS = 3;

export class OurSystem {
  #flbLog = [];
  #orchestrator;
  #handover;
  /** By descriptor: {device} or {session, files}. */
  #open = new Map();

  /** @param came What reboot() of another gave: its bytes and descriptors. */
  constructor(came) {
    this.#handover = { incoming: new IncomingRecords({ exclusive: true }), outgoing: new OutgoingRecords() };
    let image;
    if (came !== undefined) {
      const { image: decoded, records } = decodeHandover(came.bytes, { fdCount: came.fds.length });
      image = decoded;
      this.#handover.incoming.add(records, came.fds);
    }
    const orchestrator = new LiveUpdate();
    this.#orchestrator = orchestrator;
    const handler = memfdHandler(this.#handover);
    orchestrator.registerFileHandler(handler);
    const flbs = Array.from({ length: TEST_FLBS }, (_, number) => this.#testFlb(number));
    for (const flb of flbs) orchestrator.registerFlb(handler, flb);
    if (image === undefined) return;
    orchestrator.deserialize(image);
    // As the kernel's test does once, when its FLBs are registered.
    for (const flb of flbs) {
      try {
        orchestrator.getIncoming(flb);
      } catch (error) {
        if (error.code === 'ENOENT' || error.code === 'ENODATA') continue;
        throw error;
      }
      orchestrator.putIncoming(flb);
    }
  }

  #testFlb(number) {
    const log = (word) => {
      this.#flbLog.push(`${number} ${word}`);
    };
    return {
      compatible: `test-flb-${number}`,
      ops: {
        preserve(args) {
          log('preserve');
          args.data = BigInt(number);
        },
        unpreserve: () => log('unpreserve'),
        retrieve(args) {
          log('retrieve');
          args.obj = args.data;
        },
        finish: () => log('finish'),
      },
    };
  }

  takeFlbLog() {
    return this.#flbLog.splice(0);
  }

  openDevice() {
    try {
      return this.#give({ device: this.#orchestrator.open() });
    } catch (error) {
      return error.code;
    }
  }

  /** A descriptor that stands for something of ours. */
  #give(what) {
    const fd = openSync('/dev/null', 'r+');
    this.#open.set(fd, what);
    return fd;
  }

  ioctl(fd, number, struct) {
    const what = this.#open.get(fd);
    try {
      if (what === undefined) refuse('EBADF');
      const operation = byNumber.get(number & 0xff);
      const isDevice = what.device !== undefined;
      if (operation === undefined || ON_DEVICE.has(operation) !== isDevice) refuse('EINVAL');
      if (struct === null) refuse('EFAULT');
      if (LIVEUPDATE_IOCTL[operation] !== number) refuse('ENOTTY');
      if (!isDevice && operation !== 'getName' && ON_INCOMING.has(operation) !== what.session.isIncoming)
        refuse('EINVAL');
      const size = struct.readUInt32LE(0);
      if (size < MIN_SIZE[operation]) refuse('EINVAL');
      if (struct.subarray(LIVEUPDATE_STRUCT[operation], size).some((byte) => byte !== 0)) refuse('E2BIG');
      this[`_${operation}`](what, struct);
      return 0;
    } catch (error) {
      if (error instanceof LiveUpdateError) return error.errno;
      throw error;
    }
  }

  _createSession(_device, struct) {
    const session = now(this.#orchestrator.createSession(nameOf(struct)));
    struct.writeInt32LE(this.#give({ session, files: new Set() }), 4);
  }

  _retrieveSession(_device, struct) {
    const session = now(this.#orchestrator.retrieveSession(nameOf(struct)));
    struct.writeInt32LE(this.#give({ session, files: new Set() }), 4);
  }

  _preserveFd({ session }, struct) {
    const fd = struct.readInt32LE(4);
    now(session.preserve(fd < 0 ? undefined : new FdFile(fd), struct.readBigUInt64LE(8)));
  }

  _retrieveFd({ session, files }, struct) {
    const file = now(session.retrieve(struct.readBigUInt64LE(8)));
    files.add(file);
    struct.writeInt32LE(dupFd(file.fd), 4);
  }

  _finish(what, struct) {
    now(what.session.finish({ reserved: struct.readUInt32LE(4) }));
    this.#drop(what);
  }

  _getName({ session }, struct) {
    const name = session.getName({ reserved: struct.readUInt32LE(4) });
    struct.fill(0, 8, 72);
    struct.write(name, 8, 'utf8');
  }

  /** The orchestrator's own reference of each retrieved file. */
  #drop(what) {
    for (const file of what.files) closeSync(file.fd);
    what.files.clear();
  }

  close(fd) {
    const what = this.#open.get(fd);
    this.#open.delete(fd);
    closeSync(fd);
    if (what.device !== undefined) {
      what.device.close();
      return;
    }
    now(what.session.close());
    this.#drop(what);
  }

  /** Leaves this image: everything of it is gone but what it hands over. */
  reboot() {
    const image = now(this.#orchestrator.reboot());
    const { records, fds } = this.#handover.outgoing.takeChanged();
    const bytes = encodeHandover({ image, records });
    const came = { bytes, fds: fds.map((fd) => dupFd(fd)) };
    // The kernel's descriptors go with the kernel.
    for (const fd of fds) closeSync(fd);
    this.end();
    return came;
  }

  /** Closes the descriptors that stand for something. */
  end() {
    for (const [fd, { files = [] }] of this.#open) {
      closeSync(fd);
      for (const file of files) closeSync(file.fd);
    }
    this.#open.clear();
    this.#handover.incoming.clear();
  }
}

function refuse(code) {
  if (!(code in ERRNO)) throw new TypeError(code);
  throw new LiveUpdateError(code, 'refused by the dispatcher');
}

/** Every handler here is synchronous, so every answer is. */
function now(value) {
  if (value instanceof Promise) throw new TypeError('an answer that is not there yet');
  return value;
}

/** A name field as the library takes it: the bytes up to the NUL; without one all 64, which is too long. */
function nameOf(struct) {
  const field = struct.subarray(8, 72);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end === -1 ? 64 : end);
}
