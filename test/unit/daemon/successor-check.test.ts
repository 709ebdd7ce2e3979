/** Whether a version can take over is found out before it does: whatever it does not understand is refused. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Keeper } from '../../../src/daemon/keeper.js';
import { KeeperLink } from '../../../src/daemon/keeper-link.js';
import { checkHandover } from '../../../src/daemon/successor-check.js';
import { closeFd } from '../../../src/linux/fd.js';
import { createMemfd } from '../../../src/linux/memfd.js';

let folder: string;
let path: string;
let link: KeeperLink;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-check-'));
  path = join(folder, 'keeper');
  new Keeper({ path, patienceMs: 60_000, ended: () => undefined });
  ({ link } = await KeeperLink.open(path, 60_000));
});

afterEach(() => {
  link.bye();
  rmSync(folder, { recursive: true });
});

const session = {
  name: 's',
  uid: 0,
  pid: 1,
  custody: 'hold',
  createdAt: 0,
  state: 'orphaned',
  finished: false,
};
const service = {
  name: 'x',
  command: ['x'],
  cwd: '/',
  restart: 'always',
  maxRestarts: 1,
  fresh: false,
  state: 'serving',
  generation: 1,
  wasReady: true,
  isOwed: false,
  restarts: 0,
  lastUpdate: null,
};

describe('a version that is to take over', () => {
  it('counts the sessions of what it understands', async () => {
    const fd = createMemfd('m', 1);
    link.put('session 1', 'session', session, []);
    link.put('session 1', 'file 1', { token: '1' }, [fd]);
    link.put('service x', 'service', service, []);
    link.put('flb 0 f', 'flb', { name: 'f', uid: 0, createdAt: 0 }, [fd]);
    link.put('client 1', 'socket', {}, [fd]);
    expect(await checkHandover(path)).toBe(1);
    closeFd(fd);
  });

  const strange: [string, string, string, object][] = [
    ['a kind of thing that is newer than it', 'hologram 1', 'x', {}],
    ['a session in a state that it does not know', 'session 1', 'session', { ...session, state: 'dreaming' }],
    ['files without their session', 'session 1', 'file 1', { token: '1' }],
    ['a service without a command', 'service x', 'service', { ...service, command: [] }],
    ['an FLB of nobody', 'flb 0 f', 'flb', { name: 'f' }],
  ];
  it.each(strange)('refuses %s', async (_what, group, item, record) => {
    link.put(group, item, record, []);
    await expect(checkHandover(path)).rejects.toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});
