import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ByteClients } from './byte-clients.js';
import { fdsOf, isAlive, LuodProcess, processesWith } from './luod-process.js';

const CONNECTIONS = 50;

let luod: LuodProcess;
let clients: ByteClients;

beforeEach(async () => {
  luod = await LuodProcess.start();
  clients = await ByteClients.open(luod.port, CONNECTIONS);
});

afterEach(async () => {
  clients.close();
  await luod.stop();
});

/** The old image serves on, and has lost nothing. */
async function servesOn(generation: number): Promise<void> {
  await clients.add(5);
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect(clients.wrong).toEqual([]);
  expect(clients.closed).toBe(0);
  const report = await luod.report();
  expect(report).toMatchObject({ generation, damaged: 0, live: clients.size, ids: clients.size });
  expect(report.total.bytes).toBe(clients.sent);
}

describe('a successor that fails before ready() is rolled back', () => {
  const cases: { fault: string; code: string; phase: string | RegExp; message: RegExp; flags?: string[] }[] =
    [
      {
        fault: 'exits-at-start',
        code: 'ECHILD',
        phase: 'spawn',
        message: /the new version exited with code 7/,
      },
      {
        fault: 'never-says-hello',
        code: 'ETIMEDOUT',
        phase: 'spawn',
        message: /did not call liveupdate\(\) within 700 ms/,
        flags: ['--spawn-timeout', '700ms'],
      },
      {
        fault: 'never-ready',
        code: 'ETIMEDOUT',
        phase: 'preserve',
        message: /did not call ready\(\) within 1500 ms/,
        flags: ['--timeout', '1500ms'],
      },
      {
        fault: 'throws-before-ready',
        code: 'ECHILD',
        phase: 'preserve',
        message: /the new version exited with code 1/,
      },
      { fault: 'writes-memory-early', code: 'ECHILD', phase: 'preserve', message: /killed by SIGSEGV/ },
      { fault: 'asks-for-more-memory', code: 'ECHILD', phase: 'preserve', message: /exited with code 1/ },
      { fault: 'retrieve-throws', code: 'EIO', phase: 'retrieve', message: /the record was eaten/ },
      // luod may learn of its death before it hears that the old one has frozen.
      { fault: 'killed-in-the-cut', code: 'ECHILD', phase: /freeze|retrieve/, message: /killed by SIGKILL/ },
    ];
  for (const { fault, code, phase, message, flags = [] } of cases) {
    it(`when it ${fault.replaceAll('-', ' ')}`, async () => {
      const before = await luod.report();
      const fds = fdsOf(luod.pid);
      const result = await luod.update(flags, { FAULT: fault });
      expect(result).toMatchObject({
        ok: false,
        rolledBack: true,
        exitCode: 1,
        generation: 1,
        error: { code, phase: expect.stringMatching(phase) },
      });
      expect(result.error?.message).toMatch(message);
      await servesOn(1);
      const after = await luod.report();
      expect(after.pid).toBe(before.pid);
      // The connection of the report before may still be closing.
      await expect.poll(async () => (await luod.report()).fds).toBeLessThanOrEqual(before.fds + 5);
      expect(fdsOf(luod.pid)).toBe(fds);
      // And the next version, which works, gets everything.
      expect(await luod.update()).toMatchObject({ ok: true, connections: clients.size });
      expect(await luod.report()).toMatchObject({ generation: 2, damaged: 0, live: clients.size });
    });
  }

  it('and its processes are gone, also those that it started', async () => {
    await luod.update(['--timeout', '1s'], { FAULT: 'never-ready' });
    expect(processesWith('FAULT=never-ready')).toEqual([]);
  });
});

describe('a running version that fails to freeze goes on', () => {
  it('when a freeze listener throws', async () => {
    expect(await luod.update([], { FAULT: 'freeze-throws' })).toMatchObject({ ok: true, generation: 2 });
    const result = await luod.update();
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { phase: 'freeze' } });
    expect(result.error?.message).toMatch(/not now/);
    await servesOn(2);
    expect((await luod.report()).events).toEqual(['freeze', 'rollback']);
  });

  it('when a freeze listener hangs', async () => {
    expect(await luod.update([], { FAULT: 'freeze-hangs' })).toMatchObject({ ok: true, generation: 2 });
    const result = await luod.update(['--freeze-timeout', '500ms']);
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'ETIMEDOUT', phase: 'freeze' },
    });
    await servesOn(2);
  });
});

