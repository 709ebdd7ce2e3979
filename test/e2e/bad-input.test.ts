import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cli, LuodProcess, programPath, run } from './luod-process.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-bad-'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const NODE = process.execPath;

describe('luod refuses with one line', () => {
  const cases: [string, string[], number, RegExp][] = [
    ['an unknown option', ['run', '--fast', '--', 'true'], 2, /unknown option '--fast'/],
    ['an unknown command', ['walk'], 2, /unknown command 'walk'/],
    ['a missing program', ['run', '--'], 2, /missing required argument 'command'/],
    ['a bad number', ['run', '--max-restarts', 'many', '--', 'true'], 2, /whole number/],
    ['a bad policy', ['run', '--restart', 'often', '--', 'true'], 2, /Allowed choices/],
    [
      'a program that is not there',
      ['run', '--', 'no-such-program'],
      127,
      /cannot start 'no-such-program': no such command/,
    ],
  ];
  for (const [what, args, code, message] of cases) {
    it(what, async () => {
      const socket = join(folder, 'luod.sock');
      const result = await run([...cli('luod'), ...args], { LIVEUPDATE_SOCKET: socket });
      expect(result.code).toBe(code);
      expect(result.stderr).toMatch(message);
      expect(result.stderr).not.toMatch(/^\s+at /m);
    });
  }

  it('a path that is no socket, and leaves it alone', async () => {
    const path = join(folder, 'file');
    writeFileSync(path, 'precious');
    const { code, stderr } = await run([...cli('luod'), 'run', '--socket', path, '--', 'true']);
    expect([code, stderr]).toEqual([
      1,
      `luod: EADDRINUSE: ${path} exists and is no socket; choose another with --socket\n`,
    ]);
  });

  it('a path that is too long', async () => {
    const { code, stderr } = await run([
      ...cli('luod'),
      'run',
      '--socket',
      join(folder, 'x'.repeat(120)),
      '--',
      'true',
    ]);
    expect([code, stderr.split('\n').length]).toEqual([1, 2]);
    expect(stderr).toMatch(/at most 107 bytes/);
  });

  it('a socket on which another luod listens, which goes on', async () => {
    const luod = await LuodProcess.start();
    const { code, stderr } = await run([...cli('luod'), 'run', '--socket', luod.socket, '--', 'true']);
    expect([code, stderr]).toEqual([
      1,
      `luod: EADDRINUSE: a luod listens at ${luod.socket} already; choose another path with --socket\n`,
    ]);
    expect((await luod.status()).services[0]?.state).toBe('serving');
    await luod.stop();
  });

  it('but takes over the socket of a luod that died', async () => {
    const luod = await LuodProcess.start();
    const { pid } = await luod.report();
    luod.signal('SIGKILL');
    await luod.exited;
    process.kill(pid, 'SIGTERM');
    expect(await run([...cli('luod'), 'run', '--socket', luod.socket, '--', NODE, '-e', ''])).toMatchObject({
      code: 0,
    });
    await luod.stop();
  });
});

describe('luod run passes on', () => {
  it('the exit code of a program that fails before it is ready', async () => {
    const args = ['run', '--socket', join(folder, 's'), '--', NODE, '-e', 'process.exit(42)'];
    expect(await run([...cli('luod'), ...args])).toMatchObject({ code: 42 });
  });

  it('the end of a program that has nothing to do', async () => {
    expect(await run([...cli('luod'), 'run', '--socket', join(folder, 's'), '--', 'true'])).toMatchObject({
      code: 0,
    });
  });
});

