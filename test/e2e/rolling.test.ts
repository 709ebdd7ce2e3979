import { existsSync, watch } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ByteClients } from './byte-clients.js';
import { LuodProcess } from './luod-process.js';

let luod: LuodProcess;
let clients: ByteClients;

afterEach(async () => {
  clients?.close();
  await luod?.stop();
});

async function start(count: number): Promise<void> {
  luod = await LuodProcess.start({ env: { CUT: 'rolling' } });
  clients = await ByteClients.open(luod.port, count);
}

/** Every byte came back, and no connection ended; all are in the serving image, with their states. */
async function expectEverything(generation: number): Promise<void> {
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect([clients.wrong, clients.closed]).toEqual([[], 0]);
  expect(await luod.report()).toMatchObject({ generation, live: clients.size, bytes: clients.sent });
}

describe('a rolling cut', () => {
  it('moves most connections ahead of the freeze, and loses no byte', { timeout: 240_000 }, async () => {
    await start(400);
    for (let generation = 2; generation <= 6; generation++) {
      const [result] = await Promise.all([luod.update(), clients.add(5)]);
      expect(result).toMatchObject({ ok: true, generation });
      expect(result.moved).toBeGreaterThan(200);
      expect(result.connections).toBeGreaterThanOrEqual(result.moved as number);
    }
    await expectEverything(6);
  });

  it('ends with the peer told, when a connection ends in the new image ahead of the commit', async () => {
    await start(20);
    const result = luod.update(['--min-uptime', '500ms']);
    clients.close();
    expect(await result).toMatchObject({ ok: true });
    expect(await luod.report()).toMatchObject({ live: 0 });
  });
});

describe('a rolling cut that is called off', () => {
  it.each([
    ['by the health check', ['--health', 'false'], {}],
    ['in the cut, by the new version', [], { FAULT: 'retrieve-throws' }],
  ])('%s: the new version gives back what it served', async (_name, flags, env) => {
    await start(300);
    for (let time = 0; time < 2; time++) {
      const result = await luod.update(flags, { ...env, CUT: 'rolling' });
      expect(result).toMatchObject({ ok: false, rolledBack: true, generation: 1 });
      expect(result.lost).toBeUndefined();
    }
    await expectEverything(1);
  });

  it('by the freeze of the old version: it gets everything back, and can be updated again', async () => {
    luod = await LuodProcess.start({ env: { CUT: 'rolling', FAULT: 'freeze-throws' } });
    clients = await ByteClients.open(luod.port, 300);
    expect(await luod.update()).toMatchObject({ ok: false, rolledBack: true });
    expect(await luod.update()).toMatchObject({ ok: false, rolledBack: true });
    await expectEverything(1);
  });

  it('by the death of the new version: what it served ends with it, and that is said', async () => {
    await start(300);
    const result = await luod.update([], { FAULT: 'killed-in-the-cut', CUT: 'rolling' });
    expect(result).toMatchObject({ ok: false, rolledBack: true });
    expect(result.lost).toBeGreaterThan(0);
    // The rest goes on, to the byte; of those that ended, no byte is wrong.
    await clients.settle();
    expect(clients.wrong).toEqual([]);
    await expect.poll(() => clients.closed).toBe(result.lost);
    const live = 300 - (result.lost as number);
    await expect.poll(() => luod.report()).toMatchObject({ generation: 1, live });
  });

  it('by the death of luod: the next one has everything given back', { timeout: 120_000 }, async () => {
    await start(200);
    const mark = join(luod.folder, 'mark');
    const rolled = new Promise<void>((resolve) => {
      const watcher = watch(luod.folder, () => {
        if (!existsSync(mark)) return;
        watcher.close();
        resolve();
      });
    });
    const health = JSON.stringify(['sh', '-c', `echo > '${mark}'; exec sleep 60`]);
    const updating = luod.update(['--health', health, '--health-timeout', '60s']);
    await rolled;
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again();
    expect(await updating).toMatchObject({ ok: false, rolledBack: true });
    await expectEverything(1);
  });
});
