/** luod replaces itself while its clients talk to it: nobody notices, and nothing is lost. */
import { closeSync, fstatSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LuodClient } from '../../src/app/luod-client.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { ByteClients } from './byte-clients.js';
import { Host } from './host.js';
import { cli, LuodProcess, run } from './luod-process.js';

const UPDATES = 50;

let host: Host;

beforeEach(async () => {
  host = await Host.start();
});

afterEach(() => host.stop());

/** A client that asks without a pause until it is told to stop. */
async function talk(client: LuodClient, name: string, isOver: () => boolean): Promise<number> {
  const session = await client.createSession(name, { custody: 'hold' });
  const inodes = new Map<bigint, number>();
  let answers = 0;
  for (let token = 1n; !isOver(); token++) {
    const fd = createMemfd('f', 100);
    await session.preserve(fd, token);
    inodes.set(token, fstatSync(fd).ino);
    closeSync(fd);
    if (token > 20n) {
      await session.unpreserve(token - 20n);
      inodes.delete(token - 20n);
    }
    expect(await session.getName()).toBe(name);
    expect((await session.list()).length).toBe(inodes.size);
    answers += 4;
  }
  session.close();
  let left = await client.retrieveSession(name).catch(() => undefined);
  while (left === undefined) left = await client.retrieveSession(name).catch(() => undefined);
  for (const [token, inode] of inodes) {
    const fd = await left.retrieve(token);
    expect(fstatSync(fd).ino).toBe(inode);
    closeSync(fd);
  }
  await left.finish();
  left.close();
  return answers;
}

describe('a self-update', () => {
  it('again and again under the eyes of its clients', { timeout: 900_000 }, async () => {
    const clients: LuodClient[] = [];
    for (let count = 0; count < 5; count++) clients.push(await host.connect());
    let isOver = false;
    const talking = clients.map((client, number) => talk(client, `client ${number}`, () => isOver));
    const operator = await host.connect();
    const { pid } = host;
    for (let update = 0; update < 15; update++) {
      const now = await operator.selfUpdate();
      expect(now.pid).toBe(pid);
    }
    isOver = true;
    const answers = await Promise.all(talking);
    for (const count of answers) expect(count).toBeGreaterThan(15);
    // Who connects anew finds it as well: the listener was never away.
    const late = await host.connect();
    await expect(late.retrieveSession('client 0')).rejects.toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    for (const client of [...clients, operator, late]) client.close();
  });

  it('by luoctl, and not by what cannot take over', async () => {
    const client = await host.connect();
    const session = await client.createSession('s');
    const memfd = createMemfd('f', 100);
    await session.preserve(memfd, 1n);

    const refuses = join(host.folder, 'refuses.mjs');
    writeFileSync(refuses, "process.stderr.write('from another world'); process.exit(3);");
    const bad = await run([...cli('luoctl'), 'self-update', '--socket', host.socket, '--binary', refuses]);
    expect([bad.code, bad.stderr]).toEqual([
      1,
      expect.stringMatching(/EPROTO: .*ended with 3: from another world/),
    ]);
    const missing = ['--binary', join(host.folder, 'no-such.js'), '--json'];
    const none = await run([...cli('luoctl'), 'self-update', '--socket', host.socket, ...missing]);
    expect(none.code).toBe(1);
    expect(JSON.parse(none.stdout)).toMatchObject({ ok: false, error: { code: 'EPROTO' } });
    expect((await session.list()).length).toBe(1);

    const good = await run([...cli('luoctl'), 'self-update', '--socket', host.socket, '--json']);
    expect(JSON.parse(good.stdout)).toMatchObject({ ok: true, pid: host.pid, sessions: 1 });
    expect((await session.list()).length).toBe(1);
    expect(host.stderr).toMatch(/replaces itself by .*luod\.js/);
    session.close();
    client.close();
    closeSync(memfd);
  });

  it('is refused by a luod without a keeper', async () => {
    await host.stop();
    host = await Host.start(['--no-keeper']);
    const client = await host.connect();
    await expect(client.selfUpdate()).rejects.toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
    client.close();
  });
});

describe('a self-update of a luod that runs a program', () => {
  const CONNECTIONS = 1000;

  it(`${UPDATES} times under the load of ${CONNECTIONS} connections, with updates in between`, {
    timeout: 900_000,
  }, async () => {
    const luod = await LuodProcess.start();
    const clients = await ByteClients.open(luod.port, CONNECTIONS, 200);
    const operator = await LuodClient.connect(luod.socket);
    let generation = 1;
    for (let update = 1; update <= UPDATES; update++) {
      expect((await operator.selfUpdate()).pid).toBe(luod.pid);
      if (update % 10 !== 0) continue;
      expect(await luod.update()).toMatchObject({ ok: true, generation: ++generation });
    }
    operator.close();
    expect(await clients.settle()).toEqual({ missing: 0 });
    expect(clients.wrong).toEqual([]);
    expect(clients.closed).toBe(0);
    // Silent connections come to the program a few at each turn of its loop.
    await expect.poll(async () => (await luod.report()).live, { timeout: 20_000 }).toBe(CONNECTIONS);
    expect(await luod.report()).toMatchObject({ generation, damaged: 0, bytes: clients.sent });
    expect((await luod.status()).services).toMatchObject([{ state: 'serving', generation, restarts: 0 }]);
    clients.close();
    expect(await luod.stop()).toBe(143);
  });

  it('keeps what the program ended with, and waits for an update that is under way', async () => {
    const luod = await LuodProcess.start({ flags: ['--restart', 'never'] });
    const update = luod.update(['--timeout', '1500ms'], { FAULT: 'never-ready' });
    await expect.poll(async () => (await luod.status()).services[0]?.state).toBe('updating');
    const early = await run([...cli('luoctl'), 'self-update', '--socket', luod.socket]);
    expect([early.code, early.stderr]).toEqual([
      1,
      expect.stringMatching(/EBUSY.*an update of 'echo' is under way/),
    ]);
    expect(await update).toMatchObject({ ok: false, rolledBack: true });

    expect((await run([...cli('luoctl'), 'self-update', '--socket', luod.socket])).code).toBe(0);
    // Not started by this luod, but still its child.
    process.kill((await luod.report()).pid, 'SIGUSR2');
    expect(await luod.exited).toBe(128 + 12);
    await luod.stop();
  });
});
