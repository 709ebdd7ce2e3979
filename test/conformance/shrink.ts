/**
 * Makes a sequence that shows a difference as short as it gets, for sides that are slow to ask: every round asks about all
 * candidates at once, because a boot costs seconds and a sequence milliseconds.
 */
import type { Sequence, Step } from './generator.js';

/** Says of each sequence whether it shows a difference. */
export type Differs = (candidates: readonly Sequence[]) => Promise<readonly boolean[]>;

/** Every way to leave out one run of `length` steps. */
function without(steps: readonly Step[], length: number): (readonly Step[])[] {
  const shorter: (readonly Step[])[] = [];
  for (let at = 0; at < steps.length; at += length) {
    shorter.push([...steps.slice(0, at), ...steps.slice(at + length)]);
  }
  return shorter;
}

function candidates({ before, after }: Sequence, length: number): Sequence[] {
  const list = without(before, length).map((steps) => ({ before: steps, after }));
  if (after === null) return list;
  return [
    { before, after: null },
    ...list,
    ...without(after, length).map((steps) => ({ before, after: steps })),
  ];
}

const countOf = ({ before, after }: Sequence): number => before.length + (after?.length ?? 0);

/** @returns a part of `sequence` that still differs and of which no single step can be left out. */
export async function shrink(sequence: Sequence, differs: Differs): Promise<Sequence> {
  let smallest = sequence;
  let length = Math.max(1, Math.floor(countOf(sequence) / 2));
  for (;;) {
    const list = candidates(smallest, length);
    const answers = await differs(list);
    const next = list
      .filter((_candidate, number) => answers[number])
      .sort((one, other) => countOf(one) - countOf(other))[0];
    if (next !== undefined && countOf(next) < countOf(smallest)) smallest = next;
    else if (length > 1) length = Math.ceil(length / 2);
    else return smallest;
  }
}
