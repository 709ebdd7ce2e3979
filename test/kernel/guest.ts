/** Runs one of the guest's scripts, and gives what it marked. */
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { commandFor, runGuest } from '../../scripts/kernel/run.mjs';

export interface Mark {
  readonly stage: number;
  readonly name: string;
  /** Milliseconds of the host's clock when it came. */
  readonly at: number;
  // biome-ignore lint/suspicious/noExplicitAny: what a script notes is its own
  readonly [fact: string]: any;
}

/** @returns the marks by `stage name`, in order. */
export async function guest(
  script: string,
  options: { args?: string[]; cmdline?: string; code?: number } = {},
): Promise<Map<string, Mark>> {
  const path = fileURLToPath(new URL(`./guest/${script}`, import.meta.url));
  const marks = new Map<string, Mark>();
  let line = '';
  const { code, output } = await runGuest(commandFor(path, options.args), {
    cmdline: options.cmdline ?? '',
    onOutput: (text: string) => {
      line += text;
      for (let end = line.indexOf('\n'); end !== -1; end = line.indexOf('\n')) {
        const found = /^@(\{.*)$/.exec(line.slice(0, end).trim())?.[1];
        line = line.slice(end + 1);
        if (found === undefined) continue;
        const mark = JSON.parse(found) as Mark;
        marks.set(`${mark.stage} ${mark.name}`, { ...mark, at: performance.now() });
      }
    },
  });
  expect(code, output).toBe(options.code ?? 0);
  return marks;
}
