/** Updates between versions of a program that save their things in different shapes (docs/upgrading.md). */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ByteClients } from './byte-clients.js';
import { LuodProcess, programPath } from './luod-process.js';

const CONNECTIONS = 30;

let luod: LuodProcess;
let clients: ByteClients;

/** What the program says of itself. */
interface VersionReport {
  pid: number;
  version: string;
  generation: number;
  stats: { count?: number; bytes?: number; seen: [number, number][] };
  preview: { count?: number; bytes?: number };
  ticket: { number: number } | undefined;
  runs: number;
  events: string[];
}

const command = (...words: string[]) => [process.execPath, programPath('versions.mjs'), ...words];

async function start(...words: string[]): Promise<void> {
  luod = await LuodProcess.start({ command: command(...words) });
  clients = await ByteClients.open(luod.port, CONNECTIONS, 2);
}

const report = async () => (await luod.report()) as unknown as VersionReport;

async function nothingLost(): Promise<void> {
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect([clients.wrong, clients.closed]).toEqual([[], 0]);
}

afterEach(async () => {
  clients?.close();
  await luod?.stop();
});

describe('a state whose shape changes', () => {
  it('goes 1, 2, 3 under traffic: counted to the byte, in the object that the program held since its start', async () => {
    await start('1');
    for (const [generation, version] of [
      [2, '2'],
      [3, '3'],
    ] as const) {
      expect(await luod.updateTo(command(version))).toMatchObject({ ok: true, generation });
    }
    // And within one version, as ever.
    expect(await luod.updateTo(command('3'))).toMatchObject({ ok: true, generation: 4 });
    await nothingLost();
    const { stats, runs, version, ticket } = await report();
    expect({ version, runs, ticket }).toEqual({ version: '3', runs: 0, ticket: { number: 42 } });
    expect(stats.bytes).toBe(clients.sent);
    expect(stats.seen.map(([generation]) => generation)).toEqual([3, 4]);
  });

  it('goes from 1 to 3 at once: the preview is migrated, and what changed until the freeze again', async () => {
    await start('1');
    expect(await luod.updateTo(command('3'))).toMatchObject({ ok: true, generation: 2 });
    await nothingLost();
    const { stats, preview, runs } = await report();
    expect(stats).toMatchObject({ bytes: clients.sent });
    expect(stats.count).toBeUndefined();
    expect(runs).toBe(2);
    expect(preview.bytes).toBeLessThan(clients.sent);
  });
});

describe('a shape that turned out wrong', () => {
  it('is left for the one before by a version that goes on counting', async () => {
    await start('1');
    expect(await luod.updateTo(command('2'))).toMatchObject({ ok: true });
    expect(await luod.updateTo(command('1', 'goes-back', 'writes-the-old-form'))).toMatchObject({ ok: true });
    await nothingLost();
    expect((await report()).stats).toEqual({ count: clients.sent, seen: [] });
  });
});

describe('memory that has to grow', () => {
  it('moves to a new name, once, and the old one is dropped by the version after', async () => {
    const grows = (version: string) => [process.execPath, programPath('growing.mjs'), version];
    luod = await LuodProcess.start({ command: grows('1') });
    const held = async () => (await luod.status()).services[0]?.held.map(({ session }) => session).sort();
    expect(await luod.updateTo(grows('2'))).toMatchObject({ ok: true });
    expect(await luod.report()).toMatchObject({ version: '2', sum: 1024 * 7, cells: 2047, cell: 7 });
    // Again the same version, which has nothing to move any more.
    expect(await luod.updateTo(grows('2'))).toMatchObject({ ok: true });
    expect(await luod.report()).toMatchObject({ version: '2', sum: 1024 * 7 + 1, cells: 2047, cell: 8 });
    expect(await held()).toEqual(['listener:control', 'memory:cache', 'memory:cache-2']);
    expect(await luod.updateTo(grows('3'))).toMatchObject({ ok: true, dropped: ['memory:cache'] });
    expect(await luod.report()).toMatchObject({ version: '3', sum: 1024 * 7 + 2, cells: 2047, cell: 9 });
    expect(await held()).toEqual(['listener:control', 'memory:cache-2']);
  });
});

