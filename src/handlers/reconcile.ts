/**
 * Makes one structured-clone value equal to another without replacing what is already referenced.
 *
 * A program reads its state before the old image has frozen and may hold on to parts of it. When the final value
 * arrives, plain objects, arrays, Maps and Sets that are still of the same kind at the same place keep their identity
 * and get the final contents; everything else is replaced.
 */

/**
 * Returns the value that belongs in `target`'s place: `target` itself, updated, where both are containers of the same kind;
 * otherwise `source`. Cycles and shared references of `source` are kept.
 */
export function reconcile(target: unknown, source: unknown): unknown {
  return merge(target, source, { bySource: new Map(), targets: new Set() });
}

interface Done {
  /** What each container of the source became: cycles and shared references end here. */
  readonly bySource: Map<object, object>;
  /** Targets that are taken: one object at two places of the target may be two objects in the source. */
  readonly targets: Set<object>;
}

function merge(target: unknown, source: unknown, done: Done): unknown {
  if (typeof source !== 'object' || source === null) return source;
  const known = done.bySource.get(source);
  if (known !== undefined) return known;
  const kept = sameKind(target, source) && !done.targets.has(target as object);
  const result = kept ? (target as object) : fresh(source);
  done.bySource.set(source, result);
  done.targets.add(result);
  if (Array.isArray(source)) fillArray(result as unknown[], source, done);
  else if (source instanceof Map) fillMap(result as Map<unknown, unknown>, source, done);
  else if (source instanceof Set) fillSet(result as Set<unknown>, source, done);
  else if (isPlain(source)) fillObject(result as Record<string, unknown>, source, done);
  return result;
}

// A container of `source` that has no counterpart is rebuilt as well: parts of it may be references to containers
// that did keep their identity.
function fresh(source: object): object {
  if (Array.isArray(source)) return [];
  if (source instanceof Map) return new Map();
  if (source instanceof Set) return new Set();
  return isPlain(source) ? {} : source;
}

function sameKind(target: unknown, source: object): boolean {
  if (typeof target !== 'object' || target === null) return false;
  if (Array.isArray(source)) return Array.isArray(target);
  if (source instanceof Map) return target instanceof Map;
  if (source instanceof Set) return target instanceof Set;
  return isPlain(source) && isPlain(target);
}

function isPlain(value: object): value is Record<string, unknown> {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function fillArray(target: unknown[], source: unknown[], done: Done): void {
  const old = target.slice();
  target.length = 0;
  target.length = source.length;
  // Holes of a sparse array stay holes; named properties cross as they do in a structured clone.
  for (const key of Object.keys(source)) {
    const index = key as unknown as number;
    target[index] = merge(old[index], source[index], done);
  }
}

function fillObject(target: Record<string, unknown>, source: Record<string, unknown>, done: Done): void {
  const old = { ...target };
  for (const key of Object.keys(target)) delete target[key];
  // Deleting first also keeps the order of keys as the old image had it.
  for (const key of Object.keys(source)) {
    const value = merge(Object.hasOwn(old, key) ? old[key] : undefined, source[key], done);
    // '__proto__' as an own key is data in a structured clone, so it must not be assigned.
    Object.defineProperty(target, key, { value, writable: true, enumerable: true, configurable: true });
  }
}

function fillMap(target: Map<unknown, unknown>, source: Map<unknown, unknown>, done: Done): void {
  const old = new Map(target);
  target.clear();
  for (const [key, value] of source)
    target.set(merge(undefined, key, done), merge(old.get(key), value, done));
}

function fillSet(target: Set<unknown>, source: Set<unknown>, done: Done): void {
  target.clear();
  for (const value of source) target.add(merge(undefined, value, done));
}
