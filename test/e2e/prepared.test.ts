/** An update that stops before its cut: the old version serves until somebody says the word, and on if nobody does. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Cancelled, Prepared } from '../../src/daemon/service.js';
import type { UpdateResult } from '../../src/daemon/update.js';
import type { HistoryEntry } from '../../src/daemon/update-history.js';
import type { GroupPrepared, GroupUpdateResult } from '../../src/daemon/worker-group.js';
import { ByteClients } from './byte-clients.js';
import {
  cli,
  type Finished,
  isAlive,
  LuodProcess,
  processesWith,
  programPath,
  run,
  servesItself,
} from './luod-process.js';

// Most of these tests start six processes one after the other.
vi.setConfig({ testTimeout: 60_000 });

const CONNECTIONS = 30;

type Answer<T> = T & { exitCode: number | null; error?: { code: string; message: string } };

let luod: LuodProcess;
let clients: ByteClients;
let server: Server | undefined;

async function begin(options: Parameters<typeof LuodProcess.start>[0] = {}): Promise<void> {
  luod = await LuodProcess.start(options);
  clients = await ByteClients.open(luod.port, CONNECTIONS);
}

afterEach(async () => {
  clients.close();
  const { folder } = luod;
  await luod.stop();
  server?.closeAllConnections();
  server?.close();
  server = undefined;
  await expect.poll(() => processesWith(folder)).toEqual([]);
});

function luoctl(...words: string[]): Promise<Finished> {
  return run([...cli('luoctl'), ...words], { LIVEUPDATE_SOCKET: luod.socket });
}

/** The answer as programs read it, and the exit code. */
async function ask<T>(...words: [string, ...string[]]): Promise<Answer<T>> {
  const [command, ...rest] = words;
  const { code, stdout, stderr } = await luoctl(command, '--json', ...rest);
  if (stdout === '') throw new Error(`luoctl ${words.join(' ')}: ${stderr}`);
  return { ...(JSON.parse(stdout) as T), exitCode: code };
}

/** What stands behind the name of a service: the echo program, which differs by these variables. */
function version(env: Record<string, string>): string[] {
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  return ['--', 'env', ...variables, process.execPath, programPath('echo.mjs')];
}

function prepare(flags: readonly string[] = [], env: Record<string, string> = { VERSION: '2' }) {
  return ask<Prepared & UpdateResult>('prepare', ...flags, ...version(env));
}

/** Whom `--health` asks; without a listener it does not answer. */
async function checker(listener?: RequestListener): Promise<{ url: string; server: Server }> {
  const made = createServer(listener).listen(0, '127.0.0.1');
  server = made;
  await once(made, 'listening');
  return { url: `http://127.0.0.1:${(made.address() as AddressInfo).port}/`, server: made };
}

async function service() {
  const [one] = (await luod.status()).services;
  if (one === undefined) throw new Error('there is no service');
  return one;
}

async function history(): Promise<HistoryEntry[]> {
  return (await ask<{ history: HistoryEntry[] }>('history')).history;
}

/** Whoever serves has every connection and every byte, and nothing waits beside it. */
async function isWhole(generation: number, pid: number): Promise<void> {
  await clients.add(5);
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect([clients.wrong, clients.closed]).toEqual([[], 0]);
  const report = await luod.report();
  expect(report).toMatchObject({ pid, generation, damaged: 0, live: clients.size, ids: clients.size });
  expect(report.bytes).toBe(clients.sent);
  expect(await service()).toMatchObject({ state: 'serving', pid, generation, restarts: 0, prepared: null });
}