describe('luoctl refuses with one line', () => {
  const cases: [string, string[], number, RegExp][] = [
    ['no luod', ['status'], 1, /^luoctl: ENOENT: no luod listens at .*start one with `luod run -- COMMAND`/],
    ['an unknown option', ['update', '--faster'], 2, /unknown option '--faster'/],
    ['a bad time', ['update', '--timeout', 'soon'], 2, /Give a time above zero, like 30s/],
    ['a command without dashes', ['update', 'echo', 'node', 'x.mjs'], 2, /luoctl update echo -- node x.mjs/],
    ['nothing behind the dashes', ['update', '--'], 2, /no command after --/],
  ];
  for (const [what, args, code, message] of cases) {
    it(what, async () => {
      const result = await run([...cli('luoctl'), ...args], {
        LIVEUPDATE_SOCKET: join(folder, 'nobody.sock'),
      });
      expect(result.code).toBe(code);
      expect(result.stderr).toMatch(message);
      expect(result.stdout).toBe('');
    });
  }

  it('a service that is not there, as JSON when asked', async () => {
    const luod = await LuodProcess.start();
    const { code, stdout } = await run([
      ...cli('luoctl'),
      'update',
      'chat',
      '--json',
      '--socket',
      luod.socket,
    ]);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toEqual({
      ok: false,
      error: { code: 'ENOENT', errno: -2, message: "ENOENT: no service 'chat'; there is 'echo'" },
    });
    await luod.stop();
  });

  it('a new command that is not there; the old one serves on', async () => {
    const luod = await LuodProcess.start();
    const { code, stderr } = await run([
      ...cli('luoctl'),
      'update',
      '--socket',
      luod.socket,
      '--',
      'no-such-program',
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/rolled back: generation 1 .*serves on\nreason: .*cannot start 'no-such-program'/);
    expect(await luod.report()).toMatchObject({ generation: 1 });
    await luod.stop();
  });
});

describe('a program is refused with one line', () => {
  const cases: [string, RegExp][] = [
    ['two-listeners', /^EEXIST: listener: the name is in use in this program \(session 'listener:same'\)\n$/],
    ['port-taken', /^EADDRINUSE: listen: 127\.0\.0\.1:\d+ is taken by another program\n$/],
    ['state-not-cloneable', /^EINVAL: the value cannot be cloned: .* could not be cloned\.\n$/],
    ['state-no-object', /^EINVAL: state: a state is a plain object.*, not number\n$/],
    [
      'memory-too-large',
      /^EFBIG: \d+ bytes are more than one view can map on Node .*; use several memories\n$/,
    ],
    ['memory-no-size', /^EINVAL: a memory's size is a positive whole number of bytes, not -1\n$/],
    ['name-too-long', /^EINVAL: 'state:x+' has 86 bytes; a session's name has at most 63\n$/],
    ['unknown-socket', /^ENOENT: connection: the socket did not come through lu\.listen\(\)\n$/],
    ['ready-twice', /^EBUSY: ready: ready\(\) was called before\n$/],
    ['keep-nothing', /^EINVAL: keep: keep\(\) takes a live file, not number\n$/],
    ['update-before-ready', /^EBUSY: update: the program did not call ready\(\) yet\n$/],
  ];
  for (const [what, message] of cases) {
    it(what.replaceAll('-', ' '), async () => {
      const taken = createServer().listen(0, '127.0.0.1');
      await once(taken, 'listening');
      const { port } = taken.address() as { port: number };
      const result = await run([NODE, programPath('bad-input.mjs'), what], { PORT: String(port) });
      taken.close();
      expect(result.stdout).toMatch(message);
      expect(result.stderr).toBe('');
    });
  }
});

describe('a program that does not use liveupdate', () => {
  it('is restarted in the plain way, and that is said', async () => {
    const luod = await LuodProcess.start({
      command: [NODE, '-e', 'setInterval(() => 0, 1e9)'],
      isPlain: true,
    });
    expect(luod.stderr).toMatch(/has not called liveupdate/);
    const { code, stdout } = await run([...cli('luoctl'), 'update', '--socket', luod.socket]);
    expect([code, stdout]).toEqual([
      0,
      expect.stringMatching(/restarted, pid \d+ -> \d+; it does not use liveupdate, so nothing was carried/),
    ]);
    const status = await run([...cli('luoctl'), 'status', '--socket', luod.socket]);
    expect(status.stdout).toMatch(/SERVICE +STATE +PID/);
    await luod.stop();
  });
});

describe.skipIf(existsSync('/dev/liveupdate'))('a machine without /dev/liveupdate', () => {
  it('refuses a kexec before anything stops, and says what to do', async () => {
    const luod = await LuodProcess.start();
    try {
      const kexec = [...cli('luoctl'), 'kexec', '--socket', luod.socket];
      const { code, stderr } = await run([...kexec, '--kernel', '/no/such', '--reuse-cmdline']);
      expect(code).toBe(1);
      expect(stderr).toMatch(/everything goes on as it was: ENOENT: .*luoctl doctor/);
      const json = await run([...kexec, '--dry-run', '--json']);
      expect(json.code).toBe(1);
      expect(JSON.parse(json.stdout)).toMatchObject({
        ok: false,
        dryRun: true,
        services: [],
        error: { code: 'ENOENT', phase: 'load' },
      });
      expect((await luod.status()).services[0]).toMatchObject({
        state: 'serving',
        generation: 1,
        restarts: 0,
      });
    } finally {
      await luod.stop();
    }
  });

  it('is told what is missing by the doctor', async () => {
    const { code, stdout } = await run([...cli('luoctl'), 'doctor']);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^missing +device/m);
    expect(stdout).toMatch(/^device: /m);
  });

  it('lists what luod holds', async () => {
    const luod = await LuodProcess.start();
    try {
      const { code, stdout } = await run([...cli('luoctl'), 'sessions', '--socket', luod.socket, '--json']);
      expect(code).toBe(0);
      const { sessions } = JSON.parse(stdout) as {
        sessions: { session: string; holder: string; state: string }[];
      };
      expect(sessions.map(({ holder, state }) => `${holder} ${state}`)).toEqual(
        sessions.map(() => 'luod held'),
      );
      expect(sessions.some(({ session }) => session.startsWith('listener:'))).toBe(true);
    } finally {
      await luod.stop();
    }
  });
});
