import { closeSync, existsSync, openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { libc } from '../../../src/linux/libc.js';
import {
  answeredFd,
  answeredName,
  LIVEUPDATE_IOCTL,
  LIVEUPDATE_STRUCT,
  LiveupdateDevice,
  liveupdateIoctl,
  liveupdateStruct,
} from '../../../src/linux/liveupdate.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

const TIOCSPTLCK = 0x40045431;
const TIOCGPTN = 0x80045430;

/** A terminal whose other end is gone: opening it again is EIO, as a device whose first open failed. */
function hungUpTerminal(): number {
  const master = openSync('/dev/ptmx', 'r+');
  const value = Buffer.alloc(4);
  libc.ioctl(master, TIOCSPTLCK, value);
  libc.ioctl(master, TIOCGPTN, value);
  const slave = openSync(`/dev/pts/${value.readUInt32LE()}`, 'r+');
  closeSync(master);
  return slave;
}

describe('/dev/liveupdate', () => {
  it('tells apart why it cannot be opened', () => {
    expect(() => LiveupdateDevice.open('/dev/no-such-device')).toThrow(
      expect.objectContaining({ code: 'ENOENT', message: expect.stringContaining('luoctl doctor') }),
    );
    const terminal = hungUpTerminal();
    try {
      expect(() => LiveupdateDevice.open(`/proc/self/fd/${terminal}`)).toThrow(
        expect.objectContaining({ code: 'EIO', message: expect.stringContaining('only a reboot') }),
      );
    } finally {
      closeSync(terminal);
    }
  });

  it.skipIf(!existsSync('/dev/null'))('gives the errno of an ioctl that a device does not know', () => {
    const fd = openSync('/dev/null', 'r+');
    expect(liveupdateIoctl(fd, LIVEUPDATE_IOCTL.finish, liveupdateStruct('finish'))).toBe(-25);
    closeSync(fd);
    expect(liveupdateIoctl(-1, LIVEUPDATE_IOCTL.finish, null)).toBe(-9);
  });

  it('lays the structs out as the header does', () => {
    expect(LIVEUPDATE_IOCTL).toEqual({
      createSession: 0xba00,
      retrieveSession: 0xba01,
      preserveFd: 0xba40,
      retrieveFd: 0xba41,
      finish: 0xba42,
      getName: 0xba43,
    });
    for (const [operation, size] of Object.entries(LIVEUPDATE_STRUCT)) {
      const struct = liveupdateStruct(operation as keyof typeof LIVEUPDATE_STRUCT);
      expect(struct.length).toBe(size);
      expect(struct.readUInt32LE(0)).toBe(size);
    }
    const struct = liveupdateStruct('preserveFd', { fd: -5, token: 2n ** 64n - 1n });
    expect(struct.toString('hex')).toBe('10000000fbffffffffffffffffffffff');
    expect(answeredFd(struct)).toBe(-5);
    expect(answeredName(liveupdateStruct('getName', { name: 'ä' }))).toBe('ä');
  });
});
