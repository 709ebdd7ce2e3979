/** The orchestrator by itself: one image's files and sessions to the next, with handlers whose callbacks do next to nothing. */
import { LiveUpdate } from '../../build/core/index.js';
import { controlOnce } from './control.mjs';
import { coldWatch, series, watch } from './measure.mjs';

const FILES = [10, 100, 1000, 10_000, 30_000, 100_000];
/** From here on growth is judged: with fewer, what an update costs whatever it carries is a good part of it. */
const FROM = 1000;
/** Each step of a sample sweeps the caches, however few its items are, so a sample of few is not repeated as often. */
const COLD_ITEMS = 4000;
/** The control of each step: what it does to as many objects. */
const CONTROL_OF = {
  create: 'Map: filled',
  preserve: 'Map: filled',
  freeze: 'Map: copied',
  deserialize: 'Map: filled',
  retrieve: 'Map: asked',
  finish: 'Map: asked',
  'finish and close': 'Map: emptied',
  all: 'Map: all',
};

const nothing = () => undefined;

const handler = {
  compatible: 'thing-v1',
  ops: {
    canPreserve: (_, file) => typeof file === 'object',
    preserve(args) {
      args.serializedData = 7n;
    },
    unpreserve: nothing,
    freeze: nothing,
    unfreeze: nothing,
    retrieve(args) {
      args.file = { data: args.serializedData };
    },
    canFinish: () => true,
    finish: nothing,
  },
};

function orchestrator() {
  const liveupdate = new LiveUpdate();
  liveupdate.registerFileHandler(handler);
  return liveupdate;
}

function filesOnce(count, tokens, start) {
  const files = Array.from({ length: count }, (_, id) => ({ id }));
  const old = orchestrator();
  const session = old.createSession('s');
  const clock = start();
  const { times, done } = clock;
  for (let i = 0; i < count; i++) session.preserve(files[i], tokens[i]);
  done('preserve');
  const image = old.reboot();
  done('freeze');
  const next = orchestrator();
  next.deserialize(image);
  done('deserialize');
  const retrieved = next.retrieveSession('s');
  for (let i = 0; i < count; i++) retrieved.retrieve(tokens[i]);
  done('retrieve');
  retrieved.finish();
  done('finish');
  times.all = times.preserve + times.freeze + times.deserialize + times.retrieve + times.finish;
  clock.begin();
  controlOnce(tokens, clock);
  return times;
}

function sessionsOnce(count, names, start) {
  const files = Array.from({ length: count }, (_, id) => ({ id }));
  const old = orchestrator();
  const clock = start();
  const { times, done } = clock;
  const sessions = names.map((name) => old.createSession(name));
  done('create');
  for (let i = 0; i < count; i++) sessions[i].preserve(files[i], 0n);
  done('preserve');
  const image = old.reboot();
  done('freeze');
  const next = orchestrator();
  next.deserialize(image);
  done('deserialize');
  const retrieved = names.map((name) => next.retrieveSession(name));
  for (const session of retrieved) session.retrieve(0n);
  done('retrieve');
  for (const session of retrieved) session.finish();
  for (const session of retrieved) session.close();
  done('finish and close');
  times.all = Object.values(times).reduce((sum, time) => sum + time);
  clock.begin();
  controlOnce(names, clock);
  return times;
}

function onceEach(sizes, make) {
  return new Map(sizes.map((size) => [size, make(size)]));
}

/**
 * @param isCold Each step with cold caches, and from the size on from which growth is judged.
 * @returns the tables of this part.
 */
export async function measureCore(repetitions, isCold) {
  const sizes = isCold ? FILES.filter((size) => size >= FROM) : FILES;
  const start = isCold ? coldWatch : watch;
  const measured = (sample) => series(sizes, repetitions, sample, isCold ? COLD_ITEMS : undefined);
  const counting = onceEach(sizes, (size) => Array.from({ length: size }, (_, i) => BigInt(i)));
  const scattered = onceEach(sizes, (size) =>
    Array.from({ length: size }, (_, i) => (BigInt(i) * 0x9e37_79b9_7f4a_7c15n) & 0xffff_ffff_ffff_ffffn),
  );
  const names = onceEach(sizes, (size) => Array.from({ length: size }, (_, i) => `session-${i}`));
  const rest = { sizes, from: FROM, controlOf: CONTROL_OF };
  return [
    {
      ...rest,
      title: 'Files of one session',
      unit: 'µs a file',
      rows: await measured((size) => filesOnce(size, counting.get(size), start)),
    },
    {
      ...rest,
      title: 'The same with tokens that do not count from 0',
      unit: 'µs a file',
      rows: await measured((size) => filesOnce(size, scattered.get(size), start)),
    },
    {
      ...rest,
      title: 'Sessions of one file each',
      unit: 'µs a session',
      rows: await measured((size) => sessionsOnce(size, names.get(size), start)),
    },
  ];
}
