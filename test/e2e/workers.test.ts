/** A service of several workers: its connections stay on their worker's successor, whoever is replaced, killed or bad. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ServiceStatus } from '../../src/daemon/service.js';
import type { GroupUpdateResult } from '../../src/daemon/worker-group.js';
import { ByteClients } from './byte-clients.js';
import { Host } from './host.js';
import {
  cli,
  type Finished,
  freePort,
  isAlive,
  LuodProcess,
  processesWith,
  programPath,
  run,
} from './luod-process.js';

const WORKERS = [1, 2, 3];
const NAMES = ['web/1', 'web/2', 'web/3'];

/** What a worker says of itself. */
interface WorkerReport {
  pid: number;
  version: string;
  worker: number;
  workers: number;
  generation: number;
  origin: string;
  /** Of the connections that it has, and how many of them came to another worker. */
  ids: number[];
  foreign: number;
  total: { connections: number; generations: number[] };
}

type GroupUpdated = GroupUpdateResult & { exitCode: number | null };

let luod: LuodProcess;
let clients: ByteClients | undefined;
let folder: string;
let socket: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-workers-'));
});

afterEach(async () => {
  clients?.close();
  clients = undefined;
  await luod?.stop();
  rmSync(folder, { recursive: true, force: true });
});

function luoctl(...words: string[]): Promise<Finished> {
  return run([...cli('luoctl'), ...words], { LIVEUPDATE_SOCKET: socket });
}

async function update(...words: string[]): Promise<GroupUpdated> {
  const [command = 'update', ...rest] = words;
  const { stdout, stderr, code } = await luoctl(command, '--json', ...rest);
  if (stdout === '') throw new Error(`luoctl said nothing: ${stderr}`);
  return { ...(JSON.parse(stdout) as GroupUpdateResult), exitCode: code };
}

async function reports(workers: readonly number[] = WORKERS): Promise<WorkerReport[]> {
  return await Promise.all(
    workers.map(async (worker) => {
      let text = '';
      for await (const chunk of createConnection(join(folder, `control-${worker}`)).setEncoding('utf8'))
        text += chunk;
      return JSON.parse(text) as WorkerReport;
    }),
  );
}

/** The program, in another version, or with a fault. */
function program(env: Record<string, string> = {}): string[] {
  const words = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  return ['env', ...words, process.execPath, programPath('workers.mjs')];
}

/** luod with three workers, and clients of theirs. */
async function start(count = 60): Promise<void> {
  luod = await LuodProcess.start({
    command: program(),
    flags: ['--name', 'web', '--workers', '3'],
    env: { CONTROL: join(folder, 'control-%w') },
  });
  socket = luod.socket;
  for (const name of NAMES) await luod.says(new RegExp(`${name}: generation 1 serves, pid \\d+$`, 'm'));
  clients = await ByteClients.open(luod.port, count);
}

/** No byte was lost, and each connection is where it was. */
async function isWhole(before: WorkerReport[]): Promise<WorkerReport[]> {
  expect(await clients?.settle()).toEqual({ missing: 0 });
  expect([clients?.wrong, clients?.closed]).toEqual([[], 0]);
  const after = await reports();
  for (const [at, report] of after.entries()) {
    expect(report).toMatchObject({ worker: at + 1, workers: 3, foreign: 0 });
    expect(report.ids).toEqual(expect.arrayContaining(before[at]?.ids as number[]));
  }
  expect(after.reduce((sum, { ids }) => sum + ids.length, 0)).toBe(clients?.size);
  return after;
}

