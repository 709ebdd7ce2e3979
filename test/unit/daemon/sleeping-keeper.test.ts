import {
  closeSync,
  cpSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SleepingKeeper } from '../../../src/daemon/sleeping-keeper.js';
import { createMemfd } from '../../../src/linux/memfd.js';
import { recvFds } from '../../../src/linux/scm-rights.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { processesWith } from '../../e2e/luod-process.js';

// As it was built: it starts the keeper's process, which is a file beside it.
const module = (name: string) => pathToFileURL(join(process.cwd(), 'build/daemon', name)).href;
const { SleepingKeeper: Keeper, MOST_ASLEEP } = (await import(
  module('sleeping-keeper.js')
)) as typeof import('../../../src/daemon/sleeping-keeper.js');
const { KeeperLink } = (await import(
  module('keeper-link.js')
)) as typeof import('../../../src/daemon/keeper-link.js');

let folder: string;
let path: string;
let keeper: SleepingKeeper;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-sleeping-'));
  path = join(folder, 'keeper');
  keeper = await Keeper.start(path, 60_000);
});

afterEach(async () => {
  keeper.bye();
  await expect.poll(() => processesWith(folder)).toEqual([]);
  expect(existsSync(path)).toBe(false);
  rmSync(folder, { recursive: true, force: true });
});

/** Its pid, whatever it has become. */
function shell(): number | undefined {
  return processesWith(path)[0];
}

function commandOf(pid: number | undefined): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0] as string;
}

function keep(item: string, size: number): number {
  const fd = createMemfd('m', size);
  const { ino } = fstatSync(fd);
  keeper.put('group', item, { size }, [fd]);
  closeSync(fd);
  return ino;
}

async function look(): Promise<{ item: string; record: unknown; inodes: number[] }[]> {
  const items = await KeeperLink.look(path);
  return items.map(({ item, record, fds }) => {
    const inodes = fds.map((fd) => fstatSync(fd).ino);
    for (const fd of fds) closeSync(fd);
    return { item, record, inodes };
  });
}

it('is a shell of less than half a MiB', () => {
  keep('one', 1);
  const [pid] = processesWith(folder);
  expect(commandOf(pid)).toBe('/bin/sh');
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = [...rollup.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB/gm)].map(([, size]) => Number(size));
  expect(kib).toHaveLength(2);
  expect(kib.reduce((sum, size) => sum + size)).toBeLessThan(512);
});

it('wakes up when somebody knocks, in the same process, and has everything', async () => {
  const [pid] = processesWith(folder);
  const inode = keep('one', 1);
  keep('two', 2);
  keeper.amend('group', 'one', { size: 'unknown' });
  keeper.drop('group', 'two');
  expect(await look()).toEqual([{ item: 'one', record: { size: 'unknown' }, inodes: [inode] }]);
  expect(processesWith(folder)).toEqual([pid]);
  expect(commandOf(pid)).toBe(process.execPath);
  const more = keep('three', 3);
  keeper.drop('group', 'one');
  expect(await look()).toEqual([{ item: 'three', record: { size: 3 }, inodes: [more] }]);
});

it.each([
  ['dropped', () => keeper.drop('group', 'socket')],
  ['replaced', () => keeper.put('group', 'socket', {}, [])],
])('lets go of what is %s', async (_, letGo) => {
  const inode = keep('stays', 1);
  const [near, far] = socketPair();
  keeper.put('group', 'socket', {}, [far]);
  closeSync(far);
  expect(recvFds(near, { maxBytes: 1, maxFds: 0 })).toBeUndefined();
  letGo();
  await nextTurn();
  expect(recvFds(near, { maxBytes: 1, maxFds: 0 })?.eof).toBe(true);
  closeSync(near);
  expect(commandOf(processesWith(folder)[0])).toBe('/bin/sh');
  expect(await look()).toContainEqual({ item: 'stays', record: { size: 1 }, inodes: [inode] });
});

