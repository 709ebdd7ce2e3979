/**
 * One life of a client of luod, which ends, or ends luod's, at a given point: before a request, so many turns of the event loop after
 * it was made, or after its answer. Each step is told on stdout as it begins and when it is answered, in writes that no death can lose.
 */
import { closeSync, readSync, writeSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LuodClient } from 'liveupdate';
import { createMemfd } from 'liveupdate/linux';

const { socket, name, custody, files, point, luod } = JSON.parse(process.argv[2]);
let steps = 0;

function die() {
  if (point.victim !== 'client') process.kill(luod, 'SIGKILL');
  if (point.victim !== 'luod') process.kill(process.pid, 'SIGKILL');
}

function say(word, step, token) {
  writeSync(1, `${word} ${step} ${token ?? ''}\n`);
}

async function step(what, token, work) {
  const isPoint = steps++ === point.step;
  say('begin', what, token);
  if (isPoint && point.when === 'before') die();
  const answer = work();
  if (isPoint && typeof point.when === 'number') {
    for (let turn = 0; turn < point.when; turn++) await nextTurn();
    die();
  }
  const result = await answer;
  say('done', what, token);
  if (isPoint && point.when === 'after') die();
  return result;
}

/** luod may not have noticed yet that it was left. */
async function retrieve(client) {
  for (;;) {
    try {
      return await client.retrieveSession(name);
    } catch (error) {
      if (error.code !== 'ENOENT' && error.code !== 'EINVAL') throw error;
    }
  }
}

const client = await LuodClient.connect(socket);
let session = await step('create', undefined, () => client.createSession(name, { custody }));
for (let token = 1; token <= files; token++) {
  const fd = createMemfd('f', 64);
  writeSync(fd, `${name} ${token}`, 0);
  await step('preserve', token, () => session.preserve(fd, BigInt(token)));
  closeSync(fd);
}
await step('unpreserve', 1, () => session.unpreserve(1n));
await step('leave', undefined, () => session.close());
if (custody === 'hold') {
  session = await step('retrieve', undefined, () => retrieve(client));
  for (let token = 2; token <= files; token++) {
    const fd = await step('retrieveFd', token, () => session.retrieve(BigInt(token)));
    const bytes = Buffer.alloc(64);
    readSync(fd, bytes, 0, 64, 0);
    if (!bytes.toString().startsWith(`${name} ${token}\0`)) throw new Error(`token ${token}: ${bytes}`);
    closeSync(fd);
  }
  await step('finish', undefined, () => session.finish());
  session.close();
}
client.close();
