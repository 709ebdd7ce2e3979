import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Datagrams, datagramHandler } from '../../../src/handlers/datagram.js';
import { sharesAddress } from '../../../src/linux/socket-facts.js';
import { countDescriptors } from '../linux/descriptors.js';
import { Crossing, restored } from './crossing.js';

countDescriptors();

let client: Socket;
let sockets: Socket[];

beforeEach(async () => {
  sockets = [];
  client = await bound();
});
afterEach(async () => {
  for (const socket of sockets) {
    try {
      socket.close();
    } catch {
      // The test closed it, or it was severed.
    }
  }
  await new Promise((resolve) => setImmediate(resolve));
});

async function bound(): Promise<Socket> {
  const socket = createSocket('udp4');
  sockets.push(socket);
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return socket;
}

function send(socket: Socket, text: string, ...to: [number?, string?]): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null) => (error === null ? resolve() : reject(error));
    if (to.length === 0) socket.send(text, done);
    else socket.send(text, to[0] as number, to[1] as string, done);
  });
}

async function message(socket: Socket): Promise<string> {
  return String((await once(socket, 'message'))[0]);
}

function fileOf(socket: Socket): Datagrams {
  return datagramHandler({} as never).toFile!(socket)!;
}

describe('a UDP socket', () => {
  it('crosses with what the kernel had queued, each datagram read by one image', async () => {
    const old = await bound();
    const heard: string[] = [];
    old.on('message', (bytes) => heard.push(`old ${bytes}`));
    const { port } = old.address();
    await send(client, '1', port, '127.0.0.1');
    await once(old, 'message');
    const crossing = await Crossing.begin(datagramHandler, old);
    const next = crossing.object as Socket;
    sockets.push(next);
    expect(next.address()).toEqual(old.address());
    next.on('message', (bytes) => heard.push(`next ${bytes}`));
    // The old image reads on until the freeze.
    await send(client, '2', port, '127.0.0.1');
    await once(old, 'message');
    await crossing.freeze();
    client.send('3', port, '127.0.0.1');
    client.send('4', port, '127.0.0.1');
    await crossing.commit();
    while (heard.length < 4) await once(next, 'message');
    expect(heard).toEqual(['old 1', 'old 2', 'next 3', 'next 4']);
    await send(next, 'answer', client.address().port, '127.0.0.1');
    expect(() => old.send('x', client.address().port, '127.0.0.1')).toThrow(/Not running/);
  });

  it('that is connected keeps its peer', async () => {
    const peer = await bound();
    const old = await bound();
    old.connect(peer.address().port, '127.0.0.1');
    await once(old, 'connect');
    const next = (await Crossing.all(datagramHandler, old)) as Socket;
    sockets.push(next);
    expect(next.remoteAddress()).toEqual(peer.address());
    const said = message(peer);
    await send(next, 'to the peer');
    expect(await said).toBe('to the peer');
    const { port } = next.address();
    const answer = message(next);
    peer.send('from the peer', port, '127.0.0.1');
    expect(await answer).toBe('from the peer');
  });

  it('is silent before the commit: what its program sends waits', async () => {
    const old = await bound();
    const crossing = await Crossing.begin(datagramHandler, old);
    const next = crossing.object as Socket;
    sockets.push(next);
    const heard: string[] = [];
    client.on('message', (bytes) => heard.push(String(bytes)));
    next.send('later', client.address().port, '127.0.0.1');
    await send(old, 'now', client.address().port, '127.0.0.1');
    while (heard.length < 1) await once(client, 'message');
    await crossing.freeze();
    await crossing.commit();
    while (heard.length < 2) await once(client, 'message');
    expect(heard).toEqual(['now', 'later']);
  });

  it('keeps its datagrams until somebody listens', async () => {
    const old = await bound();
    const { port } = old.address();
    const next = (await Crossing.all(datagramHandler, old)) as Socket;
    sockets.push(next);
    await send(client, 'early', port, '127.0.0.1');
    await new Promise((resolve) => setImmediate(resolve));
    expect(await message(next)).toBe('early');
  });

  it('sends what the kernel had not taken, first', async () => {
    const old = await bound();
    // A kernel whose buffers are full: no loopback device refuses a datagram.
    const symbol = Object.getOwnPropertySymbols(old).find((s) => s.description === 'state symbol')!;
    const { handle } = (old as unknown as Record<symbol, { handle: { send: unknown } }>)[symbol]!;
    handle.send = () => 0;
    const crossing = await Crossing.begin(datagramHandler, old);
    old.send('waits', client.address().port, '127.0.0.1');
    await crossing.freeze();
    const next = crossing.object as Socket;
    sockets.push(next);
    next.send('behind', client.address().port, '127.0.0.1');
    const heard: string[] = [];
    client.on('message', (bytes) => heard.push(String(bytes)));
    await crossing.commit();
    while (heard.length < 2) await once(client, 'message');
    expect(heard).toEqual(['waits', 'behind']);
  });

  it('keeps its options, and shares its port with nobody for having crossed', async () => {
    const old = await bound();
    old.setTTL(7);
    old.setRecvBufferSize(300_000);
    old.addMembership('239.1.2.3', '127.0.0.1');
    const size = old.getRecvBufferSize();
    const next = (await Crossing.all(datagramHandler, old)) as Socket;
    sockets.push(next);
    expect(next.getRecvBufferSize()).toBe(size);
    // The membership is there: it can be given up, once.
    next.dropMembership('239.1.2.3', '127.0.0.1');
    expect(() => next.dropMembership('239.1.2.3', '127.0.0.1')).toThrow(/EADDRNOTAVAIL/);
    expect(sharesAddress(fileOf(next).fd)).toBe(false);
    const thief = createSocket({ type: 'udp4', reuseAddr: true });
    sockets.push(thief);
    thief.bind(next.address().port, '127.0.0.1');
    const [error] = (await once(thief, 'error')) as [NodeJS.ErrnoException];
    expect(error.code).toBe('EADDRINUSE');
  });

  it('serves on when the update is called off', async () => {
    const old = await bound();
    const crossing = await Crossing.begin(datagramHandler, old);
    await crossing.freeze();
    (crossing.object as Socket).close();
    await crossing.rollback();
    const heard = message(old);
    await send(client, 'still', old.address().port, '127.0.0.1');
    expect(await heard).toBe('still');
  });

  it('that the old image closed on the way is closed in the next one', async () => {
    const old = await bound();
    const crossing = await Crossing.begin(datagramHandler, old);
    old.close();
    await crossing.freeze();
    const closed = once(crossing.object as Socket, 'close');
    await crossing.commit();
    await closed;
  });

  it('that nobody claims is given up', async () => {
    const crossing = await Crossing.begin(datagramHandler, await bound());
    await crossing.freeze();
    await crossing.drop();
    expect(crossing.adopted.isOpen).toBe(false);
  });

  it('outlives a crash with its port and what was queued', async () => {
    const old = await bound();
    const { port } = old.address();
    const { file, start } = restored(datagramHandler, fileOf(old));
    old.close();
    sockets.push(file.socket);
    client.send('in between', port, '127.0.0.1');
    start();
    expect(await message(file.socket)).toBe('in between');
  });

  it('that is not bound is refused', () => {
    const socket = createSocket('udp4');
    sockets.push(socket);
    expect(() => fileOf(socket)).toThrow(
      expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining('not bound') }),
    );
  });

  it('refuses what is none, and a damaged record, and closes the descriptor', async () => {
    const old = await bound();
    const { file } = await Crossing.begin(datagramHandler, old).then((crossing) => {
      (crossing.object as Socket).close();
      return crossing;
    });
    for (const bytes of [Buffer.from('x'), Buffer.alloc(0)]) {
      const handler = () => restored(datagramHandler, Object.assign(file, { toRecord: () => bytes }));
      expect(handler).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
  });
});
