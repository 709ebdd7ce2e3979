import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { z } from '../../../src/daemon/lazy-zod.js';

const LAZY = fileURLToPath(new URL('../../../build/daemon/lazy-zod.js', import.meta.url));

it('parses as zod does: nested, refined, transformed, with defaults', () => {
  const token = z
    .string()
    .regex(/^\d+$/)
    .transform((digits) => BigInt(digits))
    .refine((value) => value < 10n, 'too large');
  const shape = z.discriminatedUnion('type', [
    z.object({ type: z.literal('a'), token, list: z.array(z.number().int()).min(1).default([7]) }),
    z.object({
      type: z.literal('b'),
      inner: z.union([z.string(), z.tuple([z.number(), z.literal(null)])]).optional(),
    }),
  ]);
  expect(shape.parse({ type: 'a', token: '9' })).toEqual({ type: 'a', token: 9n, list: [7] });
  expect(shape.parse({ type: 'b', inner: [1, null] })).toEqual({ type: 'b', inner: [1, null] });
  const bad = shape.safeParse({ type: 'a', token: '10' });
  expect(bad.error?.issues.map(({ path, message }) => [path, message])).toEqual([[['token'], 'too large']]);
  expect(shape.safeParse({ type: 'b', inner: true }).success).toBe(false);
});

it('loads what it needs of zod with the first question, and not before', () => {
  const code = `
    import { readFileSync } from 'node:fs';
    import { createRequire } from 'node:module';
    const { z } = await import(${JSON.stringify(LAZY)});
    const cache = createRequire(import.meta.url).cache;
    const loaded = () => Object.keys(cache).map((path) => path.split('/').at(-1)).filter((name) => /zod|index.cjs/.test(name));
    const schema = z.object({ one: z.string().max(3).optional() });
    const before = loaded();
    schema.parse({});
    process.stdout.write(JSON.stringify([before, loaded()]));`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  expect(JSON.parse(stdout)).toEqual([[], ['zod-parts.cjs']]);
});
