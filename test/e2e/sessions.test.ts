/** Sessions that clients keep with luod: the contract over the wire, with every kind of file, real processes and their deaths. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { connect, createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LuodClient, LuodSession } from '../../src/app/luod-client.js';
import { countOpenFds, dupFd, seek, tell } from '../../src/linux/fd.js';
import { handleFd } from '../../src/linux/handle-fd.js';
import { compareOpenFiles } from '../../src/linux/kcmp.js';
import { libc } from '../../src/linux/libc.js';
import { createMemfd, F_SEAL_GROW, memfdSeals, sealMemfd } from '../../src/linux/memfd.js';
import { socketPair } from '../../src/linux/socketpair.js';
import { Host } from './host.js';
import { programPath } from './luod-process.js';

const lib = koffi.load(null);
const eventfd = lib.func('int eventfd(unsigned int value, int flags)') as (
  value: number,
  flags: number,
) => number;
const timerfd = lib.func('int timerfd_create(int clock, int flags)') as (
  clock: number,
  flags: number,
) => number;
const pipe2 = lib.func('int pipe2(void *fds, int flags)') as (fds: Buffer, flags: number) => number;
const CLOEXEC = 0o2000000;

const code = (name: string) => expect.objectContaining({ code: name });

let host: Host;
let client: LuodClient;
let before: number;

beforeEach(async () => {
  before = countOpenFds();
  host = await Host.start();
  client = await host.connect();
});

afterEach(async () => {
  client.close();
  await host.stop();
  expect(countOpenFds()).toBe(before);
});

/** Closes a session and waits until luod has acted on it. */
async function leave(session: LuodSession, event: 'orphan' | 'release'): Promise<void> {
  const count = () => host.audit().filter((line) => line.event === event).length;
  const had = count();
  session.close();
  // luod answers in order, and acts on the close before it reads what was sent after it.
  while (count() === had) await client.dropSession('nobody has this').catch(() => undefined);
}

