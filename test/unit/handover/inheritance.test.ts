import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { IMAGE_COMPATIBLE } from '../../../src/core/index.js';
import { encodeHandover } from '../../../src/handover/codec.js';
import { writeImageFile } from '../../../src/handover/image-file.js';
import { ENV_INHERITANCE, Inheritance, writeInheritance } from '../../../src/handover/inheritance.js';
import { dupFd, isCloseOnExec, setCloseOnExec } from '../../../src/linux/fd.js';
import { createMemfd } from '../../../src/linux/memfd.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

function pass(fds: readonly number[]) {
  const image = { compatible: IMAGE_COMPATIBLE, liveupdateNumber: 0n, sessions: [], flbs: [] };
  const record = { handle: 1, bytes: Buffer.from('what it is'), fdStart: 0, fdCount: fds.length };
  return { encoded: encodeHandover({ image, records: [record] }), fds };
}

const take = (variable: string) => Inheritance.take({ [ENV_INHERITANCE]: variable });

/** An inheritance of one pass with one descriptor, as execve leaves it. */
function left() {
  const own = openSync('/dev/null', 'r');
  setCloseOnExec(own, false);
  return { own, ...writeInheritance(7, [pass([own])]) };
}

/** A memfd whose head is `head`, with the variable that fits it. */
function made(head: unknown): { fd: number; variable: string } {
  const text = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const fd = writeImageFile(length, text);
  return { fd, variable: `${fd}:${createHash('sha256').update(text).digest('hex')}` };
}

describe('what execve leaves', () => {
  it('is taken once, is out of the environment, and is close-on-exec again', () => {
    const { own, variable } = left();
    const env: NodeJS.ProcessEnv = { [ENV_INHERITANCE]: variable, OTHER: 'x' };
    const inheritance = Inheritance.take(env);
    expect(env).toEqual({ OTHER: 'x' });
    expect(isCloseOnExec(own)).toBe(true);
    expect(inheritance?.generation).toBe(7);
    const [first] = inheritance?.open() ?? [];
    expect(first?.fds).toEqual([own]);
    expect(Buffer.from(first?.handover.records[0]?.bytes ?? []).toString()).toBe('what it is');
    // The variable finds nothing any more.
    expect(() => take(variable)).toThrow(/EINVAL.*no memory file/);
    closeSync(own);
  });

  it('is nothing without the variable', () => {
    expect(Inheritance.take({})).toBeUndefined();
  });

  it('is refused by another process, which closes its duplicates', () => {
    const own = openSync('/dev/null', 'r');
    const nonce = 'n';
    const passes = [{ bytes: 0, fds: [own] }];
    const { fd, variable } = made({ form: 'liveupdate-exec-v1', nonce, pid: 1, generation: 2, passes });
    expect(() => take(variable)).toThrow(/EINVAL: inherit: .*left to process 1.*by exec/);
    for (const gone of [own, fd]) expect(() => fstatSync(gone)).toThrow('EBADF');
  });

  it('is refused when something closed a descriptor on the way; the others are closed', () => {
    const { own, fd, variable } = left();
    closeSync(own);
    expect(() => take(variable)).toThrow(/closed descriptors on the way/);
    expect(() => fstatSync(fd)).toThrow('EBADF');
  });

  it('of a damaged pass is EINVAL, and everything is closed', () => {
    const own = openSync('/dev/null', 'r');
    const whole = pass([own]);
    const encoded = Buffer.from(whole.encoded);
    encoded[encoded.length - 1] = 0xff;
    const { fd, variable } = writeInheritance(2, [{ encoded, fds: [own] }]);
    expect(() => take(variable)?.open()).toThrow(/EINVAL.*checksum/);
    for (const gone of [own, fd]) expect(() => fstatSync(gone)).toThrow('EBADF');
  });
});

describe('a variable that is not for this process', () => {
  const digest = 'a'.repeat(64);

  it.each([
    ['of no form', 'yes', /another form/],
    ['of a standard descriptor', `1:${digest}`, /descriptor 1 is no memory file/],
    ['of a descriptor that is not open', `999999:${digest}`, /no memory file/],
    ['of a number too large', `99999999999:${digest}`, /another form/],
  ])('%s is refused', (_what, variable, message) => {
    const env: NodeJS.ProcessEnv = { [ENV_INHERITANCE]: variable };
    expect(() => Inheritance.take(env)).toThrow(message);
    expect(env).toEqual({});
  });

  it("leaves a file and a memfd that are the program's own as they were", () => {
    const file = openSync('/dev/null', 'r');
    const memfd = createMemfd('mine', 100);
    expect(() => take(`${file}:${digest}`)).toThrow(/no memory file/);
    expect(() => take(`${memfd}:${digest}`)).toThrow(/something else/);
    for (const fd of [file, memfd]) closeSync(fd);
  });

  it.each([
    ['no object', 5],
    ['another form', { form: 'liveupdate-exec-v9' }],
    ['no passes', { form: 'liveupdate-exec-v1', pid: process.pid, generation: 1, passes: [] }],
    ['a pass of nothing', { form: 'liveupdate-exec-v1', pid: process.pid, generation: 1, passes: [null] }],
    [
      'a standard descriptor',
      { form: 'liveupdate-exec-v1', pid: process.pid, generation: 1, passes: [{ bytes: 0, fds: [1] }] },
    ],
    [
      'a descriptor twice',
      { form: 'liveupdate-exec-v1', pid: process.pid, generation: 1, passes: [{ bytes: 0, fds: [40, 40] }] },
    ],
  ])('is refused when its head is %s, and closes nothing', (_what, head) => {
    const { fd, variable } = made(head);
    expect(() => take(variable)).toThrow(/EINVAL: inherit: LIVEUPDATE_EXEC in the environment is not for/);
    expect(readSync(fd, Buffer.alloc(1), 0, 1, 0)).toBe(1);
    closeSync(fd);
  });

  it('of one byte changed is refused', () => {
    const { own, fd, variable } = left();
    const other = dupFd(fd);
    expect(() => take(variable.replace(/.$/, (last) => (last === '0' ? '1' : '0')))).toThrow(
      /something else/,
    );
    for (const open of [own, fd, other]) closeSync(open);
  });
});
