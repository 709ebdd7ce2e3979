/** Memory that services of one user share, and that lives as long as any kept file depends on it. */
import { closeSync, readSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LuodClient, LuodSession } from '../../src/app/luod-client.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { Host } from './host.js';

let host: Host;
let client: LuodClient;

beforeEach(async () => {
  host = await Host.start();
  client = await host.connect();
});

afterEach(async () => {
  client.close();
  await host.stop();
});

const code = (name: string) => expect.objectContaining({ code: name });

async function flb(): Promise<{ files: number; registered: boolean } | undefined> {
  const [first] = await client.listFlbs();
  return first === undefined ? undefined : { files: first.files, registered: first.registered };
}

async function until(state: Awaited<ReturnType<typeof flb>>): Promise<void> {
  // luod hears of the end of a connection in its own time, and answers meanwhile.
  for (;;) {
    const now = await flb();
    if (now?.files === state?.files && now?.registered === state?.registered) return;
  }
}

async function retrieve(name: string): Promise<LuodSession> {
  for (;;) {
    const session = await client.retrieveSession(name).catch(() => undefined);
    if (session !== undefined) return session;
  }
}

function read(fd: number): string {
  const bytes = Buffer.alloc(5);
  readSync(fd, bytes, 0, 5, 0);
  return bytes.toString();
}

describe('a shared FLB', () => {
  it('outlives its maker as long as files of any session depend on it', async () => {
    const maker = await host.connect();
    const memory = createMemfd('counters', 4096);
    writeSync(memory, 'hello', 0);
    await maker.registerFlb('counters', memory);
    closeSync(memory);
    expect(await flb()).toEqual({ files: 0, registered: true });

    const files = [1, 2, 3].map((size) => createMemfd('f', size));
    const one = await client.createSession('one', { custody: 'hold' });
    const two = await maker.createSession('two', { custody: 'hold' });
    await one.preserve(files[0]!, 1n, { flbs: ['counters'] });
    await one.preserve(files[1]!, 2n, { flbs: ['counters'] });
    await two.preserve(files[2]!, 3n, { flbs: ['counters', 'counters'] });
    expect(await flb()).toEqual({ files: 3, registered: true });
    expect((await one.list())[0]?.flbs).toEqual(['counters']);
    await one.unpreserve(2n);
    two.close();
    maker.close();
    await until({ files: 2, registered: false });

    // A luod that is killed, and the next, know it as well.
    await host.kill();
    await host.spawn();
    await until({ files: 2, registered: false });
    const memoryOfNext = await client.retrieveFlb('counters');
    expect(read(memoryOfNext)).toBe('hello');
    closeSync(memoryOfNext);

    const next = await retrieve('two');
    closeSync(await next.retrieve(3n));
    expect(await flb()).toEqual({ files: 2, registered: false });
    await next.finish();
    expect(await flb()).toEqual({ files: 1, registered: false });
    // The last one takes it along.
    await one.unpreserve(1n);
    expect(await flb()).toBeUndefined();
    await expect(client.retrieveFlb('counters')).rejects.toThrow(code('ENOENT'));
    expect(host.audit().map(({ event }) => event)).toContain('finishFlb');
    next.close();
    one.close();
    for (const fd of files) closeSync(fd);
  });

  it('goes with its maker when nothing depends on it, or when he says so', async () => {
    const maker = await host.connect();
    const memory = createMemfd('m', 10);
    await maker.registerFlb('a', memory);
    expect(await maker.unregisterFlb('a')).toBe(0);
    expect(await flb()).toBeUndefined();
    await maker.registerFlb('a', memory);
    maker.close();
    await until(undefined);
    closeSync(memory);
  });

  it('is refused with an errno, and costs nothing', async () => {
    const memory = createMemfd('m', 10);
    const file = createMemfd('f', 10);
    await client.registerFlb('a', memory);
    const before = host.fds;
    await expect(client.registerFlb('a', memory)).rejects.toThrow(code('EEXIST'));
    await expect(client.registerFlb('', memory)).rejects.toThrow(code('EINVAL'));
    await expect(client.registerFlb('x'.repeat(48), memory)).rejects.toThrow(code('EINVAL'));
    await expect(client.registerFlb('socket', 0)).rejects.toThrow(code('ENOENT'));
    await expect(client.unregisterFlb('none')).rejects.toThrow(code('ENOENT'));
    const session = await client.createSession('s');
    await expect(session.preserve(file, 1n, { flbs: ['a', 'none'] })).rejects.toThrow(code('ENOENT'));
    // Nothing of it remains: neither the file nor the count.
    expect(await session.list()).toEqual([]);
    expect(await flb()).toEqual({ files: 0, registered: true });
    await session.preserve(file, 1n, { flbs: ['a'] });
    await session.closeNow();
    await until({ files: 0, registered: true });
    for (let number = 2; number <= 63; number++) await client.registerFlb(`flb ${number}`, memory);
    await expect(client.registerFlb('one more', memory)).rejects.toThrow(code('ENOSPC'));
    for (const { flb: name } of await client.listFlbs()) await client.unregisterFlb(name);
    await expect.poll(() => host.fds).toBeLessThanOrEqual(before - 1);
    for (const fd of [memory, file]) closeSync(fd);
  });
});
