// npm run bench:kernel: the time from the freeze of a service to its first answer under the next kernel, and its parts, in
// QEMU without hardware virtualization: every part but the service's own is several times faster on a machine.

import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ensureKernel } from '../scripts/kernel/build.mjs';
import { commandFor, runGuest } from '../scripts/kernel/run.mjs';

const { values } = parseArgs({ options: { runs: { type: 'string', default: '5' } } });
const runs = Number(values.runs);
const script = fileURLToPath(new URL('./kernel-guest.mjs', import.meta.url));

/** One run: what came when, in milliseconds of the host's clock. */
async function once() {
  const lines = [];
  let rest = '';
  const { code, output } = await runGuest(commandFor(script), {
    onOutput: (text) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop();
      for (const line of parts) lines.push({ at: performance.now(), line: line.trim() });
    },
  });
  if (code !== 0) throw new Error(`the guest's script ended with ${code}:\n${output}`);
  const farewell = lines.findIndex(({ line }) => line.startsWith('{"ok":true'));
  const { phases } = JSON.parse(lines[farewell].line);
  const after = (pattern) => lines.slice(farewell + 1).find(({ line }) => pattern.test(line)).at;
  const left = lines[farewell].at;
  return {
    'freeze (services halt)': phases.freeze,
    'store (maps and images to the kernel)': phases.store,
    'reboot: sync, until the kernel is left': phases.reboot,
    'next kernel, until its first program runs': after(/^@script/) - left,
    'luod starts, until its program is ready': after(/ready kexec/) - after(/^@script/),
    'first answer': after(/^@answer/) - after(/ready kexec/),
    'freeze to first answer': phases.freeze + phases.store + phases.reboot + after(/^@answer/) - left,
    'before it, while serving: load the kernel': phases.load,
    'before it, while serving: preserve 64 MiB': phases.preserve,
  };
}

const { version } = await ensureKernel();
const results = [];
for (let run = 0; run < runs; run++) {
  results.push(await once());
  process.stderr.write(`run ${run + 1} of ${runs}\n`);
}
const median = (numbers) => numbers.sort((one, other) => one - other)[Math.floor(numbers.length / 2)];
console.log(`Linux ${version} in QEMU (TCG, 2 processors), medians of ${runs} runs, milliseconds:`);
for (const name of Object.keys(results[0])) {
  const value = median(results.map((result) => result[name]));
  console.log(`${name.padEnd(46)} ${value.toFixed(value < 10 ? 1 : 0).padStart(8)}`);
}
