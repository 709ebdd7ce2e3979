/**
 * What clients keep, on its way through a kernel: with real sessions and files, and a stand-in for the kernel's device, which this
 * machine may not have. test/kernel does it with a real one.
 */

import { once } from 'node:events';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { LuodSession } from '../../../src/app/luod-client.js';
import { LiveUpdateError } from '../../../src/core/errors.js';
import type { AuditEvent } from '../../../src/daemon/audit.js';
import type { Peer } from '../../../src/daemon/host-session.js';
import { HostSessions } from '../../../src/daemon/host-sessions.js';
import type { Store } from '../../../src/daemon/keeper-link.js';
import { KernelClients, KernelClientsWriter } from '../../../src/daemon/kernel-clients.js';
import { defaultLimits } from '../../../src/daemon/limits.js';
import { closeFd, dupFd } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';
import type { LiveupdateDevice } from '../../../src/linux/liveupdate.js';
import { createMemfd, isMemfd } from '../../../src/linux/memfd.js';
import { isListening } from '../../../src/linux/socket-facts.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

/** Sessions as the kernel has them: duplicates by token, which takes memfds alone. */
class Kernel {
  readonly sessions = new Map<string, Map<bigint, number>>();
  readonly finished: string[] = [];

  get device(): LiveupdateDevice {
    const of = (name: string) => ({
      name,
      preserve: (fd: number, token: bigint) => {
        if (!isMemfd(fd)) throw new LiveUpdateError('ENOENT', 'no handler');
        this.sessions.get(name)?.set(token, dupFd(fd));
      },
      retrieve: (token: bigint) => dupFd(this.sessions.get(name)?.get(token) as number),
      finish: () => this.finished.push(name),
      close: () => {
        for (const fd of this.sessions.get(name)?.values() ?? []) closeFd(fd);
        this.sessions.delete(name);
      },
    });
    return {
      createSession: (name: string) => {
        this.sessions.set(name, new Map());
        return of(name);
      },
      retrieveSession: (name: string) => {
        if (this.sessions.has(name)) return of(name);
        throw new LiveUpdateError('ENOENT', 'no such session');
      },
    } as unknown as LiveupdateDevice;
  }
}

const peer: Peer = { uid: process.getuid?.() as number, gid: 0, pid: process.pid };

function luod(): { hosted: HostSessions; stored: string[] } {
  const stored: string[] = [];
  const store: Store = {
    put: (group, item) => stored.push(`${group}/${item}`),
    amend: () => undefined,
    drop: () => undefined,
  };
  const audit = (_event: AuditEvent) => undefined;
  return {
    hosted: new HostSessions({ limits: defaultLimits(), audit, log: () => undefined, store }),
    stored,
  };
}

function memfd(text: string): number {
  const fd = createMemfd(text, 100);
  writeSync(fd, text, 0);
  return fd;
}

function text(fd: number): string {
  const bytes = Buffer.alloc(100);
  readSync(fd, bytes, 0, 100, 0);
  closeSync(fd);
  return bytes.toString().replaceAll('\0', '');
}

describe('what clients keep', () => {
  it('crosses as far as it can, and the rest is told', async () => {
    const kernel = new Kernel();
    const before = luod();
    const session = new LuodSession(before.hosted.create(peer, 'web', 'hold'));
    const short = new LuodSession(before.hosted.create(peer, 'short', 'release'));
    const memory = memfd('remembered');
    const pool = memfd('pool');
    const alone = memfd('nobody depends on it');
    before.hosted.flbs.register(peer, 'pool', pool, 'client 1');
    before.hosted.flbs.register(peer, 'alone', alone, 'client 1');
    const folder = openSync(tmpdir(), 'r');
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    await session.preserve(memory, 1n, { flbs: ['pool'] });
    await session.preserve(handleFd(server) as number, 2n);
    await session.preserve(folder, 3n);
    const scratch = memfd('scratch');
    await short.preserve(scratch, 1n);

    const writer = new KernelClientsWriter(kernel.device);
    expect(writer.take(before.hosted.items)).toEqual([
      expect.objectContaining({
        session: 'web',
        what: expect.stringContaining(`${tmpdir()}, kept by a client`),
      }),
      expect.objectContaining({ session: 'short', what: expect.stringMatching(/^1 files .*'release'/) }),
    ]);
    expect([writer.sessions, writer.memfds]).toEqual([1, 2]);
    // While it is served it changes; from the freeze on it does not.
    const late = memfd('late');
    await session.preserve(late, 4n);
    await session.unpreserve(3n);
    before.hosted.freeze();
    await expect(session.unpreserve(4n)).rejects.toThrow(/EBUSY/);
    expect(() => before.hosted.create(peer, 'other', 'hold')).toThrow(/EBUSY/);
    expect(writer.take(before.hosted.items)).toMatchObject([{ session: 'short' }]);
    writer.complete();
    before.hosted.unfreeze();
    await session.unpreserve(4n);

    // The kernel is left, and with it luod, its clients, and the listener.
    for (const one of [session, short]) one.close();
    before.hosted.close();
    server.close();
    await once(server, 'close');
    for (const fd of [memory, pool, alone, folder, scratch, late]) closeSync(fd);

    const after = luod();
    const came = KernelClients.take(kernel.device) as KernelClients;
    expect(came.lost).toEqual([]);
    expect(after.hosted.arrive(came.items)).toBe(1);
    expect(kernel.finished).toEqual([]);
    // luod's own store has it before the kernel lets it go.
    expect(after.stored.map((item) => item.replace(/^session \d+/, 'session'))).toEqual(
      expect.arrayContaining(['session/session', 'session/file 1', 'session/file 2', 'session/file 4']),
    );
    came.finish();
    expect(kernel.sessions.size).toBe(0);
    expect(after.hosted.status()).toMatchObject([{ session: 'web', state: 'orphaned', custody: 'hold' }]);
    expect(after.hosted.flbs.status()).toMatchObject([{ flb: 'pool', files: 1, registered: false }]);
    const next = new LuodSession(after.hosted.retrieve(peer, 'web'));
    expect((await next.list()).map(({ token }) => token)).toEqual(['1', '2', '4']);
    expect(text(await next.retrieve(1n))).toBe('remembered');
    expect(text(await next.retrieve(4n))).toBe('late');
    const listener = await next.retrieve(2n);
    expect(isListening(listener)).toBe(true);
    closeSync(listener);
    expect(text(after.hosted.flbs.retrieve(peer, 'pool'))).toBe('pool');
    await next.finish();
    expect(after.hosted.flbs.status()).toEqual([]);
    next.close();
    after.hosted.close();
    expect(KernelClients.take(kernel.device)).toBeUndefined();
  });

  it('needs no session of the kernel’s when there is nothing', () => {
    const kernel = new Kernel();
    const { hosted } = luod();
    const writer = new KernelClientsWriter(kernel.device);
    expect(writer.take(hosted.items)).toEqual([]);
    writer.complete();
    expect([writer.session, kernel.sessions.size]).toEqual([undefined, 0]);
    writer[Symbol.dispose]();
  });
});
