import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { processesWith } from './luod-process.js';

const benchmark = (name: string): string => fileURLToPath(new URL(`../../bench/${name}`, import.meta.url));

let folder: string;
/** Where the benchmark puts everything of its own. */
let temporary: string;
let child: ChildProcess | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-benchmark-'));
  temporary = join(folder, 'tmp');
  mkdirSync(temporary);
});

afterEach(async () => {
  if (child !== undefined && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGINT');
    await once(child, 'exit');
  }
  rmSync(folder, { recursive: true, force: true });
});

function start(name: string, ...args: string[]): ChildProcess {
  child = spawn(process.execPath, [benchmark(name), ...args], {
    env: { ...process.env, TMPDIR: temporary },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  return child;
}

async function run(
  name: string,
  ...args: string[]
): Promise<{ out: string; said: string; code: number | null }> {
  const started = start(name, ...args);
  let out = '';
  let said = '';
  started.stdout!.setEncoding('utf8').on('data', (text) => {
    out += text;
  });
  started.stderr!.setEncoding('utf8').on('data', (text) => {
    said += text;
  });
  await once(started, 'close');
  return { out, said, code: started.exitCode };
}

const SMALL = ['--runs', '1', '--seconds', '2', '--warm-up', '0', '--cache', '1048576'];
const CLIENTS = ['--connections', '10', '--rate', '100', '--idle', '10', '--tcp', '5', '--streams', '0'];
const SUBSCRIBERS = ['--connections', '2', '--rate', '20', '--idle', '0', '--tcp', '0', '--streams', '5'];

describe('bench:peers', () => {
  it('loses nothing of ours, tells what a restart loses, and writes it all down', {
    timeout: 120_000,
  }, async () => {
    const docs = join(folder, 'docs');
    mkdirSync(docs);
    const page = join(docs, 'performance.md');
    writeFileSync(page, 'above\n<!-- bench:peers begin -->\nold\n<!-- bench:peers end -->\nbelow\n');

    const { out, said, code } = await run(
      'peers/main.mjs',
      ...SMALL,
      ...CLIENTS,
      ...['--only', 'ours,restart', '--json', '--write', '--docs', docs],
    );

    expect(code, said).toBe(0);
    const result = JSON.parse(out);
    expect(result).toMatchObject({
      machine: { cores: expect.any(Number), kernel: expect.any(String), node: process.versions.node },
      options: { runs: 1, connections: 10, rate: 100, idle: 10, tcp: 5, streams: 0 },
      systems: [
        { name: 'ours', available: true },
        { name: 'restart', available: true },
      ],
    });
    const [ours, restart] = result.systems;
    expect(ours.runs).toHaveLength(1);
    expect(ours.runs[0]).toMatchObject({
      failed: 0,
      failures: {},
      busyClosed: 0,
      idle: { count: 10, alive: 10, by: { 2: 10 } },
      tcp: { count: 5, alive: 5, by: { 2: 5 }, closed: 0, lost: 0, wrong: 0 },
      counter: 'kept',
      cache: 'kept',
      newVersionMs: expect.any(Number),
      gapMs: expect.any(Number),
      before: { p50: expect.any(Number), p99: expect.any(Number) },
      during: { p50: expect.any(Number), p99: expect.any(Number) },
      cpuDuring: expect.any(Number),
      peakBytes: expect.any(Number),
    });
    expect(ours.runs[0].requests).toBeGreaterThan(0);
    expect(ours.summary.longestMs).toMatchObject({ median: expect.any(Number), highest: expect.any(Number) });
    expect(restart.runs[0]).toMatchObject({
      idle: { count: 10, alive: 0 },
      tcp: { count: 5, alive: 0 },
      counter: 'lost',
      cache: 'lost',
    });
    expect(restart.runs[0].tcp.closed).toBeGreaterThanOrEqual(5);

    expect(JSON.parse(readFileSync(join(docs, 'peers.json'), 'utf8'))).toEqual(result);
    const text = readFileSync(page, 'utf8');
    expect(text).toMatch(/^above\n/);
    expect(text).toMatch(/\nbelow\n$/);
    expect(text).not.toContain('old\n');
    expect(text).toContain('| **plain restart**: ');
    const svg = readFileSync(join(docs, 'peers.svg'), 'utf8');
    expect(svg.match(/class="median"/g)).toHaveLength(1 + result.systems.length);
    expect(svg).not.toMatch(/NaN|undefined/);
    expect(readdirSync(temporary)).toEqual([]);
    expect(processesWith(temporary)).toEqual([]);
  });

  it('ends no event stream of ours and misses no event; a restart does both', {
    timeout: 120_000,
  }, async (context) => {
    const { out, said, code } = await run(
      'peers/main.mjs',
      ...SMALL,
      ...SUBSCRIBERS,
      ...['--only', 'ours,exec,restart', '--json'],
    );
    expect(code, said).toBe(0);
    const { subscriber, systems } = JSON.parse(out);
    if (subscriber.reason !== undefined) context.skip(subscriber.reason);
    const [ours, inPlace, restart] = systems;
    for (const { runs } of [ours, inPlace])
      expect(runs[0].streams).toMatchObject({
        count: 5,
        alive: 5,
        by: { 2: 5 },
        ended: 0,
        refused: 0,
        missed: 0,
        repeated: 0,
      });
    expect(ours.runs[0].streams.gapMs).toBeLessThan(subscriber.reconnectMs);
    expect(restart.runs[0].streams).toMatchObject({ count: 5, alive: 0, by: {}, ended: 5, repeated: 0 });
    expect(restart.runs[0].streams.missed).toBeGreaterThanOrEqual((5 * subscriber.reconnectMs) / 50 - 5);
    expect(restart.summary.streamGapMs.median).toBeGreaterThanOrEqual(subscriber.reconnectMs);
    expect(readdirSync(temporary)).toEqual([]);
    expect(processesWith(temporary)).toEqual([]);
  });

  it('leaves nothing behind when it is interrupted', { timeout: 120_000 }, async () => {
    const started = start('peers/main.mjs', ...SMALL, ...CLIENTS, '--only', 'ours');
    await once(started.stderr!, 'data');
    const exited = once(started, 'exit');
    started.kill('SIGINT');
    expect(await exited).toEqual([1, null]);
    expect(readdirSync(temporary)).toEqual([]);
    expect(processesWith(temporary)).toEqual([]);
  });

  it.each([
    [['--only', 'ours,nothing'], "there is no system 'nothing'"],
    [['--runs', '0'], "--runs takes a whole number from 1, not '0'"],
    [['--tcp', '0', '--idle', '0', '--connections', '0', '--streams', '0'], 'no clients'],
  ])('refuses %j', async (args, message) => {
    const { said, code } = await run('peers/main.mjs', ...args);
    expect(code).toBe(2);
    expect(said).toContain(message);
  });
});

describe('bench', () => {
  it('compares the blackout with the same service moved by hand', { timeout: 120_000 }, async () => {
    const { out, said, code } = await run(
      'blackout.mjs',
      ...['--connections', '20', '--memory', '65536', '--rolling', '0', '--prepared', '20'],
      ...['--updates', '2', '--rounds', '1', '--json'],
    );
    expect(code, said).toBe(0);
    const some = { median: expect.any(Number), max: expect.any(Number) };
    const saw = { cut: some, update: some };
    const ours = { ...saw, quiet: some };
    const both = { updates: 2, blackout: some, closed: 0, wrong: 0 };
    const row = { ...both, connections: 20, gap: ours, wait: ours };
    const baseline = { ...both, gap: saw, wait: saw };
    expect(JSON.parse(out).rows).toMatchObject([
      { ...row, cut: 'atomic', baseline, blackoutRatio: expect.any(Number) },
      { ...row, cut: 'atomic, prepared' },
      { ...row, cut: 'rolling, prepared' },
    ]);
    expect(processesWith(temporary)).toEqual([]);
    expect(readdirSync(temporary)).toEqual([]);
  });
});
