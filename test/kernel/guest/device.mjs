// Every call of the device through src/linux/liveupdate.ts, before and after a kexec: what each answered.

import { closeSync, ftruncateSync, openSync, readFileSync, readlinkSync, readSync, writeSync } from 'node:fs';
import { errnoName } from '../../../dist/core/index.js';
import {
  createMemfd,
  isCloseOnExec,
  isKernelLoaded,
  LIVEUPDATE_IOCTL,
  LiveupdateDevice,
  liveupdateIoctl,
  liveupdateStruct,
  loadKernel,
  memfdSeals,
  rebootIntoLoadedKernel,
  seek,
  tell,
  unloadKernel,
} from '../../../dist/linux/index.js';
import { luoctl, mark, stage } from './machine.mjs';

const answers = {};

/** Notes what a call answered: 'ok', a value, or an errno's name. */
async function note(name, call) {
  try {
    const value = await call();
    answers[name] = value === undefined ? 'ok' : value;
  } catch (error) {
    answers[name] = error.code;
  }
}

const raw = (fd, number, struct) => {
  const result = liveupdateIoctl(fd, number, struct);
  return result === 0 ? 'ok' : errnoName(result);
};

/** A struct of createSession of any size, with a byte of the tail set or not. */
function sized(name, size, tail) {
  const struct = Buffer.alloc(Math.max(size, 72));
  struct.writeUInt32LE(size, 0);
  struct.write(name, 8);
  if (tail !== 0) struct[size - 1] = tail;
  return struct;
}

const {
  LIVEUPDATE_GUEST_KERNEL: kernel,
  LIVEUPDATE_GUEST_INITRD: initrd,
  LIVEUPDATE_GUEST_CMDLINE: cmdline,
} = process.env;

async function before() {
  const device = LiveupdateDevice.open();
  await note('second open', () => void LiveupdateDevice.open());
  const session = device.createSession('s');
  await note('duplicate name', () => void device.createSession('s'));
  await note('empty name', () => void device.createSession(''));
  await note('63 bytes', () => device.createSession('x'.repeat(63)).close());
  await note('64 bytes', () => void device.createSession('x'.repeat(64)));
  const full = liveupdateStruct('createSession');
  full.fill('x', 8);
  await note('64 bytes at the kernel', () => raw(device.fd, LIVEUPDATE_IOCTL.createSession, full));
  for (const [size, tail] of [
    [71, 0],
    [100, 0],
    [100, 1],
    [4096, 0],
  ]) {
    await note(`struct of ${size}, tail ${tail}`, () =>
      raw(device.fd, LIVEUPDATE_IOCTL.createSession, sized(`n${size}${tail}`, size, tail)),
    );
  }
  await note('number 0x02', () => raw(device.fd, 0xba02, sized('a', 72, 0)));
  await note('type 0xBB', () => raw(device.fd, 0xbb00, sized('a', 72, 0)));
  await note('null', () => raw(device.fd, LIVEUPDATE_IOCTL.createSession, null));
  await note('session number on the device', () =>
    raw(device.fd, LIVEUPDATE_IOCTL.preserveFd, sized('a', 72, 0)),
  );
  await note('device number on a session', () =>
    raw(session.fd, LIVEUPDATE_IOCTL.createSession, sized('a', 72, 0)),
  );
  await note('name', () => session.getName());
  await note('link', () => readlinkSync(`/proc/self/fd/${session.fd}`));
  await note('close-on-exec', () => isCloseOnExec(session.fd));
  await note('retrieve on outgoing', () => void session.retrieve(0n));
  await note('finish on outgoing', () => session.finish());

  const memfd = createMemfd('m', 10_000, { crossesKernel: true });
  writeSync(memfd, 'before the kexec', 0);
  await note('bad fd', () => session.preserve(9999, 1n));
  await note('character device', () => session.preserve(openSync('/dev/null'), 1n));
  await note('directory', () => session.preserve(openSync('/'), 1n));
  await note('session fd', () => session.preserve(session.fd, 1n));
  await note('memfd', () => session.preserve(memfd, 2n ** 64n - 1n));
  await note('used token, bad fd', () => session.preserve(9999, 2n ** 64n - 1n));
  await note('same memfd again', () => session.preserve(memfd, 2n));
  await note('grow', () => ftruncateSync(memfd, 20_000));
  await note('shrink', () => ftruncateSync(memfd, 10));
  writeSync(memfd, 'after preserving', 0);
  seek(memfd, 77);
  // A file with the executable seal comes back sealed against writing; one made for a crossing does not.
  session.preserve(createMemfd('sealed', 4096), 5n);

  const doctor = luoctl('doctor');
  mark('doctor with the device open', { code: doctor.code, facts: doctor.reply.facts });
  device.close();
  const again = luoctl('doctor');
  mark('doctor', { code: again.code, facts: again.reply.facts });

  await note('no kernel', () => rebootIntoLoadedKernel());
  await note('no such kernel', () => loadKernel({ kernel: '/no/such', cmdline: '' }));
  await note('a kernel that is none', () => loadKernel({ kernel: '/proc/self/status', cmdline: '' }));
  await note('a line with NUL', () => loadKernel({ kernel, cmdline: 'a\0b' }));
  await note('a long line', () => loadKernel({ kernel, cmdline: 'x'.repeat(2048) }));
  await note('loaded', () => {
    loadKernel({ kernel, initrd, cmdline });
    return isKernelLoaded();
  });
  await note('unloaded', () => {
    unloadKernel();
    return isKernelLoaded();
  });
  mark('before', { answers });
  loadKernel({ kernel, initrd, cmdline });
  rebootIntoLoadedKernel();
}