describe('a next version that is prepared', () => {
  beforeEach(() => begin());

  it('waits while the old one serves, and gets all connections at the cut', async () => {
    const old = await luod.report();
    const prepared = await prepare();
    expect(prepared).toMatchObject({ ok: true, exitCode: 0, service: 'echo', generation: 2 });
    expect(prepared).toMatchObject({ servingPid: old.pid, command: version({ VERSION: '2' }).slice(1) });
    expect([prepared.pid !== old.pid, isAlive(prepared.pid as number)]).toEqual([true, true]);

    await clients.add(10);
    await clients.progress();
    expect(await luod.report()).toMatchObject({ pid: old.pid, generation: 1, live: clients.size });
    const now = await service();
    expect(now).toMatchObject({ state: 'prepared', pid: old.pid, generation: 1, lastUpdate: null });
    expect(now.prepared).toMatchObject({ pid: prepared.pid, generation: 2, command: prepared.command });
    for (const seconds of [prepared.secondsLeft, now.prepared?.secondsLeft]) {
      expect(seconds).toBeGreaterThan(0);
      expect(seconds).toBeLessThanOrEqual(60);
    }
    const { stdout } = await luoctl('status');
    expect(stdout).toMatch(new RegExp(`^echo +prepared +${old.pid} +1 `, 'm'));
    expect(stdout).toMatch(
      new RegExp(
        `^echo: generation 2 is prepared \\(pid ${prepared.pid}\\), for \\w+: 'luoctl cut echo' lets it take over, 'luoctl cancel echo' gives it up$`,
        'm',
      ),
    );

    const cut = await ask<UpdateResult>('cut');
    expect(cut).toMatchObject({
      ok: true,
      exitCode: 0,
      generation: 2,
      fromPid: old.pid,
      toPid: prepared.pid,
    });
    expect(cut.connections).toBe(CONNECTIONS + 10);
    expect(cut.phases.held).toBeGreaterThan(0);
    expect(isAlive(old.pid)).toBe(false);
    await isWhole(2, prepared.pid as number);
    expect((await luod.report()).total.bytes).toBe(clients.sent);
    expect((await service()).command).toContain('VERSION=2');
    expect(await history()).toMatchObject([{ kind: 'update', outcome: 'ok', toPid: prepared.pid }]);
  });

  it('is told of to people, too', async () => {
    const prepared = await luoctl('prepare', 'echo');
    expect([prepared.code, prepared.stderr]).toEqual([0, '']);
    expect(prepared.stdout).toMatch(
      /^echo: generation 2 is prepared \(pid \d+\), for 1m0s: 'luoctl cut echo' lets/,
    );
    const cancelled = await luoctl('cancel', 'echo');
    expect([cancelled.code, cancelled.stdout]).toEqual([
      0,
      expect.stringMatching(/^echo: called off, generation 1 \(pid \d+\) serves on\n$/),
    ]);
    await luoctl('prepare', 'echo');
    const cut = await luoctl('cut', 'echo');
    expect([cut.code, cut.stdout]).toEqual([
      0,
      expect.stringMatching(
        /^echo: generation 2, pid \d+ -> \d+, 30 connections moved[\s\S]* held [\d.]+ ms/,
      ),
    ]);
  });

  it('is in the way of every other update, until it is called off', async () => {
    const { pid } = await luod.report();
    const prepared = await prepare();
    const what =
      "a next version of 'echo' is prepared: 'luoctl cut echo' lets it take over, 'luoctl cancel echo' gives it up";
    for (const command of ['prepare', 'update'])
      expect(await ask(command)).toMatchObject({
        ok: false,
        exitCode: 1,
        error: { code: 'EBUSY', message: expect.stringContaining(what) },
      });
    const selfUpdate = await luoctl('self-update');
    expect([selfUpdate.code, selfUpdate.stderr]).toEqual([
      1,
      expect.stringMatching(/EBUSY.* a next version of 'echo' is prepared: cut or cancel it first/),
    ]);
    process.kill(pid, 'SIGUSR1');
    await expect.poll(async () => (await luod.report()).events).toEqual(['update: EBUSY']);
    expect(await service()).toMatchObject({ state: 'prepared', prepared: { pid: prepared.pid } });

    expect(await ask<Cancelled>('cancel')).toEqual({
      ok: true,
      exitCode: 0,
      service: 'echo',
      generation: 1,
      pid,
    });
    expect(isAlive(prepared.pid as number)).toBe(false);
    expect(await history()).toMatchObject([
      {
        outcome: 'rolledBack',
        error: {
          code: 'ECANCELED',
          message: expect.stringMatching(/^called off by uid \d+, pid \d+$/),
        },
      },
    ]);
    const result = await luod.update();
    expect(result).toMatchObject({ ok: true, generation: 2, fromPid: pid });
    expect(result.phases).not.toHaveProperty('held');
    await isWhole(2, result.toPid as number);
  });

  it('is given up when nobody says the word in time, and the reason is kept', async () => {
    const { pid } = await luod.report();
    const prepared = await prepare(['--for', '300ms']);
    expect(prepared).toMatchObject({ ok: true, secondsLeft: 1 });
    await luod.says(/rolled back, generation 1 serves on/);
    const error = {
      code: 'ETIMEDOUT',
      message: 'it was prepared, and nobody let it take over within 0.3 s',
      phase: 'preserve',
    };
    const { lastUpdate } = await service();
    expect(lastUpdate).toMatchObject({ ok: false, rolledBack: true, error });
    expect(lastUpdate?.phases.held).toBeGreaterThanOrEqual(299);
    expect(await history()).toMatchObject([{ outcome: 'rolledBack', error }]);
    expect(await ask('cut')).toMatchObject({
      ok: false,
      exitCode: 1,
      error: {
        code: 'ENOENT',
        message: expect.stringMatching(
          /no next version of 'echo' is prepared; the last update .* within 0.3 s/,
        ),
      },
    });
    expect(isAlive(prepared.pid as number)).toBe(false);
    await isWhole(1, pid);
  });

  it('is watched behind its cut as it was told before it', async () => {
    const { pid } = await luod.report();
    expect(await prepare(['--watch', '60s'], { FAULT: 'dies-after-commit' })).toMatchObject({ ok: true });
    expect(await ask('cut', '--wait')).toMatchObject({
      ok: false,
      exitCode: 1,
      fromPid: pid,
      afterCommit: 'rolledBack',
      error: { code: 'ECHILD', phase: 'watch' },
    });
    await luod.says(servesItself(3));
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
  });
});