describe('a session of luod', () => {
  it('answers as the kernel does', async () => {
    const session = await client.createSession('s');
    await expect(client.createSession('s')).rejects.toThrow(code('EEXIST'));
    await expect(client.createSession('')).rejects.toThrow(code('EINVAL'));
    await expect(client.createSession('a\0b')).rejects.toThrow(code('EINVAL'));
    await expect(client.createSession('x'.repeat(64))).rejects.toThrow(code('EINVAL'));
    const long = await client.createSession('x'.repeat(63));
    expect(await long.getName()).toBe('x'.repeat(63));
    await expect(client.retrieveSession('s')).rejects.toThrow(code('ENOENT'));

    const memfd = createMemfd('m', 100);
    await session.preserve(memfd, 2n ** 64n - 1n);
    await expect(session.preserve(memfd, 1n)).rejects.toThrow(code('EBUSY'));
    await expect(long.preserve(memfd, 1n)).rejects.toThrow(code('EBUSY'));
    const again = openSync(`/proc/self/fd/${memfd}`, 'r');
    await expect(long.preserve(again, 1n)).rejects.toThrow(code('EBUSY'));
    const device = openSync('/dev/null', 'r');
    await expect(session.preserve(device, 2n ** 64n - 1n)).rejects.toThrow(code('EEXIST'));
    await expect(session.preserve(device, 1n)).rejects.toThrow(code('ENOENT'));
    await expect(session.preserve(long.fd, 1n)).rejects.toThrow(code('ENOENT'));
    await expect(session.retrieve(2n ** 64n - 1n)).rejects.toThrow(code('EINVAL'));
    await expect(session.finish()).rejects.toThrow(code('EINVAL'));
    await expect(session.unpreserve(5n)).rejects.toThrow(code('ENOENT'));
    await session.unpreserve(2n ** 64n - 1n);
    // Nothing of it is left: it can be kept again, elsewhere.
    await long.preserve(again, 1n);
    await leave(long, 'release');
    await session.preserve(memfd, 1n);
    await leave(session, 'release');
    await expect(client.retrieveSession('s')).rejects.toThrow(code('ENOENT'));
    for (const fd of [memfd, again, device]) closeSync(fd);
  });

  it('keeps every kind of file for the next owner, as it was left', async () => {
    const session = await client.createSession('all', { custody: 'hold' });
    const server: Server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const peer: Socket = connect((server.address() as { port: number }).port, '127.0.0.1');
    const [[accepted]] = (await Promise.all([once(server, 'connection'), once(peer, 'connect')])) as [
      [Socket],
      unknown,
    ];
    const pipe = Buffer.alloc(8);
    pipe2(pipe, CLOEXEC);
    const [one, two] = socketPair();
    const file = openSync(join(host.folder, 'file'), 'w+');
    const own: Record<string, number> = {
      memfd: createMemfd('m', 1000),
      listener: handleFd(server) as number,
      stream: handleFd(accepted) as number,
      unix: one,
      datagram: libc.socket(2, 2 | CLOEXEC, 0),
      read: pipe.readInt32LE(0),
      write: pipe.readInt32LE(4),
      eventfd: eventfd(7, CLOEXEC),
      timerfd: timerfd(1, CLOEXEC),
      file,
      directory: openSync(host.folder, 'r'),
    };
    writeSync(own.memfd!, 'remembered', 0);
    sealMemfd(own.memfd!, F_SEAL_GROW);
    const kinds: string[] = [];
    for (const [number, fd] of Object.values(own).entries())
      kinds.push(await session.preserve(fd, BigInt(number)));
    expect(kinds).toEqual([
      'memfd',
      'listener',
      'stream',
      'stream',
      'datagram',
      'pipe',
      'pipe',
      'eventfd',
      'timerfd',
      'file',
      'directory',
    ]);
    // Each is kept once, whatever descriptor it is asked for by.
    for (const fd of Object.values(own)) {
      const copy = dupFd(fd);
      await expect(session.preserve(copy, 99n)).rejects.toThrow(code('EBUSY'));
      closeSync(copy);
    }
    // What happens to a file after it was given to luod happens to it.
    writeSync(own.write!, 'in the pipe');
    writeSync(file, 'hello');
    seek(own.memfd!, 321);
    const originals = Object.fromEntries(Object.entries(own).map(([name, fd]) => [name, dupFd(fd)]));

    await leave(session, 'orphan');
    const next = await client.retrieveSession('all');
    await expect(client.retrieveSession('all')).rejects.toThrow(code('EINVAL'));
    expect((await next.list()).map(({ kind }) => kind)).toEqual(kinds);
    await expect(next.preserve(file, 50n)).rejects.toThrow(code('EINVAL'));
    await expect(next.retrieve(50n)).rejects.toThrow(code('ENOENT'));
    const got: Record<string, number> = {};
    for (const [number, name] of Object.keys(own).entries()) got[name] = await next.retrieve(BigInt(number));
    for (const [name, fd] of Object.entries(got)) {
      // A memfd is opened again, so that its position is the next owner's alone; all others are the very open file.
      if (name !== 'memfd') expect(compareOpenFiles(fd, originals[name]!), name).toBe(0);
    }
    expect(tell(got.memfd!)).toBe(321);
    expect(memfdSeals(got.memfd!)).toBe(memfdSeals(own.memfd!));
    expect(fstatSync(got.memfd!).ino).toBe(fstatSync(own.memfd!).ino);
    expect(tell(got.file!)).toBe(5);
    const bytes = Buffer.alloc(11);
    readSync(got.read!, bytes, 0, 11, null);
    expect(bytes.toString()).toBe('in the pipe');

    await next.finish();
    await next.finish();
    await expect(next.retrieve(0n)).rejects.toThrow(code('ENOENT'));
    await leave(next, 'release');
    await expect(client.retrieveSession('all')).rejects.toThrow(code('ENOENT'));

    for (const fd of [...Object.values(got), ...Object.values(originals)]) closeSync(fd);
    for (const name of ['memfd', 'datagram', 'read', 'write', 'eventfd', 'timerfd', 'file', 'directory']) {
      closeSync(own[name]!);
    }
    closeSync(one);
    closeSync(two);
    peer.destroy();
    accepted.destroy();
    server.close();
    await once(server, 'close');
  });

  it('goes back to being an orphan when its next owner dies before finishing, files that grew and all', async () => {
    const memfd = createMemfd('m', 10);
    const session = await client.createSession('s', { custody: 'hold' });
    await session.preserve(memfd, 1n);
    ftruncateSync(memfd, 5000);
    await leave(session, 'orphan');
    for (let life = 0; life < 3; life++) {
      const next = await client.retrieveSession('s');
      closeSync(await next.retrieve(1n));
      // Kept while it is claimed, too.
      const other = await client.createSession('other');
      await expect(other.preserve(memfd, 1n)).rejects.toThrow(code('EBUSY'));
      await leave(other, 'release');
      await leave(next, 'orphan');
    }
    const last = await client.retrieveSession('s');
    const fd = await last.retrieve(1n);
    expect(fstatSync(fd).size).toBe(5000);
    await expect(client.dropSession('s')).rejects.toThrow(code('EBUSY'));
    await leave(last, 'orphan');
    expect(await client.dropSession('s')).toBe(1);
    await expect(client.dropSession('s')).rejects.toThrow(code('ENOENT'));
    for (const one of [memfd, fd]) closeSync(one);
  });

  it('lives as long as any duplicate of its descriptor, in whatever process', async () => {
    const memfd = createMemfd('m', 10);
    // Behind an answer: luod has this connection by then.
    await client.hello();
    const { fds } = host;
    const session = await client.createSession('s');
    await session.preserve(memfd, 1n);
    const child = spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore', session.fd] });
    await once(child, 'spawn');
    session.close();
    // It is the child's now: still the name is in use, and the file kept.
    await expect(client.createSession('s')).rejects.toThrow(code('EEXIST'));
    child.stdin?.end();
    await once(child, 'exit');
    while (host.audit().every(({ event }) => event !== 'release')) {
      await client.dropSession('nobody has this').catch(() => undefined);
    }
    // luod opens others now and then, for a moment: its log, a module.
    await expect.poll(() => host.fds).toBeLessThanOrEqual(fds);
    const again = await client.createSession('s');
    await leave(again, 'release');
    closeSync(memfd);
  });

  it('keeps two sessions of one name apart: the one that is owned, and those that were left', async () => {
    for (const size of [1, 2]) {
      const session = await client.createSession('s', { custody: 'hold' });
      const memfd = createMemfd('m', size);
      await session.preserve(memfd, 1n);
      closeSync(memfd);
      await leave(session, 'orphan');
    }
    const owned = await client.createSession('s');
    // Oldest first.
    for (const size of [1, 2]) {
      const next = await client.retrieveSession('s');
      const fd = await next.retrieve(1n);
      expect(fstatSync(fd).size).toBe(size);
      closeSync(fd);
      await next.finish();
      await leave(next, 'release');
    }
    await leave(owned, 'release');
  });

  it('is told in the audit: who, what, and what became of it', async () => {
    const session = await client.createSession('s');
    const memfd = createMemfd('m', 1);
    await session.preserve(memfd, 1n);
    await expect(session.preserve(memfd, 2n)).rejects.toThrow(code('EBUSY'));
    await leave(session, 'release');
    closeSync(memfd);
    const uid = process.getuid?.();
    const mine = { uid, pid: process.pid, session: 's' };
    expect(host.audit().filter(({ session: name }) => name === 's')).toMatchObject([
      { event: 'create', result: 'ok', ...mine },
      { event: 'preserve', result: 'ok', token: '1', kind: 'memfd', ...mine },
      { event: 'preserve', result: 'EBUSY', token: '2', ...mine },
      { event: 'release', result: 'ok', ...mine },
    ]);
  });

  it('is told in the audit also when it ends because luod does', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-audit-'));
    const file = join(folder, 'audit');
    const own = await Host.start(['--audit', file]);
    const other = await own.connect();
    const session = await other.createSession('s', { custody: 'hold' });
    expect(await own.stop()).toBe(0);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const last = readFileSync(file, 'utf8').trim().split('\n').at(-1) as string;
    expect(JSON.parse(last)).toMatchObject({ event: 'release', session: 's', result: 'ok' });
    rmSync(folder, { recursive: true });
    session.close();
    other.close();
  });
});

