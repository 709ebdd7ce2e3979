/**
 * How the micro benchmarks measure: repetitions of all sizes interleaved, so that a slow moment of the machine meets all of them alike;
 * a forced collection before each sample; a warm-up after it, since V8 gives compiled code up with the objects that it was compiled for, and
 * a short collection of what that left; medians. And how growth is judged: the exponent of a power law, by
 * least squares on logarithms.
 *
 * What happens within one thread is measured in that thread's time on a processor (CLOCK_THREAD_CPUTIME_ID): the same as elapsed time on a
 * quiet machine, and nearly the same on a loaded one.
 */
import { setImmediate as turn } from 'node:timers/promises';
import koffi from 'koffi';

const CLOCK_THREAD_CPUTIME_ID = 3;
/** How many times its items are done to warm up. */
const WARM_UP = 3;

const clockGettime = koffi.load(null).func('int clock_gettime(int, void *)');
const timespec = Buffer.alloc(4096);

/** This thread's time on a processor, in microseconds. */
export function threadTime() {
  clockGettime(CLOCK_THREAD_CPUTIME_ID, timespec);
  return Number(timespec.readBigInt64LE(0)) * 1e6 + Number(timespec.readBigInt64LE(8)) / 1e3;
}

/** Times the steps of a sample, one after the other. */
export function watch() {
  const times = {};
  let before = threadTime();
  return {
    times,
    /** What was done since the last step is nobody's. */
    begin() {
      before = threadTime();
    },
    done(name) {
      const now = threadTime();
      times[name] = now - before;
      before = now;
    },
  };
}

/** Larger than any cache that a core has to itself, and most of those that it shares. */
const SWEPT_BYTES = 96 * 2 ** 20;
const LINE = 64;
let swept;

/** The same, but each step finds the caches full of something else, as an update does: between two of them a program lives. */
export function coldWatch() {
  const clock = watch();
  swept ??= new Uint8Array(SWEPT_BYTES);
  const sweep = () => {
    for (let at = 0; at < SWEPT_BYTES; at += LINE) swept[at]++;
    clock.begin();
  };
  sweep();
  return {
    times: clock.times,
    begin: sweep,
    done(name) {
      clock.done(name);
      sweep();
    },
  };
}

export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * @param {number[]} sizes
 * @param {(size: number) => Record<string, number>} sample Does the work for `size` items once, and says how many microseconds each
 *   operation took.
 * @param items Samples of fewer items repeat their work: the clock has a cost of its own, and V8 compiles what runs often.
 * @returns {Promise<Map<string, {size: number, median: number, least: number}[]>>} By operation, microseconds for one item.
 */
export async function series(sizes, repetitions, sample, items = 10_000) {
  const samples = new Map();
  const warmSize = Math.max(...sizes.filter((size) => size <= items), sizes[0]);
  for (let round = 0; round < repetitions; round++) {
    for (const size of sizes) {
      // What waits to be finalized is not the next sample's.
      await turn();
      globalThis.gc();
      for (let done = 0; done < WARM_UP * items; done += warmSize) await sample(warmSize);
      globalThis.gc({ type: 'minor' });
      const times = Math.max(1, Math.ceil(items / size));
      const total = {};
      for (let i = 0; i < times; i++) {
        for (const [name, us] of Object.entries(await sample(size))) total[name] = (total[name] ?? 0) + us;
      }
      for (const [name, us] of Object.entries(total)) {
        if (!samples.has(name)) samples.set(name, new Map(sizes.map((each) => [each, []])));
        samples
          .get(name)
          .get(size)
          .push(us / times / size);
      }
    }
  }
  return new Map(
    Array.from(samples, ([name, bySize]) => [
      name,
      Array.from(bySize, ([size, each]) => ({ size, median: median(each), least: Math.min(...each) })),
    ]),
  );
}

/**
 * The exponent e of total = c * size^e, over the sizes from `from` on: 1 is linear. For each size `each` is what one item costs.
 */
export function growth(points, from, value = 'median') {
  const used = points.filter(({ size }) => size >= from);
  const xs = used.map(({ size }) => Math.log(size));
  const ys = used.map((point) => Math.log(point[value] * point.size));
  const meanX = xs.reduce((sum, x) => sum + x, 0) / xs.length;
  const meanY = ys.reduce((sum, y) => sum + y, 0) / ys.length;
  const covariance = xs.reduce((sum, x, i) => sum + (x - meanX) * (ys[i] - meanY), 0);
  const variance = xs.reduce((sum, x) => sum + (x - meanX) ** 2, 0);
  return { exponent: covariance / variance, from: used[0].size, to: used.at(-1).size };
}
