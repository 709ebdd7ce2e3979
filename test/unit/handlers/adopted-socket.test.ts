import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { adoptSocket } from '../../../src/handlers/adopted-socket.js';
import { dupFd } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

let folder: string;
let server: Server;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-adopted-'));
  server = createServer({ pauseOnConnect: true });
});
afterEach(async () => {
  if (server.listening) await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
});

/** A client, and a duplicate of the descriptor that the server has for it. */
async function connection(): Promise<{ client: Socket; fd: number }> {
  const address = server.address();
  const client = typeof address === 'string' ? connect(address) : connect(address!.port, '127.0.0.1');
  const [accepted] = (await once(server, 'connection')) as [Socket];
  const fd = dupFd(handleFd(accepted) as number);
  accepted.destroy();
  return { client, fd };
}

describe.each([
  ['TCP', () => server.listen(0, '127.0.0.1')],
  ['unix', () => server.listen(join(folder, 'listener'))],
])('a connection of a %s listener', (_kind, listen) => {
  it('reads nothing until it is asked to, and carries bytes both ways; the first and those behind it', async () => {
    listen();
    await once(server, 'listening');
    for (let nth = 0; nth < 3; nth++) {
      const { client, fd } = await connection();
      const socket = adoptSocket(fd);
      expect([handleFd(socket), socket.readable, socket.writable]).toEqual([fd, true, true]);
      client.write('ping');
      await new Promise((resolve) => setImmediate(resolve));
      expect(socket.bytesRead).toBe(0);
      const [received] = (await once(socket, 'data')) as [Buffer];
      expect(String(received)).toBe('ping');
      socket.end('pong');
      const [answer] = (await once(client, 'data')) as [Buffer];
      expect(String(answer)).toBe('pong');
      client.end();
      await once(socket, 'close');
    }
  });
});

describe('a descriptor that is no stream', () => {
  /** So that its kind is known. */
  async function adoptOne(): Promise<void> {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { client, fd } = await connection();
    adoptSocket(fd).destroy();
    client.destroy();
  }

  it('is refused, and stays with the caller: a file', async () => {
    await adoptOne();
    const fd = openSync('/dev/null', 'r');
    expect(() => adoptSocket(fd)).toThrow(expect.objectContaining({ code: 'ENOTSOCK' }));
    closeSync(fd);
  });

  it('is refused, and stays with the caller: a datagram socket of a family that is known', async () => {
    await adoptOne();
    const udp = createSocket('udp4').bind(0, '127.0.0.1');
    await once(udp, 'listening');
    const state = Object.getOwnPropertySymbols(udp).find(({ description }) => description === 'state symbol');
    const { handle } = (udp as unknown as Record<symbol, { handle: { fd: number } }>)[state as symbol]!;
    const fd = dupFd(handle.fd);
    expect(() => adoptSocket(fd)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_FD_TYPE' }));
    closeSync(fd);
    udp.close();
  });

  it('is refused, and stays with its owner: one that this process reads already', async () => {
    await adoptOne();
    const { client, fd } = await connection();
    const socket = adoptSocket(fd);
    client.write('ping');
    await once(socket, 'data');
    expect(() => adoptSocket(fd)).toThrow(expect.objectContaining({ code: 'EEXIST', operation: 'adopt' }));
    client.resume().end('pong');
    await Promise.all([once(socket, 'close'), once(client, 'close')]);
    expect(socket.bytesRead).toBe(8);
  });

  it('is refused: one that is closed', () => {
    expect(() => adoptSocket(1_000_000)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });
});
