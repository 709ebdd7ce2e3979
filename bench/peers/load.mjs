/**
 * The load but for subscribers of event streams (subscribers.mjs), a process of its own: busy HTTP clients at a fixed rate, HTTP connections that are idle but alive, TCP clients of
 * numbered bytes. Its parent says 'begin' and 'finish'; it answers {connected}, and then everything that it saw.
 *
 * Requests are due at times that do not depend on the replies. A reply's time is counted from when its request was due, so that
 * a service that stands still is seen by all the requests that would have come meanwhile, not by one for each client.
 * Times are milliseconds of the monotonic clock, which parent and children share.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure, HttpConnection } from './http-connection.mjs';
import { TcpClient } from './tcp-client.mjs';

const { httpPort, tcpPort, connections, idle, tcp, rate } = JSON.parse(process.argv[2]);
/** Each TCP client sends a chunk. */
const TCP_INTERVAL_MS = 100;
const CONNECTING = 50;
/** Replies that are still due at the end are waited for. */
const DRAIN_MS = 3000;

const now = () => Number(process.hrtime.bigint()) / 1e6;

/** Of all requests: when due, when asked (this process may be woken late), milliseconds from due to the reply, the counter, and indices into `versions` and `caches`. */
const replies = { due: [], asked: [], took: [], counter: [], version: [], cache: [] };
const versions = [];
const caches = [];
const failures = [];
/** Connections of busy clients that the service closed: when. */
const busyClosed = [];
let nextRequest = 1;

function indexIn(list, value) {
  const index = list.indexOf(value);
  return index === -1 ? list.push(value) - 1 : index;
}

function note({ dueAt, askedAt }, { version, counter, cache }) {
  replies.due.push(dueAt);
  replies.asked.push(askedAt);
  replies.took.push(now() - dueAt);
  replies.counter.push(counter);
  replies.version.push(indexIn(versions, version));
  replies.cache.push(indexIn(caches, cache));
}

class BusyClient {
  #connection = new HttpConnection(() => busyClosed.push(now()));
  #queue = [];
  #isWorking = false;

  async open() {
    await this.#connection.connect(httpPort);
  }

  due(dueAt) {
    this.#queue.push({ dueAt, askedAt: now() });
    if (!this.#isWorking) void this.#work();
  }

  get isDone() {
    return !this.#isWorking;
  }

  async #work() {
    this.#isWorking = true;
    for (let due = this.#queue.shift(); due !== undefined; due = this.#queue.shift()) {
      try {
        if (!this.#connection.isOpen) await this.#connection.connect(httpPort);
        note(due, await this.#connection.request(nextRequest++));
      } catch (failure) {
        if (!(failure instanceof Failure)) throw failure;
        failures.push({ askedAt: due.askedAt, at: now(), kind: failure.kind, message: failure.message });
      }
    }
    this.#isWorking = false;
  }

  close() {
    this.#connection.close();
  }
}

class IdleClient {
  closedAt;
  #connection = new HttpConnection(() => {
    this.closedAt = now();
  });

  async open() {
    await this.#connection.connect(httpPort);
    await this.#connection.request(nextRequest++);
  }

  /** The version that answers now; undefined when none does. */
  async probe() {
    if (!this.#connection.isOpen) return undefined;
    try {
      return (await this.#connection.request(nextRequest++)).version;
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      return undefined;
    }
  }

  close() {
    this.#connection.close();
  }
}

async function openAll(clients) {
  for (let at = 0; at < clients.length; at += CONNECTING) {
    await Promise.all(clients.slice(at, at + CONNECTING).map((client) => client.open()));
  }
}

const busyClients = Array.from({ length: connections }, () => new BusyClient());
const idleClients = Array.from({ length: idle }, () => new IdleClient());
const tcpClients = Array.from({ length: tcp }, (_, seed) => new TcpClient(tcpPort, seed));

/** Calls `work(k)` at `first + k * interval`, for ever, until the returned function is called. */
function atFixedRate(interval, work) {
  const first = now();
  let count = 0;
  let timer;
  const turn = () => {
    for (; first + count * interval <= now(); count++) work(count, first + count * interval);
    timer = setTimeout(turn, Math.max(1, first + count * interval - now()));
  };
  turn();
  return () => clearTimeout(timer);
}

const stops = [];

function begin() {
  if (busyClients.length > 0)
    stops.push(atFixedRate(1000 / rate, (count, at) => busyClients[count % busyClients.length].due(at)));
  if (tcpClients.length > 0) {
    const interval = TCP_INTERVAL_MS / tcpClients.length;
    stops.push(atFixedRate(interval, (count) => tcpClients[count % tcpClients.length].tick()));
  }
}

/** Waits until `isDone`, at most DRAIN_MS. */
async function drained(isDone) {
  const until = now() + DRAIN_MS;
  while (!isDone() && now() < until) await sleep(5);
}

/** Counts of each version among `answers`; undefined counts as closed. */
function tally(answers) {
  const counts = {};
  for (const version of answers) {
    if (version !== undefined) counts[version] = (counts[version] ?? 0) + 1;
  }
  return counts;
}

async function finish() {
  for (const stop of stops) stop();
  await drained(() => busyClients.every(({ isDone }) => isDone));
  await drained(() => tcpClients.every(({ isAnswered }) => isAnswered));
  const idleVersions = await Promise.all(idleClients.map((client) => client.probe()));
  // A connection that was made anew says nothing about those that were there before the update.
  const tcpVersions = await Promise.all(
    tcpClients.map(async (client) => {
      const version = await client.askVersion();
      return client.isFirst ? version : undefined;
    }),
  );
  const sum = (name) => tcpClients.reduce((total, client) => total + client[name], 0);
  const seen = {
    replies: {
      due: Float64Array.from(replies.due),
      asked: Float64Array.from(replies.asked),
      took: Float64Array.from(replies.took),
      counter: Float64Array.from(replies.counter),
      version: Uint8Array.from(replies.version),
      cache: Uint8Array.from(replies.cache),
    },
    versions,
    caches,
    failures,
    busyClosed,
    idle: {
      count: idle,
      alive: idleVersions.filter((version) => version !== undefined).length,
      by: tally(idleVersions),
    },
    tcp: {
      count: tcp,
      alive: tcpVersions.filter((version) => version !== undefined).length,
      by: tally(tcpVersions),
      closed: sum('closed'),
      lost: sum('lost'),
      wrong: sum('wrong'),
      refused: sum('refused'),
      longest: Math.max(0, ...tcpClients.map(({ longest }) => longest)),
    },
  };
  for (const client of [...busyClients, ...idleClients, ...tcpClients]) client.close();
  process.send({ seen }, () => process.disconnect());
}

process.on('message', (message) => {
  if (message === 'begin') begin();
  if (message === 'finish') void finish();
});

await openAll([...busyClients, ...idleClients, ...tcpClients]);
process.send({ connected: true });
