/** luoctl as people and scripts use it, with a real luod that runs several programs. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LuodStatus } from '../../src/daemon/luod-status.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { ByteClients } from './byte-clients.js';
import { Host } from './host.js';
import { cli, type Finished, freePort, isAlive, programPath, run } from './luod-process.js';

let host: Host;

beforeEach(async () => {
  host = await Host.start();
});

afterEach(() => host.stop());

function luoctl(...words: string[]): Promise<Finished> {
  return run([...cli('luoctl'), ...words], { LIVEUPDATE_SOCKET: host.socket });
}

async function json<T = Record<string, unknown>>(...words: string[]): Promise<T> {
  const [command, ...rest] = words as [string, ...string[]];
  const { stdout, stderr } = await luoctl(command, '--json', ...rest);
  if (stdout === '') throw new Error(`luoctl ${words.join(' ')}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

async function services(): Promise<LuodStatus['services']> {
  return (await json<LuodStatus>('services')).services;
}

/** The command of an echo program, different for each version. */
function echo(name: string, port: number, version: string): string[] {
  const control = join(host.folder, `${name}.control`);
  const env = [`PORT=${port}`, `CONTROL=${control}`, `VERSION=${version}`];
  return ['env', ...env, process.execPath, programPath('echo.mjs')];
}

async function serve(name: string, port: number): Promise<void> {
  const started = await json('start', name, '--', ...echo(name, port, '1'));
  expect(started).toMatchObject({ ok: true, name, state: 'starting' });
  await host.says(new RegExp(`${name}: generation 1 serves`));
}

describe('programs of luod serve', () => {
  it('are started, listed, updated, rolled back and stopped by name', async () => {
    expect((await luoctl('services')).stdout).toBe('luod runs no program\n');
    const port = await freePort();
    await serve('one', port);
    await serve('two', await freePort());
    const clients = await ByteClients.open(port, 10);

    expect((await services()).map(({ name, state }) => [name, state])).toEqual([
      ['one', 'serving'],
      ['two', 'serving'],
    ]);
    expect((await luoctl('services')).stdout).toMatch(/^SERVICE +STATE .*\none +serving .*\ntwo +serving/);
    const twice = await luoctl('start', 'one', '--', 'true');
    expect([twice.code, twice.stderr]).toEqual([1, expect.stringMatching(/EEXIST.*'one' runs already/)]);
    const which = await luoctl('update');
    expect([which.code, which.stderr]).toEqual([
      1,
      expect.stringMatching(/which service\? There is 'one', 'two'/),
    ]);
    const nothing = await luoctl('rollback', 'one');
    expect([nothing.code, nothing.stderr]).toEqual([
      1,
      expect.stringMatching(/ENOENT.*nothing to go back to/),
    ]);

    const second = echo('one', port, '2');
    expect(await json('update', 'one', '--', ...second)).toMatchObject({ ok: true, generation: 2 });
    const commandOf = async () => (await services())[0]?.command;
    expect(await commandOf()).toEqual(second);
    // A new version of the same command's files is nothing to go back from.
    expect(await json('update', 'one')).toMatchObject({ ok: true, generation: 3 });
    expect(await json('rollback', 'one')).toMatchObject({ ok: true, generation: 4 });
    expect(await commandOf()).toEqual(echo('one', port, '1'));
    expect(await json('rollback', 'one')).toMatchObject({ ok: true, generation: 5 });
    expect(await commandOf()).toEqual(second);

    expect(await clients.settle()).toEqual({ missing: 0 });
    expect([clients.wrong, clients.closed]).toEqual([[], 0]);
    clients.close();
    const pid = (await services())[1]?.pid as number;
    expect((await luoctl('stop', 'two')).stdout).toBe('two: ended with 143\n');
    expect(isAlive(pid)).toBe(false);
    expect((await services()).map(({ name }) => name)).toEqual(['one']);
  });

  it('are there again when luod was killed, and end with it', async () => {
    await serve('one', await freePort());
    const [before] = await services();
    await host.kill();
    await host.spawn();
    const [after] = await services();
    expect(after).toMatchObject({ name: 'one', state: 'serving', pid: before?.pid });
    expect(await json('self-update')).toMatchObject({ ok: true, services: 1, sessions: 0 });
    await host.stop();
    expect(isAlive(before?.pid as number)).toBe(false);
  });

  it('that cannot be started say why', async () => {
    await json('start', 'bad', '--', '/no/such/program');
    await host.says(/bad: ENOENT: cannot start '\/no\/such\/program': no such command/);
    expect(await services()).toEqual([]);
    const relative = await run([...cli('luoctl'), 'stop', 'none', '--socket', host.socket]);
    expect([relative.code, relative.stderr]).toEqual([
      1,
      expect.stringMatching(/ENOENT: no service 'none'; there is none/),
    ]);
  });
});

