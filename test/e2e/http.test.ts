import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { type About, HttpClients, HttpConnection } from './http-clients.js';
import { isAlive, LuodProcess, programPath } from './luod-process.js';

const PROGRAM = [process.execPath, programPath('http-service.mjs')];

let luod: LuodProcess;
/** What is held in the program goes on when there is a file of its name in here. */
let hold: string;
let clients: HttpClients | undefined;
const open: HttpConnection[] = [];

afterEach(async () => {
  clients?.close();
  clients = undefined;
  for (const connection of open.splice(0)) connection.close();
  await luod?.stop();
  rmSync(hold, { recursive: true, force: true });
});

async function start(env: NodeJS.ProcessEnv = {}): Promise<void> {
  hold = mkdtempSync(join(tmpdir(), 'liveupdate-hold-'));
  luod = await LuodProcess.start({ command: PROGRAM, env: { HOLD: hold, ...env } });
}

const release = (word: string) => writeFileSync(join(hold, word), '');

async function dial(): Promise<HttpConnection> {
  const connection = await HttpConnection.open(luod.port);
  open.push(connection);
  return connection;
}

/** Sent on another connection and answered: what was sent before has been read. */
async function read(): Promise<void> {
  const other = await HttpConnection.open(luod.port);
  other.get('/hello/read');
  await other.json();
  other.close();
}

const update = (flags: readonly string[] = []) => luod.updateTo([], flags);

/** Waits until nobody lingers. */
async function drained(pid: number | undefined): Promise<void> {
  await luod.says(new RegExp(`pid ${pid}, has served what could not cross`));
}

describe('keep-alive connections', () => {
  for (const framework of ['http', 'express', 'fastify']) {
    it(`cross under ${framework}: no request fails, no connection ends`, { timeout: 60_000 }, async () => {
      await start({ FRAMEWORK: framework });
      clients = await HttpClients.open(luod.port, 60, (n) => (n % 5 === 0 ? '/slow/40/WORD' : '/hello/WORD'));
      const silent = await dial();
      for (let generation = 2; generation <= 6; generation++) {
        expect(await update()).toMatchObject({ ok: true, generation, carried: true });
      }
      await clients.settle();
      expect([clients.failures, clients.closed]).toEqual([[], 0]);
      expect(clients.requests).toBeGreaterThan(60);
      // One that has said nothing since it was opened is served by the last image.
      silent.get('/hello/first');
      expect(await silent.json<About>()).toMatchObject({ generation: 6, word: 'first' });
    });
  }

  it('cross on a unix path, which stays while the old image lingers', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-http-'));
    const path = join(folder, 'web.sock');
    await start({ HTTP_PATH: path });
    const slow = await HttpConnection.open(path);
    open.push(slow);
    slow.get('/hold/late');
    clients = await HttpClients.open(path, 20);
    const { fromPid } = await update();
    const fresh = await HttpClients.open(path, 20);
    release('late');
    expect(await slow.json<About>()).toMatchObject({ generation: 1, word: 'late' });
    await drained(fromPid);
    slow.get('/hello/again');
    expect(await slow.json<About>()).toMatchObject({ generation: 2 });
    const later = await HttpConnection.open(path);
    open.push(later);
    later.get('/hello/later');
    expect(await later.json<About>()).toMatchObject({ generation: 2 });
    await clients.settle();
    await fresh.settle();
    expect([clients.failures, clients.closed, fresh.failures, fresh.closed]).toEqual([[], 0, [], 0]);
    fresh.close();
    rmSync(folder, { recursive: true });
  });

  it('are closed by the next image when they stay idle for the keep-alive timeout', async () => {
    await start();
    const idle = await dial();
    idle.get('/hello/once');
    await idle.json();
    await update();
    // Node's default is five seconds; a connection that crossed is not given a minute and a 408.
    await new Promise((resolve) => idle.socket.once('close', resolve));
    expect(idle.rest).toBe(0);
  });
});

