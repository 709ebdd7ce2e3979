import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ByteClients } from './byte-clients.js';
import { type About, HttpClients, HttpConnection } from './http-clients.js';
import { InPlaceProgram, type InPlaceReport } from './in-place-program.js';
import { freePort, isAlive, programPath, run } from './luod-process.js';

let program: InPlaceProgram | undefined;
let clients: ByteClients | undefined;
let folder: string | undefined;

afterEach(async () => {
  clients?.close();
  await program?.stop();
  if (folder !== undefined) rmSync(folder, { recursive: true });
  clients = program = folder = undefined;
});

const SCRIPT = programPath('in-place.mjs');

function scratch(): string {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-exec-scratch-'));
  return folder;
}

/** What the descriptors above 2 are, by `ls -l`. */
function kinds(listing: string): string[] {
  return [...listing.matchAll(/ (\d+) -> (\/memfd:[\w-]+|[^:\s]+)/g)]
    .filter(([, fd]) => Number(fd) > 2)
    .map(([, , file]) => file as string)
    .map((file) => (file.startsWith('/proc/') ? '/proc' : file))
    .sort();
}

/** Every byte of every client has come back, in order, on the connections of the beginning. */
async function nothingLost(report: InPlaceReport, connections: number): Promise<void> {
  expect(await clients?.settle()).toEqual({ missing: 0 });
  expect(clients?.wrong).toEqual([]);
  expect(clients?.closed).toBe(0);
  expect(report).toMatchObject({ damaged: 0, live: connections });
  expect(report.total.connections).toBe(connections);
}