it('is never full of what was', async () => {
  for (let i = 0; i < 5000; i++) {
    keeper.amend('group', 'item', { i });
    if (i % 20 === 0) await nextTurn();
  }
  expect(commandOf(processesWith(folder)[0])).toBe('/bin/sh');
  expect(await look()).toEqual([{ item: 'item', record: { i: 4999 }, inodes: [] }]);
});

it.each([
  ['items', 1, MOST_ASLEEP * 3],
  ['bytes', 100_000, 6],
])('wakes up for too many %s, and loses none', async (_, bytes, count) => {
  const text = 'x'.repeat(bytes);
  for (let i = 0; i < count; i++) keeper.put('group', `item ${i}`, { i, text }, []);
  expect(keeper.isAsleep).toBe(false);
  const items = await look();
  expect(items.map(({ record }) => record)).toEqual(Array.from({ length: count }, (_, i) => ({ i, text })));
});

it('tells when it dies, asleep or awake', async () => {
  const died = (one: SleepingKeeper) => new Promise<void>((resolve) => one.onLost(resolve));
  const first = died(keeper);
  process.kill(processesWith(folder)[0] as number, 'SIGKILL');
  await first;
  expect(keeper.isOpen).toBe(false);
  keeper = await Keeper.start(path, 60_000);
  keep('one', 1);
  expect(await look()).toHaveLength(1);
  const second = died(keeper);
  process.kill(processesWith(folder)[0] as number, 'SIGKILL');
  await second;
  expect(keeper.isOpen).toBe(false);
});

it('takes the place of a dead one’s socket, once', async () => {
  process.kill(processesWith(folder)[0] as number, 'SIGKILL');
  await expect.poll(() => keeper.isOpen).toBe(false);
  expect(existsSync(path)).toBe(true);
  const both = await Promise.allSettled([Keeper.start(path, 60_000), Keeper.start(path, 60_000)]);
  expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  for (const one of both) {
    if (one.status === 'fulfilled') keeper = one.value;
    else expect(one.reason).toMatchObject({ code: 'EADDRINUSE' });
  }
  expect(await look()).toEqual([]);
});

it('refuses what is too large, and keeps the rest', async () => {
  keep('one', 1);
  const [near, far] = socketPair();
  expect(() => keeper.put('group', 'large', { text: 'x'.repeat(2 << 20) }, [far])).toThrow(/EMSGSIZE/);
  closeSync(far);
  expect(recvFds(near, { maxBytes: 1, maxFds: 0 })?.eof).toBe(true);
  closeSync(near);
  expect(() => keeper.amend('group', 'one', { text: 'x'.repeat(2 << 20) })).toThrow(/EMSGSIZE/);
  keeper.drop('group', 'none');
  await nextTurn();
  expect(await look()).toMatchObject([{ item: 'one', record: { size: 1 } }]);
});

describe('without a file that it needs', () => {
  let away: string;
  let there: string;

  beforeEach(async () => {
    keeper.bye();
    cpSync('build', join(folder, 'build'), { recursive: true });
    symlinkSync(join(process.cwd(), 'node_modules'), join(folder, 'node_modules'));
    const copy = pathToFileURL(join(folder, 'build/daemon/sleeping-keeper.js')).href;
    const { SleepingKeeper: Copy } = (await import(
      copy
    )) as typeof import('../../../src/daemon/sleeping-keeper.js');
    keeper = await Copy.start(path, 3000);
    keep('one', 1);
    there = join(folder, 'build/handover/wire.js');
    away = `${there}.away`;
    renameSync(there, away);
  });

  it('wakes up when it is back', async () => {
    const looked = look();
    keeper.wake();
    expect(commandOf(shell())).toBe('/bin/sh');
    renameSync(away, there);
    expect(await looked).toMatchObject([{ item: 'one' }]);
  });

  it('ends when it has been waiting too long', async () => {
    const lost = new Promise<void>((resolve) => keeper.onLost(resolve));
    keeper.wake();
    await lost;
  });

  it('ends when luod does', async () => {
    keeper.wake();
    keeper.bye();
    await expect.poll(shell).toBeUndefined();
  });
});
