// A kexec that a program's freeze calls off; then one that gives up a connection, and loses the folder of a unix socket.

import { rmSync, writeFileSync } from 'node:fs';
import { LiveupdateDevice } from '../../../dist/linux/index.js';
import { client, kexec, luoctl, mark, stage, startLuod } from './machine.mjs';

const FLAG = '/run/no-freeze';
// In memory, as /run is: the next kernel has no such folder.
const SOCKET = '/run/cache/socket';

if (stage === 1) writeFileSync(FLAG, '');
const luod = startLuod({ env: { FAIL_FREEZE: FLAG, SOCKET } });
await luod.line(/^ready /);
const one = await client();
if (stage === 1) {
  await one.ask('put 7');
  const { code, reply } = kexec('--drop-unpreservable');
  mark('called off', { code, reply, answer: await one.ask('get') });
  // Nothing of it may be left with the kernel: the names are free again, and no next kernel is loaded.
  const device = LiveupdateDevice.open();
  for (const name of ['luod', 'luod:cache']) device.createSession(name).close();
  device.close();
  mark('status', { reply: luoctl('status').reply });
  const unloaded = luoctl('kexec');
  mark('unloaded', { code: unloaded.code, reply: unloaded.reply });
  await one.ask('put 8');
  rmSync(FLAG);
  mark('kexec');
  const last = kexec('--drop-unpreservable');
  mark('still here', { code: last.code, objects: last.objects });
  process.exitCode = 1;
} else {
  mark('answer', { answer: await one.ask('get') });
  const local = await client({ path: SOCKET });
  mark('local', {
    answer: await local.ask('ping'),
    lost: luod.lines.filter((line) => /could not be made again/.test(line)),
  });
  await local.close();
  await one.close();
  luod.child.kill('SIGTERM');
  await new Promise((resolve) => luod.child.once('exit', resolve));
}
