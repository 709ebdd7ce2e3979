/**
 * One run of one system: its service, the load, and an update in the middle.
 *
 *   warm-up | before: the load by itself | the update begins: during, as long as before | after: who serves what is left
 *
 * "Before" and "during" are windows of the same length in every system; an update that takes longer makes its "during" longer.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../processes.mjs';
import { ClientProcess } from './client-process.mjs';
import { longestGap } from './gap.mjs';
import { deploy } from './system-process.mjs';
import { TrackedProcesses } from './tracked-processes.mjs';

const now = () => Number(process.hrtime.bigint()) / 1e6;

/** What has to be undone when the benchmark is ended in the middle of a run. */
const open = new Set();
process.on('exit', () => {
  for (const undo of open) undo();
});

export async function measure(system, options) {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-peers-'));
  const processes = new TrackedProcesses();
  const others = new TrackedProcesses();
  const undo = () => {
    processes.killAll();
    others.killAll();
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
    open.delete(undo);
  };
  open.add(undo);
  let load;
  let subscribers;
  let running;
  try {
    const connections = system.loads.http ? options.connections : 0;
    const idle = system.loads.http ? options.idle : 0;
    const tcp = system.loads.tcp ? options.tcp : 0;
    const streams = system.loads.http ? options.streams : 0;
    const setting = {
      folder,
      httpPort: connections + idle + streams > 0 ? await freePort() : 0,
      tcpPort: tcp > 0 ? await freePort() : 0,
      cacheBytes: options.cacheBytes,
      processes,
      others,
    };
    deploy(folder, '1');
    running = await system.start(setting);
    const { httpPort, tcpPort } = setting;
    load = new ClientProcess('load.mjs', { httpPort, tcpPort, connections, idle, tcp, rate: options.rate });
    await load.connected();
    if (streams > 0) {
      subscribers = new ClientProcess('subscribers.mjs', { httpPort, streams });
      await subscribers.connected();
    }
    load.begin();
    await sleep(options.warmupMs);
    const cpuAtStart = processes.cpuSeconds();
    processes.resetPeaks();
    await sleep(options.windowMs);
    const peakBefore = processes.peakBytes;
    processes.resetPeaks();
    deploy(folder, '2');
    const cpuAtUpdate = processes.cpuSeconds();
    const updateAt = now();
    const [told] = await Promise.all([timed(() => running.update('2'), updateAt), sleep(options.windowMs)]);
    const cpuAtEnd = processes.cpuSeconds();
    const windowEnd = now();
    const isOldGone = running.isOldGone?.();
    const [seen, heard] = await Promise.all([load.finish(), subscribers?.finish()]);
    return {
      streams: analyseStreams(heard, { updateAt, windowMs: options.windowMs }),
      ...analyse(seen, { updateAt, windowEnd, windowMs: options.windowMs, connections, system }),
      commandMs: told.ms,
      blackoutMs: told.value?.blackoutMs,
      isOldGone,
      duringMs: windowEnd - updateAt,
      cpuBefore: cpuAtUpdate - cpuAtStart,
      cpuDuring: cpuAtEnd - cpuAtUpdate,
      peakBytesBefore: peakBefore,
      peakBytes: processes.peakBytes,
      peakPrivateBytes: processes.peakPrivateBytes,
    };
  } finally {
    load?.kill();
    subscribers?.kill();
    try {
      await running?.stop();
    } finally {
      undo();
    }
  }
}

async function timed(act, since) {
  const value = await act();
  return { value, ms: now() - since };
}

/** What the clients saw, as figures. Times are milliseconds, from the update's begin where they are points. */
function analyse(seen, { updateAt, windowEnd, windowMs, connections, system }) {
  const { due, asked, took, version } = seen.replies;
  const requests = [
    ...Array.from(due, (at, i) => ({ askedAt: asked[i], endedAt: at + took[i], isAnswered: true })),
    ...seen.failures.map(({ askedAt, at }) => ({ askedAt, endedAt: at, isAnswered: false })),
  ];
  const before = [];
  const during = [];
  let firstNew;
  let lastOld;
  const newVersion = seen.versions.indexOf('2');
  for (let i = 0; i < due.length; i++) {
    const at = due[i] + took[i];
    if (due[i] >= updateAt - windowMs && due[i] < updateAt) before.push(took[i]);
    if (due[i] >= updateAt && due[i] < windowEnd) during.push(took[i]);
    if (version[i] === newVersion && !(at >= firstNew)) firstNew = at;
    if (version[i] !== newVersion && !(at <= lastOld)) lastOld = at;
  }
  const failures = {};
  for (const { kind } of seen.failures) failures[kind] = (failures[kind] ?? 0) + 1;
  const since = (at) => (at === undefined ? undefined : Math.max(0, at - updateAt));
  const isNew = newVersion !== -1;
  return {
    requests: due.length + seen.failures.length,
    failed: seen.failures.length,
    failures,
    busyClosed: seen.busyClosed.filter((at) => at >= updateAt).length,
    idle: seen.idle,
    tcp: seen.tcp,
    gapMs: longestGap(requests, updateAt, windowEnd),
    gapBeforeMs: longestGap(requests, updateAt - windowMs, updateAt),
    longestMs: highest(during),
    before: quantiles(before),
    during: quantiles(during),
    newVersionMs: isNew ? since(firstNew) : undefined,
    oldVersionMs: isNew ? since(lastOld) : undefined,
    ...memoryOf(seen, {
      // Without a new version, what comes after the update's begin stands for it.
      isNew: system.bringsNoVersion ? (i) => due[i] >= updateAt : (i) => version[i] === newVersion,
      inFlight: connections,
    }),
    timeline: timeline(seen, updateAt, windowMs),
  };
}

