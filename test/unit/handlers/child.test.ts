import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { childHandler, KeptChild } from '../../../src/handlers/child.js';
import { closeFd } from '../../../src/linux/fd.js';
import { endOfProcess, openPidfd } from '../../../src/linux/pidfd.js';
import { watchFd } from '../../../src/linux/poll.js';
import { countDescriptors } from '../linux/descriptors.js';
import { Crossing, restored } from './crossing.js';

countDescriptors();

let children: KeptChild[] = [];
afterEach(async () => {
  for (const child of children) {
    child.kill('SIGKILL');
    for (const socket of [child.stdin, child.stdout, child.stderr]) socket?.destroy();
    if (!child.isOver) await once(child, 'close');
  }
  children = [];
  await new Promise((resolve) => setImmediate(resolve));
});

function own(child: KeptChild): KeptChild {
  children.push(child);
  return child;
}

async function read(socket: Socket | null, length: number): Promise<string> {
  let text = '';
  while (text.length < length) text += String((await once(socket as Socket, 'data'))[0]);
  return text;
}

describe('a child process', () => {
  it('crosses with its pid and every byte in its pipes, both ways', async () => {
    const old = await KeptChild.spawn('cat');
    old.stdin?.write('one ');
    await once(old.stdout as Socket, 'readable');
    const crossing = await Crossing.begin(childHandler, old);
    const next = own(crossing.object as KeptChild);
    expect(next.pid).toBe(old.pid);
    const bytes = Buffer.alloc(1_000_000, 'x');
    old.stdin?.write('two ');
    old.stdin?.write(bytes);
    next.stdin?.write('three');
    await crossing.freeze();
    await crossing.commit();
    const text = await read(next.stdout, bytes.length + 13);
    expect([text.slice(0, 8), text.slice(8, -5) === String(bytes), text.slice(-5)]).toEqual([
      'one two ',
      true,
      'three',
    ]);
    const closed = once(next, 'close');
    next.stdin?.end();
    expect(await closed).toEqual([0, null]);
    expect(next.hasExited).toBe(true);
  });

  it.each([
    ['exit 7', [7, null]],
    ['kill -TERM $$', [null, 'SIGTERM']],
  ])('that ends by %s tells it to the image that runs by then', async (script, end) => {
    const old = await KeptChild.spawn('sh', ['-c', `read line; ${script}`]);
    old.on('exit', () => expect.unreachable());
    const crossing = await Crossing.begin(childHandler, old);
    const next = own(crossing.object as KeptChild);
    await crossing.freeze();
    await crossing.commit();
    const exited = once(next, 'exit');
    next.stdin?.write('go\n');
    expect(await exited).toEqual(end);
    expect([next.exitCode, next.signalCode]).toEqual(end);
    expect(next.kill()).toBe(false);
  });

  it('that ended before the freeze is not told twice', async () => {
    const old = await KeptChild.spawn('sh', ['-c', 'read line; echo last words; exit 3']);
    const crossing = await Crossing.begin(childHandler, old);
    const next = own(crossing.object as KeptChild);
    const told: unknown[] = [];
    // Its end may be known before its last words are read; then the next image has them.
    for (const one of [old, next]) one.stdout?.on('data', (bytes) => told.push(String(bytes)));
    next.on('exit', () => told.push('exit'));
    const exited = once(old, 'exit');
    old.stdin?.write('go\n');
    expect(await exited).toEqual([3, null]);
    await crossing.freeze();
    const closed = once(next, 'close');
    await crossing.commit();
    expect(await closed).toEqual([3, null]);
    expect([next.exitCode, told]).toEqual([3, ['last words\n']]);
  });

  it('is signalled by the image that has it, which is the old one when the update is called off', async () => {
    const old = own(await KeptChild.spawn('cat'));
    const crossing = await Crossing.begin(childHandler, old);
    const next = crossing.object as KeptChild;
    expect(() => next.kill(0)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    expect(old.kill(0)).toBe(true);
    expect(() => old.kill('SIGNOT' as never)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    await crossing.freeze();
    next.letGo();
    await crossing.rollback();
    old.stdin?.write('still');
    expect(await read(old.stdout, 5)).toBe('still');
    const exited = once(old, 'exit');
    old.kill('SIGINT');
    expect(await exited).toEqual([null, 'SIGINT']);
  });

  it('hears of the end of its input although luod holds a duplicate', async () => {
    const old = own(await KeptChild.spawn('cat'));
    const { file } = restored(childHandler, old);
    const exited = once(old, 'exit');
    old.stdin?.destroy();
    expect(await exited).toEqual([0, null]);
    file.letGo();
  });

  it('outlives a crash of its program', async () => {
    const old = await KeptChild.spawn('cat');
    const { file, start } = restored(childHandler, old);
    old.letGo();
    start();
    own(file).stdin?.write('after');
    expect(await read(file.stdout, 5)).toBe('after');
  });

  it('without pipes', async () => {
    const old = await KeptChild.spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore'] });
    const crossing = await Crossing.begin(childHandler, old);
    const next = own(crossing.object as KeptChild);
    expect([next.stdin, next.stdout, next.stderr]).toEqual([null, null, null]);
    await crossing.freeze();
    await crossing.commit();
    const exited = once(next, 'exit');
    expect(next.kill('SIGKILL')).toBe(true);
    expect(await exited).toEqual([null, 'SIGKILL']);
  });

  it('that nobody claims is asked to end', async () => {
    const old = await KeptChild.spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore'] });
    const pidfd = openPidfd(old.pid);
    const crossing = await Crossing.begin(childHandler, old);
    await crossing.freeze();
    await crossing.drop();
    expect(crossing.adopted.isOver).toBe(true);
    await new Promise<void>((resolve) => {
      const watch = watchFd(pidfd, { readable: true }, () => {
        watch.close();
        resolve();
      });
    });
    expect(endOfProcess(pidfd, old.pid)).toEqual({ code: null, signal: 'SIGTERM' });
    closeFd(pidfd);
  });

  it('that cannot be started, or with what cannot be carried, is refused', async () => {
    await expect(KeptChild.spawn('/no/such/command')).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(KeptChild.spawn('cat', [], { cwd: '/no/such/folder' })).rejects.toMatchObject({
      code: 'ENOENT',
    });
    for (const stdio of [['pipe', 'pipe', 'ipc'], ['pipe']]) {
      await expect(KeptChild.spawn('cat', [], { stdio: stdio as never })).rejects.toMatchObject({
        code: 'EOPNOTSUPP',
      });
    }
  });
});
