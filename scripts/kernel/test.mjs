// npm run test:kernel: everything that needs the real orchestrator. Builds the test kernel when the cache has none.
// Words behind -- go to vitest: `npm run test:kernel -- test/kernel/device.test.ts`.
//
//   LIVEUPDATE_CONFORMANCE_SEQUENCES   how many random sequences are compared (default 300)
//   LIVEUPDATE_CONFORMANCE_SEED        which ones (default 1)

import { buildStale, installMissing, run, tool } from '../install.mjs';
import { ensureKernel } from './build.mjs';
import { progress, runMain } from './command.mjs';
import { ensurePackages, RUN_NEEDS } from './debian.mjs';

await runMain('test:kernel', async (argv) => {
  installMissing();
  buildStale();
  const say = progress();
  const { version, cached } = await ensureKernel({ say });
  await ensurePackages(RUN_NEEDS, say);
  say(`Linux ${version}${cached ? ' from the cache' : ''}`);
  run(tool('vitest'), ['run', '--config', 'vitest.kernel.config.ts', ...argv]);
});
