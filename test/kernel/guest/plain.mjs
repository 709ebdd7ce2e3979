// A program that does not use liveupdate: it is asked to end before the kernel is left, and nothing of it crosses.

import { existsSync, readFileSync } from 'node:fs';
import { LiveupdateDevice } from '../../../dist/linux/index.js';
import { kexec, mark, stage, startLuod } from './machine.mjs';

const FAREWELL = '/run/work/farewell';

if (stage === 1) {
  const program = `
    process.on('SIGTERM', () => { require('node:fs').writeFileSync('${FAREWELL}', 'in order'); process.exit(0); });
    setInterval(() => undefined, 1e6);
    console.log('plain program');`;
  const luod = startLuod({ program: [process.execPath, '-e', program] });
  await luod.line(/plain program/);
  await luod.line(/has not called liveupdate/);
  const refused = kexec();
  mark('refused', { code: refused.code, reply: refused.reply, asked: existsSync(FAREWELL) });
  kexec('--drop-unpreservable');
  process.exitCode = 1;
} else {
  mark('after', { farewell: readFileSync(FAREWELL, 'utf8') });
  // Another agent that keeps the device for itself must not keep services from starting.
  const device = LiveupdateDevice.open();
  const luod = startLuod();
  await luod.line(/^ready fresh/);
  mark('busy', {
    said: luod.lines.filter((line) => /what the previous kernel may have kept stays there/.test(line)),
  });
  device.close();
  luod.child.kill('SIGTERM');
  await new Promise((resolve) => luod.child.once('exit', resolve));
}