describe('limits', () => {
  it('are told with an errno, and cost nobody anything', async () => {
    await host.stop();
    client.close();
    host = await Host.start([
      '--max-clients',
      '2',
      '--max-sessions',
      '2',
      '--max-files',
      '2',
      '--max-fds',
      '5',
    ]);
    client = await host.connect();
    const one = await client.createSession('one');
    const two = await client.createSession('two');
    await expect(client.createSession('three')).rejects.toThrow(code('ENOSPC'));
    const memfds = Array.from({ length: 4 }, () => createMemfd('m', 1));
    await one.preserve(memfds[0]!, 1n);
    await one.preserve(memfds[1]!, 2n);
    await expect(one.preserve(memfds[2]!, 3n)).rejects.toThrow(code('ENOSPC'));
    await two.preserve(memfds[2]!, 1n);
    await expect(two.preserve(memfds[3]!, 2n)).rejects.toThrow(code('EMFILE'));
    const second = await host.connect();
    await second.dropSession('x').catch(() => undefined);
    const third = await host.connect();
    await expect(third.createSession('x')).rejects.toThrow(/EMFILE|EPIPE/);
    third.close();
    second.close();
    expect((await one.list()).length).toBe(2);
    await one.unpreserve(1n);
    await two.preserve(memfds[3]!, 2n);
    await leave(one, 'release');
    await leave(two, 'release');
    for (const fd of memfds) closeSync(fd);
  });
});

