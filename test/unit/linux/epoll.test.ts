import { describe, expect, it } from 'vitest';
import { Readiness } from '../../../src/linux/epoll.js';
import { closeFd } from '../../../src/linux/fd.js';
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

  it('closed on another thread leaves its descriptors as they are', async () => {
    const readiness = new Readiness();
    const [own, peer] = socketPair();
    readiness.add(own, 1);
    await readiness.closeApart();
    expect(() => readiness.fd).toThrow(expect.objectContaining({ code: 'EBADF' }));
    await expect(readiness.closeApart()).rejects.toMatchObject({ code: 'EBADF' });
    readiness.close();
    sendFds(peer, BYTE, []);
    expect(recvFds(own, { maxBytes: 1, maxFds: 0 })).toMatchObject({ eof: false });
    for (const fd of [own, peer]) closeFd(fd);
  });
});
