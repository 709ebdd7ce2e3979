import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LiveUpdate } from '../../../src/core/index.js';
import type { Image } from '../../../src/core/types.js';
import { FdFile } from '../../../src/handlers/fd-file.js';
import { memfdHandler } from '../../../src/handlers/memfd.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';
import { countOpenFds, dupFd, seek, tell } from '../../../src/linux/fd.js';
import { createMemfd, F_SEAL_SHRINK, isMemfd, memfdSeals, sealMemfd } from '../../../src/linux/memfd.js';

function machine() {
  const handover = { incoming: new IncomingRecords({ exclusive: true }), outgoing: new OutgoingRecords() };
  const orchestrator = new LiveUpdate();
  orchestrator.registerFileHandler(memfdHandler(handover));
  return { handover, orchestrator };
}

/** Leaves one orchestrator for another, with duplicates of what it hands over. */
async function leave({ handover, orchestrator }: ReturnType<typeof machine>) {
  const image = (await orchestrator.reboot()) as Image;
  const next = machine();
  const { records, fds } = handover.outgoing.takeChanged();
  next.handover.incoming.add(
    records,
    fds.map((fd) => dupFd(fd)),
  );
  for (const fd of fds) closeSync(fd);
  await next.orchestrator.deserialize(image);
  return next;
}

describe('memfd handler', () => {
  let before = 0;
  beforeEach(() => {
    before = countOpenFds();
  });
  afterEach(() => {
    expect(countOpenFds()).toBe(before);
  });

  it('carries contents, size, seals and the position of the freeze, in an open file of its own', async () => {
    const old = machine();
    const fd = createMemfd('x', 5000);
    writeSync(fd, 'hello', 0);
    sealMemfd(fd, F_SEAL_SHRINK);
    const session = await old.orchestrator.createSession('s');
    await session.preserve(new FdFile(fd), 1n);
    seek(fd, 123);
    const seals = memfdSeals(fd);
    closeSync(fd);

    const next = await leave(old);
    const incoming = await next.orchestrator.retrieveSession('s');
    const file = await incoming.retrieve<FdFile>(1n);
    expect(tell(file.fd)).toBe(123);
    expect(fstatSync(file.fd).size).toBe(5000);
    expect(memfdSeals(file.fd)).toBe(seals);
    const bytes = Buffer.alloc(5);
    readSync(file.fd, bytes, 0, 5, 0);
    expect(bytes.toString()).toBe('hello');
    await incoming.finish();
    await incoming.close();
    closeSync(file.fd);
  });

  it('discards what is never retrieved', async () => {
    const old = machine();
    const fd = createMemfd('x', 100);
    const session = await old.orchestrator.createSession('s');
    await session.preserve(new FdFile(fd), 1n);
    closeSync(fd);
    const next = await leave(old);
    const incoming = await next.orchestrator.retrieveSession('s');
    await incoming.finish();
    await incoming.close();
  });

  it('fails the freeze of a file that changed its size, and gives it back', async () => {
    const { orchestrator } = machine();
    const fd = createMemfd('x', 100);
    const session = await orchestrator.createSession('s');
    await session.preserve(new FdFile(fd), 1n);
    ftruncateSync(fd, 200);
    expect(() => orchestrator.reboot()).toThrow(
      expect.objectContaining({ code: 'EPERM', token: 1n, message: expect.stringContaining('200') }),
    );
    ftruncateSync(fd, 100);
    await session.close();
    closeSync(fd);
  });

  it('takes one inode once, and nothing that is no memfd', async () => {
    const { orchestrator } = machine();
    const fd = createMemfd('x', 1);
    const reopened = openSync(`/proc/self/fd/${fd}`, 'r');
    const other = openSync('/dev/null', 'r');
    const session = await orchestrator.createSession('s');
    await session.preserve(new FdFile(fd), 1n);
    expect(() => session.preserve(new FdFile(reopened), 2n)).toThrow(
      expect.objectContaining({ code: 'EBUSY' }),
    );
    expect(() => session.preserve(new FdFile(other), 2n)).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    expect(() => session.preserve(new FdFile(9999), 2n)).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(isMemfd(reopened)).toBe(true);
    await session.close();
    for (const one of [fd, reopened, other]) closeSync(one);
  });
});
