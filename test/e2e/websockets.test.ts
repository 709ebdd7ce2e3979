import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { HttpConnection } from './http-clients.js';
import { isAlive, LuodProcess, programPath } from './luod-process.js';
import { WebSocketClient, WebSocketClients } from './websocket-clients.js';

const PROGRAM = [process.execPath, programPath('websocket-service.mjs')];

interface Service {
  readonly generation: number;
  readonly pid: number;
  readonly clients: { readonly echo: number; readonly told: number };
  readonly sum: number;
}

let luod: LuodProcess;
/** What is held in the program goes on when there is a file of its name in here. */
let hold: string;
let control: HttpConnection;
let clients: WebSocketClients | undefined;
const open: WebSocketClient[] = [];

afterEach(async () => {
  clients?.close();
  clients = undefined;
  for (const client of open.splice(0)) client.close();
  control?.close();
  await luod?.stop();
  rmSync(hold, { recursive: true, force: true });
});

async function start(env: NodeJS.ProcessEnv = {}): Promise<void> {
  hold = mkdtempSync(join(tmpdir(), 'liveupdate-hold-'));
  luod = await LuodProcess.start({
    command: PROGRAM,
    env: { HOLD: hold, DEFLATE: '{"threshold":0}', ...env },
  });
  control = await HttpConnection.open(luod.port);
}

const url = (path = '/echo') => `ws://127.0.0.1:${luod.port}${path}`;

async function dial(...args: Parameters<typeof WebSocketClient.open>): Promise<WebSocketClient> {
  const client = await WebSocketClient.open(...args);
  open.push(client);
  return client;
}

async function ask(path = '/about'): Promise<Service> {
  control.get(path);
  return control.json<Service>();
}

const update = (flags: readonly string[] = []) => luod.updateTo([], flags);

/** The same program in another environment. */
const updateWith = (env: Record<string, string>) =>
  luod.updateTo(['env', ...Object.entries(env).map(([name, value]) => `${name}=${value}`), ...PROGRAM]);

/** Numbers that a client of /ticks has been told. */
async function listen(): Promise<number[]> {
  const numbers: number[] = [];
  const client = await dial(url('/ticks'));
  client.ws.removeAllListeners('message');
  client.ws.on('message', (data) => numbers.push(Number(data)));
  return numbers;
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);

async function drained(pid: number | undefined): Promise<void> {
  await luod.says(new RegExp(`pid ${pid}, has served what could not cross`));
  expect(isAlive(pid as number)).toBe(false);
}

describe('WebSockets', () => {
  it('cross in every mode, with every byte, through twelve updates', { timeout: 120_000 }, async () => {
    await start();
    clients = await WebSocketClients.open(url(), 8);
    for (let generation = 2; generation <= 13; generation++) {
      expect(await update()).toMatchObject({ ok: true, generation, carried: true });
    }
    await clients.settle();
    expect(clients.failures).toEqual([]);
    const abouts = await Promise.all(clients.clients.map((client) => client.who()));
    expect(new Set(abouts.map(({ generation }) => generation))).toEqual(new Set([13]));
    expect(new Set(abouts.map(({ state }) => state.born))).toEqual(new Set([1]));
    // Each was counted once, by whichever image.
    expect(abouts.map(({ state }) => state.messages)).toEqual(clients.clients.map(({ sent }) => sent));
    expect(await ask()).toMatchObject({ clients: { echo: 24, told: 0 }, sum: clients.sent });
  });

  it('are told what the program tells all, once and in order, while updates run', {
    timeout: 60_000,
  }, async () => {
    await start();
    const told = [await listen(), await listen(), await listen()];
    let isOver = false;
    let count = 0;
    const telling = (async () => {
      while (!isOver) {
        await ask('/tell/7');
        count += 7;
        // Ahead of the clients, so that the server always has something to compress, but not by ever more.
        while (count - (told[0]?.length ?? 0) > 300) await once(open[0]!.ws, 'message');
      }
    })();
    for (let generation = 2; generation <= 8; generation++)
      expect(await update()).toMatchObject({ ok: true, generation });
    isOver = true;
    await telling;
    // Behind everything else on its connection.
    for (const { ws } of open) {
      ws.ping();
      await once(ws, 'pong');
    }
    // Where the first is lost, twice or early.
    const gaps = told.map((numbers) => numbers.findIndex((number, i) => number !== i + 1));
    expect(gaps).toEqual([-1, -1, -1]);
    expect(told.map((numbers) => numbers.length)).toEqual([count, count, count]);
    expect(count).toBeGreaterThan(100);
  });

  it('cross in the middle of a frame; nothing lingers', async () => {
    await start();
    const client = await dial(url('/echo?room=7'), {
      protocols: ['chat.v2'],
      headers: { 'user-agent': 'Ada' },
      perMessageDeflate: { threshold: 0 },
    });
    const { _socket: socket } = client.ws as unknown as { _socket: Socket };
    client.say('before '.repeat(1000));
    await client.settle();
    const write = socket.write.bind(socket) as (bytes: Uint8Array) => void;
    let bytes = Buffer.alloc(0);
    const isCaught = new Promise<void>((resolve) => {
      socket.write = ((chunk: Uint8Array) => {
        bytes = Buffer.concat([bytes, chunk]);
        resolve();
        return true;
      }) as typeof socket.write;
    });
    client.say('before '.repeat(500));
    await isCaught;
    write(bytes.subarray(0, 11));
    await ask();
    const result = await update();
    expect(result).toMatchObject({ ok: true, draining: 0 });
    write(bytes.subarray(11));
    socket.write = write as typeof socket.write;
    await client.settle();
    expect(client.failure).toBeUndefined();
    expect(await client.who()).toEqual({
      generation: 2,
      state: { born: 1, messages: 3, url: '/echo?room=7' },
      url: '/echo?room=7',
      agent: 'Ada',
      protocol: 'chat.v2',
      extensions: 'permessage-deflate',
      port: socket.localPort,
    });
  });

  it('live and die by the heartbeat of the image that has them', async () => {
    await start({ BEAT_MS: '1000' });
    const answers = await dial(url());
    const silent = await dial(url(), { autoPong: false });
    const ended = once(silent.ws, 'close');
    let beats = 0;
    answers.ws.on('ping', () => beats++);
    await update();
    await ended;
    while (beats < 3) await once(answers.ws, 'ping');
    expect(answers.failure).toBeUndefined();
    // The client may know of the end before the server's WebSocket has closed.
    await expect.poll(async () => (await ask()).clients.echo).toBe(1);
  });

  it('that close end in the image where they began to', async () => {
    await start();
    const client = await dial(url('/ticks'));
    const closed = once(client.ws, 'close');
    client.ws.send('bye');
    client.ws.pause();
    while ((await ask()).clients.told !== 1);
    const { draining, fromPid } = await update();
    expect(draining).toBe(1);
    client.ws.resume();
    const [code, reason] = await closed;
    expect([code, String(reason)]).toEqual([1000, 'bye']);
    await drained(fromPid);
  });
});