describe('a second update', () => {
  it('is refused with EBUSY while the first runs', async () => {
    const first = luod.update(['--timeout', '2s'], { FAULT: 'never-ready' });
    await expect.poll(async () => (await luod.status()).services[0]?.state).toBe('updating');
    expect(await luod.update()).toMatchObject({ ok: false, exitCode: 1, error: { code: 'EBUSY' } });
    expect(await first).toMatchObject({ ok: false, rolledBack: true });
    await servesOn(1);
  });
});

describe('a program that dies', () => {
  it('is started again and has its listener and memory; its connections are closed', async () => {
    const before = await luod.report();
    process.kill(before.pid, 'SIGKILL');
    await luod.says(/generation 2 serves/);
    const after = await luod.report();
    expect(after).toMatchObject({ generation: 2, origin: 'crash', damaged: 0, live: 0 });
    await expect.poll(() => clients.closed).toBe(CONNECTIONS);
    const again = await ByteClients.open(luod.port, 10);
    expect(await again.settle()).toEqual({ missing: 0 });
    again.close();
    // What it restored it can also hand over.
    expect(await luod.update()).toMatchObject({ ok: true, generation: 3 });
    expect(await luod.report()).toMatchObject({ generation: 3, origin: 'update', damaged: 0 });
  });

  it('in the middle of the preparation is started again by the command that worked', async () => {
    const { pid } = await luod.report();
    const update = luod.update([], { FAULT: 'never-ready' });
    await expect.poll(async () => (await luod.status()).services[0]?.state).toBe('updating');
    process.kill(pid, 'SIGKILL');
    const result = await update;
    expect(result).toMatchObject({ ok: false, rolledBack: false, exitCode: 1, error: { code: 'ECHILD' } });
    expect(result.error?.message).toMatch(
      /the running version was killed by SIGKILL.*connections are lost.*started again/,
    );
    await luod.says(/generation \d+ serves[\s\S]*generation \d+ serves/);
    expect(await luod.report()).toMatchObject({ origin: 'crash', damaged: 0, live: 0 });
    expect(isAlive(pid)).toBe(false);
  });
});

describe('an old image killed while it is frozen', () => {
  it('has handed over everything: the successor commits and no byte is lost', async () => {
    const { pid } = await luod.report();
    const result = await luod.update([], { FAULT: 'kills-the-old-in-the-cut', OLD_PID: String(pid) });
    expect(result).toMatchObject({ ok: true, generation: 2, connections: CONNECTIONS });
    expect(isAlive(pid)).toBe(false);
    expect(await clients.settle()).toEqual({ missing: 0 });
    expect(clients.wrong).toEqual([]);
    expect(clients.closed).toBe(0);
    expect(await luod.report()).toMatchObject({
      generation: 2,
      damaged: 0,
      live: CONNECTIONS,
      bytes: clients.sent,
    });
  });
});

describe('a luod without a keeper that dies', () => {
  beforeEach(async () => {
    clients.close();
    await luod.stop();
    luod = await LuodProcess.start({ flags: ['--no-keeper'] });
    clients = await ByteClients.open(luod.port, CONNECTIONS);
  });

  it('leaves the program serving', async () => {
    luod.signal('SIGKILL');
    await luod.exited;
    await servesOn(1);
    const report = await luod.report();
    expect(report.events).toEqual(['orphaned']);
    process.kill(report.pid, 'SIGTERM');
    await expect.poll(() => isAlive(report.pid)).toBe(false);
  });

  it('in the middle of the cut leaves one image serving, with every byte', async () => {
    const { pid } = await luod.report();
    const update = luod.update([], { FAULT: 'kills-luod-in-the-cut', LUOD_PID: String(luod.pid) });
    await luod.exited;
    await update.catch(() => undefined);
    expect(await clients.settle()).toEqual({ missing: 0 });
    expect(clients.wrong).toEqual([]);
    expect(clients.closed).toBe(0);
    const report = await luod.report();
    expect(report).toMatchObject({ damaged: 0, live: CONNECTIONS, bytes: clients.sent });
    // One that was replaced may still be on its way out.
    await expect.poll(() => isAlive(pid) !== (report.pid !== pid)).toBe(true);
    process.kill(report.pid, 'SIGTERM');
    await expect.poll(() => isAlive(report.pid)).toBe(false);
  });
});