describe('three workers', () => {
  it('share a port, and are updated one after the other, and together', { timeout: 90_000 }, async () => {
    await start();
    const before = await reports();
    // By the kernel's choice; that one of three gets none of sixty is one in ten thousand millions.
    for (const { ids, generation } of before) expect([ids.length > 0, generation]).toEqual([true, 1]);

    const [inTurn] = await Promise.all([update('update'), clients?.add(10)]);
    expect(inTurn).toMatchObject({
      ok: true,
      exitCode: 0,
      service: 'web',
      new: NAMES,
      old: [],
      restarted: [],
    });
    expect(inTurn.workers.map(({ service }) => service)).toEqual(NAMES);
    const [together] = await Promise.all([update('update', 'web', '--together'), clients?.add(10)]);
    expect(together).toMatchObject({ ok: true, exitCode: 0, service: 'web', new: NAMES });
    const { stdout } = await luoctl('update', 'web/2');
    expect(stdout).toMatch(/^web\/2: generation 4, pid /);
    const after = await isWhole(before);
    expect(after.map(({ generation }) => generation)).toEqual([3, 4, 3]);
    for (const { total, ids } of after) expect(total.connections).toBe(ids.length);
  });

  it('stop at the first that gets a bad version, and go back to what the others run', {
    timeout: 90_000,
  }, async () => {
    await start();
    const before = await reports();
    const bad = program({ VERSION: '2', FAULT: 'throws', FAULTY: '1' });
    const { code, stderr } = await luoctl('update', 'web', '--', ...bad);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^web\/1: rolled back: generation 1 \(pid \d+\) serves on\nreason: .*exited with code 1/,
    );
    expect(stderr).toMatch(/\nweb: not all workers are new; as before: web\/1, web\/2, web\/3\n$/);

    const second = await update(
      'update',
      'web',
      '--',
      ...program({ VERSION: '2', FAULT: 'throws', FAULTY: '2' }),
    );
    expect(second).toMatchObject({ ok: false, exitCode: 1, new: ['web/1'], old: ['web/2', 'web/3'] });
    expect(second.workers.map(({ ok }) => ok)).toEqual([true, false]);
    expect(second.error?.message).toMatch(
      /^'web\/2': .*exited with code 1; new: 'web\/1'; 'web\/2', 'web\/3' as before$/,
    );
    expect((await reports()).map(({ version }) => version)).toEqual(['2', '1', '1']);
    const ambiguous = await luoctl('update', 'web');
    expect([ambiguous.code, ambiguous.stderr]).toEqual([
      1,
      expect.stringMatching(/EINVAL.*run different commands/),
    ]);

    expect(await update('rollback', 'web')).toMatchObject({ ok: true, new: ['web/1'] });
    const after = await isWhole(before);
    expect(after.map(({ version, generation }) => [version, generation])).toEqual([
      ['1', 3],
      ['1', 1],
      ['1', 1],
    ]);
  });

  it('go together or not at all when one cannot get ready', { timeout: 60_000 }, async () => {
    await start();
    const before = await reports();
    const bad = program({ VERSION: '2', FAULT: 'throws', FAULTY: '2' });
    const result = await update('update', 'web', '--together', '--', ...bad);
    expect(result).toMatchObject({ ok: false, exitCode: 1, new: [], old: NAMES });
    expect(result.error?.message).toMatch(/^'web\/2': .*exited with code 1/);
    expect(result.workers.map(({ error }) => error?.code)).toEqual(['ECANCELED', 'ECHILD', 'ECANCELED']);
    const after = await isWhole(before);
    expect(after.map(({ pid, generation }) => [pid, generation])).toEqual(before.map(({ pid }) => [pid, 1]));
    const second = await update('update', 'web', '--together', '--', ...program({ VERSION: '2' }));
    expect(second).toMatchObject({ ok: true });
    expect(await update('rollback', 'web', '--together')).toMatchObject({ ok: true, new: NAMES });
  });
});

describe('together', () => {
  it('are decided each by itself in the cut, and those that are new go back', {
    timeout: 60_000,
  }, async () => {
    await start();
    const before = await reports();
    const bad = program({ VERSION: '2', FAULT: 'throws-in-the-cut', FAULTY: '2' });
    const result = await update('update', 'web', '--together', '--', ...bad);
    expect(result).toMatchObject({ ok: false, new: ['web/1', 'web/3'], old: ['web/2'], restarted: [] });
    expect(result.error).toMatchObject({
      phase: 'retrieve',
      message: expect.stringMatching(/^'web\/2': .*was eaten/),
    });
    expect(await update('rollback', 'web')).toMatchObject({
      ok: true,
      new: ['web/1', 'web/3'],
      old: ['web/2'],
    });
    const after = await isWhole(before);
    expect(after.map(({ version, generation }) => [version, generation])).toEqual([
      ['1', 3],
      ['1', 1],
      ['1', 3],
    ]);
  });
});

