/**
 * luod, its clients, or both are killed at generated points, in the middle of whatever they do; the next luod takes over.
 * After each death: every session is as its owner knows it, every orphan is whole, what was let go is gone, and no file is kept twice.
 */
import { closeSync, fstatSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LuodClient, LuodSession } from '../../src/app/luod-client.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { Host } from '../e2e/host.js';
import { random } from './random.js';

/** Clients that are killed themselves: kill-points.test.ts. */
const KILLS = Number(process.env.LIVEUPDATE_KILLS ?? 40);

/** A session as its owner knows it: tokens and the inodes behind them. */
interface Known {
  readonly name: string;
  readonly custody: 'hold' | 'release';
  readonly files: Map<bigint, number>;
  /** The owner's; undefined for an orphan. */
  handle: LuodSession | undefined;
  /** It was retrieved: files come out, none go in. */
  claimed: boolean;
}

let host: Host;

beforeEach(async () => {
  host = await Host.start();
});

afterEach(() => host.stop());

describe('deaths of luod and of its clients', () => {
  it(`${KILLS} of them, at generated points`, { timeout: 900_000 }, async () => {
    const next = random(20_261_124);
    const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(next() * list.length)];
    const clients: LuodClient[] = [];
    for (let count = 0; count < 3; count++) clients.push(await host.connect());
    // An answer means that luod, and so the keeper, has the connection.
    for (const one of clients) await one.dropSession('nobody').catch(() => undefined);
    await host.wakeKeeper();
    const baseFds = host.fds;
    const keeperFds = host.keeperFds;
    const sessions: Known[] = [];
    let names = 0;
    let token = 0n;
    let kills = 0;
    let answeredLate = 0;
    /** Descriptors of this process whose files are with luod. */
    const own: number[] = [];

    const client = () => pick(clients) as LuodClient;
    const owned = () => sessions.filter(({ handle, claimed }) => handle !== undefined && !claimed);

    async function act(): Promise<void> {
      const what = next();
      if (what < 0.2 && sessions.length < 12) {
        const custody = next() < 0.6 ? 'hold' : 'release';
        const name = `s${names++}`;
        const handle = await client().createSession(name, { custody });
        sessions.push({ name, custody, files: new Map(), handle, claimed: false });
      } else if (what < 0.55) {
        const session = pick(owned());
        if (session === undefined) return;
        const fd = createMemfd('f', 1 + Math.floor(next() * 5000));
        own.push(fd);
        const mine = ++token;
        await session.handle?.preserve(fd, mine);
        session.files.set(mine, fstatSync(fd).ino);
      } else if (what < 0.62) {
        const session = pick(owned());
        const mine = session === undefined ? undefined : pick([...session.files.keys()]);
        if (session === undefined || mine === undefined) return;
        await session.handle?.unpreserve(mine);
        session.files.delete(mine);
      } else if (what < 0.72) {
        // An owner dies: all that luod sees of it is that its descriptors are closed.
        const session = pick(sessions.filter(({ handle }) => handle !== undefined));
        if (session === undefined) return;
        session.handle?.close();
        session.handle = undefined;
        if (session.custody === 'release' || session.files.size === 0)
          sessions.splice(sessions.indexOf(session), 1);
      } else if (what < 0.85) {
        const session = pick(sessions.filter(({ handle }) => handle === undefined));
        if (session === undefined) return;
        session.handle = await retrieve(session);
        session.claimed = true;
      } else if (what < 0.95) {
        const session = pick(sessions.filter(({ claimed, handle }) => claimed && handle !== undefined));
        const mine = session === undefined ? undefined : pick([...session.files]);
        if (session === undefined || mine === undefined) return;
        const fd = (await session.handle?.retrieve(mine[0])) as number;
        expect(fstatSync(fd).ino).toBe(mine[1]);
        closeSync(fd);
      } else {
        const session = pick(sessions.filter(({ claimed, handle }) => claimed && handle !== undefined));
        if (session === undefined) return;
        await session.handle?.finish();
        session.handle?.close();
        sessions.splice(sessions.indexOf(session), 1);
      }
    }

    /** The end of an owner is an event of its own, which luod may not have seen yet. */
    async function retrieve({ name }: Known): Promise<LuodSession> {
      for (;;) {
        try {
          return await client().retrieveSession(name);
        } catch (error) {
          const { code } = error as { code: string };
          if (code !== 'ENOENT' && code !== 'EINVAL') throw error;
        }
      }
    }

    async function check(): Promise<void> {
      for (const { handle, files, name } of sessions) {
        if (handle === undefined) continue;
        const kept = (await handle.list()).map(({ token: one }) => BigInt(one)).sort();
        expect(kept, name).toEqual([...files.keys()].sort());
      }
    }

    while (kills < KILLS) {
      const before = Math.floor(next() * 3);
      for (let step = 0; step < before; step++) await act();
      // Something is under way when luod dies: not begun, sent, done and not answered, or answered.
      let isDone = false;
      const underWay = act().then(() => {
        isDone = true;
      });
      for (let turns = Math.floor(next() * 6); turns > 0; turns--) await nextTurn();
      if (next() < 0.15) {
        const session = pick(
          sessions.filter(
            ({ handle, custody, files }) => handle !== undefined && custody === 'hold' && files.size > 0,
          ),
        );
        // A client that dies with luod.
        if (session !== undefined && isDone) {
          session.handle?.close();
          session.handle = undefined;
        }
      }
      await host.kill();
      kills++;
      if (!isDone) answeredLate++;
      await host.spawn();
      await underWay.catch((error) => {
        throw new Error(`after ${kills} deaths: ${error}\n${host.stderr}`);
      });
      await check();
    }
    expect(answeredLate).toBeGreaterThan(KILLS / 10);

    // Every orphan is whole.
    for (const session of sessions) {
      if (session.handle === undefined) {
        session.handle = await retrieve(session);
        session.claimed = true;
      }
    }
    await check();
    for (const { handle, claimed, files } of sessions) {
      for (const [mine, inode] of claimed ? files : []) {
        const fd = (await handle?.retrieve(mine)) as number;
        expect(fstatSync(fd).ino).toBe(inode);
        closeSync(fd);
      }
    }
    // No file is kept twice: each can be kept again only when its session has let it go.
    const probe = await client().createSession('probe');
    const inodes = new Set(sessions.flatMap(({ files }) => [...files.values()]));
    for (const fd of own) {
      const attempt = probe.preserve(fd, ++token);
      if (inodes.has(fstatSync(fd).ino)) await expect(attempt).rejects.toThrow(/EBUSY/);
      else await attempt;
    }
    probe.close();
    for (const { handle, claimed } of sessions) {
      if (claimed) await handle?.finish();
      handle?.close();
    }
    for (const { name, claimed, custody, files } of sessions) {
      if (claimed || custody === 'release' || files.size === 0) continue;
      while (
        (await client()
          .dropSession(name)
          .catch(() => 0)) !== 1
      )
        await nextTurn();
    }
    // Nothing of it is left, in luod or with the keeper.
    while (host.fds > baseFds || host.keeperFds > keeperFds)
      await client()
        .dropSession('nobody')
        .catch(() => undefined);
    expect([host.fds, host.keeperFds]).toEqual([baseFds, keeperFds]);
    for (const fd of own) closeSync(fd);
    for (const one of clients) one.close();
  });
});