describe('a program without luod', () => {
  it('replaces itself three times under live connections: no byte, no state, no page of memory is lost', {
    timeout: 60_000,
  }, async () => {
    program = await InPlaceProgram.start();
    const fresh = await program.report();
    expect(fresh).toMatchObject({ generation: 1, origin: 'fresh', isManaged: false, service: '' });
    clients = await ByteClients.open(fresh.port, 200);
    for (let generation = 2; generation <= 4; generation++) {
      // Some come while nobody can accept them.
      const [report] = await Promise.all([program.update(), clients.add(5)]);
      expect(report).toMatchObject({
        pid: program.child.pid,
        generation,
        origin: 'update',
        isManaged: false,
        service: '',
      });
    }
    await clients.settle();
    const report = await program.report();
    await nothingLost(report, 215);
    expect(report).toMatchObject({ bytes: clients.sent, counted: clients.sent });
    expect(report.total).toMatchObject({ bytes: clients.sent, generations: [1, 2, 3, 4] });
    expect(report.total.events).toEqual(['freeze', 'freeze', 'freeze']);
  });

  it('is the same process after a hundred updates: pid, descriptors, signal masks, a connection', {
    timeout: 120_000,
  }, async () => {
    program = await InPlaceProgram.start();
    const fresh = await program.report();
    clients = await ByteClients.open(fresh.port, 10);
    const first = await program.update();
    let last = first;
    // Behind a flag the script is not checked, which takes as long as all the rest.
    const command = [process.execPath, '--no-warnings', SCRIPT];
    for (let generation = 3; generation <= 101; generation++) {
      last = await program.update({ command });
      expect(last).toMatchObject({ generation, fds: first.fds, signals: fresh.signals });
    }
    expect(fresh.signals.SigBlk).toBe('0000000000000000');
    expect(last.pid).toBe(fresh.pid);
    await clients.settle();
    await nothingLost(await program.report(), 10);
    expect(program.output.match(/serves/g)).toHaveLength(101);
  });

  it('is still what it was started as', async () => {
    const cwd = scratch();
    const command = [process.execPath, '--stack-size=900', SCRIPT, 'a word', '--flag=1', ''];
    program = await InPlaceProgram.start({ command, spawn: { cwd }, env: { LIVEUPDATE_OTHER: 'mine' } });
    const fresh = await program.report();
    const next = await program.update({ umask: 0o027, title: 'set by the image before' });
    const { cwd: where, argv, execArgv, commandLine, inherited, leftOver } = fresh;
    expect(next).toMatchObject({ cwd: where, argv, execArgv, commandLine, leftOver, umask: 0o027 });
    expect(where).toBe(cwd);
    expect(next.title).toBe('set by the image before');
    // The variable is gone before the program itself looks; and nothing but the standard three is open to its children.
    expect(next.inherited).toEqual(inherited);
    expect(inherited).toEqual(['LIVEUPDATE_OTHER']);
    expect(next.leaks).toEqual(fresh.leaks);
    expect(fresh.nonBlocking).toEqual([true, true, true]);
    expect(next).toMatchObject({ nonBlocking: fresh.nonBlocking, nonBlockingAtStart: [false, false, false] });
  });

  it('becomes another command, found by PATH, and then what that is', async () => {
    const bin = join(scratch(), 'bin');
    mkdirSync(bin);
    writeFileSync(join(bin, 'wrapped'), `#!/bin/sh\nTITLE=wrapped exec ${process.execPath} "$@"\n`);
    chmodSync(join(bin, 'wrapped'), 0o755);
    program = await InPlaceProgram.start({ env: { PATH: `${bin}:${process.env.PATH}` } });
    const { port, pid } = await program.report();
    clients = await ByteClients.open(port, 20);
    expect(await program.update({ command: ['wrapped', SCRIPT, 'second'] })).toMatchObject({
      pid,
      generation: 2,
      title: 'wrapped',
      argv: [process.execPath, SCRIPT, 'second'],
    });
    expect(await program.update()).toMatchObject({
      pid,
      generation: 3,
      argv: [process.execPath, SCRIPT, 'second'],
    });
    await clients.settle();
    await nothingLost(await program.report(), 20);
  });

  it('lets nothing leak into a program that knows nothing of it', async () => {
    const list = ['sh', '-c', 'exec ls -l /proc/self/fd'];
    const plain = await run(list);
    program = await InPlaceProgram.start();
    const { port } = await program.report();
    clients = await ByteClients.open(port, 3);
    const closed = once(program.child, 'close');
    await program.update({ command: list }).catch(() => undefined);
    await closed;
    // Two listeners, three connections and the one that asks; memory, counters, image. The rest is as in any other program.
    expect(kinds(program.output.replace(/^generation.*$/m, ''))).toEqual(
      [
        ...kinds(plain.stdout),
        ...Array(6).fill('socket'),
        '/memfd:cache',
        '/memfd:liveupdate-counters',
        '/memfd:liveupdate-image',
      ].sort(),
    );
  });

  it('updates on SIGHUP, and says why not when it cannot', async () => {
    program = await InPlaceProgram.start();
    const { port } = await program.report();
    clients = await ByteClients.open(port, 10);
    program.child.kill('SIGHUP');
    await program.says(/generation 2 serves/);
    program.child.kill('SIGHUP');
    await program.says(/generation 3 serves/);
    await clients.settle();
    await nothingLost(await program.report(), 10);
    await program.stop();
    program = await InPlaceProgram.start({ env: { FAULT: 'freeze-throws' } });
    program.child.kill('SIGHUP');
    await program.says(/LiveUpdateError: EBUSY: .*not now/);
    expect(await program.report()).toMatchObject({
      generation: 1,
      total: { events: ['freeze', 'rollback'] },
    });
  });

  it('is process 1 of a container', async (context) => {
    const unshare = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc'];
    try {
      execFileSync(unshare[0] as string, [...unshare.slice(1), 'true'], { stdio: 'ignore' });
    } catch {
      context.skip('this machine does not let us make a pid namespace');
    }
    program = await InPlaceProgram.start({ command: [...unshare, process.execPath, SCRIPT] });
    const { port } = await program.report();
    clients = await ByteClients.open(port, 50);
    for (let generation = 2; generation <= 4; generation++) {
      expect(await program.update()).toMatchObject({ pid: 1, generation, origin: 'update' });
    }
    await clients.settle();
    await nothingLost(await program.report(), 50);
  });

  it('keeps the channel to a parent that is Node, as pm2 is', async () => {
    program = await InPlaceProgram.start({
      command: [process.execPath, programPath('talks-to-parent.mjs')],
      spawn: { stdio: ['pipe', 'pipe', 'pipe', 'ipc'] },
    });
    const { child } = program;
    for (let generation = 1; generation <= 3; generation++) {
      const answered = once(child, 'message');
      child.send({ hello: generation });
      expect((await answered)[0]).toEqual({ heard: generation, generation, pid: child.pid });
      if (generation === 3) break;
      child.send('update');
      await program.says(new RegExp(`generation ${generation + 1} serves`));
    }
    expect(child.connected).toBe(true);
  });
});