describe('what is prepared by a program of its own', () => {
  it('is cut also by the key that it was prepared with', async () => {
    await begin();
    const asking = connect(luod.socket);
    const lines = createInterface({ input: asking })[Symbol.asyncIterator]();
    const answer = async (type: string) => {
      asking.write(`${JSON.stringify({ type, id: 1, key: 'deployment 7' })}\n`);
      return JSON.parse((await lines.next()).value as string) as Prepared & UpdateResult;
    };
    const { pid } = await answer('prepare');
    // Said twice, it is the same.
    expect(await answer('prepare')).toMatchObject({ ok: true, pid });
    expect(await answer('cut')).toMatchObject({ ok: true, toPid: pid });
    expect(await answer('cut')).toMatchObject({ ok: true, toPid: pid });
    asking.destroy();
    await isWhole(2, pid as number);
  });
});

describe('a bad version', () => {
  it('is gone back from also when the next one is prepared, which is given up', async () => {
    await begin();
    let isHealthy = true;
    const { url } = await checker((_request, response) => {
      response.statusCode = isHealthy ? 200 : 503;
      response.end();
    });
    const bad = version({ VERSION: 'bad' });
    const flags = ['--health', url, '--watch', '60s', '--health-timeout', '1s'];
    expect(await ask('update', ...flags, ...bad)).toMatchObject({ ok: true, generation: 2 });
    const prepared = await prepare(['--no-health', '--for', '10m']);
    isHealthy = false;
    await luod.says(servesItself(3));
    expect(isAlive(prepared.pid as number)).toBe(false);
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
    expect(await history()).toMatchObject([
      { kind: 'autoRollback', outcome: 'ok' },
      {
        outcome: 'rolledBack',
        error: { message: expect.stringMatching(/^the version that serves is unhealthy/) },
      },
      { outcome: 'autoRolledBack' },
    ]);
    await isWhole(3, (await luod.report()).pid);
  });
});

describe('nothing that is prepared', () => {
  it('can be cut or called off, and that changes nothing', async () => {
    await begin();
    const { pid } = await luod.report();
    for (const command of ['cut', 'cancel'])
      expect(await ask(command)).toMatchObject({ ok: false, exitCode: 1, error: { code: 'ENOENT' } });
    expect((await luoctl('cut')).stderr).toMatch(/ENOENT.* no next version of 'echo' is prepared\n$/);
    expect((await luoctl('cancel')).stderr).toMatch(/ENOENT.* no update of 'echo' is under way\n$/);
    expect(await history()).toEqual([]);
    await isWhole(1, pid);
  });

  it('can be made of a program that does not use liveupdate', async () => {
    luod = await LuodProcess.start({ command: ['sleep', '1000'], isPlain: true });
    expect(await ask('prepare')).toMatchObject({ ok: false, exitCode: 1, error: { code: 'EOPNOTSUPP' } });
    expect(await service()).toMatchObject({ state: 'serving', generation: 1, prepared: null });
  });
});

