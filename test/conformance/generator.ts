/** Random sequences: what an owner of sessions may do before a live update and after it, sensible or not. */
import fc from 'fast-check';

/** Steps are plain data: they go to the guest as JSON and into the corpus. */
export type Step = { readonly op: string; readonly [field: string]: unknown };

export interface Sequence {
  readonly before: readonly Step[];
  /** After the live update; null for a sequence that is called off before it. */
  readonly after: readonly Step[] | null;
}

const U64_MAX = '18446744073709551615';

// Few of each, so that steps meet.
const session = fc.oneof({ weight: 30, arbitrary: fc.nat(3) }, { weight: 1, arbitrary: fc.constant(-1) });
const file = fc.oneof({ weight: 30, arbitrary: fc.nat(5) }, { weight: 1, arbitrary: fc.constant(-1) });
const token = fc.oneof(
  { weight: 8, arbitrary: fc.nat(4).map(String) },
  { weight: 1, arbitrary: fc.constantFrom(U64_MAX, '9223372036854775808', '4294967296') },
);

const name = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom('a', 'b', 'c', 'd').map((base) => ({ base })) },
  { weight: 2, arbitrary: fc.constantFrom('a', 'ä€').map((base) => ({ base, bytes: 63 })) },
  { weight: 1, arbitrary: fc.constant({ base: 'a', bytes: 64 }) },
  { weight: 1, arbitrary: fc.constant({ raw: '' }) },
  // What stands behind the NUL is not part of the name.
  { weight: 1, arbitrary: fc.constant({ base: 'a\0behind' }) },
);

const size = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(0, 1, 100, 4095, 4096, 4097, 12_288) },
  { weight: 2, arbitrary: fc.nat(70_000) },
  { weight: 1, arbitrary: fc.constantFrom(1 << 20, (1 << 21) + 1) },
);

/**
 * SEAL, SHRINK, GROW, FUTURE_WRITE. Not EXEC, nor files made with it: the kernel gives what comes back its executable
 * mode first and the seal then, which brings all other seals along (docs/conformance.md).
 */
const seals = fc.constantFrom(0, 0, 1, 2, 4, 6, 16, 7, 23);

const memfd = fc.record({
  kind: fc.constant('memfd'),
  how: fc.constantFrom('sealable', 'sealable', 'plain'),
  size,
  filled: fc.boolean(),
  seed: fc.nat(1000),
  // F_SEAL_WRITE, which has to be there before the pages are pinned, only from the start.
  seals: fc.tuple(seals, fc.constantFrom(0, 0, 0, 8)).map(([some, write]) => some | write),
  position: fc.nat(5000),
});

const spec = fc.oneof(
  { weight: 12, arbitrary: memfd },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('dup'), of: file }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('reopen'), of: file, readOnly: fc.boolean() }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('unlinked'), size: fc.nat(9000), seed: fc.nat(1000) }),
  },
  {
    weight: 3,
    arbitrary: fc
      .constantFrom('hugetlb', 'device', 'directory', 'named', 'socket', 'proc', 'closed')
      .map((kind) => ({ kind })),
  },
);

