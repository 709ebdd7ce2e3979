import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { deserialize, serialize } from 'node:v8';
import { afterEach, describe, expect, it } from 'vitest';
import { type ClientOptions, type ServerOptions, WebSocket, WebSocketServer } from 'ws';
import { Connection } from '../../../src/handlers/connection.js';
import { connectionOf } from '../../../src/handlers/upgrades.js';
import { type WebSocketServerLike, WebSockets } from '../../../src/handlers/websocket.js';
import { dupFd } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';

interface Heard {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/** A server whose one connection crosses, again and again, from image to image of the same process. */
class Images {
  readonly http: Server = createServer();
  readonly wss: WebSocketServer;
  readonly sockets: WebSockets;
  readonly heard: Heard[] = [];
  readonly pings: string[] = [];
  connection!: Connection;
  ws!: WebSocket;
  request!: IncomingMessage;
  #read = 0;
  /** The next image's connection, when it was told of it ahead. */
  #next: Connection | undefined;

  constructor(options: ServerOptions) {
    this.http.on('connection', (socket: Socket) => {
      this.connection = Connection.of(socket);
    });
    this.wss = new WebSocketServer({ ...options, server: this.http });
    this.sockets = new WebSockets('websocket:test', this.wss);
    this.wss.on('connection', (ws, request) => {
      this.ws = ws;
      this.request = request;
      ws.on('message', (data: Buffer, isBinary) => this.heard.push({ data, isBinary }));
      // 'close' follows.
      ws.on('error', () => undefined);
      ws.on('ping', (data) => this.pings.push(data.toString()));
    });
  }

  async listen(): Promise<number> {
    this.http.listen(0, '127.0.0.1');
    await once(this.http, 'listening');
    return (this.http.address() as { port: number }).port;
  }

