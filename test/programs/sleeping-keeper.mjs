// A store with a keeper, in a process that can be killed: says what it found, then does what it is told, a line of JSON each. The keeper
// sleeps as soon as it may, which is said, too. With {"does":"die","at":n} the process kills itself at its nth word to a keeper from then on.
// What a descriptor is, it reads from the memfd itself.

import { closeSync, fstatSync, readSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { KeeperLink } from '../../build/daemon/keeper-link.js';
import { KeptStore } from '../../build/daemon/kept-store.js';
import { SleepingKeeper } from '../../build/daemon/sleeping-keeper.js';
import { createMemfd } from '../../build/linux/memfd.js';

const [path, dieAt] = process.argv.slice(2);

function contentOf(fd) {
  const bytes = Buffer.alloc(fstatSync(fd).size);
  readSync(fd, bytes, 0, bytes.length, 0);
  return bytes.toString();
}

const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`);
let wordsLeft = Number(dieAt);
const { write } = KeeperLink.prototype;
KeeperLink.prototype.write = function (...words) {
  if (--wordsLeft === 0) process.kill(process.pid, 'SIGKILL');
  return write.apply(this, words);
};
const { serve } = SleepingKeeper.prototype;
SleepingKeeper.prototype.serve = function () {
  serve.call(this);
  setImmediate(() => say({ asleep: true }));
};

const kept = new Map();
const log = (line) => process.stderr.write(`${line}\n`);
const { store, items } = await KeptStore.open({ path, patienceMs: 60_000, log, calmMs: 1 });
store.onReplaced(() => {
  for (const [group, own] of kept)
    for (const [item, { record, fds }] of own) store.put(group, item, record, fds);
});
const groupOf = (group) => kept.get(group) ?? kept.set(group, new Map()).get(group);
for (const { group, item, record, fds } of items) groupOf(group).set(item, { record, fds });
say({ items: items.map(({ fds, ...item }) => ({ ...item, fds: fds.map(contentOf) })) });

const forget = (group, item) => {
  for (const fd of groupOf(group).get(item)?.fds ?? []) closeSync(fd);
  groupOf(group).delete(item);
};
for await (const line of createInterface({ input: process.stdin })) {
  const { does, group, item, record, contents = [], at } = JSON.parse(line);
  if (does === 'die') {
    wordsLeft = at;
    continue;
  }
  if (does === 'put') {
    const fds = contents.map((content) => {
      const fd = createMemfd('content', 0);
      writeSync(fd, content);
      return fd;
    });
    store.put(group, item, record, fds);
    forget(group, item);
    groupOf(group).set(item, { record, fds });
  } else if (does === 'amend') {
    store.amend(group, item, record);
    groupOf(group).set(item, { fds: [], ...groupOf(group).get(item), record });
  } else {
    store.drop(group, item);
    for (const name of item === undefined ? [...groupOf(group).keys()] : [item]) forget(group, name);
  }
  say({ done: true });
}
