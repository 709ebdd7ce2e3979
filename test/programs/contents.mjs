// Memfds that are told apart by what is in them.

import { fstatSync, readSync, writeSync } from 'node:fs';
import { createMemfd } from '../../build/linux/memfd.js';

export function contentOf(fd) {
  const bytes = Buffer.alloc(fstatSync(fd).size);
  readSync(fd, bytes, 0, bytes.length, 0);
  return bytes.toString();
}

export function memfdOf(content) {
  const fd = createMemfd('content', 0);
  writeSync(fd, content);
  return fd;
}
