/**
 * What this machine's memory makes of growth: a `Map` of as many objects as the orchestrator has files or sessions, filled, asked, copied and emptied,
 * and nothing else. A thousand of them lie in a cache, a hundred thousand in none, so what is linear by its count of operations takes more
 * time an item. A step of ours is judged by how much faster than its control it grows.
 */

export const MAP_STEPS = ['Map: filled', 'Map: asked', 'Map: copied', 'Map: emptied', 'Map: all'];

/** The same for bytes: a copy of as many. */
export function copyOnce(bytes, { done }) {
  Buffer.from(bytes);
  done('copied');
}

/** Adds the microseconds of each step, and their sum, to those that `watch()` has so far. */
export function controlOnce(keys, { times, done }) {
  const map = new Map();
  for (const key of keys) {
    map.set(key, { key, file: { key }, data: 0n, isFrozen: false, order: map.size, next: undefined });
  }
  done('Map: filled');
  let found = 0;
  for (const key of keys) {
    const one = map.get(key);
    if (one.file.key === key) found += one.order;
  }
  done('Map: asked');
  const copies = [];
  for (const one of map.values()) {
    one.isFrozen = true;
    copies.push({ key: one.key, data: one.data, order: one.order + found });
  }
  done('Map: copied');
  for (const key of keys) map.delete(key);
  done('Map: emptied');
  times['Map: all'] =
    times['Map: filled'] + times['Map: asked'] + times['Map: copied'] + times['Map: emptied'];
}