describe('the health of workers', () => {
  it('is asked of each by itself, and stops the others', { timeout: 60_000 }, async () => {
    await start(6);
    const check = ['--health', 'test %w != 2'];
    const inTurn = await update('update', 'web', ...check);
    expect(inTurn).toMatchObject({
      ok: false,
      new: ['web/1'],
      old: ['web/2', 'web/3'],
      error: { phase: 'health' },
    });
    const together = await update('update', 'web', '--together', ...check);
    expect(together).toMatchObject({
      ok: false,
      new: [],
      old: NAMES,
      error: { code: 'ECHILD', phase: 'health' },
    });
    const { stdout } = await luoctl('history', 'web', '--json');
    const { workers } = JSON.parse(stdout) as {
      workers: { service: string; history: { outcome: string }[] }[];
    };
    expect(
      workers.map(({ service, history }) => [service, ...history.map(({ outcome }) => outcome)]),
    ).toEqual([
      ['web/1', 'rolledBack', 'ok'],
      ['web/2', 'rolledBack', 'rolledBack'],
      ['web/3', 'rolledBack'],
    ]);
    expect((await luoctl('history', 'web')).stdout).toMatch(/^web\/1:\nWHEN .*\n[^:]*:.*rolled-back/);
  });
});

describe('a worker that is killed', () => {
  it('loses its own connections alone, and no one who came meanwhile', { timeout: 60_000 }, async () => {
    await start();
    const before = await reports();
    const [, two] = before;
    process.kill(two?.pid as number, 'SIGKILL');
    // Some are put into the queue of a worker that is dead.
    await clients?.add(40);
    await luod.says(/web\/2: generation 2 serves, pid \d+$/m);
    expect(clients?.closed).toBe(two?.ids.length);
    expect(clients?.wrong).toEqual([]);
    const after = await reports();
    expect(after.map(({ generation, origin }) => [generation, origin])).toEqual([
      [1, 'fresh'],
      [2, 'crash'],
      [1, 'fresh'],
    ]);
    expect(after[1]?.ids.length).toBeGreaterThan(0);
    expect([after[0]?.pid, after[2]?.pid]).toEqual([before[0]?.pid, before[2]?.pid]);
    expect(after[0]?.ids).toEqual(expect.arrayContaining(before[0]?.ids as number[]));
    // Counted by the state, so also that of the one that began anew.
    expect(after.reduce((sum, { ids }) => sum + ids.length, 0)).toBe(100 - (two?.ids.length as number));
  });
});

describe('luod that is killed', () => {
  it('leaves all workers to the next one', { timeout: 60_000 }, async () => {
    await start();
    const before = await reports();
    luod.signal('SIGKILL');
    await luod.exited;
    await clients?.add(5);
    await luod.again();
    const after = await reports();
    expect(after.map(({ pid }) => pid)).toEqual(before.map(({ pid }) => pid));
    luod.signal('SIGHUP');
    for (const name of NAMES) await luod.says(new RegExp(`${name}: generation 2 serves`));
    expect(await update('update')).toMatchObject({ ok: true, new: NAMES });
    await isWhole(before);
  });

  it('in the middle of a group, is followed by one that goes on with it', { timeout: 60_000 }, async () => {
    await start();
    const before = await reports();
    const updating = update(
      'update',
      'web',
      '--',
      ...program({ VERSION: '2', FAULT: 'kills-luod', FAULTY: '2' }),
    );
    await luod.exited;
    await luod.again();
    // The second was not told to freeze yet, so the next luod calls it off, and there the group stops.
    expect(await updating).toMatchObject({
      ok: false,
      new: ['web/1'],
      old: ['web/2', 'web/3'],
      error: { code: 'ECANCELED' },
    });
    expect(await update('update', 'web', '--', ...program({ VERSION: '3' }))).toMatchObject({
      ok: true,
      new: NAMES,
    });
    const after = await isWhole(before);
    expect(after.map(({ version, generation }) => [version, generation])).toEqual([
      ['3', 3],
      ['3', 2],
      ['3', 2],
    ]);
  });

  it('is followed by one that starts those that had ended, and leaves their number as it was', async () => {
    await start(3);
    await luoctl('stop', 'web/2');
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again();
    await luod.says(/web\/2: generation 1 serves, pid \d+$/m);
    expect(await reports()).toMatchObject(WORKERS.map((worker) => ({ worker, workers: 3, generation: 1 })));
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again(program(), ['--workers', '2']);
    await luod.says(/web: goes on as 3 workers, as the luod before was told/);
    expect(await reports()).toHaveLength(3);
  });

  it('is followed by one that leaves one process as it was, too', async () => {
    luod = await LuodProcess.start();
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again(undefined, ['--workers', '2']);
    await luod.says(/echo: goes on as one process, as the luod before was told/);
    expect((await luod.status()).services.map(({ name }) => name)).toEqual(['echo']);
  });
});

