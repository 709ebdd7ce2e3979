/**
 * luod is killed while it runs a program: while that serves, and at every step of an update, by the images themselves as they get
 * there. The next luod takes up the processes, and the update; the clients see nothing.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { ByteClients } from '../e2e/byte-clients.js';
import { isAlive, LuodProcess, processesWith, programPath } from '../e2e/luod-process.js';

const CONNECTIONS = 40;

let luod: LuodProcess;
let clients: ByteClients;

async function start(options: Parameters<typeof LuodProcess.start>[0] = {}): Promise<void> {
  luod = await LuodProcess.start(options);
  clients = await ByteClients.open(luod.port, CONNECTIONS);
}

afterEach(async () => {
  clients.close();
  const { folder } = luod;
  expect(await luod.stop()).toBe(143);
  // Neither a program nor the keeper.
  await expect.poll(() => processesWith(folder)).toEqual([]);
});

/** Every connection and byte is there, in one program. */
async function isWhole(): Promise<void> {
  await clients.add(5);
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect(clients.wrong).toEqual([]);
  expect(clients.closed).toBe(0);
  const report = await luod.report();
  expect(report).toMatchObject({ damaged: 0, live: clients.size, ids: clients.size });
  expect(report.total.bytes).toBe(clients.sent);
  const { services } = await luod.status();
  expect(services).toMatchObject([
    { name: 'echo', state: 'serving', pid: report.pid, generation: report.generation, restarts: 0 },
  ]);
  expect(services[0]?.held.length).toBeGreaterThan(0);
}

describe('luod is killed', () => {
  it('while the program serves, again and again, with updates in between', async () => {
    await start();
    for (let time = 1; time <= 3; time++) {
      const { pid } = await luod.report();
      luod.signal('SIGKILL');
      await luod.exited;
      await clients.add(2);
      await luod.again();
      expect((await luod.report()).pid).toBe(pid);
      expect(await luod.update()).toMatchObject({ ok: true, generation: time + 1 });
      expect(isAlive(pid)).toBe(false);
    }
    await isWhole();
  });

  const stages: { stage: string; image: 'old' | 'new'; ok: boolean }[] = [
    { stage: 'start', image: 'new', ok: false },
    { stage: 'hello', image: 'new', ok: false },
    { stage: 'claimed', image: 'new', ok: false },
    { stage: 'freeze', image: 'old', ok: true },
    { stage: 'cut', image: 'new', ok: true },
    { stage: 'commit', image: 'new', ok: true },
    { stage: 'finish', image: 'old', ok: true },
  ];
  it.each(stages)('when the $image image is at $stage', async ({ stage, image, ok }) => {
    const fault = { FAULT: `kills-luod-at-${stage}` };
    await start(image === 'old' ? { env: fault } : {});
    const before = await luod.report();
    const { exited } = luod;
    const update = luod.update([], image === 'new' ? fault : undefined);
    await exited;
    await luod.again();
    // The one who asked is answered, by the next luod.
    const result = await update;
    const { pid, generation } = await luod.report();
    if (ok) {
      expect(result).toMatchObject({ ok: true, generation: 2 });
      expect([generation, pid !== before.pid]).toEqual([2, true]);
      expect(isAlive(before.pid)).toBe(false);
    } else {
      expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'ECANCELED' } });
      expect([generation, pid]).toEqual([1, before.pid]);
    }
    await isWhole();
  });

  it('and started again with another command, which the next update runs', async () => {
    await start();
    const { pid } = await luod.report();
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again(['env', 'VERSION=2', process.execPath, programPath('echo.mjs')]);
    await luod.says(/goes on with .*; the next start or update runs 'env VERSION=2 /);
    expect((await luod.report()).pid).toBe(pid);
    expect(await luod.update()).toMatchObject({ ok: true, generation: 2 });
    expect((await luod.status()).services[0]?.command.slice(0, 2)).toEqual(['env', 'VERSION=2']);
    await isWhole();
  });

  it('and the program with it: it is started again with what is held', async () => {
    await start();
    const { pid } = await luod.report();
    clients.close();
    luod.signal('SIGKILL');
    await luod.exited;
    process.kill(pid, 'SIGKILL');
    await luod.again();
    await luod.says(/generation 2 serves/);
    expect(luod.stderr).toMatch(/was killed by SIGKILL/);
    const report = await luod.report();
    expect(report).toMatchObject({ origin: 'crash', damaged: 0, generation: 2 });
    clients = await ByteClients.open(luod.port, 5);
    expect(await clients.settle()).toEqual({ missing: 0 });
  });
});
