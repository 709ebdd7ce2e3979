/**
 * The real orchestrator as the judge of ours: random sequences, step by step on both, with a kexec there and a reboot of
 * ours here in between. A difference is shrunk and written into corpus/, from where it is tried first ever after.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { type Difference, differences, onOurs, onTheKernel } from '../conformance/compare.js';
import { countSteps, type Sequence, sequences } from '../conformance/generator.js';
import { shrink } from '../conformance/shrink.js';

const CORPUS = fileURLToPath(new URL('./corpus/', import.meta.url));
/** Of one boot: what they leave in memory until the kexec stays small. */
const BATCH = 100;

const count = Number(process.env.LIVEUPDATE_CONFORMANCE_SEQUENCES ?? 300);
const seed = Number(process.env.LIVEUPDATE_CONFORMANCE_SEED ?? 1);

async function compare(list: readonly Sequence[]): Promise<{ found: Difference[]; kernel: string }> {
  const kernel = await onTheKernel(list);
  return { found: differences(list, kernel, onOurs(list)), kernel: kernel.kernel };
}

async function differing(list: readonly Sequence[]): Promise<boolean[]> {
  const { found } = await compare(list);
  return list.map((_sequence, number) => found.some(({ sequence }) => sequence === number));
}

/** Shrinks a difference, keeps it, and says what it is. */
async function report(list: readonly Sequence[], difference: Difference): Promise<string> {
  const whole = list[difference.sequence];
  // Of the kernel's boot, not of a sequence: the whole batch is the smallest that is known.
  if (whole === undefined) return JSON.stringify(difference);
  const [alone] = await differing([whole]);
  const small = alone ? await shrink(whole, differing) : whole;
  const path = join(CORPUS, `seed-${seed}-${difference.sequence}.json`);
  writeFileSync(path, `${JSON.stringify(small, null, 1)}\n`);
  return `${JSON.stringify(difference, null, 1)}\nkept in ${path}${alone ? '' : ' (only seen among others)'}`;
}

test('what was once different', async () => {
  const list = readdirSync(CORPUS)
    .filter((name) => name.endsWith('.json'))
    .map((name) => JSON.parse(readFileSync(join(CORPUS, name), 'utf8')) as Sequence);
  const { found } = await compare(list);
  expect(found).toEqual([]);
});

test(`${count} random sequences`, async () => {
  const list = sequences(count, seed);
  let kernel = '';
  for (let at = 0; at < list.length; at += BATCH) {
    const batch = list.slice(at, at + BATCH);
    const { found, kernel: version } = await compare(batch);
    kernel = version;
    const [first] = found;
    if (first !== undefined) {
      throw new Error(`${found.length} sequences differ. The first:\n${await report(batch, first)}`);
    }
  }
  console.log(`${list.length} sequences, ${countSteps(list)} steps: as Linux ${kernel}`);
});
