/**
 * zod, for a luod that may never be asked anything: 3 MiB that are loaded with the first thing a stranger says, or a luod before this one
 * left, and not before.
 *
 * `z` is zod's own in its types, of which it has what zod-parts.ts names. What is made with it is only noted, and made when somebody parses
 * with it. Everything on a schema is therefore called, not read: `schema.shape` and its like are not there.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { ZodType, infer as zodInfer } from 'zod';
import type * as parts from './zod-parts.js';

export type Schema<T> = ZodType<T>;
export type Infer<S extends ZodType> = zodInfer<S>;

type Call = (...values: unknown[]) => unknown;

/** What ends in an answer, and not in another schema. */
const ANSWERS: ReadonlySet<string | symbol> = new Set(['parse', 'safeParse']);

/** What was noted, and how to make it. */
const makers = new WeakMap<object, () => unknown>();

function noted(make: () => unknown): unknown {
  let made: unknown;
  const making = () => {
    made ??= make();
    return made;
  };
  const calls = (key: string | symbol): Call => {
    const call: Call = (...values) => {
      const target = making() as Record<string | symbol, Call>;
      const method = target[key] as Call;
      return method.apply(target, values.map(resolved));
    };
    return ANSWERS.has(key) ? call : (...values) => noted(() => call(...values));
  };
  const note = new Proxy({}, { get: (_target, key) => calls(key) });
  makers.set(note, making);
  return note;
}

/** An argument with everything made that stands noted in it; functions and values stay what they are. */
function resolved(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const make = makers.get(value);
  if (make !== undefined) return make();
  if (Array.isArray(value)) return value.map(resolved);
  if (Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, resolved(each)]));
}

/** zod-parts.ts, bundled; from any folder below dist/, whichever this module was bundled into. */
const PARTS = fileURLToPath(new URL('../daemon/zod-parts.cjs', import.meta.url));

// CommonJS, because only that can be loaded in the middle of an answer. Sources that were not built have the package.
const load = createRequire(import.meta.url);

export const z = noted(() => load(existsSync(PARTS) ? PARTS : 'zod')) as typeof parts;
