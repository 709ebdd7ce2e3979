/** luod at the edge of what it may have, and beside clients that take more than they give: nothing that is held is touched. */
import { closeSync, fstatSync } from 'node:fs';
import { createConnection } from 'node:net';
import koffi from 'koffi';
import { afterEach, describe, expect, it } from 'vitest';
import type { LuodClient, LuodSession } from '../../src/app/luod-client.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { Host } from './host.js';
import { cli, run } from './luod-process.js';

const code = (name: string) => expect.objectContaining({ code: name });

let host: Host;

afterEach(() => host.stop());

/** Keeps memfds until luod has no room for more. @returns how many. */
async function fill(session: LuodSession): Promise<number> {
  for (let token = 0n; ; token++) {
    const fd = createMemfd('f', 1);
    try {
      await session.preserve(fd, token);
    } catch (error) {
      expect(error).toMatchObject({ code: 'EMFILE' });
      return Number(token);
    } finally {
      closeSync(fd);
    }
  }
}

/** What was left under a name, once luod has noticed its owner's end. */
async function retrieve(client: LuodClient, name: string): Promise<LuodSession> {
  for (;;) {
    const session = await client.retrieveSession(name).catch(() => undefined);
    if (session !== undefined) return session;
  }
}

describe('all descriptors that luod may hold', () => {
  it('in one session survive a self-update, an owner’s death and luod’s', async () => {
    host = await Host.start(['--max-clients', '10'], { openFiles: 2048 });
    const client = await host.connect();
    const session = await client.createSession('full', { custody: 'hold' });
    const files = await fill(session);
    // More than half of what the process can have open: there is no room to have everything twice, not even for a moment.
    expect(files).toBeGreaterThan(1024);
    await client.selfUpdate();
    expect((await session.list()).length).toBe(files);
    session.close();
    const next = await retrieve(client, 'full');
    expect((await next.list()).length).toBe(files);
    await host.kill();
    await host.spawn();
    expect((await next.list()).length).toBe(files);
    closeSync(await next.retrieve(BigInt(files - 1)));
    await next.finish();
    next.close();
    client.close();
  });

  it('count also those by which a file without a name is known', async () => {
    host = await Host.start(['--max-fds', '4']);
    const timerfd = koffi.load(null).func('int timerfd_create(int clock, int flags)');
    const client = await host.connect();
    // One for itself, two for each of these.
    const session = await client.createSession('s');
    const timers = [timerfd(1, 0), timerfd(1, 0), timerfd(1, 0)] as number[];
    await session.preserve(timers[0] as number, 1n);
    await session.preserve(timers[1] as number, 2n);
    await expect(session.preserve(timers[2] as number, 3n)).rejects.toThrow(code('EMFILE'));
    for (const fd of timers) closeSync(fd);
    session.close();
    client.close();
  });
});

describe('a list that is longer than what a client may say', () => {
  it('is given all the same', async () => {
    host = await Host.start(['--max-line', '1000']);
    const client = await host.connect();
    const session = await client.createSession('s');
    for (let token = 0n; token < 50n; token++) {
      const fd = createMemfd('f', 1);
      await session.preserve(fd, token);
      closeSync(fd);
    }
    expect((await session.list()).length).toBe(50);
    const { stdout } = await run([...cli('luoctl'), 'sessions', '--json', '--socket', host.socket]);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, sessions: [{ session: 's' }] });
    session.close();
    client.close();
  });
});

describe('a client that does not read', () => {
  // Answered at once, and answered when the work is done.
  it.each(['status', 'preserve'])(
    'its answers to %s loses its connection, and nobody else anything',
    async (type) => {
      host = await Host.start(['--max-queue', '10000']);
      const client = await host.connect();
      const session = await client.createSession('s');
      const deaf = createConnection(host.socket).pause();
      const isOver = new Promise<void>((resolve) => deaf.once('close', () => resolve()));
      // EPIPE or ECONNRESET, and then 'close'.
      deaf.on('error', () => undefined);
      const questions = Buffer.from(`{"type":"${type}"}\n`.repeat(10_000));
      const ask = (): void => {
        deaf.write(questions, (error) => {
          if (error === undefined || error === null) ask();
        });
      };
      ask();
      await isOver;
      expect(await session.getName()).toBe('s');
      session.close();
      client.close();
    },
  );
});

describe('subscriptions', () => {
  it('of one connection are limited', async () => {
    host = await Host.start(['--max-subscriptions', '2']);
    const client = await host.connect();
    for (const id of ['a', 'b']) await client.subscribe(id, () => Promise.resolve());
    await expect(client.subscribe('c', () => Promise.resolve())).rejects.toThrow(code('ENOSPC'));
    const other = await host.connect();
    await other.subscribe('c', () => Promise.resolve());
    expect((await client.hello()).limits).toMatchObject({ subscriptionsPerClient: 2 });
    client.close();
    other.close();
  });
});

describe('an audit on a disk that is full', () => {
  it('costs no session, and is told', async () => {
    host = await Host.start(['--audit', '/dev/full']);
    const client = await host.connect();
    const session = await client.createSession('s', { custody: 'hold' });
    const fd = createMemfd('f', 1);
    await session.preserve(fd, 1n);
    session.close();
    const next = await retrieve(client, 's');
    const kept = await next.retrieve(1n);
    expect(fstatSync(kept).ino).toBe(fstatSync(fd).ino);
    await host.says(/the audit cannot be written, and waits: ENOSPC/);
    for (const one of [fd, kept]) closeSync(one);
    next.close();
    client.close();
  });
});