describe('an update that cannot understand what came', () => {
  beforeEach(() => start('2'));

  const cases: { what: string; words: string[]; code: string; message: RegExp }[] = [
    {
      what: 'a state of a newer version',
      words: ['1', 'writes-the-old-form'],
      code: 'EPROTONOSUPPORT',
      message:
        /saved in version 2, and this program reads version 1; a state does not go back: .*\(session 'state:stats'\)/,
    },
    {
      what: 'an older version without a migrate',
      words: ['3', 'no-migrate'],
      code: 'EPROTONOSUPPORT',
      message: /saved in version 2, and this program reads version 3.*give state\(\) a migrate/,
    },
    {
      what: 'a version that its migrate throws at',
      words: ['3', 'throws'],
      code: 'EIO',
      message: /the migrate from version 2 to 3 failed: cannot read 2 \(session 'state:stats'\)/,
    },
    {
      what: 'memory of another size than it asks for',
      words: ['3', 'more-memory'],
      code: 'EINVAL',
      message: /it has 4096 bytes, and 8192 were asked for \(session 'memory:table'\)/,
    },
    {
      what: 'a file whose handler it lacks, although it drops it',
      words: ['3', 'no-handler'],
      code: 'ENOENT',
      message: /does not register: .*\(session 'keep:ticket', handler 'ticket-v2'\)/,
    },
  ];
  for (const { what, words, code, message } of cases) {
    it(`is refused before anything freezes: ${what}`, async () => {
      const before = await report();
      const result = await luod.updateTo(command(...words));
      expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code, phase: 'preserve' } });
      expect(result.error?.message).toMatch(message);
      await clients.add(5);
      await nothingLost();
      const after = await report();
      expect(after).toMatchObject({ pid: before.pid, generation: 1, events: ['rollback'] });
      expect(after.stats.bytes).toBe(clients.sent);
      // The version that can goes on with everything.
      expect(await luod.updateTo(command('3'))).toMatchObject({ ok: true, connections: clients.size });
      expect((await report()).stats.bytes).toBe(clients.sent);
    });
  }

  it('is rolled back when its migrate throws at the final value alone', async () => {
    const { pid } = await report();
    const result = await luod.updateTo(command('3', 'throws-in-the-cut'));
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'EIO', phase: 'retrieve' } });
    expect(result.error?.message).toMatch(/the migrate from version 2 to 3 failed: cannot read 2/);
    await nothingLost();
    const after = await report();
    expect(after).toMatchObject({ pid, generation: 1, events: ['freeze', 'unfreeze', 'rollback'] });
    expect(after.stats.bytes).toBe(clients.sent);
  });
});

describe('a handler whose form changes', () => {
  it('reads the form before, and goes back by way of a version that writes it', async () => {
    await start('1');
    const onlyOld = command('1', 'goes-back');
    const ticket = { number: 42 };
    expect(await luod.updateTo(command('2'))).toMatchObject({ ok: true });
    expect(await report()).toMatchObject({ version: '2', ticket });
    const refused = await luod.updateTo(onlyOld);
    expect(refused).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'ENOENT', phase: 'preserve' },
    });
    expect(refused.error?.message).toMatch(/\(session 'keep:ticket', handler 'ticket-v2'\)/);
    expect(await luod.updateTo(command('2', 'writes-the-old-form'))).toMatchObject({ ok: true });
    expect(await report()).toMatchObject({ version: '2', ticket, events: [] });
    expect(await luod.updateTo(onlyOld)).toMatchObject({ ok: true });
    await nothingLost();
    expect(await report()).toMatchObject({ version: '1', ticket, stats: { count: clients.sent } });
  });
});