describe('luoctl watch', () => {
  function watch(...words: string[]): { child: ChildProcess; lines: AsyncIterator<string> } {
    const child = spawn(cli('luoctl')[0] as string, [cli('luoctl')[1] as string, 'watch', ...words], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, LIVEUPDATE_SOCKET: host.socket },
    });
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
    return { child, lines: lines[Symbol.asyncIterator]() };
  }

  it('tells events of sessions and of services, also of the next luod', async () => {
    const { child, lines } = watch('--json');
    const next = async () => JSON.parse((await lines.next()).value as string) as Record<string, unknown>;
    const client = await host.connect();
    // Until it is subscribed there is nobody to tell.
    let first: Record<string, unknown> | undefined;
    const heard = next().then((event) => {
      first = event;
    });
    while (first === undefined) await client.dropSession('nobody').catch(() => undefined);
    await heard;
    expect(first).toMatchObject({ event: 'drop', session: 'nobody', result: 'ENOENT' });
    const until = async (what: Record<string, unknown>) => {
      for (;;) {
        const event = await next();
        if (Object.entries(what).every(([key, value]) => event[key] === value)) return event;
      }
    };
    const session = await client.createSession('mine');
    expect(await until({ event: 'create' })).toMatchObject({
      session: 'mine',
      result: 'ok',
      uid: process.getuid?.(),
    });
    const memfd = createMemfd('m', 1);
    await session.preserve(memfd, 7n);
    expect(await until({ event: 'preserve' })).toMatchObject({ token: '7', kind: 'memfd' });
    await host.kill();
    await host.spawn();
    await serve('one', await freePort());
    const { pid } = await until({ event: 'service', state: 'serving' });
    expect(pid).toBe((await services())[0]?.pid);
    session.close();
    await until({ event: 'release', session: 'mine' });
    client.close();
    closeSync(memfd);
    child.kill('SIGINT');
    expect((await once(child, 'exit'))[0]).toBe(0);
  });

  it('ends with luod, and says so', async () => {
    const { child, lines } = watch();
    const exited = once(child, 'exit');
    const client = await host.connect();
    let line: string | undefined;
    const heard = lines.next().then(({ value }) => {
      line = value as string;
    });
    while (line === undefined) await client.dropSession('nobody').catch(() => undefined);
    await heard;
    expect(line).toMatch(/^20\d\d-\S+Z drop uid=\d+ pid=\d+ session=nobody ENOENT$/);
    client.close();
    await host.stop();
    expect((await exited)[0]).toBe(1);
  });
});

/** For script(1): in the place of $SHELL, since a dash between them dies by the Ctrl-C that is meant for the command. */
function shellLine(command: readonly string[]): string {
  return `exec ${command.map((word) => `'${word}'`).join(' ')}`;
}

/** Runs a command on a terminal of its own: script(1). */
function onTerminal(
  command: readonly string[],
  env: NodeJS.ProcessEnv = {},
): { code: number | null; output: string } {
  const { status, stdout } = spawnSync('script', ['-qec', shellLine(command), '/dev/null'], {
    encoding: 'utf8',
    env: { ...process.env, LIVEUPDATE_SOCKET: host.socket, NO_COLOR: '', ...env },
    input: '',
  });
  return { code: status, output: stdout };
}

const hasTerminal = spawnSync('script', ['-V']).status === 0;

/** Stops luod, and waits until it is asked for the next page all the same: a connection beside the listener and the events'. */
async function stopsAnswering(): Promise<void> {
  process.kill(host.pid, 'SIGSTOP');
  const sockets = () =>
    readFileSync('/proc/net/unix', 'utf8')
      .split('\n')
      .filter((line) => line.endsWith(` ${host.socket}`)).length;
  await expect.poll(sockets, { timeout: 20_000 }).toBeGreaterThan(2);
}

