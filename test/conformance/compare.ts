/** Runs sequences on both sides and finds where the answers differ. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { commandFor, runGuest } from '../../scripts/kernel/run.mjs';
import { runFirstLives, runSecondLives } from './executor.mjs';
import { removeNamed } from './files.mjs';
import type { Sequence, Step } from './generator.js';
import { OurSystem } from './our-system.mjs';

const GUEST = fileURLToPath(new URL('./guest.mjs', import.meta.url));

interface Answers {
  readonly answers: readonly { readonly r: string }[];
  /** FLB callbacks of the calling off. */
  readonly end: readonly string[];
}

/** What a side said of a batch. */
export interface Lives {
  /** Of the kernel that the first life ran on; empty for ours. */
  readonly kernel: string;
  readonly first: readonly Answers[];
  /** FLB callbacks before anybody asked for anything. */
  readonly boot: readonly string[];
  readonly second: readonly Answers[];
}

export interface Difference {
  /** Which sequence of the batch. */
  readonly sequence: number;
  readonly life: 'before' | 'after' | 'boot';
  readonly step: Step | undefined;
  readonly kernel: unknown;
  readonly ours: unknown;
}

/** On a real kernel, in QEMU, with a kexec in between. */
export async function onTheKernel(sequences: readonly Sequence[]): Promise<Lives> {
  const work = mkdtempSync(join(tmpdir(), 'liveupdate-conformance-'));
  try {
    writeFileSync(join(work, 'sequences.json'), JSON.stringify({ sequences }));
    const { code, output } = await runGuest(commandFor(GUEST), { work, timeout: 300 });
    if (code !== 0) throw new Error(`the guest's script ended with ${code}:\n${output}`);
    const life = (stage: number) => JSON.parse(readFileSync(join(work, `life-${stage}.json`), 'utf8'));
    const first = life(1);
    const second = life(2);
    return { kernel: first.kernel, first: first.results, boot: second.boot, second: second.results };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** On ours, in this process, with our reboot in between. */
export function onOurs(sequences: readonly Sequence[]): Lives {
  try {
    const old = new OurSystem(undefined);
    const first = runFirstLives(old, sequences);
    const next = new OurSystem(old.reboot());
    const boot = next.takeFlbLog();
    const second = runSecondLives(next, sequences);
    next.end();
    return { kernel: '', first, boot, second };
  } finally {
    removeNamed();
  }
}

/** The first difference of each sequence that has one. */
export function differences(sequences: readonly Sequence[], kernel: Lives, ours: Lives): Difference[] {
  const found: Difference[] = [];
  if (!isDeepStrictEqual(kernel.boot, ours.boot)) {
    found.push({ sequence: -1, life: 'boot', step: undefined, kernel: kernel.boot, ours: ours.boot });
  }
  for (const [number, { before, after }] of sequences.entries()) {
    const difference =
      firstDifference(number, 'before', before, kernel.first[number], ours.first[number]) ??
      firstDifference(number, 'after', after ?? [], kernel.second[number], ours.second[number]);
    if (difference !== undefined) found.push(difference);
  }
  return found;
}

function firstDifference(
  sequence: number,
  life: 'before' | 'after',
  steps: readonly Step[],
  kernel: Answers | undefined,
  ours: Answers | undefined,
): Difference | undefined {
  for (const [at, step] of steps.entries()) {
    // Through JSON: the kernel's answers came that way.
    const one = kernel?.answers[at];
    const other = JSON.parse(JSON.stringify(ours?.answers[at] ?? null));
    if (!isDeepStrictEqual(one, other)) return { sequence, life, step, kernel: one, ours: other };
  }
  if (isDeepStrictEqual(kernel?.end, ours?.end)) return undefined;
  return { sequence, life, step: undefined, kernel: kernel?.end, ours: ours?.end };
}
