/** A bad version is stopped: before its commit by a gate, after it by a watch. Real luod, real programs, every byte checked. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ask } from '../../src/cli/luod-client.js';
import type { HistoryEntry } from '../../src/daemon/update-history.js';
import { ByteClients } from './byte-clients.js';
import { cli, isAlive, LuodProcess, processesWith, programPath, run, servesItself } from './luod-process.js';

// Most of these tests start six processes one after the other.
vi.setConfig({ testTimeout: 60_000 });

const CONNECTIONS = 30;

let luod: LuodProcess;
let clients: ByteClients;

async function begin(options: Parameters<typeof LuodProcess.start>[0] = {}): Promise<void> {
  luod = await LuodProcess.start(options);
  clients = await ByteClients.open(luod.port, CONNECTIONS);
}

afterEach(async () => {
  clients.close();
  await luod.stop();
});

/** A command line of node, as --health takes it. */
function script(code: string): string {
  return JSON.stringify([process.execPath, '-e', code]);
}

/** The socket at which a version says whether it is healthy. */
function healthSocket(version: string): string {
  return join(luod.folder, `health-${version}.sock`);
}

async function luoctl<T = Record<string, unknown>>(...words: string[]): Promise<T> {
  const [command, ...rest] = words as [string, ...string[]];
  const { stdout, stderr } = await run([
    ...cli('luoctl'),
    command,
    '--json',
    '--socket',
    luod.socket,
    ...rest,
  ]);
  if (stdout === '') throw new Error(`luoctl ${words.join(' ')}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

async function history(): Promise<HistoryEntry[]> {
  return (await luoctl<{ history: HistoryEntry[] }>('history')).history;
}

async function service() {
  const [one] = (await luod.status()).services;
  if (one === undefined) throw new Error('there is no service');
  return one;
}

/** Whoever serves has every connection and every byte. */
async function nothingIsLost(generation: number): Promise<void> {
  await clients.add(5);
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect([clients.wrong, clients.closed]).toEqual([[], 0]);
  const report = await luod.report();
  expect(report).toMatchObject({ generation, damaged: 0, live: clients.size, ids: clients.size });
  expect(report.total.bytes).toBe(clients.sent);
}

describe('before the commit, a new version is rolled back and nothing is lost', () => {
  beforeEach(() => begin());

  it('when the command fails; what it said is the reason', async () => {
    const check = script('console.log("no database"); process.exit(3)');
    const result = await luod.update(['--health', check], { VERSION: '2' });
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      exitCode: 1,
      generation: 1,
      error: { code: 'ECHILD', phase: 'health' },
    });
    expect(result.error?.message).toMatch(/exited with code 3: no database$/);
    expect(result.phases.health).toBeGreaterThan(0);
    await nothingIsLost(1);
  });

  it('when the command cannot be started', async () => {
    const result = await luod.update(['--health', '/no/such/check --fast'], { VERSION: '2' });
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'ENOENT', phase: 'health' } });
    expect(result.error?.message).toMatch(/'\/no\/such\/check --fast' cannot be started: no such command/);
    await nothingIsLost(1);
  });

  it('when the command does not end; what it started is gone with it', async () => {
    const check = script(
      "require('child_process').spawn('sleep', ['86399.5']); process.stdout.write('waits'); setInterval(() => 0, 1e6)",
    );
    const result = await luod.update(['--health', check, '--health-timeout', '500ms'], { VERSION: '2' });
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'ETIMEDOUT', phase: 'health' },
    });
    expect(result.error?.message).toMatch(/did not end within 500 ms/);
    expect(processesWith('sleep\u000086399.5')).toEqual([]);
    await nothingIsLost(1);
  });

  it('when the URL never answers 2xx', async () => {
    const HEALTH = healthSocket('2');
    const flags = ['--health', `unix:${HEALTH}:/healthz`, '--health-timeout', '2s'];
    const result = await luod.update(flags, { HEALTH, FAULT: 'unhealthy' });
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'ETIMEDOUT', phase: 'health' },
    });
    expect(result.error?.message).toMatch(/not healthy within 2000 ms: unix:.* answered 503/);
    await nothingIsLost(1);
  });

  it('when nobody answers at the URL', async () => {
    const flags = ['--health', 'http://127.0.0.1:1/healthz', '--health-timeout', '300ms'];
    const result = await luod.update(flags, { VERSION: '2' });
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'ETIMEDOUT', phase: 'health' },
    });
    expect(result.error?.message).toMatch(/ECONNREFUSED/);
    await nothingIsLost(1);
  });

  it('when it dies in its minimum uptime', async () => {
    const result = await luod.update(['--min-uptime', '20s'], { FAULT: 'dies-after-ready' });
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'ECHILD', phase: 'health' } });
    expect(result.error?.message).toMatch(/the new version exited with code 9/);
    await nothingIsLost(1);
  });

  it('when it is healthy at first and not through its minimum uptime', async () => {
    const count = join(luod.folder, 'count');
    const check = script(
      `const fs = require('fs'); fs.appendFileSync(${JSON.stringify(count)}, 'x'); process.exit(fs.statSync(${JSON.stringify(count)}).size > 1 ? 1 : 0)`,
    );
    const result = await luod.update(['--health', check, '--min-uptime', '20s'], { VERSION: '2' });
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'ECHILD', phase: 'health' } });
    expect(result.error?.message).toMatch(/^healthy at first, and then/);
    await nothingIsLost(1);
  });

  it('when luod is told to stop meanwhile, and the check ends with it', async () => {
    const file = join(luod.folder, 'pid');
    const check = script(
      `require('fs').writeFileSync('${file}', String(process.pid)); setInterval(() => 0, 1e6)`,
    );
    const update = luod.update(['--health', check, '--health-timeout', '60s'], { VERSION: '2' });
    const checking = () => Number(existsSync(file) ? readFileSync(file, 'utf8') : 0);
    await expect.poll(checking, { timeout: 20_000 }).toBeGreaterThan(0);
    const pid = checking();
    clients.close();
    luod.signal('SIGTERM');
    expect(await update).toMatchObject({ ok: false, error: { code: 'ECANCELED', phase: 'health' } });
    await luod.exited;
    expect(isAlive(pid)).toBe(false);
  });
});

describe('a healthy version', () => {
  beforeEach(() => begin());

  it('takes over when the URL answers, and passes its watch', async () => {
    const HEALTH = healthSocket('2');
    const flags = ['--health', `unix:${HEALTH}`, '--min-uptime', '300ms', '--watch', '1s', '--wait'];
    const result = await luod.update(flags, { HEALTH });
    expect(result).toMatchObject({ ok: true, exitCode: 0, generation: 2, connections: CONNECTIONS });
    expect(result.phases.health).toBeGreaterThan(300);
    expect(luod.stderr).toMatch(/generation 2 passed its watch/);
    expect((await service()).watch).toBeNull();
    await nothingIsLost(2);
  });

  it('is asked for by a command that knows it, before and after the commit', async () => {
    const said = join(luod.folder, 'said');
    const words = ['PID', 'SERVICE', 'GENERATION', 'STAGE'].map(
      (name) => `process.env.LIVEUPDATE_CANDIDATE_${name}`,
    );
    const check = script(
      `require('fs').appendFileSync(${JSON.stringify(said)}, [${words}, process.env.LIVEUPDATE_SOCKET, process.env.LIVEUPDATE_IMAGE].join(' ') + '\\n')`,
    );
    const result = await luod.update(['--health', check], { VERSION: '2' });
    expect(result).toMatchObject({ ok: true, generation: 2 });
    const lines = () => readFileSync(said, 'utf8').split('\n');
    const line = (stage: string) => `${result.toPid} echo 2 ${stage} ${luod.socket} `;
    expect(lines()[0]).toBe(line('ready'));
    await expect.poll(lines, { timeout: 20_000 }).toContain(line('committed'));
    expect((await service()).watch).toMatchObject({
      goesBackTo: [process.execPath, programPath('echo.mjs')],
    });
  });
});

describe('a version that dies after its commit', () => {
  beforeEach(() => begin());

  it('is gone back from: the command before serves, with listener and memory', async () => {
    await luod.update([], { FAULT: 'dies-after-commit' });
    await luod.says(servesItself(3));
    expect(await luod.report()).toMatchObject({ generation: 3, origin: 'crash', damaged: 0 });
    const now = await service();
    expect(now).toMatchObject({
      state: 'serving',
      command: [process.execPath, programPath('echo.mjs')],
      watch: null,
      lastUpdate: { ok: false, rolledBack: true, afterCommit: 'rolledBack', generation: 3 },
    });
    expect(now.lastUpdate?.error).toMatchObject({ code: 'ECHILD', phase: 'watch' });
    expect(now.lastUpdate?.error?.message).toMatch(/the new version exited with code 3/);
    const again = await ByteClients.open(luod.port, 10);
    expect(await again.settle()).toEqual({ missing: 0 });
    again.close();
    expect(await history()).toMatchObject([
      { kind: 'autoRollback', by: 'luod', outcome: 'ok', fromGeneration: 2, toGeneration: 3, carried: false },
      {
        kind: 'update',
        outcome: 'autoRolledBack',
        fromGeneration: 1,
        toGeneration: 2,
        error: { phase: 'watch' },
      },
    ]);
    // What was found bad is nothing to go back to.
    expect(await luoctl('rollback')).toMatchObject({ ok: false, error: { code: 'ENOENT' } });
    // And the next version, which works, gets everything.
    expect(await luod.update([], { VERSION: '3' })).toMatchObject({ ok: true, generation: 4 });
  });

  it('is told to whoever waits for the end of the watch', async () => {
    const result = await luod.update(['--wait'], { FAULT: 'dies-after-commit' });
    expect(result).toMatchObject({
      ok: false,
      exitCode: 1,
      afterCommit: 'rolledBack',
      error: { phase: 'watch' },
    });
  });

  it('is started again when it is not watched', async () => {
    await luod.update(['--watch', '0'], { FAULT: 'dies-after-commit' });
    await luod.says(servesItself(3));
    const now = await service();
    expect(now.command).toContain('FAULT=dies-after-commit');
    expect(now.lastUpdate).toMatchObject({ ok: true, generation: 2 });
    expect(now.watch).toBeNull();
  });

  it('leads, when the command before dies, too, to the usual back-off', async () => {
    await luod.update([], { FAULT: 'dies-after-commit' });
    await luod.says(servesItself(3));
    process.kill((await luod.report()).pid, 'SIGKILL');
    await luod.says(/starts again in \d+ ms[\s\S]*starts again in \d+ ms/);
    await luod.says(servesItself(4));
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
  });

  it('makes rollback mean what ran before the version that runs again', async () => {
    expect(await luod.update([], { VERSION: '2' })).toMatchObject({ ok: true });
    await luod.update([], { FAULT: 'dies-after-commit' });
    await luod.says(servesItself(4));
    expect((await service()).command).toContain('VERSION=2');
    expect(await luoctl('rollback')).toMatchObject({ ok: true, generation: 5 });
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
    expect((await history())[0]).toMatchObject({
      kind: 'rollback',
      outcome: 'ok',
      by: expect.stringMatching(/^uid \d+, pid \d+$/),
    });
  });

  it('is gone back from by the next luod, when this one was killed in the watch', async () => {
    const update = luod.update(['--watch', '60s', '--wait'], { VERSION: '2' });
    await luod.says(servesItself(2));
    const { pid } = await luod.report();
    luod.signal('SIGKILL');
    await luod.exited;
    process.kill(pid, 'SIGKILL');
    await luod.again();
    await luod.says(servesItself(3));
    // Who waited for the end of the watch is told by the luod that saw it.
    expect(await update).toMatchObject({ ok: false, exitCode: 1, afterCommit: 'rolledBack', generation: 3 });
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
    expect(await history()).toMatchObject([
      { kind: 'autoRollback' },
      { kind: 'update', outcome: 'autoRolledBack' },
    ]);
  });
});

describe('another update in the watch', () => {
  it('that is rolled back leaves the watch as it is', async () => {
    await begin();
    expect(await luod.update(['--watch', '60s'], { VERSION: '2' })).toMatchObject({ ok: true });
    expect(await luod.update([], { FAULT: 'exits-at-start' })).toMatchObject({ ok: false, rolledBack: true });
    expect((await service()).watch).toMatchObject({
      goesBackTo: [process.execPath, programPath('echo.mjs')],
    });
    process.kill((await luod.report()).pid, 'SIGKILL');
    await luod.says(servesItself(3));
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
    // The last update that somebody asked for is still the one that was rolled back.
    expect((await service()).lastUpdate).toMatchObject({ rolledBack: true, error: { phase: 'spawn' } });
    expect(await history()).toMatchObject([
      { kind: 'autoRollback' },
      { kind: 'update', outcome: 'rolledBack' },
      { kind: 'update', outcome: 'autoRolledBack' },
    ]);
  });

  it('that succeeds is watched in its place, and gone back from to the one that was watched', async () => {
    await begin();
    expect(await luod.update(['--watch', '60s'], { VERSION: '2' })).toMatchObject({ ok: true });
    expect(await luod.update(['--watch', '60s'], { VERSION: '3' })).toMatchObject({ ok: true });
    process.kill((await luod.report()).pid, 'SIGKILL');
    await luod.says(servesItself(4));
    expect((await service()).command).toContain('VERSION=2');
  });
});

describe('a version of the same command that dies after its commit', () => {
  it('is started again, and it is said that there is none to go back to', async () => {
    await begin({ env: { FAULT: 'dies-after-commit' } });
    await luod.update();
    await luod.says(servesItself(3));
    const { lastUpdate } = await service();
    expect(lastUpdate).toMatchObject({ ok: false, rolledBack: false, afterCommit: 'restarted' });
    expect(lastUpdate?.error?.message).toMatch(
      /the command before it is the same, so there is none to go back to/,
    );
    expect(await history()).toMatchObject([{ kind: 'update', outcome: 'failed', error: { phase: 'watch' } }]);
  });
});

describe('a version that lives and is unhealthy after its commit', () => {
  beforeEach(() => begin());

  it('is replaced by the command before in a live update: no connection notices', async () => {
    const HEALTH = healthSocket('2');
    const flags = ['--health', `unix:${HEALTH}:/healthz`, '--health-timeout', '2s', '--wait'];
    const result = await luod.update(flags, { HEALTH, FAULT: 'unhealthy-after-commit' });
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      exitCode: 1,
      afterCommit: 'rolledBack',
      generation: 3,
      error: { code: 'ETIMEDOUT', phase: 'watch' },
    });
    await nothingIsLost(3);
    expect(await luod.report()).toMatchObject({ origin: 'update' });
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
    const [back, update] = await history();
    expect(back).toMatchObject({
      kind: 'autoRollback',
      outcome: 'ok',
      carried: true,
      fromGeneration: 2,
      toGeneration: 3,
    });
    expect(back?.blackoutMs).toBeGreaterThan(0);
    expect(update).toMatchObject({ kind: 'update', outcome: 'autoRolledBack', error: { code: 'ETIMEDOUT' } });
    expect(update?.error?.message).toMatch(/answered 503/);
  });

  it('is ended when it hangs, and the command before is started with what luod holds', async () => {
    const HEALTH = healthSocket('2');
    const flags = ['--health', `unix:${HEALTH}`, '--health-timeout', '1s', '--timeout', '2s', '--wait'];
    const result = await luod.update(flags, { HEALTH, FAULT: 'hangs-after-commit' });
    expect(result).toMatchObject({ ok: false, exitCode: 1, error: { phase: 'watch' } });
    await luod.says(/generation [3-9] serves, pid \d+\n/);
    expect(await luod.report()).toMatchObject({ origin: 'crash', damaged: 0 });
    expect((await service()).command).toEqual([process.execPath, programPath('echo.mjs')]);
    expect(isAlive(result.toPid as number)).toBe(false);
  });

  it('serves on when the command was the same', async () => {
    const flags = [
      '--health',
      script("process.exit(process.env.LIVEUPDATE_CANDIDATE_STAGE === 'ready' ? 0 : 4)"),
      '--wait',
    ];
    const result = await luod.update(flags);
    expect(result).toMatchObject({ ok: false, rolledBack: false, afterCommit: 'servesOn', generation: 2 });
    await nothingIsLost(2);
  });
});

describe('what luod run is told of health', () => {
  it('every update passes, also by SIGHUP; an update may say otherwise', async () => {
    await begin({ flags: ['--health', script('process.exit(5)'), '--watch', '0'] });
    expect(await luod.update()).toMatchObject({ ok: false, rolledBack: true, error: { phase: 'health' } });
    luod.signal('SIGHUP');
    await luod.says(/rolled back[\s\S]*rolled back/);
    expect(await luod.update(['--no-health'], { VERSION: '2' })).toMatchObject({ ok: true, generation: 2 });
    // What ran before was good once.
    expect(await luoctl('rollback')).toMatchObject({ ok: true, generation: 3 });
    expect(await history()).toMatchObject([
      { kind: 'rollback', outcome: 'ok' },
      { kind: 'update', outcome: 'ok' },
      { kind: 'update', outcome: 'rolledBack', by: 'SIGHUP', error: { phase: 'health' } },
      { kind: 'update', outcome: 'rolledBack', by: expect.stringMatching(/^uid \d+, pid \d+$/) },
    ]);
    await nothingIsLost(3);
  });
});

describe('the history', () => {
  it('has every update with its reason, also in the next luod and in one that replaced itself', async () => {
    await begin();
    const program = (await luod.report()).pid;
    await luod.update([], { FAULT: 'throws-before-ready' });
    await luod.update([], { VERSION: '2' });
    process.kill((await luod.report()).pid, 'SIGUSR1');
    await luod.says(servesItself(3));
    const before = await history();
    expect(before).toMatchObject([
      {
        kind: 'update',
        outcome: 'ok',
        by: expect.stringMatching(/^the program, pid \d+$/),
        fromGeneration: 2,
      },
      {
        kind: 'update',
        outcome: 'ok',
        fromGeneration: 1,
        toGeneration: 2,
        fromPid: program,
      },
      {
        kind: 'update',
        outcome: 'rolledBack',
        toGeneration: 2,
        error: { code: 'ECHILD', phase: 'preserve', message: expect.stringMatching(/exited with code 1/) },
      },
    ]);
    expect(before[1]).not.toHaveProperty('error');
    expect(before[1]?.command).toContain('VERSION=2');
    expect(before[1]?.blackoutMs).toBeGreaterThan(0);
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again();
    expect(await history()).toEqual(before);
    expect(await luoctl('self-update')).toMatchObject({ ok: true });
    expect(await history()).toEqual(before);
    const { stdout } = await run([...cli('luoctl'), 'history', 'echo', '--socket', luod.socket]);
    expect(stdout).toMatch(
      /^WHEN +WHAT +GENERATION +RESULT +BLACKOUT +BY +COMMAND\n20\d\d-\S+ +update +2 -> 3 +ok/,
    );
    expect(stdout).toMatch(/1 -> 2 +rolled-back/);
    expect(stdout).toMatch(/\n\n20\d\d-\S+: the new version exited with code 1 \(ECHILD in preserve\)\n$/);
  });
});

describe('a luod that replaces itself in a watch', () => {
  it('leaves no check behind, and the next one asks again', async () => {
    await begin();
    const file = join(luod.folder, 'pids');
    const check = script(
      `if (process.env.LIVEUPDATE_CANDIDATE_STAGE === 'committed') { require('fs').appendFileSync('${file}', process.pid + ' '); setInterval(() => 0, 1e6); }`,
    );
    const flags = ['--health', check, '--health-timeout', '60s', '--watch', '60s'];
    expect(await luod.update(flags, { VERSION: '2' })).toMatchObject({ ok: true });
    const pids = () => (existsSync(file) ? readFileSync(file, 'utf8').trim().split(' ').map(Number) : []);
    await expect.poll(pids, { timeout: 20_000 }).toHaveLength(1);
    expect(await luoctl('self-update')).toMatchObject({ ok: true });
    expect(existsSync(`/proc/${pids()[0]}`)).toBe(false);
    await expect.poll(pids, { timeout: 20_000 }).toHaveLength(2);
    await nothingIsLost(2);
    clients.close();
    luod.signal('SIGTERM');
    await luod.exited;
    expect(isAlive(pids()[1] as number)).toBe(false);
  });
});

describe('a program that does not use liveupdate', () => {
  it('is restarted by the command before when the new one dies in its watch', async () => {
    const plain = (code: string) => [process.execPath, '-e', `${code}; setInterval(() => 0, 1e6)`];
    luod = await LuodProcess.start({ command: plain('1'), isPlain: true });
    clients = await ByteClients.open(luod.port, 0);
    const result = await luod.updateTo(plain('process.exit(6)'), ['--wait']);
    expect(result).toMatchObject({
      ok: false,
      afterCommit: 'rolledBack',
      error: { code: 'ECHILD', phase: 'watch' },
    });
    await luod.says(/generation 3 serves/);
    expect((await service()).command).toEqual(plain('1'));
  });

  it('and ends in order in its watch, has ended', async () => {
    const plain = (code: string) => [process.execPath, '-e', `${code}; setInterval(() => 0, 1e6)`];
    luod = await LuodProcess.start({ command: plain('1'), isPlain: true });
    clients = await ByteClients.open(luod.port, 0);
    await luod.updateTo(plain('process.exit(0)'));
    expect(await luod.exited).toBe(0);
  });
});

describe('flags that make no sense', () => {
  it('are refused with exit code 2, before luod is asked', async () => {
    await begin();
    const bad = ['--health', 'https://127.0.0.1/'];
    const commands = [
      [...cli('luoctl'), 'update', '--socket', luod.socket, ...bad],
      [...cli('luoctl'), 'update', '--socket', luod.socket, '--watch', 'soon'],
      [...cli('luoctl'), 'start', 'x', '--socket', luod.socket, ...bad, '--', 'true'],
      [...cli('luod'), 'run', '--socket', `${luod.socket}2`, ...bad, '--', 'true'],
    ];
    for (const command of commands) {
      const { code, stderr } = await run(command);
      expect([code, stderr]).toEqual([2, expect.stringMatching(/is not http|above zero/)]);
    }
    expect(await history()).toEqual([]);
    await nothingIsLost(1);
  });

  it('are refused by luod, too, whoever asks it', async () => {
    await begin();
    for (const health of [
      { check: { url: 'http://10.0.0.1/' } },
      { check: {} },
      { watch: -1 },
      { timeout: 0 },
    ]) {
      await expect(ask(luod.socket, { type: 'update', health })).resolves.toMatchObject({
        ok: false,
        error: { code: 'EINVAL', message: expect.stringMatching(/health\./) },
      });
    }
    expect(await history()).toEqual([]);
  });
});
