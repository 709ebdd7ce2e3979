/** A live file that its owner knows by a descriptor, as the kernel's ioctl names it. */
import { fstatSync } from 'node:fs';

export class FdFile {
  /** The owner's to close; whoever preserves the file has a duplicate. */
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** The same for every descriptor of one inode. @throws EBADF as Node's system error. */
  get identity(): string {
    const { dev, ino } = fstatSync(this.fd, { bigint: true });
    return `${dev}:${ino}`;
  }
}
