/** A state that went through every version is the one that went from the first to the last at once. */
import { inspect } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { State } from '../../src/handlers/state.js';
import { UNVERSIONED, VERSIONED } from '../../src/handlers/state-record.js';
import { stateShape } from '../../src/handlers/state-shape.js';

/** A change of shape: some of what programs do to their states between two versions. */
type Step = { kind: 'add' | 'nest' | 'toMap' | 'double' | 'forget'; key: string };

const key = fc.constantFrom('a', 'b', 'c', 'd');

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('add', 'nest', 'toMap', 'double', 'forget'),
  key,
});

const leaf = fc.oneof(
  fc.string(),
  fc.double(),
  fc.bigInt(),
  fc.date(),
  fc.uint8Array(),
  fc.constant(undefined),
);

const value = fc.dictionary(key, fc.oneof(leaf, fc.object({ withMap: true, withSet: true, maxDepth: 2 })));

function apply({ kind, key: at }: Step, was: Record<string, unknown>): Record<string, unknown> {
  switch (kind) {
    case 'add':
      was[at] ??= { added: [at] };
      return was;
    case 'nest':
      return { [at]: was };
    case 'toMap':
      return { ...was, [at]: new Map(Object.entries(was)) };
    case 'double':
      return { ...was, [`${at}${at}`]: was[at] };
    case 'forget':
      delete was[at];
      return was;
  }
}

/** What one image of version `version` makes of a record: preview first, final value at the cut. */
function pass(
  records: { preview: Buffer; final: Buffer; version: number },
  version: number,
  steps: readonly Step[],
): { preview: Buffer; final: Buffer; version: number } {
  const form = records.version === 1 ? UNVERSIONED : VERSIONED;
  const state = State.restore(records.preview, form);
  state.read(
    stateShape('state:s', {
      version,
      migrate(was, from) {
        let now = was as Record<string, unknown>;
        for (let next = from; next < version; next++) now = apply(steps[next - 1] as Step, now);
        return now;
      },
    }),
  );
  const held = state.value;
  const preview = VERSIONED.encode(held, version);
  state.refresh(records.final, form);
  expect(state.value).toBe(held);
  return { preview, final: VERSIONED.encode(held, version), version };
}

const shown = (record: Buffer) =>
  inspect(State.restore(record, VERSIONED).value, {
    depth: null,
    maxArrayLength: null,
    maxStringLength: null,
  });

describe('migrations', () => {
  it('come to the same by way of every version, of some, or of none', () => {
    fc.assert(
      fc.property(
        value,
        value,
        fc.array(step, { minLength: 1, maxLength: 6 }),
        fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }),
        (preview, final, steps, stops) => {
          const last = steps.length + 1;
          const first = {
            preview: UNVERSIONED.encode(preview, 1),
            final: UNVERSIONED.encode(final, 1),
            version: 1,
          };
          const direct = pass(first, last, steps);
          let some = first as ReturnType<typeof pass>;
          let every = first as ReturnType<typeof pass>;
          for (let version = 2; version <= last; version++) {
            every = pass(every, version, steps);
            if (stops[version - 2] === true || version === last) some = pass(some, version, steps);
          }
          expect(shown(every.final)).toBe(shown(direct.final));
          expect(shown(some.final)).toBe(shown(direct.final));
          expect(shown(every.preview)).toBe(shown(direct.preview));
          // The identity that the program holds went through a preview of other contents, and nothing of them is left.
          const alone = pass({ ...first, preview: first.final }, last, steps);
          expect(shown(alone.final)).toBe(shown(direct.final));
        },
      ),
      { numRuns: 150 },
    );
  });
});