/** What the subscribers of event streams saw. */
function analyseStreams(heard, { updateAt, windowMs }) {
  if (heard === undefined) return { count: 0, alive: 0, by: {} };
  const { subscribers, finishedAt } = heard;
  const living = subscribers.filter(({ isFirst }) => isFirst);
  const by = {};
  for (const { version } of living) by[version] = (by[version] ?? 0) + 1;
  const sum = (name) => subscribers.reduce((total, subscriber) => total + subscriber[name], 0);
  const gap = (from, to) => Math.max(...subscribers.map(({ at }) => silence(at, from, to)));
  return {
    count: subscribers.length,
    alive: living.length,
    by,
    ended: sum('ended'),
    refused: sum('refused'),
    missed: sum('missed'),
    repeated: sum('repeated'),
    gapMs: gap(updateAt, finishedAt),
    gapBeforeMs: gap(updateAt - windowMs, updateAt),
  };
}

/** The longest time without an event that ended, or lasted still, between `from` and `to`. */
function silence(times, from, to) {
  let longest = 0;
  let last = from;
  for (const at of times) {
    if (at > to) break;
    if (at >= from) longest = Math.max(longest, at - last);
    last = at;
  }
  return Math.max(longest, to - last);
}

function highest(numbers) {
  return numbers.length === 0 ? undefined : numbers.reduce((a, b) => Math.max(a, b));
}

function quantiles(numbers) {
  if (numbers.length === 0) return undefined;
  const sorted = numbers.toSorted((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  return { p50: at(0.5), p99: at(0.99) };
}

/** Whether the new version went on with the old one's counter and cache; undefined where there is none, or no new version. */
function memoryOf({ replies: { due, counter, cache }, caches }, { isNew, inFlight }) {
  let highest = 0;
  let lowest = Number.POSITIVE_INFINITY;
  const old = new Set();
  const next = new Set();
  for (let i = 0; i < due.length; i++) {
    if (isNew(i)) {
      lowest = Math.min(lowest, counter[i]);
      next.add(cache[i]);
    } else {
      highest = Math.max(highest, counter[i]);
      old.add(cache[i]);
    }
  }
  if (next.size === 0) return {};
  const judge = (isKept) => (isKept ? 'kept' : 'lost');
  return {
    // A counter that goes on begins where it was, but for requests that overtook each other.
    counter: judge(lowest > highest - inFlight),
    cache: caches.every((stamp) => stamp === undefined)
      ? undefined
      : judge([...next].every((stamp) => old.has(stamp))),
  };
}

/** For the picture: p50, longest, and failures of each slice of time. */
const SLICE_MS = 25;

function timeline({ replies: { due, took }, failures }, updateAt, windowMs) {
  const first = -Math.min(2000, windowMs);
  const count = Math.ceil((windowMs - first) / SLICE_MS);
  const slices = Array.from({ length: count }, () => ({ took: [], failed: 0 }));
  const sliceOf = (at) => slices[Math.floor((at - updateAt - first) / SLICE_MS)];
  for (let i = 0; i < due.length; i++) sliceOf(due[i])?.took.push(took[i]);
  for (const { at } of failures) {
    const slice = sliceOf(at);
    if (slice !== undefined) slice.failed++;
  }
  const round = (number) => Math.round(number * 100) / 100;
  return {
    firstMs: first,
    sliceMs: SLICE_MS,
    p50: slices.map(({ took }) => (took.length === 0 ? null : round(quantiles(took).p50))),
    longest: slices.map(({ took }) => (took.length === 0 ? null : round(highest(took)))),
    failed: slices.map(({ failed }) => failed),
  };
}
