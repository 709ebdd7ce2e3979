import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Readiness } from '../../../src/linux/epoll.js';
import { closeFd, countOpenFds, dupFd } from '../../../src/linux/fd.js';
import { recvFds, sendFds } from '../../../src/linux/scm-rights.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

const BYTE = Uint8Array.of(1);

describe('Readiness', () => {
  it('tells once of what has something to read, or an end', () => {
    using readiness = new Readiness();
    const pairs = [socketPair(), socketPair(), socketPair()];
    pairs.forEach(([own], i) => {
      readiness.add(own, 100 + i);
    });
    expect(readiness.take()).toEqual([]);
    sendFds(pairs[1]![1], BYTE, []);
    expect(readiness.take()).toEqual([101]);
    expect(readiness.take()).toEqual([]);
    closeFd(pairs[2]![1]);
    expect(readiness.take()).toEqual([102]);
    for (const [own] of pairs) closeFd(own);
    for (const [, peer] of pairs.slice(0, 2)) closeFd(peer);
  });

  it('refuses the same descriptor twice, and a file that cannot be waited for', () => {
    using readiness = new Readiness();
    const [own, peer] = socketPair();
    readiness.add(own, 1);
    expect(() => readiness.add(own, 2)).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    for (const fd of [own, peer]) closeFd(fd);
    expect(() => readiness.add(own, 3)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  it.each([
    ['few descriptors', 3],
    ['many descriptors on another thread', 300],
  ])('is closed with %s, and leaves them as they are', async (_, count) => {
    const before = countOpenFds();
    const readiness = new Readiness();
    const [own, peer] = socketPair();
    const duplicates = Array.from({ length: count - 1 }, () => dupFd(own));
    for (const fd of [own, ...duplicates]) readiness.add(fd, fd);
    readiness.closeApart();
    expect(() => readiness.fd).toThrow(expect.objectContaining({ code: 'EBADF' }));
    expect(() => readiness.closeApart()).toThrow(expect.objectContaining({ code: 'EBADF' }));
    readiness.close();
    const left = before + 2 + duplicates.length;
    while (countOpenFds() !== left) await nextTurn();
    sendFds(peer, BYTE, []);
    expect(recvFds(own, { maxBytes: 1, maxFds: 0 })).toMatchObject({ eof: false });
    for (const fd of [own, peer, ...duplicates]) closeFd(fd);
  });
});
