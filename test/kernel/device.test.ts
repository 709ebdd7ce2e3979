/** The device, kexec and `luoctl doctor` on a real kernel. */
import { expect, test } from 'vitest';
import { guest } from './guest.js';

interface Fact {
  readonly name: string;
  readonly verdict: string;
}

const verdicts = (facts: readonly Fact[]) =>
  Object.fromEntries(facts.map(({ name, verdict }) => [name, verdict]));

const ALL = {
  kernel: 'ok',
  liveupdate: 'ok',
  liveupdate_memfd: 'ok',
  'liveupdate=on': 'ok',
  'kho=on': 'ok',
  device: 'ok',
  kexec: 'ok',
  'kexec allowed': 'ok',
  lockdown: 'ok',
  privilege: 'ok',
};

test('every call answers as the contract says, before a kexec and after it', async () => {
  const marks = await guest('device.mjs');
  expect(marks.get('1 before')?.answers).toEqual({
    'second open': 'EBUSY',
    'duplicate name': 'EEXIST',
    'empty name': 'EINVAL',
    '63 bytes': 'ok',
    '64 bytes': 'EINVAL',
    '64 bytes at the kernel': 'EINVAL',
    'struct of 71, tail 0': 'EINVAL',
    'struct of 100, tail 0': 'ok',
    'struct of 100, tail 1': 'E2BIG',
    'struct of 4096, tail 0': 'ok',
    'number 0x02': 'EINVAL',
    'type 0xBB': 'ENOTTY',
    null: 'EFAULT',
    'session number on the device': 'EINVAL',
    'device number on a session': 'EINVAL',
    name: 's',
    link: 'anon_inode:[luo_session] s',
    'close-on-exec': true,
    'retrieve on outgoing': 'EINVAL',
    'finish on outgoing': 'EINVAL',
    'bad fd': 'EBADF',
    'character device': 'ENOENT',
    directory: 'ENOENT',
    'session fd': 'ENOENT',
    memfd: 'ok',
    'used token, bad fd': 'EEXIST',
    'same memfd again': 'EBUSY',
    grow: 'EPERM',
    shrink: 'EPERM',
    'no kernel': 'EINVAL',
    'no such kernel': 'ENOENT',
    'a kernel that is none': 'EINVAL',
    'a line with NUL': 'EINVAL',
    'a long line': 'EINVAL',
    loaded: true,
    unloaded: false,
  });
  expect(marks.get('2 after')?.answers).toEqual({
    'unknown session': 'ENOENT',
    again: 'EINVAL',
    'closed before': 'ENOENT',
    'unknown token': 'ENOENT',
    'close-on-exec': true,
    position: 77,
    seals: 0,
    contents: 'after preserving',
    writable: 'ok',
    // SHRINK, GROW, WRITE, FUTURE_WRITE came along with EXEC.
    'executable seal': 62,
    'preserve on incoming': 'EINVAL',
    'preserve unfinished': 'EBUSY',
    finish: 'ok',
    'finish again': 'ok',
    'retrieve after finish': 'ENOENT',
    'preserve finished': 'ok',
    disposed: 's',
    'memory of today': 0,
  });

  const busy = marks.get('1 doctor with the device open');
  expect(verdicts(busy?.facts)).toEqual({ ...ALL, device: 'unknown' });
  expect(busy?.code).toBe(1);
  const free = marks.get('1 doctor');
  expect(verdicts(free?.facts)).toEqual(ALL);
  expect(free?.code).toBe(0);
});

test('a kernel with live update switched off is told apart, with advice', async () => {
  const off = (await guest('device.mjs', { args: ['off'], cmdline: 'liveupdate=off' })).get('1 off');
  expect(off?.answers).toEqual({ open: 'ENOENT' });
  expect(off?.code).toBe(1);
  expect(verdicts(off?.facts)).toEqual({ ...ALL, 'liveupdate=on': 'missing', device: 'missing' });
  const fact = off?.facts.find(({ name }: Fact) => name === 'liveupdate=on');
  expect(fact).toMatchObject({ found: 'liveupdate=off', advice: expect.stringContaining('liveupdate=on') });
});
