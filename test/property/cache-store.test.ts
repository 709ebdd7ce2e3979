/**
 * The store of examples/cache against a Map, killed at every step: a kill leaves the memory as it was between two of the writer's
 * instructions. Those that matter are its atomic stores, so the memory is copied around each; of the plain stores between two of them
 * any part may have been done, so such a part is mixed at random. Whatever is recovered from has every key that was acknowledged, and the
 * change under way happened or did not.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { HEADER } from '../../examples/cache/layout.mjs';
import { Store, StoreError } from '../../examples/cache/store.mjs';

/** So little that it is compacted all the time, with an index in which keys stand in each other's way. */
const BYTES = 32 * 1024;

const RUNS = 40;

interface Value {
  readonly text: string;
  readonly expiresAt: number;
}
type Model = Map<string, Value>;

type Op =
  | { readonly do: 'set'; readonly key: string; readonly length: number; readonly ttl: number }
  | { readonly do: 'delete'; readonly key: string }
  | { readonly do: 'expire'; readonly key: string; readonly ttl: number }
  | { readonly do: 'sweep' }
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'clear' };

const keys = fc.integer({ min: 0, max: 300 }).map((n) => `k${n}`);
const ttls = fc.oneof(
  { weight: 3, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 60 }) },
);
const ops: fc.Arbitrary<Op[]> = fc.array(
  fc.oneof(
    {
      weight: 100,
      arbitrary: fc.record({
        do: fc.constant('set' as const),
        key: keys,
        length: fc.integer({ min: 0, max: 70 }),
        ttl: ttls,
      }),
    },
    { weight: 60, arbitrary: fc.record({ do: fc.constant('delete' as const), key: keys }) },
    { weight: 15, arbitrary: fc.record({ do: fc.constant('expire' as const), key: keys, ttl: ttls }) },
    { weight: 5, arbitrary: fc.record({ do: fc.constant('sweep' as const) }) },
    {
      weight: 10,
      arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 20 }) }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('clear' as const) }) },
  ),
  { minLength: 20, maxLength: 80 },
);

