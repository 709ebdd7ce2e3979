import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import module from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { cacheFolder, cacheOfPrograms, emptyWhenFull } from '../../../src/daemon/compile-cache.js';

let run: string;
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), 'liveupdate-cache-'));
});
afterEach(() => rmSync(run, { recursive: true, force: true }));

const socket = () => join(run, 'luod.sock');
const folder = () => join(run, 'compile-cache');

it('is beside the socket, for nobody else', () => {
  expect(cacheFolder(socket())).toBe(folder());
  expect(statSync(folder()).mode & 0o777).toBe(0o700);
  expect(cacheFolder(socket())).toBe(folder());
});

it('is not where others can write, sticky or not', () => {
  for (const mode of [0o1777, 0o770, 0o702]) {
    chmodSync(run, mode);
    expect(cacheFolder(socket())).toBeUndefined();
    expect(existsSync(folder())).toBe(false);
  }
});

it('is not what others can read or write, no link and no file', () => {
  mkdirSync(folder());
  chmodSync(folder(), 0o750);
  expect(cacheFolder(socket())).toBeUndefined();
  rmSync(folder(), { recursive: true });
  mkdirSync(join(run, 'other'), { mode: 0o700 });
  symlinkSync(join(run, 'other'), folder());
  expect(cacheFolder(socket())).toBeUndefined();
  rmSync(folder());
  writeFileSync(folder(), '');
  expect(cacheFolder(socket())).toBeUndefined();
});

it('makes no run folder', () => {
  expect(cacheFolder(join(run, 'none', 'luod.sock'))).toBeUndefined();
  expect(existsSync(join(run, 'none'))).toBe(false);
});

it('is told to programs, if this Node has one and the environment says nothing', () => {
  const isThere = 'enableCompileCache' in module;
  expect(cacheOfPrograms(socket(), {})).toEqual(isThere ? { NODE_COMPILE_CACHE: folder() } : {});
  expect(existsSync(folder())).toBe(isThere);
  expect(cacheOfPrograms(socket(), { NODE_COMPILE_CACHE: '/elsewhere' })).toEqual({});
  expect(cacheOfPrograms(socket(), { NODE_DISABLE_COMPILE_CACHE: '1' })).toEqual({});
});

it('is emptied when it has grown too large', async () => {
  const version = join(folder(), 'v1');
  mkdirSync(version, { recursive: true });
  writeFileSync(join(version, 'a'), Buffer.alloc(60_000));
  await emptyWhenFull(folder(), 100_000);
  expect(existsSync(join(version, 'a'))).toBe(true);
  await emptyWhenFull(folder(), 50_000);
  expect(existsSync(version)).toBe(false);
  mkdirSync(version);
  for (let i = 0; i < 20; i++) writeFileSync(join(version, `empty.${i}`), '');
  await emptyWhenFull(folder(), 50_000);
  expect(existsSync(version)).toBe(false);
  expect(existsSync(folder())).toBe(true);
});
