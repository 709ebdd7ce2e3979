import { existsSync, watch } from 'node:fs';
import { join } from 'node:path';

/** Resolves when the test lets `word` go on: when there is a file of that name in the folder HOLD. */
export function released(word) {
  const folder = process.env.HOLD;
  return new Promise((resolve) => {
    const look = () => {
      if (!existsSync(join(folder, word))) return;
      watcher.close();
      resolve();
    };
    const watcher = watch(folder, look);
    look();
  });
}
