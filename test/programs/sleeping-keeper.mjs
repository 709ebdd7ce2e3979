// Keeps things with a keeper that sleeps, in a process that can be killed: says what the keeper of the process before had, starts one of its
// own that has it, too, and does what it is told, a line of JSON each. With {"does":"die","at":n} the process kills itself at its nth
// word to the keeper from then on. What a descriptor is, it reads from the memfd itself.

import { closeSync, existsSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { KeeperLink } from '../../build/daemon/keeper-link.js';
import { SleepingKeeper } from '../../build/daemon/sleeping-keeper.js';
import { contentOf, memfdOf } from './contents.mjs';

const [path] = process.argv.slice(2);

const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`);
let wordsLeft = Number.NaN;
const { write } = KeeperLink.prototype;
KeeperLink.prototype.write = function (...words) {
  if (--wordsLeft === 0) process.kill(process.pid, 'SIGKILL');
  return write.apply(this, words);
};
const kept = new Map();
const groupOf = (group) => kept.get(group) ?? kept.set(group, new Map()).get(group);
const before = await KeeperLink.find(path);
const items = before?.items ?? [];
say({ items: items.map(({ fds, ...item }) => ({ ...item, fds: fds.map(contentOf) })) });
before?.link.bye();
while (existsSync(path)) await nextTurn();
const store = await SleepingKeeper.start(path, 60_000);
for (const { group, item, record, fds } of items) {
  store.put(group, item, record, fds);
  groupOf(group).set(item, { record, fds });
}
say({ asleep: true });

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
    const fds = contents.map(memfdOf);
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
