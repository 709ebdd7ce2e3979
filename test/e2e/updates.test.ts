import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ByteClients } from './byte-clients.js';
import { fdsOf, isAlive, LuodProcess, processesWith, programPath } from './luod-process.js';

let luod: LuodProcess;
let clients: ByteClients;

afterEach(async () => {
  clients?.close();
  await luod?.stop();
});

describe('twenty updates in a row under a thousand connections', () => {
  it('lose, double and reorder no byte, close no connection, and leave nothing behind', {
    timeout: 180_000,
  }, async () => {
    luod = await LuodProcess.start();
    clients = await ByteClients.open(luod.port, 1000);
    const before = await luod.report();
    const luodFds: number[] = [];
    const luodMemory: number[] = [];
    const pids = [before.pid];

    for (let generation = 2; generation <= 21; generation++) {
      // New connections while the update runs: some come before the cut, some wait in the backlog across it.
      const [result] = await Promise.all([luod.update(), clients.add(5)]);
      expect(result).toMatchObject({ ok: true, exitCode: 0, generation, carried: true });
      expect(result.fromPid).toBe(pids.at(-1));
      pids.push(result.toPid as number);
      const status = await luod.status();
      luodFds.push(fdsOf(luod.pid));
      luodMemory.push(status.memoryBytes);
      expect(clients.wrong).toEqual([]);
      expect(clients.closed).toBe(0);
    }

    expect(await clients.settle()).toEqual({ missing: 0 });
    expect(clients.wrong).toEqual([]);
    expect(clients.closed).toBe(0);
    const after = await luod.report();
    expect(after).toMatchObject({ generation: 21, origin: 'update', damaged: 0, live: 1100, ids: 1100 });
    expect(after.total.connections).toBe(1100);
    expect(after.total.generations).toEqual(Array.from({ length: 21 }, (_, i) => i + 1));
    expect(after.bytes).toBe(clients.sent);
    expect(after.total.bytes).toBe(clients.sent);

    // Nothing left over: no old process, no descriptor more than after the first update, no growing luod.
    expect(pids.slice(0, -1).filter(isAlive)).toEqual([]);
    expect(new Set(luodFds.slice(1)).size).toBe(1);
    const [, early = 0] = luodMemory;
    expect(luodMemory.at(-1)).toBeLessThan(early + 24 * (1 << 20));
    const { folder } = luod;
    await luod.stop();
    expect(processesWith(folder)).toEqual([]);
  });
});

describe('connections of a unix listener', () => {
  it('cross like those of TCP, and the path stays', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-unix-'));
    const path = join(folder, 'echo.sock');
    luod = await LuodProcess.start({ env: { ECHO_PATH: path } });
    clients = await ByteClients.open(path, 100);
    for (let generation = 2; generation <= 5; generation++) {
      const [result] = await Promise.all([luod.update(), clients.add(5)]);
      expect(result).toMatchObject({ ok: true, generation });
    }
    expect(await clients.settle()).toEqual({ missing: 0 });
    expect([clients.wrong, clients.closed]).toEqual([[], 0]);
    expect(await luod.report()).toMatchObject({ generation: 5, live: 120, bytes: clients.sent });
    rmSync(folder, { recursive: true });
  });
});

describe('a client that does not read', () => {
  it('gets every byte that waited in the images it never saw', async () => {
    luod = await LuodProcess.start();
    const bytes = Buffer.alloc(30_000_000);
    for (let i = 0; i < bytes.length; i++) bytes[i] = i * 7 + (i >> 11);
    const socket = connect(luod.port, '127.0.0.1').pause();
    await once(socket, 'connect');
    const sent = new Promise<void>((resolve) => socket.write(bytes, () => resolve()));
    // The echo is written by one image after the other; most of it waits in user space.
    await sent;
    for (let generation = 2; generation <= 4; generation++) {
      expect(await luod.update()).toMatchObject({ ok: true, generation, connections: 1 });
    }
    const received: Buffer[] = [];
    let length = 0;
    for await (const chunk of socket) {
      received.push(chunk as Buffer);
      length += (chunk as Buffer).length;
      if (length >= bytes.length) break;
    }
    expect(Buffer.concat(received).equals(bytes)).toBe(true);
    socket.destroy();
  });
});

