/** The service of echo.mjs, started and updated. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { environment, inTime, own } from '../processes.mjs';

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'echo.mjs');

/** Resolves when it serves. */
export async function startBaseline(port) {
  const first = own(
    spawn(process.execPath, [PROGRAM], {
      env: { ...environment, PORT: String(port) },
      stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
    }),
  );
  // Every image has it, and ends with it. Not standard input, which Node closes when its child, the first image, has ended.
  const [, , , lifeline] = first.stdio;
  // Every image writes into the same pipe, so its end is the end of the last.
  const lines = createInterface({ input: first.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await inTime('the baseline', lines.next());
    if (done) throw new Error('the baseline has ended');
    return JSON.parse(value);
  };
  let { pid } = await next();
  return {
    /** The successor's account: times in ms. */
    async update() {
      process.kill(pid, 'SIGUSR2');
      const result = await next();
      pid = result.pid;
      return result;
    },
    async stop() {
      const closed = once(first.stdout, 'close');
      lifeline.end();
      await inTime('the baseline to end', closed);
    },
  };
}
