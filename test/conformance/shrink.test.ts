import { expect, test } from 'vitest';
import { differences, onOurs } from './compare.js';
import { countSteps, type Sequence, sequences } from './generator.js';
import { shrink } from './shrink.js';

/** Our own side with a wrong answer: finish on a session that has files says EBUSY. */
function wrong(list: readonly Sequence[]): ReturnType<typeof onOurs> {
  const lives = structuredClone(onOurs(list)) as unknown as {
    second: { answers: { r: string }[] }[];
  };
  for (const [number, { answers }] of lives.second.entries()) {
    let retrieved = false;
    for (const [at, answer] of answers.entries()) {
      const op = list[number]?.after?.[at]?.op;
      if (op === 'retrieve' && answer.r === 'ok') retrieved = true;
      if (op === 'finish' && answer.r === 'ok' && retrieved) answer.r = 'EBUSY';
    }
  }
  return lives as unknown as ReturnType<typeof onOurs>;
}

const differing = (list: readonly Sequence[]) => {
  const found = differences(list, JSON.parse(JSON.stringify(wrong(list))), onOurs(list));
  return list.map((_sequence, number) => found.some(({ sequence }) => sequence === number));
};

test('finds a wrong answer among many sequences, and shrinks it to the steps that matter', async () => {
  const list = sequences(60, 7);
  const first = differing(list).indexOf(true);
  expect(first).toBeGreaterThanOrEqual(0);
  const small = await shrink(list[first] as Sequence, async (candidates) => differing(candidates));
  expect([...small.before, ...(small.after ?? [])].map(({ op }) => op)).toEqual([
    'file',
    'createSession',
    'preserve',
    'retrieveSession',
    'retrieve',
    'finish',
  ]);
});

test('the same side twice shows no difference', () => {
  const list = sequences(60, 7);
  expect(differences(list, JSON.parse(JSON.stringify(onOurs(list))), onOurs(list))).toEqual([]);
});

test('the same seed gives the same sequences, and enough steps', () => {
  expect(sequences(20, 3)).toEqual(sequences(20, 3));
  expect(countSteps(sequences(300, 1))).toBeGreaterThan(10_000);
});