describe('a WebSocket that cannot cross in the cut', () => {
  it('is served by the old image, and crosses when it can', async () => {
    await start();
    const client = await dial(url('/ticks'));
    const texts: string[] = [];
    client.ws.removeAllListeners('message');
    client.ws.on('message', (data) => texts.push(String(data)));
    await ask('/blob/slow');
    await ask('/tell/1');
    const { draining, fromPid } = await update();
    expect(draining).toBe(1);
    expect((await ask()).clients.told).toBe(0);
    writeFileSync(join(hold, 'slow'), '');
    await drained(fromPid);
    expect((await ask('/tell/1')).clients.told).toBe(1);
    const [code, reason] = await new Promise<[number, Buffer]>((resolve) => {
      client.ws.on('close', (...args) => resolve(args));
      client.ws.send('bye');
    });
    expect(texts).toEqual(['slow', '1', '2']);
    expect([code, String(reason)]).toEqual([1000, 'bye']);
  });

  it('may be one whose upgrade was under way', async () => {
    await start();
    const dialing = dial(url('/late?word'));
    await ask();
    const { draining, fromPid } = await update();
    expect(draining).toBe(1);
    writeFileSync(join(hold, 'word'), '');
    const client = await dialing;
    await drained(fromPid);
    expect(await client.who()).toMatchObject({ generation: 2, state: { born: 1 }, url: '/late?word' });
  });

  it('is told to come again when the next image is gone', async () => {
    await start();
    const dialing = dial(url('/late?word'));
    await ask();
    const { toPid, fromPid } = await update();
    process.kill(toPid as number, 'SIGKILL');
    await luod.says(/was killed by SIGKILL/);
    writeFileSync(join(hold, 'word'), '');
    const client = await dialing;
    const [code] = await once(client.ws, 'close');
    expect(code).toBe(1012);
    await drained(fromPid);
  });
});

describe('an update that is rolled back', () => {
  it('leaves every WebSocket as it was', { timeout: 60_000 }, async () => {
    await start();
    const told = await listen();
    clients = await WebSocketClients.open(url(), 3);
    const { pid } = await ask('/tell/3');
    for (let time = 0; time < 2; time++) {
      expect(await luod.updateTo([process.execPath, '-e', 'process.exit(3)'])).toMatchObject({
        ok: false,
        rolledBack: true,
      });
      // This one is refused behind the freeze.
      const result = await updateWith({ WITHOUT: 'ticks' });
      expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'EINVAL' } });
      expect(result.error?.message).toContain("ready({ drop: ['websocket:ticks'] })");
      await ask('/tell/3');
    }
    await clients.settle();
    expect(clients.failures).toEqual([]);
    expect(await ask()).toMatchObject({ generation: 1, pid, clients: { echo: 9, told: 1 } });
    for (const { ws } of open) {
      ws.ping();
      await once(ws, 'pong');
    }
    expect(told).toEqual(upTo(9));
  });
});

describe('a version that gives WebSockets up', () => {
  it('says so, and they are closed', async () => {
    await start();
    const client = await dial(url('/ticks'));
    const other = await dial(url());
    const closed = once(client.ws, 'close');
    const result = await updateWith({ WITHOUT: 'ticks', DROP: 'websocket:ticks' });
    expect(result).toMatchObject({ ok: true, generation: 2 });
    await closed;
    expect((await other.who()).generation).toBe(2);
  });
});
