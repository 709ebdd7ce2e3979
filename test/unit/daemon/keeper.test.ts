import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Keeper } from '../../../src/daemon/keeper.js';
import { KeeperLink } from '../../../src/daemon/keeper-link.js';

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-keeper-'));
  path = join(folder, 'keeper');
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

it('listens where only its user may connect, and takes its socket along when it ends', async () => {
  const ended = new Promise<void>((resolve) => new Keeper({ path, patienceMs: 60_000, ended: resolve }));
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const { link, items } = await KeeperLink.open(path, 60_000);
  expect(items).toEqual([]);
  link.bye();
  await ended;
  expect(existsSync(path)).toBe(false);
});

it('ends although its folder is gone', async () => {
  const ended = new Promise<void>((resolve) => new Keeper({ path, patienceMs: 60_000, ended: resolve }));
  const { link } = await KeeperLink.open(path, 60_000);
  rmSync(folder, { recursive: true });
  link.bye();
  await ended;
});

it('turns away whoever is not in charge, and goes on', async () => {
  new Keeper({ path, patienceMs: 60_000, ended: () => undefined });
  const { link } = await KeeperLink.open(path, 60_000);
  link.put('group', 'item', { a: 1 }, []);
  const stranger = createConnection({ path });
  stranger.write('no JSON\n');
  await once(stranger.resume(), 'close');
  await expect(KeeperLink.open(path, 60_000)).rejects.toMatchObject({ code: 'EBUSY' });
  expect(await KeeperLink.look(path)).toEqual([{ group: 'group', item: 'item', record: { a: 1 }, fds: [] }]);
  link.bye();
});
