import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Connection } from '../../../src/handlers/connection.js';
import { dupFd } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';

let server: Server;
let client: Socket;
let accepted: Socket;

beforeEach(async () => {
  server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  client = connect((server.address() as { port: number }).port, '127.0.0.1');
  [accepted] = (await once(server, 'connection')) as [Socket];
});

afterEach(async () => {
  client.destroy();
  accepted.destroy();
  server.close();
  await once(server, 'close');
});

/** The same connection in a "next image" of the same process: a duplicate of its descriptor. */
function cross(
  old: Connection,
  onConnection?: (socket: Socket) => void,
): { next: Connection; emitted: Promise<Socket> } {
  const pending = old.pending();
  const next = Connection.adopt(dupFd(handleFd(old.socket) as number));
  if (pending !== undefined) next.restore(pending);
  // In one process the old handle would go on reading and writing; closing it leaves the duplicate as it is.
  old.socket.destroy();
  const other = createServer({ allowHalfOpen: true }, onConnection);
  const emitted = once(other, 'connection').then(([socket]) => socket as Socket);
  next.arm(other);
  return { next, emitted };
}

async function readAll(socket: Socket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let got = 0;
  for await (const chunk of socket) {
    chunks.push(chunk as Buffer);
    got += (chunk as Buffer).length;
    if (got >= length) break;
  }
  return Buffer.concat(chunks);
}

function numbered(length: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 255));
}

describe('a connection', () => {
  it('that holds nothing in user space saves nothing', () => {
    expect(Connection.of(accepted).pending()).toBeUndefined();
  });

  it('carries what was read and not consumed', async () => {
    const connection = Connection.of(accepted);
    client.write('unread');
    await once(accepted, 'readable');
    const { next, emitted } = cross(connection);
    const socket = await emitted;
    expect(socket).toBe(next.socket);
    client.write(' and more');
    expect((await readAll(socket, 15)).toString()).toBe('unread and more');
  });

  it('carries the bytes of a character that is not complete', async () => {
    const connection = Connection.of(accepted);
    accepted.setEncoding('utf8');
    const euro = Buffer.from('a€');
    client.write(euro.subarray(0, 3));
    expect((await once(accepted, 'data'))[0]).toBe('a');
    accepted.pause();
    const { emitted } = cross(connection);
    const socket = await emitted;
    socket.setEncoding('utf8');
    client.write(euro.subarray(3));
    expect((await once(socket, 'data'))[0]).toBe('€');
    socket.destroy();
  });

  for (const [how, write] of [
    ['one large buffer', (socket: Socket, bytes: Buffer) => void socket.write(bytes)],
    [
      'many small ones, corked',
      (socket: Socket, bytes: Buffer) => {
        socket.cork();
        for (let at = 0; at < bytes.length; at += 9999) socket.write(bytes.subarray(at, at + 9999));
        socket.uncork();
      },
    ],
    [
      'strings',
      (socket: Socket, bytes: Buffer) => {
        for (let at = 0; at < bytes.length; at += 1_000_003)
          socket.write(bytes.toString('latin1', at, at + 1_000_003), 'latin1');
      },
    ],
  ] as const) {
    it(`carries what was written and not taken by the kernel: ${how}`, async () => {
      const connection = Connection.of(accepted);
      const bytes = numbered(12_000_000);
      client.pause();
      write(accepted, bytes);
      const saved = connection.pending();
      expect(saved?.length).toBeGreaterThan(1_000_000);
      const { next } = cross(connection);
      next.socket.write('the end');
      const all = await readAll(client, bytes.length + 7);
      expect(all.subarray(0, bytes.length).equals(bytes)).toBe(true);
      expect(all.subarray(bytes.length).toString()).toBe('the end');
      next.socket.destroy();
    });
  }

  it('carries that its side was ended', async () => {
    const connection = Connection.of(accepted);
    accepted.end('bye');
    const { next } = cross(connection);
    expect((await readAll(client, 3)).toString()).toBe('bye');
    expect(next.socket.writableEnded).toBe(true);
    next.socket.destroy();
  });

  it('is announced when its first bytes come, before they are read, or when asked', async () => {
    const { next, emitted } = cross(Connection.of(accepted));
    let seen = false;
    void emitted.then((socket) => {
      seen = true;
      socket.on('data', () => undefined);
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(seen).toBe(false);
    client.write('now');
    expect((await once(await emitted, 'data')).toString()).toBe('now');
    next.announce();
    next.socket.destroy();
  });

  it('that the peer resets before it was announced does not end the process', async () => {
    const errors: unknown[] = [];
    const { next } = cross(Connection.of(accepted), (socket) => {
      socket.on('error', (error) => errors.push(error));
    });
    client.resetAndDestroy();
    await new Promise((resolve) => next.socket.once('close', resolve));
    expect(errors).toEqual([expect.objectContaining({ code: 'ECONNRESET' })]);
  });

  it('tells its peer of its end although a duplicate is open', async () => {
    const connection = Connection.of(accepted);
    const duplicate = Connection.adopt(dupFd(handleFd(accepted) as number));
    let ended = 0;
    connection.watchEnd(() => ended++);
    client.resume();
    accepted.destroy();
    await once(client, 'end');
    expect(ended).toBe(1);
    duplicate.socket.destroy();
  });

  it('refuses a damaged record', () => {
    const connection = Connection.of(accepted);
    for (const record of [Buffer.alloc(3), Buffer.from([0, 0, 0, 0, 255, 255, 0, 0])]) {
      expect(() => connection.restore(record)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
  });
});
