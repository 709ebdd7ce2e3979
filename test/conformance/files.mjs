// The files that sequences preserve, made from a description and described again by what a program can see of them.

import { createHash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  dupFd,
  fcntl,
  isCloseOnExec,
  memfdSeals,
  sealMemfd,
  seek,
  socketPair,
  tell,
} from '../../build/linux/index.js';
import { libc } from '../../build/linux/libc.js';

const MFD = { cloexec: 1, allowSealing: 2, hugetlb: 4, noexecSeal: 8 };
const F_GETFL = 3;
const O_ACCMODE = 3;

/** Bytes that depend on the seed and the place alone. */
export function pattern(length, seed) {
  const bytes = Buffer.alloc(length);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

export function writeAt(fd, bytes, at) {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
}

function memfd({ how, size, filled, seed, seals, position }) {
  const flags = { sealable: MFD.allowSealing, noexec: MFD.noexecSeal | MFD.allowSealing, plain: 0 }[how];
  const fd = libc.memfdCreate('conformance', MFD.cloexec | flags);
  ftruncateSync(fd, size);
  if (filled) writeAt(fd, pattern(size, seed), 0);
  seek(fd, position);
  if (seals !== 0 && how !== 'plain') sealMemfd(fd, seals);
  return fd;
}

/** Makes what `spec` says; a descriptor, or -1 when it says something that is not there. `of` gives another file's. */
export function makeFile(spec, of) {
  switch (spec.kind) {
    case 'memfd':
      return memfd(spec);
    case 'hugetlb':
      return libc.memfdCreate('conformance', MFD.cloexec | MFD.hugetlb);
    case 'dup': {
      const fd = of(spec.of);
      return fd === -1 ? -1 : dupFd(fd);
    }
    case 'reopen': {
      const fd = of(spec.of);
      // Only files in memory: a socket cannot be opened again.
      return fd === -1 || !isMemory(fd) ? -1 : openSync(`/proc/self/fd/${fd}`, spec.readOnly ? 'r' : 'r+');
    }
    case 'device':
      return openSync('/dev/null', 'r+');
    case 'directory':
      return openSync('/', 'r');
    case 'proc':
      return openSync('/proc/self/status', 'r');
    case 'named': {
      const folder = mkdtempSync(join('/dev/shm', 'conformance-'));
      const fd = openSync(join(folder, 'file'), 'w+');
      writeSync(fd, 'named');
      // It keeps its name for as long as it is open: a link in tmpfs is what makes it none of the kernel's business.
      named.push(folder);
      return fd;
    }
    case 'unlinked': {
      const folder = mkdtempSync(join('/dev/shm', 'conformance-'));
      const fd = openSync(join(folder, 'file'), 'w+');
      writeSync(fd, pattern(spec.size, spec.seed));
      rmSync(folder, { recursive: true });
      return fd;
    }
    case 'socket': {
      const [one, two] = socketPair();
      closeSync(two);
      return one;
    }
    case 'closed':
      return -1;
    default:
      throw new Error(`no such kind of file: ${spec.kind}`);
  }
}

const named = [];

/** Removes what stayed in the file system. */
export function removeNamed() {
  for (const folder of named.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** What a program can see of a memfd that has to be the same on both sides. */
export function describe(fd) {
  const { size } = fstatSync(fd);
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const read = readSync(fd, bytes, at, size - at, at);
    if (read === 0) break;
    at += read;
  }
  return {
    size,
    position: tell(fd),
    seals: memfdSeals(fd),
    access: fcntl(fd, F_GETFL, 0) & O_ACCMODE,
    closeOnExec: isCloseOnExec(fd),
    contents: createHash('sha1').update(bytes).digest('hex'),
  };
}

export function inodeOf(fd) {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

/** Whether `describe` has something to say: the file has seals, so it is one in memory. */
export function isMemory(fd) {
  try {
    memfdSeals(fd);
    return true;
  } catch (error) {
    if (error.code === 'EINVAL') return false;
    throw error;
  }
}
