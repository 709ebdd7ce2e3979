// The descriptor store alone, in a process that can be killed: says what it found, then does what it is told, a line of JSON each.
// What a descriptor is, it reads from the memfd itself.

import { closeSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { FdStore } from '../../build/daemon/fd-store.js';
import { ServiceManager } from '../../build/daemon/service-manager.js';
import { contentOf, memfdOf } from './contents.mjs';

const [keeperPath] = process.argv.slice(2);

const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`);
const manager = ServiceManager.fromEnvironment((line) => process.stderr.write(`${line}\n`));
const { store, items } = FdStore.open(manager, keeperPath);
say({ items: items.map(({ fds, ...item }) => ({ ...item, fds: fds.map(contentOf) })) });
for (const { fds } of items) for (const fd of fds) closeSync(fd);
manager.ready('');

for await (const line of createInterface({ input: process.stdin })) {
  const { does, group, item, record, contents = [] } = JSON.parse(line);
  const fds = contents.map(memfdOf);
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
