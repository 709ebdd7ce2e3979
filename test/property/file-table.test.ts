/** A table of files does what a Map does, which keeps the order of insertion too; whatever tokens come, and come again. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FileTable } from '../../src/core/file-table.js';
import { U64_MAX } from '../../src/core/names.js';

interface File {
  readonly token: bigint;
}

/** Tokens that count, tokens near them, and those at the borders of what a number and a u64 can hold. */
const tokens = fc.oneof(
  { weight: 6, arbitrary: fc.bigInt(0n, 12n) },
  { weight: 1, arbitrary: fc.bigInt((1n << 32n) - 2n, (1n << 32n) + 2n) },
  { weight: 1, arbitrary: fc.bigInt((1n << 53n) - 2n, (1n << 53n) + 2n) },
  { weight: 1, arbitrary: fc.bigInt(U64_MAX - 2n, U64_MAX) },
);

type Step = { readonly take: 'add' | 'delete'; readonly token: bigint } | { readonly take: 'next' | 'clear' };

const steps = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.record({ take: fc.constant('next' as const) }) },
    { weight: 6, arbitrary: fc.record({ take: fc.constant('add' as const), token: tokens }) },
    { weight: 8, arbitrary: fc.record({ take: fc.constant('delete' as const), token: tokens }) },
    { weight: 1, arbitrary: fc.record({ take: fc.constant('clear' as const) }) },
  ) satisfies fc.Arbitrary<Step>,
  { maxLength: 120 },
);

function add(table: FileTable<File>, model: Map<bigint, File>, token: bigint): void {
  expect(table.has(token)).toBe(model.has(token));
  if (model.has(token)) return;
  const file = { token };
  table.add(file);
  model.set(token, file);
}

describe('FileTable', () => {
  test('is a Map from token to file', () => {
    fc.assert(
      fc.property(steps, (list) => {
        const table = new FileTable<File>();
        const model = new Map<bigint, File>();
        const seen = new Set<bigint>([0n, 1n, U64_MAX]);
        for (const step of list) {
          if (step.take === 'clear') {
            table.clear();
            model.clear();
          } else if (step.take === 'delete') {
            table.delete(step.token);
            model.delete(step.token);
          } else {
            const token = step.take === 'add' ? step.token : BigInt(model.size);
            seen.add(token);
            add(table, model, token);
          }
          expect(table.size).toBe(model.size);
          expect(table.toArray()).toEqual([...model.values()]);
          for (const token of seen) expect(table.get(token)).toBe(model.get(token));
        }
      }),
      { numRuns: 500 },
    );
  });

  test('keeps no place for files that were taken out: lists stay as short as the files are few', () => {
    const table = new FileTable<File>();
    table.add({ token: 0n });
    for (let token = 1n; token <= 100_000n; token++) {
      table.add({ token });
      table.delete(token - 1n);
      // With a place kept for each, this would be five thousand million looks at nothing.
      if (table.toArray().length !== 1) throw new Error(`at ${token}`);
    }
    expect(table.get(100_000n)).toBe(table.toArray()[0]);
  });

  test('gives a list that later changes do not touch', () => {
    const table = new FileTable<File>();
    for (const token of [0n, 1n, 2n]) table.add({ token });
    const list = table.toArray();
    table.delete(1n);
    table.add({ token: 9n });
    expect(list.map(({ token }) => token)).toEqual([0n, 1n, 2n]);
    expect(table.toArray().map(({ token }) => token)).toEqual([0n, 2n, 9n]);
  });
});