async function after() {
  const device = LiveupdateDevice.open();
  await note('unknown session', () => void device.retrieveSession('t'));
  const session = device.retrieveSession('s');
  await note('again', () => void device.retrieveSession('s'));
  await note('closed before', () => void device.retrieveSession('x'.repeat(63)));
  await note('unknown token', () => void session.retrieve(1n));
  const fd = session.retrieve(2n ** 64n - 1n);
  await note('close-on-exec', () => isCloseOnExec(fd));
  await note('position', () => tell(fd));
  await note('seals', () => memfdSeals(fd));
  const bytes = Buffer.alloc(16);
  readSync(fd, bytes, 0, 16, 0);
  await note('contents', () => bytes.toString());
  await note('writable', () => void writeSync(fd, 'x', 0));
  await note('executable seal', () => {
    const sealed = session.retrieve(5n);
    const seals = memfdSeals(sealed);
    closeSync(sealed);
    return seals;
  });
  await note('preserve on incoming', () => session.preserve(fd, 9n));
  const outgoing = device.createSession('s');
  await note('preserve unfinished', () => outgoing.preserve(fd, 1n));
  await note('finish', () => session.finish());
  await note('finish again', () => session.finish());
  await note('retrieve after finish', () => void session.retrieve(2n ** 64n - 1n));
  await note('preserve finished', () => outgoing.preserve(fd, 1n));
  await note('disposed', async () => {
    await outgoing[Symbol.asyncDispose]();
    await session[Symbol.asyncDispose]();
    return device.createSession('s').name;
  });
  await note('memory of today', () => {
    const memfd = createMemfd('m', 4096, { crossesKernel: true });
    return memfdSeals(memfd);
  });
  mark('after', { answers });
}

if (process.argv[2] === 'off') {
  await note('open', () => void LiveupdateDevice.open());
  const doctor = luoctl('doctor');
  mark('off', {
    answers,
    cmdline: readFileSync('/proc/cmdline', 'utf8'),
    code: doctor.code,
    facts: doctor.reply.facts,
  });
} else if (stage === 1) await before();
else await after();
