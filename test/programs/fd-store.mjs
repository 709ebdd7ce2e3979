// The descriptor store alone, in a process that can be killed: says what it found, then does what it is told, a line of JSON each.
// What a descriptor is, it reads from the memfd itself.

import { closeSync, fstatSync, readSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { FdStore } from '../../build/daemon/fd-store.js';
import { ServiceManager } from '../../build/daemon/service-manager.js';
import { createMemfd } from '../../build/linux/memfd.js';

const [keeperPath] = process.argv.slice(2);

function contentOf(fd) {
  const bytes = Buffer.alloc(fstatSync(fd).size);
  readSync(fd, bytes, 0, bytes.length, 0);
  closeSync(fd);
  return bytes.toString();
}

const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`);
const manager = ServiceManager.fromEnvironment((line) => process.stderr.write(`${line}\n`));
const { store, items } = FdStore.open(manager, keeperPath);
say({ items: items.map(({ fds, ...item }) => ({ ...item, fds: fds.map(contentOf) })) });
manager.ready('');

for await (const line of createInterface({ input: process.stdin })) {
  const { does, group, item, record, contents = [] } = JSON.parse(line);
  const fds = contents.map((content) => {
    const fd = createMemfd('content', 0);
    writeSync(fd, content);
    return fd;
  });
  try {
    if (does === 'put') store.put(group, item, record, fds);
    else if (does === 'amend') store.amend(group, item, record);
    else store.drop(group, item);
    say({ done: true });
  } catch (error) {
    say({ error: error.code });
  }
  for (const fd of fds) closeSync(fd);
}
