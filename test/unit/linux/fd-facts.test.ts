import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FdFile } from '../../../src/handlers/fd-file.js';
import { FileClaims } from '../../../src/handlers/file-claims.js';
import { dupFd } from '../../../src/linux/fd.js';
import { fdFacts } from '../../../src/linux/fd-facts.js';
import { handleFd } from '../../../src/linux/handle-fd.js';
import { compareOpenFiles } from '../../../src/linux/kcmp.js';
import { libc } from '../../../src/linux/libc.js';
import { createMemfd } from '../../../src/linux/memfd.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

const lib = koffi.load(null);
const eventfd = lib.func('int eventfd(unsigned int value, int flags)') as (
  value: number,
  flags: number,
) => number;
const timerfd = lib.func('int timerfd_create(int clock, int flags)') as (
  clock: number,
  flags: number,
) => number;
const epoll = lib.func('int epoll_create1(int flags)') as (flags: number) => number;
const pipe2 = lib.func('int pipe2(void *fds, int flags)') as (fds: Buffer, flags: number) => number;

function pipe(): [number, number] {
  const fds = Buffer.alloc(8);
  expect(pipe2(fds, 0o2000000)).toBe(0);
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

describe('what a descriptor is', () => {
  const open: number[] = [];
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'liveupdate-kinds-'));
  });
  afterEach(() => {
    for (const fd of open.splice(0)) closeSync(fd);
    rmSync(folder, { recursive: true });
  });
  const keep = (fd: number) => {
    open.push(fd);
    return fd;
  };

  it('tells every kind, and gives duplicates one identity', async () => {
    const path = join(folder, 'file');
    const file = keep(openSync(path, 'w+'));
    writeSync(file, 'hello');
    const [read, write] = pipe().map(keep) as [number, number];
    const [one, two] = socketPair().map(keep) as [number, number];
    const server: Server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const client: Socket = connect(port, '127.0.0.1');
    const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [
      [Socket],
      unknown,
    ];
    const udp = keep(libc.socket(2, 2 | 0o2000000, 0));

    const expected: [number, string, object][] = [
      [keep(createMemfd('x', 100)), 'memfd', { size: 100, position: 0, access: 'read and write' }],
      [handleFd(server) as number, 'listener', { host: '127.0.0.1', port, domain: 'inet', type: 'stream' }],
      [handleFd(client) as number, 'stream', { domain: 'inet', type: 'stream' }],
      [one, 'stream', { domain: 'unix' }],
      [udp, 'datagram', { domain: 'inet' }],
      [read, 'pipe', { access: 'read' }],
      [write, 'pipe', { access: 'write' }],
      [keep(eventfd(0, 0o2000000)), 'eventfd', {}],
      [keep(timerfd(1, 0o2000000)), 'timerfd', {}],
      [file, 'file', { size: 5, position: 5, path, access: 'read and write' }],
      [keep(openSync(folder, 'r')), 'directory', { path: folder }],
    ];
    const seen = new Set<string>();
    for (const [fd, kind, details] of expected) {
      const facts = fdFacts(fd);
      expect(facts, kind).toMatchObject({ kind, details });
      const copy = keep(dupFd(fd));
      expect(fdFacts(copy), kind).toEqual(facts);
      expect(compareOpenFiles(fd, copy)).toBe(0);
      if (facts?.identity === undefined) expect(kind).toBe('timerfd');
      else {
        expect(seen.has(facts.identity)).toBe(false);
        seen.add(facts.identity);
      }
    }
    expect(compareOpenFiles(read, write)).toBe(-compareOpenFiles(write, read));
    expect(fdFacts(two)?.identity).not.toBe(fdFacts(one)?.identity);

    client.destroy();
    accepted.destroy();
    server.close();
    await once(server, 'close');
  });

  it('knows nothing of devices and epolls, and says EBADF of what is not open', () => {
    expect(fdFacts(keep(openSync('/dev/null', 'r')))).toBeUndefined();
    expect(fdFacts(keep(epoll(0o2000000)))).toBeUndefined();
    expect(() => fdFacts(9999)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  it('claims each file once, by name or by comparison', () => {
    const claims = new FileClaims();
    const timers = Array.from({ length: 20 }, () => keep(timerfd(1, 0o2000000)));
    const held = timers.map((fd) => claims.claim(new FdFile(fd)));
    for (const fd of timers) {
      const copy = new FdFile(keep(dupFd(fd)));
      expect(() => claims.claim(copy)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    }
    for (const claim of held.splice(0, 10)) claim.release();
    for (const fd of timers.slice(0, 10)) held.push(claims.claim(new FdFile(fd)));

    const memfd = keep(createMemfd('x', 1));
    held.push(claims.claim(new FdFile(memfd)));
    const again = new FdFile(keep(openSync(`/proc/self/fd/${memfd}`, 'r')));
    expect(() => claims.claim(again)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    readSync(again.fd, Buffer.alloc(1));
    expect(claims.size).toBe(21);
    for (const claim of held) claim.release();
    expect(claims.size).toBe(0);
  });
});
