import { spawnSync } from 'node:child_process';
import { fstatSync, ftruncateSync, readSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { closeFd } from '../../../src/linux/fd.js';
import { Mapping, maxMappableBytes } from '../../../src/linux/mapping.js';
import {
  createMemfd,
  F_SEAL_GROW,
  F_SEAL_SHRINK,
  memfdSeals,
  memfdSize,
  requireSeals,
  sealMemfd,
} from '../../../src/linux/memfd.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

const PAGE = 4096;

function sealed(size: number): number {
  const fd = createMemfd('test', size);
  sealMemfd(fd, F_SEAL_SHRINK | F_SEAL_GROW);
  return fd;
}

describe('memfd', () => {
  it('is made with its size, zero, and keeps its seals', () => {
    const fd = sealed(3 * PAGE);
    expect(memfdSize(fd)).toBe(3 * PAGE);
    expect(memfdSeals(fd) & (F_SEAL_SHRINK | F_SEAL_GROW)).toBe(F_SEAL_SHRINK | F_SEAL_GROW);
    expect(() => ftruncateSync(fd, PAGE)).toThrow('EPERM');
    closeFd(fd);
  });

  it('is refused without its seals, and so is what is no memfd', () => {
    const fd = createMemfd('test', PAGE);
    expect(() => requireSeals(fd, F_SEAL_SHRINK)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    closeFd(fd);
    expect(() => memfdSeals(0)).toThrow(expect.objectContaining({ operation: 'fcntl' }));
  });
});

describe('mapping', () => {
  it('shows the same pages to two views and to the file', () => {
    const fd = sealed(PAGE);
    const one = Mapping.map(fd, { length: PAGE, writable: true });
    const two = Mapping.map(fd, { length: PAGE, writable: false });
    new Uint8Array(one.buffer)[7] = 42;
    expect(new Uint8Array(two.buffer)[7]).toBe(42);
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, 7);
    expect(byte[0]).toBe(42);
    two.makeWritable();
    new Uint8Array(two.buffer)[8] = 43;
    expect(new Uint8Array(one.buffer)[8]).toBe(43);
    one.unmap();
    two.unmap();
    closeFd(fd);
  });

  it('keeps writes private once it was made so, and still shows what is there', () => {
    const fd = sealed(PAGE);
    const old = Mapping.map(fd, { length: PAGE, writable: true });
    const next = Mapping.map(fd, { length: PAGE, writable: true });
    const before = new Uint8Array(old.buffer);
    before[0] = 1;
    old.makePrivate();
    expect(before[0]).toBe(1);
    before[0] = 99;
    expect(new Uint8Array(next.buffer)[0]).toBe(1);
    old.unmap();
    next.unmap();
    closeFd(fd);
  });

  it('gives the pages back at unmap, and its views read zeros', () => {
    const fd = sealed(16 * PAGE);
    const mapping = Mapping.map(fd, { length: 16 * PAGE, writable: true });
    const view = new Uint8Array(mapping.buffer).fill(7);
    expect(fstatSync(fd).blocks).toBeGreaterThan(0);
    mapping.unmap();
    expect(view[0]).toBe(0);
    closeFd(fd);
  });

  it('refuses what could kill the process: a file that may shrink, nothing, and more than a view can show', () => {
    const loose = createMemfd('test', PAGE);
    expect(() => Mapping.map(loose, { length: PAGE, writable: true })).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    closeFd(loose);
    const fd = sealed(PAGE);
    expect(() => Mapping.map(fd, { length: 0, writable: true })).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    expect(() => Mapping.map(fd, { length: maxMappableBytes() + PAGE, writable: true })).toThrow(
      expect.objectContaining({ code: 'EFBIG' }),
    );
    closeFd(fd);
  });

  it('is unmapped when its buffer is collected, and read-only pages cannot be written', () => {
    const linux = fileURLToPath(new URL('../../../dist/linux/index.js', import.meta.url));
    const script = `
      import { readFileSync } from 'node:fs';
      import { createMemfd, sealMemfd, Mapping } from ${JSON.stringify(linux)};
      const fd = createMemfd('collected', 4096);
      sealMemfd(fd, 2);
      const count = () => readFileSync('/proc/self/maps', 'utf8').split('memfd:collected').length - 1;
      for (let i = 0; i < 100; i++) Mapping.map(fd, { length: 4096, writable: true });
      const most = count();
      for (let i = 0; i < 20 && count() > 0; i++) { gc(); await new Promise((resolve) => setImmediate(resolve)); }
      console.log(most, count());
      new Uint8Array(Mapping.map(fd, { length: 4096, writable: false }).buffer)[0] = 1;
    `;
    const child = spawnSync(process.execPath, ['--expose-gc', '--input-type=module', '-e', script], {
      encoding: 'utf8',
    });
    expect(child.stdout).toBe('100 0\n');
    expect(child.signal).toBe('SIGSEGV');
  });
});
