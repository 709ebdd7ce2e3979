/**
 * At every step of create, preserve, unpreserve, freeze (an owner leaves), retrieve and finish, luod, its client, or both are KILLed:
 * before the request, at some turns of the loop after it, after its answer. Several clients live at a time, and see luod's death wherever
 * they are. Afterwards every held session is whole, every other one is gone, no file is kept twice, and nothing is left.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LuodClient, LuodSession } from '../../src/app/luod-client.js';
import { Host } from '../e2e/host.js';
import { programPath } from '../e2e/luod-process.js';

const VICTIMS = ['luod', 'client', 'both'] as const;
const WHENS = ['before', 0, 1, 3, 'after'] as const;
const FILES = 3;
/** Of killed-client.mjs: create, preserve, unpreserve, leave; and retrieve, retrieveFd, finish. */
const STEPS = { release: FILES + 3, hold: 2 * FILES + 4 };

interface Point {
  readonly custody: 'release' | 'hold';
  readonly victim: (typeof VICTIMS)[number];
  readonly when: (typeof WHENS)[number];
  readonly step: number;
}

/** What a life had said when it ended. */
interface Life {
  readonly name: string;
  readonly point: Point;
  readonly signal: NodeJS.Signals | null;
  readonly code: number | null;
  readonly said: string;
}

/** Every combination, in an order that a seed decides. */
function generate(seed: number): Point[] {
  const points: Point[] = [];
  for (const custody of ['release', 'hold'] as const)
    for (const victim of VICTIMS)
      for (const when of WHENS)
        for (let step = 0; step < STEPS[custody]; step++) points.push({ custody, victim, when, step });
  let state = seed;
  for (let at = points.length - 1; at > 0; at--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = state % (at + 1);
    [points[at], points[other]] = [points[other] as Point, points[at] as Point];
  }
  return points;
}

let host: Host;
let client: LuodClient;

beforeEach(async () => {
  host = await Host.start();
  client = await host.connect();
});

afterEach(async () => {
  client.close();
  await host.stop();
});

async function live(name: string, point: Point): Promise<Life> {
  const { custody } = point;
  const life = { socket: host.socket, name, custody, files: FILES, point, luod: host.pid };
  const child: ChildProcess = spawn(
    process.execPath,
    [programPath('killed-client.mjs'), JSON.stringify(life)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  let said = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { name, point, code, signal, said };
}

/** The session that a life left, once luod has noticed its end; undefined when it is gone. */
async function settle(name: string): Promise<LuodSession | undefined> {
  const attempt = async (work: Promise<LuodSession>): Promise<LuodSession | string> => {
    try {
      return await work;
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  for (;;) {
    const left = await attempt(client.retrieveSession(name));
    if (typeof left !== 'string') return left;
    expect(left).toMatch(/ENOENT|EINVAL/);
    if (left === 'EINVAL') continue;
    const made = await attempt(client.createSession(name));
    // It was left between the two questions, or its owner is there still.
    if (typeof made === 'string') {
      expect(made).toBe('EEXIST');
      continue;
    }
    made.close();
    const late = await attempt(client.retrieveSession(name));
    return typeof late === 'string' ? undefined : late;
  }
}

/** What must be there, and what may be: the file of the request that was not answered. */
function expectation({ said, point }: Life): { files: Set<string>; maybe: Set<string>; mayBeGone: boolean } {
  const files = new Set<string>();
  const maybe = new Set<string>();
  let isFinishing = false;
  for (const line of said.split('\n')) {
    const [word, what, token = ''] = line.split(' ');
    if (what === 'preserve') {
      if (word === 'done') {
        files.add(token);
        maybe.delete(token);
      } else maybe.add(token);
    } else if (what === 'unpreserve') {
      files.delete(token);
      if (word === 'done') maybe.delete(token);
      else maybe.add(token);
    } else if (what === 'finish') {
      isFinishing = true;
      if (word === 'done') files.clear();
    }
  }
  if (point.custody === 'release') return { files: new Set(), maybe: new Set(), mayBeGone: true };
  return { files, maybe, mayBeGone: files.size === 0 || isFinishing };
}

async function check(life: Life, probe: LuodSession): Promise<void> {
  const { name } = life;
  const { files, maybe, mayBeGone } = expectation(life);
  const session = await settle(name);
  const title = `${JSON.stringify(life.point)}\n${life.said}`;
  if (session === undefined) {
    expect(mayBeGone, title).toBe(true);
    return;
  }
  const tokens = (await session.list()).map(({ token }) => token);
  expect(new Set(tokens).size, title).toBe(tokens.length);
  for (const token of files) expect(tokens, title).toContain(token);
  for (const token of tokens)
    expect(files.has(token) || maybe.has(token), `${title}token ${token}`).toBe(true);
  expect(tokens.length, title).toBeGreaterThan(0);
  const fds: number[] = [];
  for (const token of tokens) {
    const fd = await session.retrieve(BigInt(token));
    const bytes = Buffer.alloc(64);
    readSync(fd, bytes, 0, 64, 0);
    expect(bytes.toString().replaceAll('\0', ''), title).toBe(`${name} ${token}`);
    await expect(probe.preserve(fd, 1n), title).rejects.toThrow(/EBUSY/);
    fds.push(fd);
  }
  await session.finish();
  for (const fd of fds) {
    // Its one keeper has let it go.
    await probe.preserve(fd, 1n);
    await probe.unpreserve(1n);
    closeSync(fd);
  }
  session.close();
}

describe('kill points', () => {
  const points = generate(20_261_125);

  it(`${points.length} of them, of luod, a client, or both`, { timeout: 1_800_000 }, async () => {
    expect(points.length).toBeGreaterThanOrEqual(200);
    const probe = await client.createSession('probe');
    // Its own copy of what it gave luod closes after the answer: an answer to a second question means that it has.
    await client.dropSession('nobody').catch(() => undefined);
    await host.wakeKeeper();
    const { fds, keeperFds } = host;
    const killers = points.filter(({ victim }) => victim !== 'client');
    const others = points.filter(({ victim }) => victim === 'client');
    let lives = 0;
    let deaths = 0;
    for (const killer of killers) {
      // luod dies once a round, under the eyes of those that die with it, before it, or not at all.
      const round = [killer, ...others.splice(0, 1)];
      const death = host.died();
      const ends = round.map((point) => live(`life ${lives++}`, point));
      await death;
      await host.spawn();
      for (const life of await Promise.all(ends)) {
        const { point, code, signal } = life;
        const title = `${JSON.stringify(point)}\n${life.said}${host.stderr}`;
        expect([code, signal], title).toEqual(point.victim === 'luod' ? [0, null] : [null, 'SIGKILL']);
        deaths++;
        await check(life, probe);
      }
    }
    expect([deaths, others]).toEqual([points.length, []]);
    while (host.fds > fds || host.keeperFds > keeperFds)
      await client.dropSession('nobody').catch(() => undefined);
    expect([host.fds, host.keeperFds]).toEqual([fds, keeperFds]);
    probe.close();
  });
});
