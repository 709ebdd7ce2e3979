/**
 * All processes of a system under test, by /proc: those it was started as, their descendants, and whoever shares a session of
 * one of them. Children are looked for every few milliseconds, all others (of a parent that has ended, of another thread than the first)
 * ten times as rarely: one that lives a shorter time than that is not seen. What was once found stays found, also when its parent is gone.
 * Gives CPU time and memory, and ends whatever is left, by pid, after a look at the start time: a pid may have a new owner.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

const setting = (name) => Number(execFileSync('getconf', [name]));
const PAGE = setting('PAGESIZE');
const TICKS_PER_SECOND = setting('CLK_TCK');
const SAMPLE_MS = 50;
/** A look at every process of the machine takes 4 ms, which the clients would see. Most look at what is known and at its children. */
const SAMPLES_PER_FULL = 10;
const ENDING_MS = 2000;

/** The fields of /proc/PID/stat that are used here; undefined when there is no such process. */
function look(pid) {
  let text;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    // It has ended since the listing.
    return undefined;
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return {
    pid,
    state: fields[0],
    parent: Number(fields[1]),
    session: Number(fields[3]),
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
    startedAt: fields[19],
    residentBytes: Number(fields[21]) * PAGE,
  };
}

/** Resident pages that belong to a file or are shared memory. */
function sharedBytes(pid) {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[2]) * PAGE;
  } catch {
    // It has ended since.
    return 0;
  }
}

/** Of its first thread, which is the one that starts others. */
function childrenOf(pid) {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').filter(Boolean).map(Number);
  } catch {
    // It has ended since; or this kernel does not tell, and the next look at all processes finds them.
    return [];
  }
}

/** A pid may have another owner later, and the same program may come back under its old one. */
const keyOf = ({ pid, startedAt }) => `${pid} ${startedAt}`;

export class TrackedProcesses {
  /** By pid and start: the last look at it. */
  #known = new Map();
  #pids = new Set();
  #sessions = new Set();
  /** Of those that lived at the last look. */
  #alive = new Set();
  #samples = 0;
  #timer;
  peakBytes = 0;
  peakPrivateBytes = 0;

  constructor() {
    this.#timer = setInterval(() => {
      if (++this.#samples % SAMPLES_PER_FULL === 0) this.sample();
      else this.#look(this.#family());
    }, SAMPLE_MS);
    this.#timer.unref();
  }

  /** Follows `pid`, and all that come of it. */
  add(pid) {
    const seen = look(pid);
    if (seen !== undefined) this.#know(seen);
    this.sample();
  }

  #know(seen) {
    this.#known.set(keyOf(seen), seen);
    this.#pids.add(seen.pid);
    // A process that leads no session of its own is in ours.
    if (seen.session === seen.pid) this.#sessions.add(seen.pid);
  }

  /** Looks at every process of the machine. */
  sample() {
    const all = readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map((name) => look(Number(name)))
      .filter((seen) => seen !== undefined);
    let isGrowing = true;
    while (isGrowing) {
      isGrowing = false;
      for (const seen of all) {
        if (this.#known.has(keyOf(seen))) continue;
        if (!this.#pids.has(seen.parent) && !this.#sessions.has(seen.session)) continue;
        this.#know(seen);
        isGrowing = true;
      }
    }
    this.#look(all);
  }

  /** What lived at the last look and still does, and the children of that. */
  #family() {
    const family = [];
    const pids = [...this.#alive];
    const seen = new Set(pids);
    for (const pid of pids) {
      const found = look(pid);
      if (found === undefined) continue;
      if (!this.#known.has(keyOf(found))) {
        if (!this.#pids.has(found.parent)) continue;
        this.#know(found);
      }
      family.push(found);
      for (const child of childrenOf(pid)) {
        if (seen.has(child)) continue;
        seen.add(child);
        pids.push(child);
      }
    }
    return family;
  }

  #look(all) {
    let resident = 0;
    let shared = 0;
    this.#alive.clear();
    for (const seen of all) {
      if (!this.#known.has(keyOf(seen))) continue;
      this.#know(seen);
      this.#alive.add(seen.pid);
      resident += seen.residentBytes;
      shared += sharedBytes(seen.pid);
    }
    this.peakBytes = Math.max(this.peakBytes, resident);
    this.peakPrivateBytes = Math.max(this.peakPrivateBytes, resident - shared);
  }

  /** Of all, also of those that have ended. */
  cpuSeconds() {
    this.sample();
    let sum = 0;
    for (const { cpuSeconds } of this.#known.values()) sum += cpuSeconds;
    return sum;
  }

  /** Forgets the peaks so far. */
  resetPeaks() {
    this.peakBytes = 0;
    this.peakPrivateBytes = 0;
  }

  /** Pids that live. */
  live() {
    return [...this.#known.values()]
      .filter(({ pid, startedAt }) => {
        const seen = look(pid);
        return seen !== undefined && seen.startedAt === startedAt && seen.state !== 'Z';
      })
      .map(({ pid }) => pid);
  }

  /** Ends all that live, and returns when they have ended. They are stopped first, so that none can start another one unseen. */
  killAll() {
    clearInterval(this.#timer);
    const stopped = new Set();
    for (;;) {
      this.sample();
      const running = this.live().filter((pid) => !stopped.has(pid));
      if (running.length === 0) break;
      for (const pid of running) signal(pid, 'SIGSTOP');
      for (const pid of running) stopped.add(pid);
    }
    for (const pid of this.live()) signal(pid, 'SIGKILL');
    const until = performance.now() + ENDING_MS;
    while (this.live().length > 0 && performance.now() < until)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
  }
}

function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch (error) {
    // It has ended since.
    if (error.code !== 'ESRCH') throw error;
  }
}