describe('a request under way', () => {
  it('is answered by the old image, and its connection crosses behind the response', async () => {
    await start();
    const slow = await dial();
    slow.get('/hold/one');
    await read();
    const result = await update();
    expect(result).toMatchObject({ ok: true, draining: 1 });
    const status = await luod.status();
    expect(status.services[0]?.lingering).toMatchObject([
      { pid: result.fromPid, generation: 1, connections: 1 },
    ]);
    release('one');
    expect(await slow.json<About>()).toEqual({ generation: 1, pid: result.fromPid, word: 'one' });
    await drained(result.fromPid);
    slow.get('/hello/two');
    expect(await slow.json<About>()).toEqual({ generation: 2, pid: result.toPid, word: 'two' });
    expect(isAlive(result.fromPid as number)).toBe(false);
  });

  it('may be pipelined with others: each is answered once, in order', async () => {
    await start();
    const connection = await dial();
    const request = (path: string) => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`;
    connection.send(request('/hold/a') + request('/hello/b') + request('/hold/c') + request('/hello/d'));
    await read();
    const { fromPid, draining } = await update();
    expect(draining).toBe(1);
    release('a');
    release('c');
    const words = [];
    for (let i = 0; i < 4; i++) words.push((await connection.json<About>()).word);
    expect(words).toEqual(['a', 'b', 'c', 'd']);
    await drained(fromPid);
    connection.get('/hello/e');
    expect(await connection.json<About>()).toMatchObject({ generation: 2, word: 'e' });
  });

  it('may have come in half: the old image gets the rest', async () => {
    await start();
    const connection = await dial();
    connection.get('/hello/first');
    await connection.json();
    connection.send('GET /hello/half HTTP/1.1\r\nHo');
    await read();
    const { fromPid, draining } = await update();
    expect(draining).toBe(1);
    connection.send('st: test\r\n\r\n');
    expect(await connection.json<About>()).toMatchObject({ generation: 1, word: 'half' });
    await drained(fromPid);
    connection.get('/hello/next');
    expect(await connection.json<About>()).toMatchObject({ generation: 2, word: 'next' });
  });

  it('may be an upload or a stream: both end in the old image, whole', async () => {
    await start();
    const upload = await dial();
    const body = randomBytes(3 << 20);
    upload.send(`POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: ${body.length}\r\n\r\n`);
    upload.send(body.subarray(0, 1 << 20));
    const stream = await dial();
    stream.get('/stream/goes-on');
    await stream.head();
    expect((await stream.chunk()).toString()).toBe('1');
    const { fromPid, draining } = await update();
    expect(draining).toBe(2);
    upload.send(body.subarray(1 << 20));
    expect(await upload.json()).toEqual({
      bytes: body.length,
      sha256: createHash('sha256').update(body).digest('hex'),
    });
    release('goes-on');
    let text = '';
    for (let chunk = await stream.chunk(); chunk.length > 0; chunk = await stream.chunk()) text += chunk;
    expect(text).toBe('23456789generation 1');
    await drained(fromPid);
    for (const connection of [upload, stream]) {
      connection.get('/hello/after');
      expect(await connection.json<About>()).toMatchObject({ generation: 2 });
    }
  });

  it('crosses also when its image was replaced again and again meanwhile', async () => {
    await start();
    const slow: HttpConnection[] = [];
    for (let generation = 1; generation <= 4; generation++) {
      const connection = await dial();
      slow.push(connection);
      connection.get(`/hold/g${generation}`);
      await read();
      expect(await update()).toMatchObject({ ok: true, generation: generation + 1, draining: 1 });
    }
    for (const [i, connection] of slow.entries()) {
      release(`g${i + 1}`);
      expect(await connection.json<About>()).toMatchObject({ generation: i + 1, word: `g${i + 1}` });
      connection.get('/hello/now');
      expect(await connection.json<About>()).toMatchObject({ generation: 5 });
    }
  });

  it('is cut off at the deadline', async () => {
    await start();
    const slow = await dial();
    slow.get('/hold/never');
    await read();
    const { fromPid } = await update(['--drain-timeout', '300ms']);
    await expect(slow.response()).rejects.toThrow('closed');
    await drained(fromPid);
  });

  it('is answered although the next image dies meanwhile', async () => {
    await start();
    const slow = await dial();
    slow.get('/hold/kept');
    await read();
    const { toPid, fromPid } = await update();
    process.kill(toPid as number, 'SIGKILL');
    await luod.says(/was killed by SIGKILL/);
    release('kept');
    const { headers, body } = await slow.response();
    expect(JSON.parse(body.toString())).toMatchObject({ generation: 1, word: 'kept' });
    // Nobody is left to hand it on to, and the client is told.
    expect(headers.get('connection')).toBe('close');
    await drained(fromPid);
  });

  it('is answered although luod dies meanwhile, and the next luod knows who lingers', async () => {
    await start();
    const slow = await dial();
    slow.get('/hold/kept');
    await read();
    const { fromPid } = await update();
    luod.signal('SIGKILL');
    await luod.exited;
    await luod.again();
    expect((await luod.status()).services[0]?.lingering).toMatchObject([{ pid: fromPid, generation: 1 }]);
    release('kept');
    expect(await slow.json<About>()).toMatchObject({ generation: 1, word: 'kept' });
    await drained(fromPid);
    slow.get('/hello/next');
    expect(await slow.json<About>()).toMatchObject({ generation: 2 });
  });
});

describe('an update that is rolled back', () => {
  it('leaves every connection and request where it was', async () => {
    await start();
    clients = await HttpClients.open(luod.port, 40, (n) => (n % 3 === 0 ? '/slow/30/WORD' : '/hello/WORD'));
    const slow = await dial();
    slow.get('/hold/mine');
    for (let time = 0; time < 3; time++) {
      const result = await luod.updateTo([process.execPath, '-e', 'process.exit(3)']);
      expect(result).toMatchObject({ ok: false, rolledBack: true });
    }
    release('mine');
    expect(await slow.json<About>()).toMatchObject({ generation: 1, word: 'mine' });
    await clients.settle();
    expect([clients.failures, clients.closed]).toEqual([[], 0]);
  });
});