  /** Waits until `bytes` more have been read from the wire, and all that they lead to has been done. */
  async reads(bytes: number): Promise<void> {
    const handle = () => (this.connection.socket as Socket & { _handle: { bytesRead: number } })._handle;
    this.#read += bytes;
    while (handle().bytesRead < this.#read) await nextTurn();
    await this.settles();
  }

  async settles(): Promise<void> {
    while (this.connection.upgraded?.isSettling()) await nextTurn();
  }

  /** Ahead of the cut: what is known now goes to the next image, which may build of it what it can. */
  tell({ prepare }: { prepare: boolean }): void {
    const { connection: old } = this;
    const next = Connection.adopt(dupFd(handleFd(old.socket) as number));
    next.ahead = { name: 'websocket:test', value: deserialize(serialize(old.upgraded?.ahead?.())) };
    if (prepare) this.sockets.prepare(next);
    this.#next = next;
  }

  /** To the next image. */
  cross(): void {
    const { connection: old } = this;
    expect(old.upgraded?.isMovable()).toBe(true);
    const value: unknown = deserialize(serialize(old.upgraded?.save(this.#next !== undefined)));
    const pending = old.pending();
    const next = this.#next ?? Connection.adopt(dupFd(handleFd(old.socket) as number));
    this.#next = undefined;
    if (pending !== undefined) next.restore(pending);
    next.saved = { name: 'websocket:test', value, ahead: next.ahead?.value };
    old.detach();
    this.wss.clients.delete(this.ws);
    this.connection = next;
    next.arm(this.http, this.sockets);
    next.announce();
    this.#read = 0;
  }

  /** Reads from now on count from here. */
  mark(): void {
    this.#read = (this.connection.socket as Socket & { _handle: { bytesRead: number } })._handle.bytesRead;
  }
}

/** A real client, whose bytes go out when the test says so. */
class Client {
  readonly ws: WebSocket;
  readonly heard: Heard[] = [];
  #bytes = Buffer.alloc(0);
  #write: (bytes: Uint8Array) => void = () => undefined;

  private constructor(ws: WebSocket) {
    this.ws = ws;
    ws.on('message', (data: Buffer, isBinary) => this.heard.push({ data, isBinary }));
    ws.on('error', () => undefined);
  }

  static async open(port: number, options: ClientOptions, protocols: string[] = []): Promise<Client> {
    const client = new Client(new WebSocket(`ws://127.0.0.1:${port}/room?x=1`, protocols, options));
    await once(client.ws, 'open');
    const { _socket: socket } = client.ws as unknown as { _socket: Socket };
    client.#write = socket.write.bind(socket) as (bytes: Uint8Array) => void;
    socket.write = ((bytes: Uint8Array, callback?: () => void) => {
      client.#bytes = Buffer.concat([client.#bytes, bytes]);
      if (callback !== undefined) process.nextTick(callback);
      return true;
    }) as typeof socket.write;
    return client;
  }

  send(data: string | Buffer, options: { fin?: boolean } = {}): Promise<void> {
    return new Promise((resolve) => this.ws.send(data, options, () => resolve()));
  }

  /** What was sent and not let out yet. */
  get waiting(): number {
    return this.#bytes.length;
  }

  letOut(length = this.#bytes.length): number {
    const out = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    this.#write(out);
    return out.length;
  }

  async hears(count: number): Promise<void> {
    while (this.heard.length < count) await once(this.ws, 'message');
  }
}

let images: Images;
let client: Client;

afterEach(() => {
  client?.ws.terminate();
  for (const ws of images?.wss.clients ?? []) ws.terminate();
  images?.http.close();
});

async function open(options: ServerOptions = {}, clientOptions: ClientOptions = {}): Promise<void> {
  images = new Images(options);
  client = await Client.open(await images.listen(), { headers: { 'x-name': 'Ada' }, ...clientOptions });
  while (images.ws === undefined) await nextTurn();
  images.mark();
}

const MODES: Record<string, ServerOptions['perMessageDeflate']> = {
  'no compression': false,
  'compression that remembers': { threshold: 0 },
  'compression with a window of 512 bytes': { threshold: 0, clientMaxWindowBits: 9, serverMaxWindowBits: 9 },
  'compression that forgets': {
    threshold: 0,
    clientNoContextTakeover: true,
    serverNoContextTakeover: true,
  },
};

/** Repeats itself, so that compressed it refers far back. */
const words = (from: number, length: number) =>
  Array.from({ length }, (_, i) => `word ${(from + i) % 23} of ${from}`).join(', ');

describe('a WebSocket that crosses', () => {
  for (const [mode, perMessageDeflate] of Object.entries(MODES)) {
    it(`may do so behind every byte: ${mode}`, async () => {
      await open({ perMessageDeflate }, { perMessageDeflate: perMessageDeflate !== false });
      const sent: Heard[] = [];
      const say = async (data: string | Buffer, pieces: (string | Buffer)[] = [data]) => {
        sent.push({ data: Buffer.from(data), isBinary: typeof data !== 'string' });
        for (const [i, piece] of pieces.entries()) {
          const fin = i === pieces.length - 1;
          if (fin) client.ws.ping('between');
          await client.send(piece, { fin });
        }
      };
      const text = words(0, 6);
      await say(text);
      await say(text + words(1, 3));
      await say('');
      await say(Buffer.from(words(2, 10)));
      const long = words(0, 14);
      await say(long, [long.slice(0, 90), '', long.slice(90, 99), long.slice(99)]);
      const binary = Buffer.from(words(3, 10));
      await say(binary, [binary.subarray(0, 80), binary.subarray(80)]);
      await say(text);
      const total = client.waiting;
      for (let crossed = 0; client.waiting > 0; crossed++) {
        if (crossed % 3 > 0) images.tell({ prepare: crossed % 3 === 1 });
        await images.reads(client.letOut(1));
        images.cross();
      }
      expect(images.heard).toEqual(sent);
      expect(total).toBeGreaterThan(sent.length * 6);
      expect(images.pings.length).toBe(sent.length);
      // And the other way: the peer understands what each image has sent.
      for (const [i, { data, isBinary }] of sent.entries()) {
        if (i % 2 > 0) images.tell({ prepare: true });
        images.ws.send(data, { binary: isBinary });
        await images.settles();
        images.cross();
      }
      await client.hears(sent.length);
      expect(client.heard).toEqual(sent);
    });
  }

  it('goes on in the middle of a message that the program sends in fragments', async () => {
    await open({ perMessageDeflate: { threshold: 0 } });
    const pieces = [words(0, 40), words(0, 40), words(1, 30), 'end'];
    for (const [i, piece] of pieces.entries()) {
      images.ws.send(piece, { fin: i === pieces.length - 1 });
      await images.settles();
      images.cross();
    }
    await client.hears(1);
    expect(client.heard[0]?.data.toString()).toBe(pieces.join(''));
  });

  it('takes along what waits to be compressed, and what is being compressed', async () => {
    for (const perMessageDeflate of [{ threshold: 0 }, { threshold: 600, serverNoContextTakeover: true }]) {
      client?.ws.terminate();
      await open({ perMessageDeflate });
      const sent: Heard[] = [];
      const say = (data: string | Buffer, pieces: (string | Buffer)[] = [data]) => {
        sent.push({ data: Buffer.from(data), isBinary: typeof data !== 'string' });
        for (const [i, piece] of pieces.entries()) {
          images.ws.send(piece, { fin: i === pieces.length - 1 });
          if (i === 0) images.ws.ping('between');
        }
      };
      let pings = 0;
      client.ws.on('ping', () => pings++);
      for (let round = 0; round < 10; round++) {
        say(words(round, 40));
        say(words(0, 3));
        say(Buffer.from(words(round, 50)));
        say(words(1, 60), [
          words(1, 60).slice(0, 700),
          words(1, 60).slice(700, 710),
          words(1, 60).slice(710),
        ]);
        const open = words(2, 100);
        images.ws.send(open.slice(0, 100 * round), { fin: false });
        images.cross();
        images.ws.send(open.slice(100 * round));
        sent.push({ data: Buffer.from(open), isBinary: false });
        // Of some rounds a part has left.
        for (let turn = 0; turn < round; turn++) await nextTurn();
        images.cross();
        images.cross();
      }
      await client.hears(sent.length);
      expect(client.heard).toEqual(sent);
      await images.settles();
      expect(pings).toBe(40);
      expect(images.ws.bufferedAmount).toBe(0);
    }
  });

  it('takes its bytes along that the kernel has not taken', async () => {
    await open();
    const { _socket: socket } = client.ws as unknown as { _socket: Socket };
    socket.pause();
    const large = Buffer.alloc(1 << 20, 'large');
    for (let i = 0; i < 12; i++) images.ws.send(large);
    expect(images.ws.bufferedAmount).toBeGreaterThan(1 << 20);
    images.cross();
    expect(images.ws.bufferedAmount).toBeGreaterThan(1 << 20);
    images.ws.send('last');
    socket.resume();
    await client.hears(13);
    expect(client.heard.slice(0, 12).every(({ data }) => data.equals(large))).toBe(true);
    expect(client.heard[12]?.data.toString()).toBe('last');
  });

  it('is what it was to the program: request, protocol, extensions, clients, state, binaryType, pause', async () => {
    images = new Images({ perMessageDeflate: {}, handleProtocols: () => 'second' });
    client = await Client.open(await images.listen(), { headers: { 'x-name': 'Ada' } }, ['first', 'second']);
    while (images.ws === undefined) await nextTurn();
    images.ws.binaryType = 'arraybuffer';
    images.ws.pause();
    const { request: first, ws: before } = images;
    images.cross();
    images.cross();
    expect(images.ws).not.toBe(before);
    expect([images.ws.protocol, images.ws.extensions]).toEqual(['second', 'permessage-deflate']);
    expect([images.ws.readyState, images.ws.isPaused]).toEqual([WebSocket.OPEN, true]);
    expect(images.ws.binaryType).toBe('arraybuffer');
    expect([...images.wss.clients]).toEqual([images.ws]);
    const { request } = images;
    expect(request).not.toBe(first);
    expect([request.url, request.method, request.httpVersion]).toEqual(['/room?x=1', 'GET', '1.1']);
    expect(request.headers).toEqual(first.headers);
    expect(request.headers['x-name']).toBe('Ada');
    expect(request.rawHeaders).toEqual(first.rawHeaders);
    expect(request.socket).toBe(images.connection.socket);
    expect(connectionOf(images.ws)).toBe(images.connection);
  });

  it('is built ahead, out of sight, and saves what came since', async () => {
    await open({ perMessageDeflate: { threshold: 0 } });
    const random = randomBytes(20_000).toString('latin1');
    await client.send(random);
    client.letOut();
    await once(images.ws, 'message');
    const { ws: before, connection } = images;
    images.tell({ prepare: true });
    expect([...images.wss.clients]).toEqual([before]);
    expect(images.ws).toBe(before);
    const bytesOf = (value: unknown) => serialize(value).length;
    expect(bytesOf(connection.upgraded?.save(false))).toBeGreaterThan(20_000);
    expect(bytesOf(connection.upgraded?.save(true))).toBeLessThan(200);
    await client.send(words(0, 30));
    client.letOut();
    await once(images.ws, 'message');
    expect(bytesOf(connection.upgraded?.save(true))).toBeLessThan(words(0, 30).length + 200);
    images.cross();
    expect(images.ws).not.toBe(before);
    expect([...images.wss.clients]).toEqual([images.ws]);
    // Refers to both, the one that was told and the one that came since.
    const last = random.slice(10_000) + words(0, 30);
    await client.send(last);
    client.letOut();
    await once(images.ws, 'message');
    expect(images.heard.map(({ data }) => data.toString())).toEqual([random, words(0, 30), last]);
  });

  it('is built ahead, and has another window when more came since than one has', async () => {
    await open({ perMessageDeflate: { threshold: 0 } });
    const say = async (text: string) => {
      await client.send(text);
      client.letOut();
      await once(images.ws, 'message');
    };
    const random = () => randomBytes(20_000).toString('latin1');
    await say(random());
    images.tell({ prepare: true });
    const [first, second] = [random(), random()];
    await say(first);
    await say(second);
    images.cross();
    // A window that also has what came before finds it at the wrong distance.
    await say(first.slice(-10_000) + second);
    expect(images.heard.at(-1)?.data.toString()).toBe(first.slice(-10_000) + second);
  });

  it('that ends before the cut leaves nothing of what was built', async () => {
    await open();
    const made: WebSocket[] = [];
    class Noted extends WebSocket {
      // The address is null, as of every WebSocket of a server.
      constructor(...args: ConstructorParameters<typeof WebSocket>) {
        super(...args);
        made.push(this);
      }
    }
    images.wss.options.WebSocket = Noted as typeof WebSocket;
    images.tell({ prepare: true });
    const [ahead] = made as [WebSocket];
    const closed = once(ahead, 'close');
    (ahead as unknown as { _socket: Socket })._socket.destroy();
    await closed;
    expect([...images.wss.clients]).toEqual([images.ws]);
    expect(images.ws.readyState).toBe(WebSocket.OPEN);
  });

  it('keeps what was agreed on although the next version would agree on something else', async () => {
    await open({ perMessageDeflate: { threshold: 0, clientMaxWindowBits: 10 } });
    images.wss.options.perMessageDeflate = false;
    images.cross();
    await client.send(words(0, 100));
    client.letOut();
    await once(images.ws, 'message');
    expect(images.heard[0]?.data.toString()).toBe(words(0, 100));
    images.ws.send(words(1, 100));
    await client.hears(1);
  });

  it('holds the limits of its new server', async () => {
    await open({ maxPayload: 100 });
    images.cross();
    await client.send('x'.repeat(101));
    client.letOut();
    const [code] = await once(client.ws, 'close');
    expect(code).toBe(1009);
  });

  it('ends as any: clients, the close event, the peer', async () => {
    await open();
    images.cross();
    const closed = once(images.ws, 'close');
    client.ws.close(4000, 'bye');
    client.letOut();
    const [code, reason] = await closed;
    expect([code, String(reason)]).toEqual([4000, 'bye']);
    expect(images.wss.clients.size).toBe(0);
  });

  it('is closed by a server that closes', async () => {
    await open();
    images.cross();
    const closed = once(images.wss, 'close');
    images.wss.close();
    images.ws.terminate();
    await closed;
  });
});

describe('a WebSocket stays', () => {
  it('as long as zlib is at work on what came', async () => {
    await open({ perMessageDeflate: { threshold: 0 } });
    const { upgraded } = images.connection;
    await client.send(words(0, 10));
    client.letOut();
    while (upgraded?.isMovable()) await nextTurn();
    expect(upgraded?.isSettling()).toBe(true);
    await images.settles();
    expect(upgraded?.isMovable()).toBe(true);
    expect(images.heard[0]?.data.toString()).toBe(words(0, 10));
  });

  it('as long as a Blob is read', async () => {
    await open({ perMessageDeflate: { threshold: 0 } });
    const { upgraded } = images.connection;
    images.ws.send(new Blob(['blob']));
    images.ws.send('and more');
    expect([upgraded?.isMovable(), upgraded?.isSettling()]).toEqual([false, true]);
    await client.hears(2);
    await images.settles();
    images.ws.send('text');
    images.ws.send(new Blob(['blob']));
    expect(upgraded?.isMovable()).toBe(false);
    await client.hears(4);
    expect(upgraded?.isMovable()).toBe(true);
  });

  it('when it closes, and nobody need wait for it', async () => {
    await open();
    images.ws.close();
    const { upgraded } = images.connection;
    expect([upgraded?.isMovable(), upgraded?.isSettling()]).toEqual([false, false]);
  });

  it('and tells when it can cross', async () => {
    await open({ perMessageDeflate: { threshold: 0 } });
    images.ws.send(new Blob(['some text']));
    const { upgraded } = images.connection;
    expect(upgraded?.isMovable()).toBe(false);
    await new Promise<void>((resolve) => upgraded?.whenMovable(resolve));
    images.cross();
    images.ws.send('next');
    await client.hears(2);
    expect(client.heard[1]?.data.toString()).toBe('next');
  });
});

describe('a WebSocket that is held', () => {
  it('delivers nothing, and everything when it is released', async () => {
    await open();
    const { upgraded } = images.connection;
    upgraded?.hold();
    await client.send('one');
    client.letOut();
    const socket = images.connection.socket;
    while (socket.readableLength === 0) await nextTurn();
    expect(images.heard).toEqual([]);
    upgraded?.release();
    await once(images.ws, 'message');
    expect(images.heard[0]?.data.toString()).toBe('one');
  });

  it.each([
    ['', false],
    [', which was built ahead', true],
  ])('crosses with what came meanwhile, and is not held in the next image%s', async (_what, isAhead) => {
    await open();
    await client.send('in two pieces');
    await images.reads(client.letOut(5));
    if (isAhead) images.tell({ prepare: true });
    images.connection.upgraded?.hold();
    client.letOut();
    while (images.connection.socket.readableLength === 0) await nextTurn();
    images.cross();
    await once(images.ws, 'message');
    expect(images.heard.map(({ data }) => data.toString())).toEqual(['in two pieces']);
  });

  it('stays paused when the program has paused it', async () => {
    await open();
    images.ws.pause();
    const { upgraded } = images.connection;
    upgraded?.hold();
    upgraded?.release();
    expect(images.ws.isPaused).toBe(true);
  });
});

describe('WebSockets() refuses', () => {
  const refused = (server: unknown) => {
    try {
      new WebSockets('websocket:x', server as WebSocketServerLike);
    } catch (error) {
      return error as { code: string; message: string };
    }
    throw new Error('it was taken');
  };

  it('EINVAL what is no WebSocketServer', () => {
    expect(refused(createServer()).code).toBe('EINVAL');
    expect(refused({}).code).toBe('EINVAL');
  });

  it('EINVAL one that listens by itself', async () => {
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    await once(wss, 'listening');
    expect(refused(wss)).toMatchObject({ code: 'EINVAL', message: expect.stringContaining('noServer') });
    wss.close();
  });

  it('EBUSY one that has clients', async () => {
    await open();
    expect(refused(images.wss).code).toBe('EBUSY');
  });

  it('ENOSYS one whose insides have changed', () => {
    for (const key of ['_receiver', '_sender']) {
      class Other extends WebSocket {
        // As if the field had another name.
        get [key](): undefined {
          return undefined;
        }
        set [key](_value: unknown) {
          return;
        }
        setSocket(...args: unknown[]): void {
          Reflect.apply((WebSocket.prototype as unknown as { setSocket: () => void }).setSocket, this, args);
        }
      }
      const wss = new WebSocketServer({ noServer: true, WebSocket: Other });
      expect(refused(wss)).toMatchObject({
        code: 'ENOSYS',
        message: expect.stringContaining('8.18 to 8.23'),
      });
    }
  });
});