describe('what a program keeps', () => {
  it('is a connection that it opened itself: one for all generations', async () => {
    const upstream = createServer().listen(0, '127.0.0.1');
    await once(upstream, 'listening');
    const said: string[] = [];
    let connections = 0;
    upstream.on('connection', (socket) => {
      connections++;
      socket.setEncoding('utf8').on('data', (text: string) => {
        said.push(text);
        socket.write(`heard ${text}`);
      });
    });
    const { port } = upstream.address() as { port: number };
    luod = await LuodProcess.start({
      command: [process.execPath, programPath('upstream.mjs')],
      env: { UPSTREAM: String(port) },
    });
    for (let generation = 2; generation <= 4; generation++) {
      expect(await luod.update()).toMatchObject({ ok: true, generation });
    }
    await luod.says(/generation 4 was told heard 4/);
    expect(said).toEqual(['1', '2', '3', '4']);
    expect(connections).toBe(1);
    const closed = once(upstream, 'close');
    upstream.close();
    await luod.stop();
    await closed;
  });

  it('is dropped only on purpose', async () => {
    const program = programPath('upstream.mjs');
    luod = await LuodProcess.start({ command: [process.execPath, program, 'extra'] });
    const refused = await luod.updateTo([process.execPath, program]);
    expect(refused).toMatchObject({ ok: false, rolledBack: true, error: { code: 'EINVAL' } });
    expect(refused.error?.message).toMatch(
      /'state:extra' came from the version before.*ready\(\{ drop: \['state:extra'\] \}\)/,
    );
    expect(await luod.updateTo([process.execPath, program, 'drop'])).toMatchObject({
      ok: true,
      dropped: ['state:extra'],
    });
  });
});

describe('a listener that the program closes', () => {
  it('is given up by luod, too; its last connection refuses an update until it has ended', async () => {
    luod = await LuodProcess.start({ command: [process.execPath, programPath('closing.mjs')] });
    expect((await luod.status()).services[0]?.held).toMatchObject([{ session: 'listener:once' }]);
    const socket = connect(luod.port, '127.0.0.1');
    socket.write('x');
    expect(String((await once(socket, 'data'))[0])).toBe('closed');
    expect((await luod.status()).services[0]?.held).toEqual([]);
    await expect(once(connect(luod.port, '127.0.0.1'), 'connect')).rejects.toMatchObject({
      code: 'ECONNREFUSED',
    });
    const refused = await luod.update();
    expect(refused).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'EBUSY', phase: 'preserve' },
    });
    expect(refused.error?.message).toMatch(/1 of its connections live on.*'listener:once'/);
    socket.end();
    await once(socket, 'close');
    await expect.poll(async () => (await luod.update()).error?.message ?? 'ok').toBe('ok');
  });
});

describe('SIGHUP', () => {
  it('to luod, and to the program, is an update', async () => {
    luod = await LuodProcess.start();
    luod.signal('SIGHUP');
    await luod.says(/generation 2 serves/);
    process.kill((await luod.report()).pid, 'SIGHUP');
    await luod.says(/generation 3 serves/);
    expect(await luod.report()).toMatchObject({ generation: 3, damaged: 0 });
  });
});

describe('an update with little to carry', () => {
  it('keeps state, memory and an idle service', async () => {
    luod = await LuodProcess.start();
    const result = await luod.update();
    expect(result).toMatchObject({ ok: true, connections: 0, service: 'echo' });
    expect(result.blackoutMs).toBeGreaterThan(0);
    expect(Object.keys(result.phases)).toEqual(['spawn', 'preserve', 'freeze', 'retrieve', 'finish']);
    expect(await luod.report()).toMatchObject({ generation: 2, damaged: 0, total: { generations: [1, 2] } });
  });

  it('passes on the exit code of the program', async () => {
    luod = await LuodProcess.start();
    expect(await luod.stop()).toBe(143);
  });
});