describe('a death while the next version is prepared', () => {
  beforeEach(() => begin());

  it('of the next version is a rollback', async () => {
    const { pid } = await luod.report();
    const prepared = await prepare();
    process.kill(prepared.pid as number, 'SIGKILL');
    await luod.says(/rolled back, generation 1 serves on: the new version was killed by SIGKILL/);
    expect((await service()).lastUpdate).toMatchObject({ rolledBack: true, error: { code: 'ECHILD' } });
    expect(await ask('cut')).toMatchObject({ ok: false, error: { code: 'ENOENT' } });
    await isWhole(1, pid);
  });

  it('of the old one starts that again, with the listener and the memory that luod holds', async () => {
    const { pid } = await luod.report();
    const prepared = await prepare();
    process.kill(pid, 'SIGKILL');
    // Whoever comes while nobody serves waits in the listener.
    const late = await ByteClients.open(luod.port, 5);
    expect(isAlive(prepared.pid as number)).toBe(false);
    expect(clients.closed).toBe(CONNECTIONS);
    expect(await luod.report()).toMatchObject({ origin: 'crash', damaged: 0, live: 5 });
    expect(await service()).toMatchObject({
      state: 'serving',
      command: [process.execPath, programPath('echo.mjs')],
      restarts: 1,
      prepared: null,
      lastUpdate: { ok: false, rolledBack: false, error: { code: 'ECHILD' } },
    });
    expect(await late.settle()).toEqual({ missing: 0 });
    late.close();
    expect(await luod.update()).toMatchObject({ ok: true });
  });

  it('of luod has the next one call it off', async () => {
    const { pid } = await luod.report();
    const prepared = await prepare();
    luod.signal('SIGKILL');
    await luod.exited;
    await clients.add(5);
    await luod.again();
    await luod.says(/rolled back, generation 1 serves on/);
    await expect.poll(() => isAlive(prepared.pid as number)).toBe(false);
    expect(await luod.report()).toMatchObject({ pid, generation: 1, live: clients.size });
    expect(await history()).toMatchObject([{ outcome: 'rolledBack', error: { code: 'ECANCELED' } }]);
    expect(await ask('cut')).toMatchObject({ ok: false, error: { code: 'ENOENT' } });
    const result = await luod.update();
    expect(result).toMatchObject({ ok: true, generation: 2, fromPid: pid });
    await isWhole(2, result.toPid as number);
  });

  it('of luod on the way there has the next one answer that it was called off', async () => {
    const { pid } = await luod.report();
    const preparing = prepare([], { FAULT: 'kills-luod-at-claimed' });
    await luod.exited;
    await luod.again();
    expect(await preparing).toMatchObject({
      ok: false,
      exitCode: 1,
      rolledBack: true,
      error: { code: 'ECANCELED' },
    });
    await isWhole(1, pid);
  });

  it('of luod in the cut has the next one answer that it took over', async () => {
    const prepared = await prepare([], { FAULT: 'kills-luod-at-cut' });
    const cutting = ask<UpdateResult>('cut');
    await luod.exited;
    await luod.again();
    expect(await cutting).toMatchObject({ ok: true, exitCode: 0, generation: 2, toPid: prepared.pid });
    await isWhole(2, prepared.pid as number);
  });

  it('of all, since luod is told to stop, leaves no process', async () => {
    const { pid } = await luod.report();
    const prepared = await prepare();
    clients.close();
    expect(await luod.stop()).toBe(143);
    expect([pid, prepared.pid as number].filter(isAlive)).toEqual([]);
  });
});

describe('a death of the old version while luod ends', () => {
  it('starts nothing again', async () => {
    await begin();
    const { pid } = await luod.report();
    await prepare();
    clients.close();
    // As a container's end: a signal to all at once.
    luod.signal('SIGTERM');
    process.kill(pid, 'SIGKILL');
    expect(await luod.exited).not.toBe(0);
    expect(luod.stderr).not.toMatch(servesItself(3));
  });
});