describe('luod run --workers', () => {
  it('ends when all have ended, with the status of the first that failed', { timeout: 60_000 }, async () => {
    await start(3);
    const [one, two] = (await luod.status()).services;
    expect([one?.name, one?.worker]).toEqual(['web/1', { group: 'web', index: 1, count: 3 }]);
    const stopped = await luoctl('stop', 'web/2');
    expect(stopped.stdout).toBe('web/2: ended with 143\n');
    expect(isAlive(two?.pid as number)).toBe(false);
    expect((await luod.status()).services.map(({ name }) => name)).toEqual(['web/1', 'web/3']);
    const { folder: luodFolder } = luod;
    expect(await luod.stop()).toBe(143);
    expect(processesWith(luodFolder)).toEqual([]);
  });

  it('ends with 0 when no worker failed, and with the first status when one did', async () => {
    const words = ['--no-keeper', '--socket', join(folder, 's'), '--workers', '3', '--'];
    const whole = await run([...cli('luod'), 'run', ...words, 'true']);
    expect(whole.code).toBe(0);
    // The second ends first; the first one waits for that.
    const file = join(folder, 'second');
    const script = `case $LIVEUPDATE_WORKER in
      1) until [ -s ${file} ]; do sleep 0.02; done; while kill -0 $(cat ${file}) 2>/dev/null; do sleep 0.02; done; exit 10;;
      2) echo $$ >${file}; exit 20;;
    esac`;
    const failed = await run([...cli('luod'), 'run', ...words, 'sh', '-c', script]);
    expect(failed.code).toBe(20);
    const wrong = await run([...cli('luod'), 'run', '--workers', '0', '--', 'true']);
    expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringMatching(/1 to 256/)]);
  });

  it('refuses what workers cannot share, with the reason', async () => {
    luod = await LuodProcess.start({
      command: [process.execPath, programPath('worker-addresses.mjs')],
      flags: ['--workers', '2'],
      env: { FOLDER: folder },
    });
    for (const worker of [1, 2])
      await luod.says(new RegExp(`echo/${worker}: generation 1 serves, pid \\d+$`, 'm'));
    const told = [...luod.stderr.matchAll(/^\{.*\}$/gm)].map(
      ([line]) => JSON.parse(line) as Record<string, string>,
    );
    expect(told.map(({ worker }) => worker).sort()).toEqual([1, 2]);
    expect(told.map(({ port }) => port)).toEqual([luod.port, luod.port]);
    const same = told.map((one) => one.same).sort();
    expect(same).toEqual([
      expect.stringMatching(/^EADDRINUSE: .*\/same is taken, and this is worker \d of 2: .*%w/),
      'ok',
    ]);
    for (const { none, bad, unknown } of told) {
      expect(none).toMatch(/^EINVAL: listen: port 0 would be another port for each of the 2 workers/);
      expect(bad).toMatch(/^EINVAL: .*70000/);
      expect(unknown).toMatch(/ENOTFOUND|EAI_AGAIN/);
    }
  });
});

