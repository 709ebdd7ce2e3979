/** luod under a service manager: told when it is ready, kept beyond its death by the descriptor store, given its socket. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LuodClient } from '../../src/app/luod-client.js';
import { openListeningSocket } from '../../src/linux/listen-socket.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { ByteClients } from './byte-clients.js';
import { cli, freePort, isAlive, processesWith, programPath, run } from './luod-process.js';
import { TestManager } from './service-manager.js';

const STORE = 200;

let manager: TestManager;

beforeEach(() => {
  manager = new TestManager(STORE);
});

afterEach(async () => {
  await manager.stop();
  manager.close();
});

const code = (name: string) => expect.objectContaining({ code: name });

describe('a service manager', () => {
  it('hears when luod is ready, how it stands, signs of life, and its end', async () => {
    await manager.start([], { WATCHDOG_USEC: '200000' });
    await manager.hears({ READY: '1', MAINPID: String(manager.pid), STATUS: /^0 services, 0 sessions/ });
    await manager.hears({ WATCHDOG: '1' });
    const client = await LuodClient.connect(manager.socket);
    const session = await client.createSession('s');
    await manager.hears({ STATUS: /1 sessions/ });
    session.close();
    client.close();
    expect(await manager.stop()).toBe(0);
    await manager.hears({ STOPPING: '1' });
    // An orderly end leaves nothing behind.
    expect(manager.stored).toEqual([]);
    expect(processesWith(`${manager.socket}.keeper`)).toEqual([]);
  });

  it('is not spoken to by the programs of luod', async () => {
    await manager.start();
    const shows = 'echo "$NOTIFY_SOCKET|$LISTEN_FDS|$FDSTORE|" > seen.tmp; mv seen.tmp seen; exec sleep 1000';
    const words = [
      'start',
      'show',
      '--socket',
      manager.socket,
      '--cwd',
      manager.folder,
      '--',
      'sh',
      '-c',
      shows,
    ];
    expect((await run([...cli('luoctl'), ...words])).code).toBe(0);
    const seen = join(manager.folder, 'seen');
    await expect.poll(() => existsSync(seen)).toBe(true);
    expect(readFileSync(seen, 'utf8')).toBe('|||\n');
  });

  it('keeps sessions, connections and programs for the next luod', async () => {
    await manager.start();
    const client = await LuodClient.connect(manager.socket);
    const memfds = [1, 2, 3].map((size) => createMemfd('m', size));
    const owned = await client.createSession('owned', { custody: 'hold' });
    await client.registerFlb('shared', memfds[2]!);
    await owned.preserve(memfds[0]!, 1n, { flbs: ['shared'] });
    const left = await client.createSession('left', { custody: 'hold' });
    await left.preserve(memfds[1]!, 2n);
    left.close();
    const port = await freePort();
    const env = [`PORT=${port}`, `CONTROL=${join(manager.folder, 'control')}`];
    const start = [
      'start',
      'echo',
      '--socket',
      manager.socket,
      '--',
      'env',
      ...env,
      process.execPath,
      programPath('echo.mjs'),
    ];
    expect((await run([...cli('luoctl'), ...start])).code).toBe(0);
    const services = async () =>
      JSON.parse((await run([...cli('luoctl'), 'services', '--json', '--socket', manager.socket])).stdout)
        .services as {
        pid: number;
        state: string;
      }[];
    await expect.poll(async () => (await services())[0]?.state).toBe('serving');
    const pid = (await services())[0]?.pid as number;
    const clients = await ByteClients.open(port, 10);
    expect(processesWith(`${manager.socket}.keeper`)).toEqual([]);

    for (const how of ['kill', 'self-update', 'kill']) {
      if (how === 'kill') {
        await manager.kill();
        await manager.start();
      } else expect(await client.selfUpdate()).toMatchObject({ pid: manager.pid, sessions: 2, services: 1 });
      expect((await owned.list()).map(({ token, flbs }) => [token, flbs])).toEqual([['1', ['shared']]]);
      expect(await client.listFlbs()).toMatchObject([{ flb: 'shared', files: 1 }]);
      expect((await services())[0]).toMatchObject({ pid, state: 'serving' });
      const extra = createMemfd('extra', 1);
      await owned.preserve(extra, 9n);
      await owned.unpreserve(9n);
      closeSync(extra);
    }
    const next = await client.retrieveSession('left');
    const file = await next.retrieve(2n);
    expect(fstatSync(file).ino).toBe(fstatSync(memfds[1]!).ino);
    await next.finish();
    const update = await run([...cli('luoctl'), 'update', '--json', '--socket', manager.socket]);
    expect(JSON.parse(update.stdout)).toMatchObject({ ok: true, generation: 2, fromPid: pid });
    expect(await clients.settle()).toEqual({ missing: 0 });
    expect([clients.wrong, clients.closed]).toEqual([[], 0]);
    const last = (await services())[0]?.pid as number;
    clients.close();
    for (const fd of [file, ...memfds]) closeSync(fd);
    for (const session of [owned, next]) session.close();
    client.close();
    await manager.stop();
    expect(isAlive(last)).toBe(false);
    expect(manager.stored).toEqual([]);
  });

  it('whose store is full is told of with an errno, and nothing is lost', async () => {
    await manager.start();
    const client = await LuodClient.connect(manager.socket);
    const session = await client.createSession('s', { custody: 'hold' });
    const memfds = Array.from({ length: STORE }, () => createMemfd('m', 1));
    let kept = 0n;
    const full = (async () => {
      for (const fd of memfds) await session.preserve(fd, kept++);
    })();
    await expect(full).rejects.toThrow(code('EMFILE'));
    const files = (await session.list()).length;
    expect(files).toBeGreaterThan(STORE / 2);
    await manager.kill();
    await manager.start();
    expect((await session.list()).length).toBe(files);
    for (const fd of memfds) closeSync(fd);
    session.close();
    client.close();
  });

  it('may give the socket that luod listens on', async () => {
    mkdirSync(dirname(manager.socket), { mode: 0o755 });
    const fd = openListeningSocket({ path: manager.socket }, 128);
    // Who comes before luod waits.
    const early = LuodClient.connect(manager.socket);
    manager.units = [{ name: 'luod.socket', fd }];
    for (let start = 0; start < 2; start++) {
      await manager.start();
      const client = start === 0 ? await early : await LuodClient.connect(manager.socket);
      expect((await client.hello()).protocol).toBe(1);
      client.close();
      if (start === 0) await manager.kill();
    }
    await manager.stop();
    // It is the manager's, and stays.
    expect(existsSync(manager.socket)).toBe(true);
    const memfd = createMemfd('no socket', 1);
    manager.units = [{ name: 'luod.socket', fd: memfd }];
    await expect(manager.start()).rejects.toThrow(/EINVAL.*listening unix stream socket/s);
    closeSync(memfd);
    closeSync(fd);
  });

  it('keeps its socket as it is beyond a self-update', async () => {
    mkdirSync(dirname(manager.socket), { mode: 0o755 });
    const fd = openListeningSocket({ path: manager.socket }, 128);
    chmodSync(manager.socket, 0o666);
    manager.units = [{ name: 'luod.socket', fd }];
    await manager.start();
    const client = await LuodClient.connect(manager.socket);
    const session = await client.createSession('s');
    for (let update = 0; update < 2; update++) {
      await client.selfUpdate();
      expect(statSync(manager.socket).mode & 0o777).toBe(0o666);
    }
    await manager.kill();
    await manager.start();
    expect(await session.getName()).toBe('s');
    await client.selfUpdate();
    expect(statSync(manager.socket).mode & 0o777).toBe(0o666);
    session.close();
    client.close();
    await manager.stop();
    // It is the manager's, and stays.
    expect(existsSync(manager.socket)).toBe(true);
    expect(manager.stored).toEqual([]);
    closeSync(fd);
  });

  it('whose store is full refuses clients and programs with an errno, and luod goes on', async () => {
    await manager.start();
    const client = await LuodClient.connect(manager.socket);
    const session = await client.createSession('s', { custody: 'hold' });
    const port = await freePort();
    const program = [process.execPath, programPath('echo.mjs')];
    const env = ['env', `PORT=${port}`, `CONTROL=${join(manager.folder, 'control')}`];
    const memfd = () => createMemfd('m', 1);
    let token = 0n;
    const fill = async () => {
      for (;;) {
        const fd = memfd();
        try {
          await session.preserve(fd, token);
          token++;
        } finally {
          closeSync(fd);
        }
      }
    };
    await expect(fill()).rejects.toThrow(code('EMFILE'));
    const fds = readdirSync(`/proc/${manager.pid}/fd`).length;
    const other = LuodClient.connect(manager.socket).then((one) => one.hello());
    await expect(other).rejects.toThrow(code('EMFILE'));
    // With room for luoctl, and for the program's process and connection, but not for what it has luod hold.
    for (let room = 0; room < 3; room++) await session.unpreserve(--token);
    const words = ['start', 'echo', '--json', '--socket', manager.socket, '--', ...env, ...program];
    const started = await run([...cli('luoctl'), ...words]);
    expect([started.code, started.stderr]).toEqual([0, '']);
    const held =
      /echo: '[^']+' is held, but not beyond luod's own end: EMFILE: put: .*FileDescriptorStoreMax=/;
    await expect.poll(() => manager.stderr).toMatch(held);
    expect((await session.list()).length).toBe(Number(token));
    for (; token > 0n; ) await session.unpreserve(--token);
    expect((await run([...cli('luoctl'), 'stop', 'echo', '--socket', manager.socket])).code).toBe(0);
    expect(manager.stderr).not.toMatch(/EBADF/);
    await expect.poll(() => readdirSync(`/proc/${manager.pid}/fd`).length).toBeLessThan(fds);
    session.close();
    client.close();
  });

  it('hears that a self-update came to nothing', async () => {
    // Words of its own beside a limit for all words of a program: the next luod would have too many, its check does not.
    const [node, luod] = cli('luod') as [string, string];
    const title = `--title=${'x'.repeat(120_000)}`;
    await manager.launch([node, title, title, luod, 'serve', '--socket', manager.socket]);
    const stack = `--stack=${900 << 10}:`;
    expect(spawnSync('prlimit', ['--pid', String(manager.pid), stack]).status).toBe(0);
    const client = await LuodClient.connect(manager.socket);
    const session = await client.createSession('s');
    manager.said.splice(0);
    await expect(client.selfUpdate()).rejects.toThrow(code('E2BIG'));
    await manager.hears({ READY: '1', STATUS: /1 sessions/ });
    expect(manager.said.filter((one) => 'RELOADING' in one || 'READY' in one)).toMatchObject([
      { RELOADING: '1', MONOTONIC_USEC: expect.stringMatching(/^\d+$/) },
      { READY: '1' },
    ]);
    await manager.kill();
    await manager.start();
    expect(await session.getName()).toBe('s');
    session.close();
    client.close();
  });

  it('whose store is new gets what a keeper has', async () => {
    await manager.start([], { FDSTORE: undefined });
    const client = await LuodClient.connect(manager.socket);
    const session = await client.createSession('s');
    const memfd = createMemfd('m', 1);
    await session.preserve(memfd, 1n);
    expect(manager.stored).toEqual([]);
    await manager.kill();
    // Nothing is lost by a store that is too small for it.
    await expect(manager.start([], { FDSTORE: '3' })).rejects.toThrow(/EMFILE/);
    expect(manager.stored).toEqual([]);
    await manager.start();
    for (let death = 0; death < 2; death++) {
      await manager.kill();
      await manager.start();
      expect((await session.list()).map(({ token }) => token)).toEqual(['1']);
      expect(processesWith(`${manager.socket}.keeper`)).toEqual([]);
    }
    closeSync(memfd);
    session.close();
    client.close();
  });
});

describe('the unit files', () => {
  const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;

  it.skipIf(!hasSystemd)('are sound', () => {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-units-'));
    const units = fileURLToPath(new URL('../../packaging/systemd', import.meta.url));
    copyFileSync(join(units, 'luod.socket'), join(folder, 'luod.socket'));
    const service = readFileSync(join(units, 'luod.service'), 'utf8');
    // The commands are where npm puts them on the host; here node stands for them.
    writeFileSync(
      join(folder, 'luod.service'),
      service.replaceAll(/\/usr\/bin\/luo(d|ctl)/g, process.execPath),
    );
    const files = ['luod.service', 'luod.socket'].map((name) => join(folder, name));
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...files], {
      encoding: 'utf8',
    });
    rmSync(folder, { recursive: true });
    expect([status, stderr]).toEqual([0, '']);
  });
});

/** A boot of systemd changes more than namespaces hold (limits of the kernel, say), so it is asked for. */
const isAsked = process.env.LIVEUPDATE_SYSTEMD === '1';