describe('a version that cannot be prepared', () => {
  beforeEach(() => begin());

  it.each([
    ['it ends at its start', [], { FAULT: 'exits-at-start' }, { code: 'ECHILD', phase: 'spawn' }],
    ['it throws', [], { FAULT: 'throws-before-ready' }, { code: 'ECHILD', phase: 'preserve' }],
    ['its check fails', ['--health', 'false'], { VERSION: '2' }, { code: 'ECHILD', phase: 'health' }],
  ])('since %s is rolled back as by an update', async (_why, flags, env, error) => {
    const { pid } = await luod.report();
    const result = await prepare(flags, env);
    expect(result).toMatchObject({ ok: false, exitCode: 1, rolledBack: true, fromPid: pid, error });
    const { exitCode: _, ...told } = result;
    expect((await service()).lastUpdate).toEqual(told);
    const { stderr } = await luoctl('prepare', ...flags, ...version(env));
    expect(stderr).toMatch(/^echo: rolled back: generation 1 \(pid \d+\) serves on\nreason: /);
    await isWhole(1, pid);
  });
});

describe('the health gate', () => {
  beforeEach(() => begin());

  it('is passed before the version is prepared, and not asked again at the cut', async () => {
    let times = 0;
    const { url } = await checker((_request, response) => {
      times++;
      response.end();
    });
    const prepared = await prepare(['--health', url, '--watch', '0']);
    expect([prepared.ok, times]).toEqual([true, 1]);
    const cut = await ask<UpdateResult>('cut');
    expect(cut).toMatchObject({ ok: true, toPid: prepared.pid });
    expect([cut.phases.health, cut.phases.held]).toEqual([expect.any(Number), expect.any(Number)]);
    expect(times).toBe(1);
    await isWhole(2, prepared.pid as number);
  });

  it.each(['update', 'prepare'])('can be called off while it hangs, of %s', async (command) => {
    const { url, server } = await checker();
    const { pid } = await luod.report();
    const asking = once(server, 'request');
    const updating = ask<UpdateResult>(
      command,
      '--health',
      url,
      '--health-timeout',
      '60s',
      ...version({ VERSION: '2' }),
    );
    await asking;
    expect(await ask('cut')).toMatchObject({ ok: false, exitCode: 1, error: { code: 'EBUSY' } });
    expect(await ask<Cancelled>('cancel')).toMatchObject({ ok: true, exitCode: 0, generation: 1, pid });
    const result = await updating;
    expect(result).toMatchObject({
      ok: false,
      exitCode: 1,
      rolledBack: true,
      error: { code: 'ECANCELED', phase: 'health', message: expect.stringMatching(/^called off by uid/) },
    });
    expect(isAlive(result.toPid as number)).toBe(false);
    await isWhole(1, pid);
  });
});

describe('a rolling listener', () => {
  it('moves nothing while the next version is prepared, and rolls at the cut', async () => {
    luod = await LuodProcess.start({ env: { CUT: 'rolling' } });
    clients = await ByteClients.open(luod.port, 200);
    const { pid } = await luod.report();
    const prepared = await prepare([], { CUT: 'rolling', VERSION: '2' });
    expect(prepared).toMatchObject({ ok: true });
    const { total } = await luod.report();
    await clients.progress();
    const later = await luod.report();
    // All of them have had an answer since, and it is this image that has counted them.
    expect(later).toMatchObject({ pid, generation: 1, live: clients.size });
    expect(later.total.bytes - total.bytes).toBeGreaterThanOrEqual(clients.size);
    const cut = await ask<UpdateResult>('cut');
    expect(cut).toMatchObject({ ok: true, generation: 2, connections: clients.size });
    expect(cut.moved).toBeGreaterThan(0);
    await isWhole(2, prepared.pid as number);
  });
});

describe('what is to be kept while the next version is prepared', () => {
  it('waits until that is called off', async () => {
    luod = await LuodProcess.start({ command: [process.execPath, programPath('keeps-late.mjs')] });
    clients = await ByteClients.open(luod.port, 0);
    const { pid } = await service();
    expect(await ask('prepare')).toMatchObject({ ok: true });
    process.kill(pid as number, 'SIGUSR2');
    await luod.says(/generation 1 waits for it\n/);
    // Signals have a turn of the event loop each, and memory that need not be waited for is there in that of the first.
    process.kill(pid as number, 'SIGUSR2');
    await luod.says(/generation 1 waits for it\n[\s\S]*generation 1 waits for it\n/);
    expect((await service()).held).toEqual([]);
    expect(await ask('cancel')).toMatchObject({ ok: true });
    await luod.says(/generation 1 was given it\n/);
    await expect.poll(async () => (await service()).held).toMatchObject([{ session: 'memory:late' }]);
    expect(luod.stderr).not.toMatch(/has it/);
  });
});