describe('a connection that breaks a rule', () => {
  /** What luod says last. */
  async function lastWord(bytes: string): Promise<Record<string, unknown>> {
    const socket = createConnection(host.socket);
    socket.write(bytes);
    let said = '';
    for await (const text of socket.setEncoding('utf8')) said += text as string;
    return JSON.parse(said.trim().split('\n').at(-1) as string) as Record<string, unknown>;
  }

  it('is told which before it ends', async () => {
    await host.stop();
    client.close();
    host = await Host.start(['--max-line', '2000', '--message-timeout', '200ms']);
    client = await host.connect();
    const refusal = (name: string) => ({ type: 'refused', error: { code: name, errno: expect.any(Number) } });
    expect(await lastWord(`{"type":"${'x'.repeat(3000)}"}\n`)).toMatchObject(refusal('EMSGSIZE'));
    expect(await lastWord('{"type":"stat')).toMatchObject(refusal('ETIMEDOUT'));
    expect(await lastWord('no JSON\n')).toMatchObject(refusal('EPROTO'));
    expect(await lastWord('{"type":"list","fds":1}\n')).toMatchObject(refusal('EPROTO'));
    expect((await client.hello()).limits).toMatchObject({ lineBytes: 2000, stallMs: 200 });
  });
});

describe('memory', () => {
  it('is kept up to a user’s limit, sessions and FLBs together', async () => {
    await host.stop();
    client.close();
    host = await Host.start(['--max-bytes', '100000']);
    client = await host.connect();
    const [small, large, tiny] = [30_000, 60_000, 10_000].map((size) => createMemfd('m', size)) as [
      number,
      number,
      number,
    ];
    const session = await client.createSession('s');
    await session.preserve(small, 1n);
    await client.registerFlb('flb', large);
    const other = createMemfd('m', 10_001);
    await expect(session.preserve(other, 2n)).rejects.toThrow(code('ENOSPC'));
    await session.preserve(tiny, 2n);
    await session.unpreserve(1n);
    await session.preserve(other, 3n);
    for (const fd of [small, large, tiny, other]) closeSync(fd);
    session.close();
  });
});

/** Root of a container may have no other user to become. */
function canBecome(uid: number): boolean {
  const { status } = spawnSync(process.execPath, [
    '-e',
    `process.setgroups([${uid}]); process.setgid(${uid}); process.setuid(${uid})`,
  ]);
  return status === 0;
}

describe.skipIf(process.getuid?.() !== 0 || !canBecome(65_534))('another user', () => {
  it('has sessions of his own and sees nobody else’s', async () => {
    await host.stop();
    client.close();
    const stranger = 65_534;
    host = await Host.start(['--group', String(stranger)]);
    chmodSync(host.folder, 0o755);
    chmodSync(join(host.folder, 'run'), 0o755);
    client = await host.connect();
    const mine = await client.createSession('s', { custody: 'hold' });
    const memfd = createMemfd('m', 1);
    await mine.preserve(memfd, 1n);
    await leave(mine, 'orphan');

    const child: ChildProcess = spawn(
      process.execPath,
      [programPath('stranger.mjs'), host.socket, String(stranger)],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    const line = await Promise.race([
      once(createInterface({ input: child.stdout! }), 'line').then(([said]) => said as string),
      once(child, 'exit').then(([code]) => Promise.reject(new Error(`the stranger ended with ${code}`))),
    ]);
    expect(JSON.parse(line)).toEqual({
      // The name is free for him, and what is left under it is not his.
      retrieve: 'ENOENT',
      drop: 'ENOENT',
      dropOther: 'EACCES',
      create: 'ok',
      sessions: ['s'],
      status: 'EACCES',
      update: 'EACCES',
      kexec: 'EACCES',
    });
    expect(host.audit()).toContainEqual(
      expect.objectContaining({ event: 'drop', session: 's', uid: stranger, result: 'EACCES' }),
    );
    child.stdin!.end();
    await once(child, 'exit');
    // Without files there is nothing to hold for him.
    while (!host.audit().some(({ event, uid }) => event === 'release' && uid === stranger)) {
      await client.dropSession('nobody has this').catch(() => undefined);
    }
    expect(await client.dropSession('s')).toBe(1);
    closeSync(memfd);
  });
});
