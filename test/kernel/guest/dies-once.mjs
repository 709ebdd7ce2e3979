// The cache service of a version that dies in its start, after it has claimed its memory; the next start goes well.

import { existsSync, writeFileSync } from 'node:fs';

const flag = process.env.BROKEN;
if (!existsSync(flag)) {
  const { liveupdate } = await import('../../../dist/index.js');
  const lu = await liveupdate();
  await lu.memory('cache', 64 << 20);
  writeFileSync(flag, '');
  process.kill(process.pid, 'SIGKILL');
}
await import('../../programs/kernel-cache.mjs');
