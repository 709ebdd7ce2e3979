// After the kexec, luod is killed before its program has asked for anything, and started again.

import { existsSync, writeFileSync } from 'node:fs';
import { client, luoctl, mark, startLuod } from './machine.mjs';

// The command line is reused, so that it says stage 1 under both kernels.
const LEFT = '/run/work/left';
const { LIVEUPDATE_GUEST_KERNEL: kernel, LIVEUPDATE_GUEST_INITRD: initrd } = process.env;

if (!existsSync(LEFT)) {
  const luod = startLuod();
  await luod.line(/^ready /);
  const one = await client();
  await one.ask('put 99');
  await one.close();
  writeFileSync(LEFT, '');
  luoctl('kexec', '--kernel', kernel, '--initrd', initrd, '--reuse-cmdline');
  process.exitCode = 1;
} else {
  // A program that starts, and never gets as far as asking for its own.
  const slow = startLuod({
    program: [
      process.execPath,
      '-e',
      'console.log("slow start", process.pid); setInterval(() => undefined, 1e6)',
    ],
  });
  const pid = Number((await slow.line(/slow start/)).split(' ').at(-1));
  mark('unclaimed', { sessions: luoctl('sessions').reply.sessions });
  const end = new Promise((resolve) => slow.child.once('exit', resolve));
  slow.child.kill('SIGKILL');
  await end;
  process.kill(pid, 'SIGKILL');

  // And one that dies while it takes over, again and again, until it is mended.
  const broken = startLuod({
    env: { BROKEN: '/run/broken' },
    program: [process.execPath, new URL('./dies-once.mjs', import.meta.url).pathname],
  });
  await broken.line(/^ready /);
  await broken.line(/took over what the previous kernel kept/);
  const one = await client();
  mark('answer', {
    answer: await one.ask('get'),
    deaths: broken.lines.filter((line) => /before it took over/.test(line)).length,
  });
  mark('claimed', { sessions: luoctl('sessions').reply.sessions });
  await one.close();
  broken.child.kill('SIGTERM');
  await new Promise((resolve) => broken.child.once('exit', resolve));
}