/** Cheap, and the same for the same seed. */
class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  below(limit: number): number {
    this.#state = Math.imul(this.#state, 1664525) + 1013904223;
    return Math.floor(((this.#state >>> 0) / 2 ** 32) * limit);
  }
}

function newMemory(): ArrayBuffer {
  const buffer = new ArrayBuffer(BYTES);
  new Store(buffer);
  // Runs are to be the same for the same seed of fast-check's.
  new Int32Array(buffer)[HEADER.seed] = 42;
  return buffer;
}

let written = 0;

/** Does an operation in both. @returns the model behind it. */
function apply(store: Store, model: Model, op: Op, now: number): Model {
  const next = new Map(model);
  const before = op.do === 'expire' ? alive(model, op.key, now) : undefined;
  switch (op.do) {
    case 'set': {
      const text = `${written++}:`.padEnd(op.length, 'v').slice(0, op.length);
      const expiresAt = op.ttl === 0 ? 0 : now + op.ttl;
      try {
        store.set(Buffer.from(op.key), Buffer.from(text), expiresAt, now);
        next.set(op.key, { text, expiresAt });
      } catch (error) {
        if (!(error instanceof StoreError) || error.code !== 'OOM') throw error;
      }
      break;
    }
    case 'delete':
      expect(store.delete(Buffer.from(op.key), now)).toBe(alive(model, op.key, now) !== undefined);
      next.delete(op.key);
      break;
    case 'expire': {
      const expiresAt = op.ttl === 0 ? 0 : now + op.ttl;
      try {
        expect(store.expire(Buffer.from(op.key), expiresAt, now)).toBe(before !== undefined);
        if (before !== undefined) next.set(op.key, { text: before.text, expiresAt });
      } catch (error) {
        if (!(error instanceof StoreError) || error.code !== 'OOM') throw error;
      }
      break;
    }
    case 'sweep':
      expect(store.sweep(0, store.slots, now)).toBe(0);
      break;
    case 'wait':
      break;
    case 'clear':
      store.clear();
      next.clear();
      break;
  }
  return next;
}

function alive(model: Model, key: string, now: number): Value | undefined {
  const value = model.get(key);
  return value === undefined || (value.expiresAt !== 0 && value.expiresAt <= now) ? undefined : value;
}

/** What is there, as lines; the same of a store and a model. */
function contentsOf(model: Model, now: number): string[] {
  return [...model.keys()]
    .filter((key) => alive(model, key, now) !== undefined)
    .map((key) => `${key} ${model.get(key)?.expiresAt} ${model.get(key)?.text}`)
    .sort();
}

function contentsIn(store: Store, now: number): string[] {
  return store
    .scan(0, Number.POSITIVE_INFINITY, now)
    .keys.map((key: Buffer) => `${key} ${store.expiresAt(key, now)} ${store.get(key, now)?.toString()}`)
    .sort();
}

/** Images of the memory as a kill at each step of `work` would leave it. */
function killedDuring(buffer: ArrayBuffer, dice: Dice, work: () => void): ArrayBuffer[] {
  const images = [buffer.slice(0)];
  const between = (then: ArrayBuffer) => {
    const from = images.at(-1) as ArrayBuffer;
    const torn = from.slice(0);
    const [old, mixed, all] = [new Uint32Array(from), new Uint32Array(torn), new Uint32Array(then)];
    let changed = 0;
    for (let i = 0; i < all.length; i++) {
      if (old[i] === all[i]) continue;
      changed++;
      if (dice.below(2) === 0) mixed[i] = all[i] as number;
    }
    if (changed > 1) images.push(torn);
    if (changed > 0) images.push(then);
  };
  const plain = Atomics.store;
  Atomics.store = ((array: Int32Array, index: number, value: number) => {
    between(buffer.slice(0));
    const stored = plain(array, index, value);
    images.push(buffer.slice(0));
    return stored;
  }) as typeof Atomics.store;
  try {
    work();
  } finally {
    Atomics.store = plain;
  }
  between(buffer.slice(0));
  return images;
}

/** A memory that has been used for a while, at a load of which it is always short of space. */
function worn(): { buffer: ArrayBuffer; model: Model } {
  const buffer = newMemory();
  const store = new Store(buffer);
  const dice = new Dice(7);
  let model: Model = new Map();
  for (let i = 0; i < 1500; i++) {
    const key = `k${dice.below(300)}`;
    const op: Op =
      dice.below(5) > 1 ? { do: 'set', key, length: dice.below(70), ttl: 0 } : { do: 'delete', key };
    model = apply(store, model, op, 0);
  }
  return { buffer, model };
}

const WORN = worn();

describe('the store of examples/cache', () => {
  test('was compacted and is nearly full in these tests', () => {
    const store = new Store(WORN.buffer.slice(0));
    expect(store.size).toBeGreaterThan(100);
    expect(store.liveBytes / store.heapBytes).toBeGreaterThan(0.4);
  });

  test('does what a Map does, whatever step it is killed at', { timeout: 300_000 }, () => {
    fc.assert(
      fc.property(ops, fc.nat(), fc.boolean(), (list, seed, isNew) => {
        const dice = new Dice(seed);
        const buffer = isNew ? newMemory() : WORN.buffer.slice(0);
        const store = new Store(buffer);
        let model: Model = isNew ? new Map() : WORN.model;
        let now = 0;
        for (const op of list) {
          if (op.do === 'wait') now += op.ms;
          const before = model;
          const images = killedDuring(buffer, dice, () => {
            model = apply(store, before, op, now);
          });
          const image = images[dice.below(images.length)] as ArrayBuffer;
          check(image, [before, model], now, dice);
        }
        expect(contentsIn(store, now)).toEqual(contentsOf(model, now));
        store.sweep(0, store.slots, now);
        expect(store.size).toBe(contentsOf(model, now).length);
      }),
      { numRuns: RUNS },
    );
  });

  /** Recovers, is killed in that, recovers again, and goes on. */
  function check(image: ArrayBuffer, either: readonly Model[], now: number, dice: Dice): void {
    const killedAgain = killedDuring(image, dice, () => {
      expect(new Store(image).recover(now).damaged).toBe(0);
    });
    const again = killedAgain[dice.below(killedAgain.length)] as ArrayBuffer;
    expect(new Store(again).recover(now).damaged).toBe(0);
    for (const buffer of [image, again]) {
      const store = new Store(buffer);
      const found = contentsIn(store, now);
      const wanted = either.map((model) => contentsOf(model, now));
      if (wanted[0]?.join() !== found.join()) expect(found).toEqual(wanted[1]);
      let model = either[wanted[0]?.join() === found.join() ? 0 : 1] as Model;
      for (let i = 0; i < 15; i++) {
        const op: Op =
          dice.below(3) > 0
            ? { do: 'set', key: `k${dice.below(300)}`, length: dice.below(70), ttl: 0 }
            : { do: 'delete', key: `k${dice.below(300)}` };
        model = apply(store, model, op, now);
      }
      expect(contentsIn(store, now)).toEqual(contentsOf(model, now));
      const live = store.liveBytes;
      store.recover(now);
      expect(store.liveBytes).toBe(live);
    }
  }

  test('loses nothing at any step of a compaction, and can be written to behind it', () => {
    const buffer = newMemory();
    const store = new Store(buffer);
    const dice = new Dice(11);
    let model: Model = new Map();
    const put = (key: string) => {
      const size = model.size;
      const op: Op = { do: 'set', key, length: 30 + dice.below(40), ttl: 0 };
      model = apply(store, model, op, 0);
      return model.size > size;
    };
    let count = 0;
    while (put(`k${count}`)) count++;
    // As full as it can be, less what lets a compaction be worth it.
    for (let i = 0; i < count; i += 12) {
      expect(store.delete(Buffer.from(`k${i}`))).toBe(true);
      model.delete(`k${i}`);
    }
    let compactions = 0;
    for (let turn = 0; turn < 400 && compactions < 12; turn++) {
      const before = model;
      const images = killedDuring(buffer, dice, () => {
        put([...before.keys()][dice.below(before.size)] as string);
      });
      if (images.length < 10) continue;
      compactions++;
      for (const image of images) check(image, [before, model], 0, dice);
    }
    expect(compactions).toBe(12);
  });

  test('completes a flush that was cut short', () => {
    const buffer = WORN.buffer.slice(0);
    const images = killedDuring(buffer, new Dice(3), () => new Store(buffer).clear());
    const sizes = images.map((image) => new Store(image).recover().keys);
    expect(new Set(sizes)).toEqual(new Set([WORN.model.size, 0]));
  });

  test('gives up what somebody else has damaged, and nothing else', () => {
    const buffer = WORN.buffer.slice(0);
    const text = [...WORN.model.values()].find(({ text }) => text.length > 20)?.text as string;
    const bytes = Buffer.from(buffer);
    for (let at = bytes.indexOf(text); at !== -1; at = bytes.indexOf(text, at + 1))
      bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    const store = new Store(buffer);
    expect(store.recover()).toEqual({ keys: WORN.model.size - 1, damaged: 1 });
    expect(contentsIn(store, 0)).toEqual(
      contentsOf(new Map([...WORN.model].filter(([, value]) => value.text !== text)), 0),
    );
  });

  test('refuses memory that is something else', () => {
    const buffer = newMemory();
    new Int32Array(buffer)[HEADER.version] = 77;
    expect(() => new Store(buffer)).toThrow('the memory is no cache of version 1');
    expect(() => new Store(new ArrayBuffer(100))).toThrow('at least');
  });

  test('refuses an entry that is too large, and a new one when it is full, and loses none', () => {
    const store = new Store(newMemory());
    expect(() => store.set(Buffer.from('k'), Buffer.alloc(store.maxEntryBytes))).toThrow('more than');
    const model: Model = new Map();
    const fill = () => {
      for (let i = 0; i < 2000; i++) {
        const text = `value ${i}`.padEnd(60, '.');
        store.set(Buffer.from(`f${i}`), Buffer.from(text));
        model.set(`f${i}`, { text, expiresAt: 0 });
      }
    };
    expect(fill).toThrow(StoreError);
    expect(contentsIn(store, 0)).toEqual(contentsOf(model, 0));
    expect(store.liveBytes / store.heapBytes).toBeGreaterThan(0.75);
    for (const key of model.keys()) store.delete(Buffer.from(key));
    expect([store.size, store.liveBytes]).toEqual([0, 0]);
    model.clear();
    expect(fill).toThrow(StoreError);
  });

  test('throws the oldest away when it may, and keeps the newest', () => {
    const store = new Store(newMemory(), { evicts: true });
    for (let i = 0; i < 5000; i++) {
      store.set(Buffer.from(`e${i}`), Buffer.from(`${i}`.padEnd(i % 60, '.')));
      if (i >= 50) expect(store.has(Buffer.from(`e${i - 50}`)), `${i}`).toBe(true);
    }
    expect(store.size + store.evicted).toBe(5000);
    expect(store.scan(0, Number.POSITIVE_INFINITY).keys.length).toBe(store.size);
  });

  test('scans all that is there throughout, while others come and go', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 40 }), (seed, count) => {
        const dice = new Dice(seed);
        const store = new Store(newMemory());
        const staying = Array.from({ length: 100 }, (_, i) => `stay${i}`);
        for (let i = 0; i < 150; i++) store.set(Buffer.from(`go${i}`), Buffer.from('x'));
        for (const key of staying) store.set(Buffer.from(key), Buffer.from('x'));
        const seen = new Set<string>();
        let cursor = 0;
        do {
          const next = store.scan(cursor, count);
          for (const key of next.keys) seen.add(String(key));
          cursor = next.cursor;
          for (let i = 0; i < 10; i++) {
            const key = Buffer.from(`go${dice.below(150)}`);
            if (!store.delete(key)) store.set(key, Buffer.from('y'));
          }
        } while (cursor !== 0);
        expect(staying.filter((key) => !seen.has(key))).toEqual([]);
      }),
      { numRuns: 30 },
    );
  });
});