describe.skipIf(!isAsked)('a real systemd', () => {
  it('keeps what luod keeps', { timeout: 120_000 }, () => {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-systemd-'));
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const namespaces = ['--fork', '--pid', '--kill-child', '--mount', '--mount-proc', '--uts', '--ipc'];
    const boot = join(root, 'test', 'systemd', 'boot.sh');
    const { stdout, stderr } = spawnSync('unshare', [...namespaces, boot, folder, process.execPath, root], {
      encoding: 'utf8',
      timeout: 100_000,
    });
    const log = (name: string) =>
      existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8') : '';
    const said = log('probe.log');
    if (!said.includes('"stopped"')) throw new Error([stdout, stderr, said, log('luod.log')].join('\n'));
    const steps = said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    rmSync(folder, { recursive: true });
    const whole = { files: 100, services: ['sleeper true'], zombies: 0, state: 'active' };
    expect(steps).toMatchObject([
      { step: 'before', restarts: 0, ...whole },
      { step: 'killed', restarts: 1, ...whole },
      { step: 'replaced', restarts: 1, ...whole },
      { step: 'killed again', restarts: 2, ...whole },
      { step: 'stopped', state: 'inactive', stored: 0 },
    ]);
    process.stdout.write(`a file kept with systemd's store: ${steps.at(-1)?.msPerFile} ms\n`);
  });
});