describe('an update in place that fails before execve is rolled back', () => {
  const broken = (text: string): string => {
    const path = join(scratch(), 'broken.mjs');
    writeFileSync(path, text);
    return path;
  };
  const cases: [
    string,
    () => { env?: Record<string, string>; command?: string[] },
    string,
    RegExp,
    string[],
  ][] = [
    [
      'a freeze listener throws',
      () => ({ env: { FAULT: 'freeze-throws' } }),
      'EBUSY',
      /not now/,
      ['freeze', 'rollback'],
    ],
    [
      'a finish listener throws',
      () => ({ env: { FAULT: 'finish-throws' } }),
      'EPERM',
      /not now/,
      ['freeze', 'finish', 'unfreeze', 'rollback'],
    ],
    [
      'the command is not in PATH',
      () => ({ command: ['no-such-command'] }),
      'ENOENT',
      /no-such-command/,
      ['rollback'],
    ],
    ['the command may not be executed', () => ({ command: [broken('')] }), 'EACCES', /broken/, ['rollback']],
    [
      'the script is not there',
      () => ({ command: ['node', '/no/such.mjs'] }),
      'ENOENT',
      /such\.mjs/,
      ['rollback'],
    ],
    [
      'the script does not compile',
      () => ({ command: ['node', broken('const x = ;\n')] }),
      'EINVAL',
      /broken\.mjs:1[\s\S]*SyntaxError/,
      ['rollback'],
    ],
    [
      'the kernel refuses the command',
      () => {
        const path = broken('no program');
        chmodSync(path, 0o755);
        return { command: [path] };
      },
      'ENOEXEC',
      /execve/,
      ['freeze', 'finish', 'unfreeze', 'rollback'],
    ],
    [
      'the kernel refuses its length',
      () => ({ command: [process.execPath, SCRIPT, 'x'.repeat(200_000)] }),
      'E2BIG',
      /execve/,
      ['freeze', 'finish', 'unfreeze', 'rollback'],
    ],
  ];

  it.each(cases)('when %s', async (_what, make, code, message, events) => {
    const { env, command } = make();
    program = await InPlaceProgram.start(env === undefined ? {} : { env });
    const before = await program.report();
    clients = await ByteClients.open(before.port, 50);
    const refused = await program.update(command === undefined ? {} : { command });
    expect(refused.error).toMatchObject({ code, message: expect.stringMatching(message) });
    expect(refused.total.events).toEqual(events);
    expect(refused).toMatchObject({ pid: before.pid, generation: 1 });
    // Once more: nothing is held by what failed.
    expect((await program.update(command === undefined ? {} : { command })).error?.code).toBe(code);
    await clients.settle();
    const after = await program.report();
    await nothingLost(after, 50);
    expect(after.fds.length).toBe(before.fds.length + 50);
    expect(after.leaks).toEqual(before.leaks);
    expect(after.nonBlocking).toEqual(before.nonBlocking);
    expect(after.signals).toEqual(before.signals);
  });

  it('and the next one that works has everything', async () => {
    program = await InPlaceProgram.start();
    const { port } = await program.report();
    clients = await ByteClients.open(port, 50);
    expect((await program.update({ command: ['no-such-command'] })).error?.code).toBe('ENOENT');
    expect(await program.update()).toMatchObject({ generation: 2 });
    await clients.settle();
    await nothingLost(await program.report(), 50);
  });

  it('when no descriptor is left', async () => {
    const command = ['sh', '-c', `ulimit -n 64; exec ${process.execPath} ${SCRIPT}`];
    program = await InPlaceProgram.start({ command });
    const { port, fds } = await program.report();
    // One is left for the connection that asks.
    clients = await ByteClients.open(port, 64 - fds.length - 1);
    const refused = await program.update();
    expect(refused.error?.code).toBe('EMFILE');
    await clients.settle();
    await nothingLost(await program.report(), clients.size);
  });
});

