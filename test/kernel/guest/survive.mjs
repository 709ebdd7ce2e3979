// A cache service through two kexecs in a row.

import { readFileSync } from 'node:fs';
import { client, kexec, luoctl, mark, stage, startLuod } from './machine.mjs';

const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
mark('boot', { bootId });
const luod = startLuod();
await luod.line(/^ready /);
const one = await client();
const first = await one.ask('get');
mark('answer', { answer: first });
// The kernel's session is finished right after the program is ready.
if (stage > 1) await luod.line(/took over what the previous kernel kept/);
mark('sessions', { sessions: luoctl('sessions').reply.sessions });
if (stage === 1) await one.ask('put 41');
if (stage === 2) await one.ask('put 42');
mark('put', { answer: await one.ask('get') });

if (stage === 1) {
  // With a connection open nothing may stop without leave.
  const refused = kexec();
  mark('refused', { code: refused.code, reply: refused.reply, still: await one.ask('get') });
}
await one.close();
if (stage < 3) {
  const dry = kexec('--dry-run');
  mark('dry', { code: dry.code, reply: dry.reply });
  mark('kexec');
  const { code, objects } = kexec();
  mark('still here', { code, objects });
  process.exitCode = 1;
} else {
  luod.child.kill('SIGTERM');
  await new Promise((resolve) => luod.child.once('exit', resolve));
}