describe('workers', () => {
  const NAMES = ['web/1', 'web/2'];
  let folder: string;
  let before: number[];

  /** The program of the workers, in another version or with a fault. */
  function program(env: Record<string, string> = {}): string[] {
    const words = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    return ['env', ...words, process.execPath, programPath('workers.mjs')];
  }

  async function workers() {
    return (await luod.status()).services;
  }

  async function pids(): Promise<number[]> {
    return (await workers()).map(({ pid }) => pid as number);
  }

  async function prepareAll(...flags: string[]): Promise<number[]> {
    const prepared = await ask<GroupPrepared>('prepare', 'web', ...flags, '--', ...program({ VERSION: '2' }));
    expect(prepared).toMatchObject({ ok: true, exitCode: 0, service: 'web' });
    expect(prepared.workers).toMatchObject(
      NAMES.map((service, at) => ({ ok: true, service, generation: 2, servingPid: before[at] })),
    );
    expect(await workers()).toMatchObject(
      prepared.workers.map(({ pid }, at) => ({ state: 'prepared', pid: before[at], prepared: { pid } })),
    );
    await clients.add(5);
    return prepared.workers.map(({ pid }) => pid as number);
  }

  /** No byte is lost, these processes serve, and those are gone. */
  async function areWhole(serving: number[], gone: number[]): Promise<void> {
    expect(await clients.settle()).toEqual({ missing: 0 });
    expect([clients.wrong, clients.closed]).toEqual([[], 0]);
    expect(await workers()).toMatchObject(
      serving.map((pid) => ({ state: 'serving', pid, prepared: null, restarts: 0 })),
    );
    expect(gone.filter(isAlive)).toEqual([]);
  }

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'liveupdate-prepared-'));
    luod = await LuodProcess.start({
      command: program(),
      flags: ['--name', 'web', '--workers', '2'],
      env: { CONTROL: join(folder, 'control-%w') },
    });
    for (const name of NAMES) await luod.says(new RegExp(`${name}: generation 1 serves, pid \\d+$`, 'm'));
    clients = await ByteClients.open(luod.port, CONNECTIONS);
    before = await pids();
  });

  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it.each([[[]], [['--together']]])('are prepared all, and cut %j', async (flags) => {
    const next = await prepareAll();
    const cut = await ask<GroupUpdateResult>('cut', 'web', ...flags);
    expect(cut).toMatchObject({ ok: true, exitCode: 0, new: NAMES, old: [], restarted: [] });
    expect(cut.workers).toMatchObject(NAMES.map((service, at) => ({ service, toPid: next[at] })));
    await areWhole(next, before);
  });

  it('are given up by no clock while the word for all of them is said', async () => {
    const next = await prepareAll('--for', '3s', '--watch', '3500ms');
    // The turn of the second comes when the watch of the first is over.
    expect(await ask('cut', 'web', '--wait')).toMatchObject({ ok: true, exitCode: 0, new: NAMES });
    await areWhole(next, before);
  });

  it('are cut one by one by their names', async () => {
    const [one, two] = (await prepareAll()) as [number, number];
    expect(await ask('cut', 'web/2')).toMatchObject({ ok: true, exitCode: 0, toPid: two });
    expect(await workers()).toMatchObject([{ state: 'prepared' }, { state: 'serving', pid: two }]);
    expect(await ask('cut', 'web')).toMatchObject({ ok: true, new: ['web/2', 'web/1'], old: [] });
    await areWhole([one, two], before);
  });

  it('of which one was prepared alone are not cut by the name of all', async () => {
    expect(await ask('prepare', 'web/1')).toMatchObject({ ok: true, service: 'web/1' });
    expect(await ask('cut', 'web')).toMatchObject({ ok: false, exitCode: 1, error: { code: 'EINVAL' } });
    expect(await ask('cut', 'web/1')).toMatchObject({ ok: true, exitCode: 0 });
    const [, two] = before;
    const [one] = await pids();
    await areWhole([one as number, two as number], [before[0] as number]);
  });

  it('whose cut luod did not live to finish are not said to be new', async () => {
    const [one] = (await prepareAll('--watch', '4s')) as [number, number];
    const cutting = ask<GroupUpdateResult>('cut', 'web', '--wait');
    await luod.says(/web\/1: generation 2 serves/);
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again();
    expect(await cutting).toMatchObject({
      ok: false,
      exitCode: 1,
      new: ['web/1'],
      old: ['web/2'],
      error: { message: expect.stringMatching(/luod was killed meanwhile/) },
    });
    await areWhole([one, before[1] as number], []);
  });

  it('are called off all', async () => {
    const next = await prepareAll();
    expect(await ask('cancel', 'web')).toMatchObject({
      ok: true,
      exitCode: 0,
      service: 'web',
      workers: NAMES.map((service, at) => ({ ok: true, service, generation: 1, pid: before[at] })),
    });
    for (const command of ['cut', 'cancel'])
      expect(await ask(command, 'web')).toMatchObject({ ok: false, exitCode: 1, error: { code: 'ENOENT' } });
    expect(await ask('update', 'web')).toMatchObject({ ok: true, new: NAMES });
    await areWhole(await pids(), [...before, ...next]);
  });

  it('are none prepared when one cannot get there', async () => {
    const bad = program({ VERSION: '2', FAULT: 'throws', FAULTY: '2' });
    const result = await ask<GroupUpdateResult>('prepare', 'web', '--', ...bad);
    expect(result).toMatchObject({ ok: false, exitCode: 1, new: [], old: NAMES });
    expect(result.error).toMatchObject({
      code: 'ECHILD',
      message: expect.stringMatching(/^'web\/2': .*exited with code 1; 'web\/1', 'web\/2' as before$/),
    });
    expect((await workers())[0]?.lastUpdate).toMatchObject({
      rolledBack: true,
      error: { code: 'ECANCELED' },
    });
    const { stderr } = await luoctl('prepare', 'web', '--', ...bad);
    expect(stderr).toMatch(/\nweb: not all workers are new; as before: web\/1, web\/2\n$/);
    await areWhole(before, []);
  });

  it('are none prepared any more when one of those that were dies', async () => {
    const next = await prepareAll();
    process.kill(next[1] as number, 'SIGKILL');
    for (const name of NAMES) await luod.says(new RegExp(`${name}: rolled back, generation 1 serves on`));
    expect(await ask('cut', 'web')).toMatchObject({
      ok: false,
      exitCode: 1,
      error: {
        code: 'ENOENT',
        message: expect.stringMatching(/the last update of 'web\/2' failed: .*killed by SIGKILL/),
      },
    });
    expect((await workers())[0]?.lastUpdate?.error?.message).toMatch(/^called off by luod, since 'web\/2'/);
    await areWhole(before, next);
  });

  it('are not cut while one of them is on its way, and are called off all', async () => {
    // Of the second worker it never hears whether that is healthy.
    const { url, server } = await checker(({ url }, response) => {
      if (url === '/1') response.end();
    });
    const words = ['--health', `${url}%w`, '--health-timeout', '60s'];
    const asking = new Promise<void>((resolve) => {
      server.on('request', ({ url }) => {
        if (url === '/2') resolve();
      });
    });
    const preparing = ask<GroupUpdateResult>('prepare', 'web', ...words);
    await Promise.all([asking, luod.says(/web\/1: generation 2 is prepared/)]);
    for (const command of ['cut', 'update'])
      expect(await ask(command, 'web')).toMatchObject({ ok: false, exitCode: 1, error: { code: 'EBUSY' } });
    const gone = (await workers()).map(({ prepared }) => prepared?.pid ?? 0);
    expect(await ask('cancel', 'web')).toMatchObject({ ok: true, exitCode: 0 });
    expect(await preparing).toMatchObject({
      ok: false,
      exitCode: 1,
      new: [],
      old: NAMES,
      error: { code: 'ECANCELED' },
    });
    await areWhole(before, gone);
  });

  it('stop at the first that fails in the cut, and the rest is called off', async () => {
    const bad = program({ VERSION: '2', FAULT: 'throws-in-the-cut', FAULTY: '1' });
    const prepared = await ask<GroupPrepared>('prepare', 'web', '--', ...bad);
    expect(prepared).toMatchObject({ ok: true });
    const cut = await ask<GroupUpdateResult>('cut', 'web');
    expect(cut).toMatchObject({ ok: false, exitCode: 1, new: [], old: NAMES, error: { phase: 'retrieve' } });
    await areWhole(
      before,
      prepared.workers.map(({ pid }) => pid as number),
    );
  });
});