describe('the connections of an HTTP server', () => {
  const HTTP = [process.execPath, programPath('http-service.mjs')];

  async function start(): Promise<number> {
    const port = await freePort();
    program = await InPlaceProgram.start({ command: HTTP, env: { PORT: String(port), HOLD: scratch() } });
    return port;
  }

  async function update(generation: number): Promise<void> {
    program?.child.kill('SIGHUP');
    await program?.says(new RegExp(`generation ${generation} serves`));
  }

  it('cross between two requests: those under way are answered first, and no client notices', {
    timeout: 60_000,
  }, async () => {
    const port = await start();
    const slow = (n: number) => (n % 3 === 0 ? '/slow/40/WORD' : '/hello/WORD');
    const web = await HttpClients.open(port, 40, slow);
    for (let generation = 2; generation <= 5; generation++) await update(generation);
    await web.settle();
    web.close();
    expect([web.failures, web.closed]).toEqual([[], 0]);
  });

  it('wait for a long answer, while the program serves the others', async () => {
    const port = await start();
    const long = await HttpConnection.open(port);
    const other = await HttpConnection.open(port);
    long.get('/hold/long');
    other.get('/hello/read');
    await other.json();
    program?.child.kill('SIGHUP');
    for (let i = 0; i < 20; i++) {
      other.get('/hello/one');
      expect(await other.json<About>()).toMatchObject({ generation: 1 });
    }
    writeFileSync(join(folder as string, 'long'), '');
    expect(await long.json<About>()).toMatchObject({ generation: 1, word: 'long' });
    await program?.says(/generation 2 serves/);
    for (const connection of [long, other]) {
      connection.get('/hello/next');
      expect(await connection.json<About>()).toMatchObject({ generation: 2 });
      connection.close();
    }
  });

  it('are read again when the update is called off', async () => {
    const port = await freePort();
    const env = { PORT: String(port), HOLD: scratch(), FAULT: 'freeze-throws' };
    program = await InPlaceProgram.start({ command: HTTP, env });
    const web = await HttpClients.open(port, 10, (n) => (n % 3 === 0 ? '/slow/40/WORD' : '/hello/WORD'));
    const idle = await HttpConnection.open(port);
    program.child.kill('SIGHUP');
    await program.says(/EBUSY: .*not now/);
    idle.get('/hello/after');
    expect(await idle.json<About>()).toMatchObject({ generation: 1, word: 'after' });
    idle.close();
    await web.settle();
    web.close();
    expect([web.failures, web.closed]).toEqual([[], 0]);
  });

  it('are cut off only when they do not come to an end, and that is said', { timeout: 60_000 }, async () => {
    const port = await start();
    const endless = await HttpConnection.open(port);
    endless.get('/hold/for-ever');
    const web = await HttpClients.open(port, 5);
    await update(2);
    expect(program?.output).toMatch(/1 connections cannot cross the update and are cut off/);
    await expect(endless.response()).rejects.toThrow('the connection was closed');
    await web.settle();
    web.close();
    expect([web.failures, web.closed]).toEqual([[], 0]);
  });
});

describe('an update in place', () => {
  it('is one at a time, and not before ready()', async () => {
    program = await InPlaceProgram.start({ command: [process.execPath, programPath('two-updates.mjs')] });
    await program.says(/early EBUSY/);
    await program.says(/second EBUSY/);
    await program.says(/generation 2 serves/);
  });

  it('is not taken over by a variable that is left over: the program begins afresh, and says so', async () => {
    program = await InPlaceProgram.start({ env: { LIVEUPDATE_EXEC: `9:${'a'.repeat(64)}` } });
    await program.says(/LiveUpdateError: EINVAL: inherit: LIVEUPDATE_EXEC .* is not for this process/);
    expect(await program.report()).toMatchObject({ generation: 1, origin: 'fresh', leftOver: [] });
    expect(await program.update()).toMatchObject({ generation: 2, origin: 'update' });
  });

  it('is not taken over by a child of a command that does not become the program', async () => {
    program = await InPlaceProgram.start();
    const command = ['sh', '-c', `${process.execPath} ${SCRIPT}; exit 3`];
    const exited = once(program.child, 'exit');
    await program.update({ command }).catch(() => undefined);
    await program.says(
      /left to process \d+; the command of an update must become the program itself, by exec/,
    );
    expect(await exited).toEqual([3, null]);
  });

  it('by a version that throws ends the process: whoever supervises it starts it afresh', async () => {
    const path = join(scratch(), 'throws.mjs');
    writeFileSync(path, `throw new Error('this version does not work');\n`);
    program = await InPlaceProgram.start();
    const { port, pid } = await program.report();
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    const ended = once(socket, 'close');
    const exited = once(program.child, 'exit');
    await program.update({ command: ['node', path] }).catch(() => undefined);
    expect(await exited).toEqual([1, null]);
    await ended;
    expect(isAlive(pid)).toBe(false);
  });
});