describe.skipIf(!hasTerminal)('on a terminal', () => {
  it('states have colours, unless NO_COLOR or --json asks for none', async () => {
    await serve('one', await freePort());
    const words = [...cli('luoctl'), 'services'];
    expect(onTerminal(words).output).toContain('\x1b[32mserving');
    expect(onTerminal(words, { NO_COLOR: '1' }).output).not.toContain('\x1b');
    expect(onTerminal([...words, '--json']).output).not.toContain('\x1b');
    expect((await luoctl('services')).stdout).not.toContain('\x1b');
  });

  it.each([
    ['', false],
    [', also when luod does not answer', true],
  ])('watch draws a page, and gives the screen back%s', async (_when, isStopped) => {
    await serve('one', await freePort());
    const line = shellLine([...cli('luoctl'), 'watch']);
    const child = spawn('script', ['-qec', line, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, LIVEUPDATE_SOCKET: host.socket, NO_COLOR: '1' },
    });
    const exited = once(child, 'exit');
    let output = '';
    let isInterrupted = false;
    for await (const text of child.stdout.setEncoding('utf8')) {
      output += text as string;
      if (isInterrupted || !/one +serving/.test(output)) continue;
      isInterrupted = true;
      if (isStopped) await stopsAnswering();
      child.stdin.write('\x03');
    }
    child.stdin.end();
    process.kill(host.pid, 'SIGCONT');
    expect((await exited)[0]).toBe(0);
    expect(output.startsWith('\x1b[?1049h')).toBe(true);
    expect(output).toContain('\x1b[H\x1b[2J');
    expect(output).toContain('\x1b[?1049l');
  });
});

describe('completion', () => {
  const words = (...line: string[]) =>
    luoctl('complete-words', ...line).then(({ stdout }) => stdout.split('\n').filter(Boolean));

  it('offers commands, flags, their choices, and the names that luod knows', async () => {
    await serve('one', await freePort());
    const client = await host.connect();
    const session = await client.createSession('web');
    expect(await words('se')).toEqual(['services', 'sessions', 'self-update']);
    expect(await words('update', '--ti')).toEqual(['--timeout']);
    expect(await words('start', '--restart', 'a')).toEqual(['always']);
    expect(await words('update', '')).toEqual(['one']);
    expect(await words('update', '--timeout', '5s', 'o')).toEqual(['one']);
    expect(await words('drop', 'w')).toEqual(['web']);
    expect(await words('update', 'one', '--', '')).toEqual([]);
    expect(await words('stop', '--socket', '/no/luod', '')).toEqual([]);
    session.close();
    client.close();
  });

  it('works in bash', async () => {
    await serve('one', await freePort());
    const [node, script] = cli('luoctl');
    const text = `
      luoctl() { "${node}" "${script}" "$@"; }
      source <(luoctl completion bash)
      COMP_WORDS=(luoctl update o); COMP_CWORD=2
      _luoctl; printf '%s\\n' "\${COMPREPLY[@]}"
      complete -p luoctl`;
    const { stdout } = await run(['bash', '-c', text], { LIVEUPDATE_SOCKET: host.socket });
    expect(stdout).toBe('one\ncomplete -o default -F _luoctl luoctl\n');
  });

  for (const shell of ['zsh', 'fish']) {
    it.skipIf(spawnSync(shell, ['--version']).status !== 0)(`is ${shell}`, async () => {
      for (const name of ['luod', 'luoctl'] as const) {
        const { stdout } = await run([...cli(name), 'completion', shell]);
        const file = join(host.folder, `${name}.${shell}`);
        writeFileSync(file, stdout);
        const { status, stderr } = spawnSync(shell, ['-n', file], { encoding: 'utf8' });
        expect([status, stderr]).toEqual([0, '']);
      }
    });
  }
});

describe.skipIf(spawnSync('groff', ['--version']).status !== 0)('the manual pages', () => {
  it.each(['luod', 'luoctl'] as const)('%s(1) is sound, and has every command', async (name) => {
    const { stdout } = await run([...cli(name), 'man']);
    const { stderr, stdout: page } = spawnSync('groff', ['-man', '-ww', '-Tascii', '-P-cbou'], {
      input: stdout,
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    const { stdout: help } = await run([...cli(name), '--help']);
    const commands = [...help.matchAll(/^ {2}([a-z][a-z-]+) /gm)].map(([, word]) => word as string);
    expect(commands.length).toBeGreaterThan(3);
    for (const command of commands) if (command !== 'help') expect(page).toContain(`${name} ${command}`);
  });
});
