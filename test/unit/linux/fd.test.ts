import { openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { closeFd, dupFd, fdHeadroom, isCloseOnExec, OwnedFd, setCloseOnExec } from '../../../src/linux/fd.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

describe('fd', () => {
  it('duplicates close-on-exec', () => {
    const fd = openSync('/dev/null', 'r');
    const dup = dupFd(fd);
    expect(dup).not.toBe(fd);
    expect(isCloseOnExec(dup)).toBe(true);
    setCloseOnExec(dup, false);
    expect(isCloseOnExec(dup)).toBe(false);
    closeFd(dup);
    closeFd(fd);
  });

  it('tells the errno and the call', () => {
    expect(() => dupFd(1_000_000)).toThrow(
      expect.objectContaining({ code: 'EBADF', errno: -9, operation: 'fcntl' }),
    );
    expect(() => closeFd(1_000_000)).toThrow(expect.objectContaining({ code: 'EBADF', operation: 'close' }));
  });

  it('counts what may still be opened', () => {
    const before = fdHeadroom();
    const fd = openSync('/dev/null', 'r');
    expect(fdHeadroom()).toBe(before - 1);
    closeFd(fd);
  });

  it('owned: closes once, gives up by take, refuses use afterwards', () => {
    const owned = new OwnedFd(openSync('/dev/null', 'r'));
    owned.close();
    owned.close();
    expect(() => owned.fd).toThrow(expect.objectContaining({ code: 'EBADF' }));
    const taken = new OwnedFd(openSync('/dev/null', 'r'));
    const fd = taken.take();
    taken.close();
    closeFd(fd);
  });
});
