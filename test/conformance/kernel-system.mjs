// The kernel's orchestrator, as it is.

import { closeSync, constants, openSync, readSync } from 'node:fs';
import { LIVEUPDATE_DEVICE, liveupdateIoctl } from '../../build/linux/index.js';

/** Callbacks of the kernel's own test FLBs stand in its log (lib/tests/liveupdate.c). */
const FLB_LINE = /(liveupdate-test-flb-\S+): (preserve|unpreserve|finish|found flb data)/;

export class KernelSystem {
  #log = openSync('/dev/kmsg', constants.O_RDONLY | constants.O_NONBLOCK);
  #record = Buffer.alloc(8192);

  /** A descriptor, or an errno's name. */
  openDevice() {
    try {
      return openSync(LIVEUPDATE_DEVICE, 'r+');
    } catch (error) {
      return error.code;
    }
  }

  ioctl(fd, number, struct) {
    return liveupdateIoctl(fd, number, struct);
  }

  close(fd) {
    closeSync(fd);
  }

  /** What the FLBs' callbacks wrote since the last time. */
  takeFlbLog() {
    const lines = [];
    for (;;) {
      let length;
      try {
        length = readSync(this.#log, this.#record, 0, this.#record.length, null);
      } catch (error) {
        if (error.code === 'EAGAIN') return lines;
        // EPIPE: the log ran over between two looks.
        throw new Error(`the kernel's log cannot be read: ${error.code}`, { cause: error });
      }
      const found = FLB_LINE.exec(this.#record.toString('utf8', 0, length));
      if (found !== null)
        lines.push(`${found[1].at(-1)} ${found[2] === 'found flb data' ? 'retrieve' : found[2]}`);
    }
  }
}