const step = <T extends object>(op: string, fields: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(fields).map((values) => ({ op, ...values }) as Step);

const reserved = fc.constantFrom(0, 0, 0, 0, 1, 0xffff_ffff);

/** Numbers in the table and beside it, right and wrong types, all sizes. */
const raw = fc
  .record({
    target: fc.constantFrom('device', 'session'),
    session,
    type: fc.constantFrom(0xba, 0xba, 0xba, 0xba, 0xbb),
    direction: fc.constantFrom(0, 0, 0, 0, 3),
    nr: fc.constantFrom(0x00, 0x01, 0x02, 0x3f, 0x40, 0x41, 0x42, 0x43, 0x44, 0xff),
    size: fc.constantFrom(0, 4, 7, 8, 15, 16, 17, 24, 71, 72, 73, 100, 4096),
    length: fc.constantFrom(0, 4096, 4096, 4096, 4096),
    tail: fc.constantFrom(0, 0, 1),
    known: fc.constantFrom('raw', 'raw2'),
  })
  .map(({ type, direction, nr, ...fields }) => ({
    op: 'ioctl',
    number: direction * 2 ** 30 + type * 256 + nr,
    ...fields,
  }));

const touches = [
  {
    weight: 4,
    arbitrary: step('write', { file, at: fc.nat(70_000), length: fc.nat(6000), seed: fc.nat(1000) }),
  },
  { weight: 4, arbitrary: step('seek', { file, position: fc.nat(100_000) }) },
  { weight: 2, arbitrary: step('seal', { file, seals: fc.constantFrom(1, 2, 4, 16) }) },
  { weight: 4, arbitrary: step('closeFile', { file }) },
  { weight: 4, arbitrary: step('look', { file }) },
];

const always = [
  { weight: 16, arbitrary: step('file', { spec }) },
  { weight: 12, arbitrary: step('createSession', { name }) },
  {
    weight: 36,
    arbitrary: step('preserve', {
      session,
      file: fc.oneof(
        { weight: 20, arbitrary: file },
        { weight: 1, arbitrary: fc.constant('session' as const) },
      ),
      token,
    }),
  },
  { weight: 5, arbitrary: step('getName', { session, reserved }) },
  { weight: 6, arbitrary: step('closeSession', { session }) },
  { weight: 3, arbitrary: step('openDevice', {}) },
  { weight: 1, arbitrary: step('closeDevice', {}) },
  { weight: 10, arbitrary: raw },
  ...touches,
];

/** What nearly every owner has at hand; without it, half of all steps would find nothing to act on. */
const athand = fc.oneof(
  {
    weight: 9,
    arbitrary: fc
      .tuple(
        fc.array(step('file', { spec: memfd }), { minLength: 2, maxLength: 4 }),
        fc.subarray(['a', 'b', 'c'], { minLength: 1 }),
      )
      .map(([files, names]) => [
        ...files,
        ...names.map((base) => ({ op: 'createSession', name: { base } }) as Step),
      ]),
  },
  { weight: 1, arbitrary: fc.constant([]) },
);

const acts = fc.array(
  fc.oneof(
    ...always,
    { weight: 2, arbitrary: step('retrieveSession', { name }) },
    { weight: 3, arbitrary: step('retrieve', { session, token }) },
    { weight: 3, arbitrary: step('finish', { session, reserved }) },
  ),
  { minLength: 10, maxLength: 40, size: 'max' },
);

const before = fc.tuple(athand, acts).map(([first, then]) => [...first, ...then]);

const after = fc.array(
  fc.oneof(
    ...always,
    { weight: 40, arbitrary: step('retrieveSession', { name }) },
    { weight: 50, arbitrary: step('retrieve', { session, token }) },
    { weight: 14, arbitrary: step('finish', { session, reserved }) },
  ),
  { minLength: 5, maxLength: 25, size: 'max' },
);

/** Asks for everything that can have come: no content escapes the comparison. */
function claimAll(steps: readonly Step[]): Step[] {
  const names = new Map<string, unknown>();
  const tokens = new Set<unknown>();
  for (const { op, name, token } of steps) {
    if (op === 'createSession') names.set(JSON.stringify(name), name);
    if (op === 'preserve') tokens.add(token);
  }
  const claims: Step[] = [];
  let session = 0;
  for (const name of names.values()) {
    claims.push({ op: 'retrieveSession', name });
    for (const token of tokens) claims.push({ op: 'retrieve', session, token });
    session++;
  }
  return claims;
}

export const sequence: fc.Arbitrary<Sequence> = fc.oneof(
  { weight: 1, arbitrary: before.map((steps) => ({ before: steps, after: null })) },
  {
    weight: 3,
    arbitrary: fc
      .record({ before, after, first: fc.boolean() })
      .map(({ before: steps, after: more, first }) => ({
        before: steps,
        // In the beginning, so that the rest of the life has something to work on; or not, for the other half.
        after: first ? [...claimAll(steps), ...more] : more,
      })),
  },
);

/** `count` sequences; the same for the same seed. */
export function sequences(count: number, seed: number): Sequence[] {
  return fc.sample(sequence, { numRuns: count, seed }) as Sequence[];
}

export function countSteps(list: readonly Sequence[]): number {
  return list.reduce((sum, { before: one, after: two }) => sum + one.length + (two?.length ?? 0), 0);
}
