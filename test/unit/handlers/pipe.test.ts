import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type PipeEnd, pipeHandler } from '../../../src/handlers/pipe.js';
import { setNonBlocking } from '../../../src/linux/fd.js';
import { countDescriptors } from '../linux/descriptors.js';
import { Crossing, restored } from './crossing.js';

countDescriptors();

let folder: string;
let path: string;
let sockets: Socket[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-pipe-'));
  path = join(folder, 'fifo');
  execFileSync('mkfifo', [path]);
  sockets = [];
});
afterEach(async () => {
  for (const socket of sockets) if (!socket.destroyed) socket.destroy();
  rmSync(folder, { recursive: true });
  await new Promise((resolve) => setImmediate(resolve));
});

function reader(): Socket {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return own(new Socket({ fd, readable: true, writable: false }));
}

function writer(): Socket {
  return own(new Socket({ fd: openSync(path, 'w'), readable: false, writable: true }));
}

function own(socket: Socket): Socket {
  sockets.push(socket);
  return socket;
}

async function read(socket: Socket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for (let got = 0; got < length; ) {
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    chunks.push(chunk);
    got += chunk.length;
  }
  return Buffer.concat(chunks);
}

function numbered(length: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 255));
}

describe('the reading end of a pipe', () => {
  it('crosses with what was read and not consumed, and what waits in the kernel', async () => {
    const old = reader();
    const fd = openSync(path, 'w');
    writeSync(fd, 'read ');
    await once(old, 'readable');
    const crossing = await Crossing.begin(pipeHandler, old);
    const next = own(crossing.object as Socket);
    const all = read(next, 20);
    writeSync(fd, 'waits ');
    await crossing.freeze();
    writeSync(fd, 'and more.');
    await crossing.commit();
    expect(String(await all)).toBe('read waits and more.');
    expect(next.writable).toBe(false);
    const ended = once(next, 'end');
    closeSync(fd);
    await ended;
  });

  it('reads nothing before the commit, and the old one goes on when it is called off', async () => {
    const old = reader();
    const fd = openSync(path, 'w');
    const crossing = await Crossing.begin(pipeHandler, old);
    const next = own(crossing.object as Socket);
    next.on('data', () => expect.unreachable());
    await crossing.freeze();
    writeSync(fd, 'for the old one');
    await new Promise((resolve) => setImmediate(resolve));
    next.destroy();
    await crossing.rollback();
    expect(String(await read(old, 15))).toBe('for the old one');
    closeSync(fd);
  });

  it('outlives a crash: the next one reads on', async () => {
    const old = reader();
    const fd = openSync(path, 'w');
    const { file, start } = restored(pipeHandler, pipeHandler({} as never).toFile!(old)!);
    old.destroy();
    writeSync(fd, 'in between');
    start();
    expect(String(await read(own(file.socket), 10))).toBe('in between');
    closeSync(fd);
  });

  it('that is open for both outlives its writers', async () => {
    const both = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    const old = own(new Socket({ fd: both, readable: true, writable: false }));
    const next = own((await Crossing.all(pipeHandler, old)) as Socket);
    for (const word of ['one', 'two']) {
      const fd = openSync(path, 'w');
      writeSync(fd, word);
      closeSync(fd);
      expect(String(await read(next, 3))).toBe(word);
    }
    expect([next.readable, next.writable]).toEqual([true, false]);
  });

  it('that ended on the way is ended in the next image', async () => {
    const old = reader();
    closeSync(openSync(path, 'w'));
    const crossing = await Crossing.begin(pipeHandler, old);
    old.destroy();
    await crossing.freeze();
    const closed = once(crossing.object as Socket, 'close');
    await crossing.commit();
    await closed;
  });
});

describe('the writing end of a pipe', () => {
  it('crosses with what the pipe did not take, before what the next image writes', async () => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const old = writer();
    const crossing = await Crossing.begin(pipeHandler, old);
    const next = own(crossing.object as Socket);
    const bytes = numbered(1_000_000);
    for (let at = 0; at < bytes.length; at += 100_001) old.write(bytes.subarray(at, at + 100_001));
    next.write('the end');
    await crossing.freeze();
    await crossing.commit();
    setNonBlocking(fd, true);
    const all = await read(own(new Socket({ fd, readable: true, writable: false })), bytes.length + 7);
    expect(all.subarray(0, bytes.length).equals(bytes)).toBe(true);
    expect(all.subarray(bytes.length).toString()).toBe('the end');
  });

  it('owes a drain to who was told to wait before the commit', async () => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const crossing = await Crossing.begin(pipeHandler, writer());
    const next = own(crossing.object as Socket);
    expect(next.write('little')).toBe(false);
    const drained = once(next, 'drain');
    await crossing.freeze();
    await crossing.commit();
    await drained;
    closeSync(fd);
  });

  it('that was ended ends when everything is written', async () => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const old = writer();
    const crossing = await Crossing.begin(pipeHandler, old);
    const bytes = numbered(200_000);
    old.end(bytes);
    await crossing.freeze();
    await crossing.commit();
    const next = own(crossing.object as Socket);
    const reading = own(new Socket({ fd, readable: true, writable: false }));
    const chunks: Buffer[] = [];
    for await (const chunk of reading) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
    if (!next.closed) await once(next, 'close');
  });

  it('stays the old one’s when the update is called off', async () => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const old = writer();
    const crossing = await Crossing.begin(pipeHandler, old);
    (crossing.object as Socket).write('never');
    await crossing.freeze();
    (crossing.object as Socket).destroy();
    await crossing.rollback();
    await new Promise<void>((resolve) => void old.write('still', () => resolve()));
    const bytes = Buffer.alloc(100);
    expect(bytes.subarray(0, readSync(fd, bytes)).toString()).toBe('still');
    closeSync(fd);
  });
});

describe('a pipe that nobody claims', () => {
  it('is closed', async () => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const crossing = await Crossing.begin<PipeEnd>(pipeHandler, writer());
    await crossing.freeze();
    await crossing.drop();
    await once(crossing.adopted.socket, 'close');
    expect(readSync(fd, Buffer.alloc(1))).toBe(0);
    closeSync(fd);
  });
});
