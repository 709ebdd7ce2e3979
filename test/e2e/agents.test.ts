/** luo-agent's dialogue: programs that are told when to preserve, and claim it later. */
import { closeSync, fstatSync } from 'node:fs';
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LuodClient, type LuodSession } from '../../src/app/luod-client.js';
import type { Preservation } from '../../src/daemon/agents.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { Host } from './host.js';
import { cli, run } from './luod-process.js';

let host: Host;

beforeEach(async () => {
  host = await Host.start();
});

afterEach(() => host.stop());

const code = (name: string) => expect.objectContaining({ code: name });

async function preserveAll(...flags: string[]): Promise<Preservation & { exitCode: number | null }> {
  const { code: exitCode, stdout } = await run([
    ...cli('luoctl'),
    'preserve',
    '--json',
    '--socket',
    host.socket,
    ...flags,
  ]);
  return { ...(JSON.parse(stdout) as Preservation), exitCode };
}

/** What the image before left, once luod has noticed its end. */
async function claim(client: LuodClient, id: string): Promise<LuodSession> {
  for (;;) {
    const session = await client.claim(id).catch(() => undefined);
    if (session !== undefined) return session;
  }
}

describe('subscribers', () => {
  it('preserve when they are told to, and their next images claim it', async () => {
    const memfds = new Map(['web', 'db'].map((id) => [id, createMemfd(id, 100)]));
    for (const [id, memfd] of memfds) {
      const program = await host.connect();
      let mine: LuodSession | undefined;
      await program.subscribe(id, async (session) => {
        mine = session;
        await session.preserve(memfd, 1n);
      });
      await expect(program.claim(id)).rejects.toThrow(code('ENOENT'));
      const { ready, late, exitCode } = await preserveAll();
      expect([exitCode, late, ready.includes(id)]).toEqual([0, [], true]);
      // Asked again, it has not changed.
      expect((await preserveAll()).ready).toContain(id);
      mine?.close();
      program.close();
    }
    for (const [id, memfd] of memfds) {
      const next = await host.connect();
      const session = await claim(next, id);
      const file = await session.retrieve(1n);
      expect(fstatSync(file).ino).toBe(fstatSync(memfd).ino);
      await session.finish();
      for (const fd of [file, memfd]) closeSync(fd);
      session.close();
      next.close();
    }
    expect(await preserveAll()).toMatchObject({ ok: true, ready: [], late: [] });
  });

  it('that fail, or are silent, are named', async () => {
    const broken = await host.connect();
    const failures: string[] = [];
    await broken.subscribe(
      'broken',
      async () => {
        throw new Error('no room');
      },
      (error) => failures.push(error.message),
    );
    const silent = await host.connect();
    await silent.subscribe('silent', () => new Promise(() => undefined));
    const result = await preserveAll('--timeout', '300ms');
    expect(result.exitCode).toBe(1);
    expect(result.late.map(({ id, reason }) => [id, reason]).sort()).toEqual([
      ['broken', 'not READY within 300 ms'],
      ['silent', 'not READY within 300 ms'],
    ]);
    expect(failures.join()).toMatch(/no room/);
    const text = await run([...cli('luoctl'), 'preserve', '--socket', host.socket, '--timeout', '100ms']);
    expect([text.code, text.stderr]).toEqual([
      1,
      expect.stringMatching(/late: silent of uid \d+: not READY/),
    ]);
    for (const client of [broken, silent]) client.close();
  });

  it('are still subscribed when luod was killed, at any moment of it', async () => {
    for (const moment of ['before', 'asked', 'preserved', 'ready']) {
      const memfd = createMemfd('m', 100);
      const program = await host.connect();
      let mine: LuodSession | undefined;
      const kill = async () => {
        await host.kill();
        await host.spawn();
      };
      await program.subscribe(moment, async (session) => {
        mine = session;
        if (moment === 'asked') await kill();
        await session.preserve(memfd, 1n);
        if (moment === 'preserved') await kill();
      });
      if (moment === 'before') await kill();
      expect(await preserveAll()).toMatchObject({ ok: true, ready: [moment] });
      if (moment === 'ready') {
        await kill();
        expect(await preserveAll()).toMatchObject({ ok: true, ready: [moment] });
      }
      mine?.close();
      program.close();
      const next = await host.connect();
      const session = await claim(next, moment);
      expect((await session.list()).map(({ token }) => token)).toEqual(['1']);
      await session.finish();
      session.close();
      next.close();
      closeSync(memfd);
    }
  });

  it('speak it as it is written', async () => {
    const socket = createConnection(host.socket);
    const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
    const say = async (message: object) => {
      socket.write(`${JSON.stringify(message)}\n`);
      return JSON.parse((await lines.next()).value as string) as Record<string, unknown>;
    };
    expect(await say({ cmd: 'SUBSCRIBE', id: 'web' })).toEqual({
      type: 'reply',
      cmd: 'SUBSCRIBE',
      id: 'web',
      ok: true,
    });
    expect(await say({ cmd: 'READY', id: 'web' })).toMatchObject({
      cmd: 'READY',
      ok: false,
      error: { code: 'EINVAL' },
    });
    expect(await say({ cmd: 'READY', id: 'db' })).toMatchObject({ ok: false, error: { code: 'ENOENT' } });
    expect(await say({ cmd: 'CLAIM', id: 'web' })).toMatchObject({ ok: false, error: { code: 'ENOENT' } });
    expect(await say({ cmd: 'SUBSCRIBE', id: '' })).toMatchObject({ ok: false, error: { code: 'EINVAL' } });
    expect(await say({ cmd: 'DANCE', id: 'web' })).toMatchObject({ ok: false, error: { code: 'EINVAL' } });
    const other = await host.connect();
    await expect(other.subscribe('web', async () => undefined)).rejects.toThrow(code('EEXIST'));
    socket.destroy();
    other.close();
  });
});

describe('hello', () => {
  it('tells versions and limits, and refuses a version that it does not speak', async () => {
    const client = await LuodClient.connect(host.socket);
    expect(await client.hello()).toMatchObject({
      protocol: 1,
      version: expect.any(String),
      limits: { clients: 1000 },
    });
    client.close();
    const socket = createConnection(host.socket);
    const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
    socket.write(`${JSON.stringify({ type: 'hello', id: 1, protocol: [2, 3] })}\n`);
    expect(JSON.parse((await lines.next()).value as string)).toMatchObject({
      ok: false,
      error: { code: 'EPROTONOSUPPORT' },
    });
    socket.write(`${JSON.stringify({ type: 'list', id: 2 })}\n`);
    expect(JSON.parse((await lines.next()).value as string)).toMatchObject({ id: 2, ok: true, sessions: [] });
    socket.destroy();
  });
});

describe('a client whose luod is gone', () => {
  it('connects again by itself', async () => {
    await host.stop();
    host = await Host.start(['--no-keeper']);
    const client = await host.connect();
    const session = await client.createSession('s');
    await host.kill();
    await expect(session.list()).rejects.toThrow(code('EPIPE'));
    await host.spawn();
    const again = await client.createSession('s').catch(() => client.createSession('s'));
    expect(await again.getName()).toBe('s');
    again.close();
    client.close();
  });
});
