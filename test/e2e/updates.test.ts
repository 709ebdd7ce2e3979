import { afterEach, describe, expect, it } from 'vitest';
import { ByteClients } from './byte-clients.js';
import { fdsOf, isAlive, LuodProcess, processesWith } from './luod-process.js';

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