describe('workers without liveupdate', () => {
  it('are restarted one after the other, and no further than the first that fails', {
    timeout: 60_000,
  }, async () => {
    luod = await LuodProcess.start({ command: ['sleep', '1000'], flags: ['--workers', '2'], isPlain: true });
    socket = luod.socket;
    for (const worker of [1, 2]) await luod.says(new RegExp(`echo/${worker}: generation 1 serves`));
    const result = await update('update');
    expect(result).toMatchObject({ ok: true, new: ['echo/1', 'echo/2'] });
    const log = [...luod.stderr.matchAll(/(echo\/\d): generation 2 serves|(echo\/\d): restarted/g)];
    expect(log.map(([line]) => line)).toEqual([
      'echo/1: restarted',
      'echo/1: generation 2 serves',
      'echo/2: restarted',
      'echo/2: generation 2 serves',
    ]);
    const failed = await update('update', '--', 'false');
    expect(failed).toMatchObject({ ok: false, new: [], restarted: ['echo/1'], old: ['echo/2'] });
  });
});

describe('node:cluster', () => {
  it.each([false, true])(
    'workers are told that no update reaches them; luod has their primary: %s',
    async (joins) => {
      luod = await LuodProcess.start({
        command: [process.execPath, programPath('clustered.mjs')],
        isPlain: true,
        env: joins ? { JOINS: '1' } : {},
      });
      await luod.says(/cluster worker: managed false, worker 0/);
      await luod.says(/LiveUpdateWarning: this is a worker of node:cluster.*luod run --workers N/);
      expect((await luod.status()).services[0]).toMatchObject({ usesLiveupdate: joins });
    },
  );
});

describe('luoctl with workers', () => {
  let host: Host;
  afterEach(() => host.stop());

  it('starts, shows, completes, fills up and stops them by their name', { timeout: 60_000 }, async () => {
    host = await Host.start();
    socket = host.socket;
    const port = await freePort();
    const command = ['env', `PORT=${port}`, `CONTROL=${join(folder, 'control-%w')}`, ...program().slice(1)];
    const started = await luoctl('start', 'web', '--workers', '3', '--', ...command);
    expect(started.stdout).toMatch(
      /^web: 3 workers: web\/1 \(pid \d+\), web\/2 \(pid \d+\), web\/3 \(pid \d+\)\n$/,
    );
    for (const name of NAMES) await host.says(new RegExp(`${name}: generation 1 serves, pid \\d+$`, 'm'));
    await luoctl('start', 'other', '--', 'sleep', '1000');
    const shown = async (...words: string[]) => {
      const { stdout } = await luoctl('services', '--json', ...words);
      return (JSON.parse(stdout) as { services: ServiceStatus[] }).services.map(({ name }) => name);
    };
    expect(await shown()).toEqual([...NAMES, 'other']);
    expect(await shown('web')).toEqual(NAMES);
    expect(await shown('web/2')).toEqual(['web/2']);
    expect((await luoctl('status', 'web')).stdout).not.toMatch(/other/);
    expect((await luoctl('services', 'none')).stderr).toMatch(/ENOENT: no service 'none'/);
    expect((await luoctl('update')).stderr).toMatch(
      /which service\? There is 'other', 'web' \(web\/1, web\/2, web\/3\)/,
    );
    expect((await luoctl('complete-words', 'update', 'w')).stdout.split('\n')).toEqual(['web', ...NAMES, '']);
    for (const name of ['web', 'web/1'])
      expect((await luoctl('start', name, '--', 'true')).stderr).toMatch(/EEXIST/);
    expect((await luoctl('start', 'other', '--workers', '2', '--', 'true')).stderr).toMatch(/EEXIST/);

    expect((await luoctl('stop', 'web/2')).code).toBe(0);
    expect(await shown('web')).toEqual(['web/1', 'web/3']);
    const filled = await luoctl('start', 'web', '--workers', '3', '--', ...command);
    expect(filled.code).toBe(0);
    await host.says(/web\/2: generation 1 serves, pid \d+\n[\s\S]*web\/2: generation 1 serves, pid \d+\n/);
    expect((await reports()).map(({ worker }) => worker)).toEqual(WORKERS);
    expect(await update('update', 'web')).toMatchObject({ ok: true, new: NAMES });

    const stopped = await luoctl('stop', 'web');
    expect(stopped.stdout).toBe(
      'web/1: ended with 143\nweb/2: ended with 143\nweb/3: ended with 143\nweb: ended with 143\n',
    );
    expect(await shown()).toEqual(['other']);
    expect(processesWith(join(folder, 'control'))).toEqual([]);
  });
});
