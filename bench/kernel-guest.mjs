// Runs in the guest of bench/kernel.mjs: the cache service and a kexec, then the service again. Every line is timed there.

import { spawn, spawnSync } from 'node:child_process';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const PORT = 7700;
const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const {
  LIVEUPDATE_GUEST_STAGE: stage,
  LIVEUPDATE_GUEST_KERNEL: kernel,
  LIVEUPDATE_GUEST_INITRD: initrd,
  LIVEUPDATE_GUEST_CMDLINE: cmdline,
} = process.env;

/** One question to the service, as soon as it can be asked. */
async function ask(line) {
  for (;;) {
    const socket = connect(PORT, '127.0.0.1');
    try {
      await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    } catch {
      // Not listening yet: a client of the service would come back as well.
      await delay(5);
      continue;
    }
    socket.write(`${line}\n`);
    const { value } = await createInterface({ input: socket })[Symbol.asyncIterator]().next();
    socket.destroy();
    return value;
  }
}

console.log('@script');
const luod = spawn(
  process.execPath,
  [
    path('../dist/cli/luod.js'),
    'run',
    '--name',
    'cache',
    '--',
    process.execPath,
    path('../test/programs/kernel-cache.mjs'),
  ],
  { env: { ...process.env, PORT: String(PORT) }, stdio: 'inherit' },
);
await ask('ping');
console.log('@answer');
if (stage === '1') {
  await ask('put 5');
  const kexec = [
    path('../dist/cli/luoctl.js'),
    'kexec',
    '--kernel',
    kernel,
    '--initrd',
    initrd,
    '--cmdline',
    cmdline,
  ];
  spawnSync(process.execPath, [...kexec, '--json', '--drop-unpreservable'], { stdio: 'inherit' });
  process.exitCode = 1;
} else {
  luod.kill('SIGTERM');
}
