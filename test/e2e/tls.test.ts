import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { connect, type TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import type { About } from './http-clients.js';
import { HttpConnection } from './http-clients.js';
import { LuodProcess, programPath } from './luod-process.js';

const PROGRAM = [process.execPath, programPath('http-service.mjs')];
const ca = readFileSync(programPath('tls/cert.pem'));

let luod: LuodProcess;
let hold: string;
const undo: (() => void)[] = [];

afterEach(async () => {
  for (const act of undo.splice(0)) act();
  await luod?.stop();
  rmSync(hold, { recursive: true, force: true });
});

async function start(framework: string): Promise<void> {
  hold = mkdtempSync(join(tmpdir(), 'liveupdate-hold-'));
  luod = await LuodProcess.start({ command: PROGRAM, env: { FRAMEWORK: framework, HOLD: hold } });
}

const update = () => luod.updateTo([]);
const release = (word: string) => writeFileSync(join(hold, word), '');

/** Waits until the old image has nothing left. */
async function drained(pid: number | undefined): Promise<void> {
  await luod.says(new RegExp(`pid ${pid}, has served what could not cross`));
}

/** A TLS connection that has had one echo. A new session's ticket comes behind its handshake; a resumed one has none. */
async function dial(session?: Buffer): Promise<{ socket: TLSSocket; ticket: Buffer | undefined }> {
  const socket = connect({ port: luod.port, host: '127.0.0.1', ca, servername: 'localhost', session });
  undo.push(() => socket.destroy());
  const ticket = session === undefined ? once(socket, 'session') : undefined;
  socket.write('ping');
  await once(socket, 'data');
  return { socket, ticket: (await ticket)?.[0] as Buffer | undefined };
}

describe('a TLS server', () => {
  it('keeps its connections in the old image, to their end', async () => {
    await start('tls');
    const { socket } = await dial();
    const result = await update();
    expect(result).toMatchObject({ ok: true, draining: 1 });
    socket.write('still here');
    expect(String((await once(socket, 'data'))[0])).toBe('still here');
    expect((await luod.status()).services[0]?.lingering).toMatchObject([{ pid: result.fromPid }]);
    socket.end();
    await drained(result.fromPid);
  });

  it('has new connections in the new image, which takes the tickets of every image before', async () => {
    await start('tls');
    const { socket, ticket } = await dial();
    socket.destroy();
    for (let generation = 2; generation <= 4; generation++) {
      expect(await update()).toMatchObject({ ok: true, generation });
      const next = await dial(ticket);
      expect(next.socket.isSessionReused()).toBe(true);
      next.socket.destroy();
    }
  });
});

interface Answer extends About {
  readonly connection: string | undefined;
}

function ask(agent: Agent, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request(
      { port: luod.port, host: '127.0.0.1', path, agent, ca, servername: 'localhost' },
      (response) => {
        text(response).then(
          (body) => resolve({ ...(JSON.parse(body) as About), connection: response.headers.connection }),
          reject,
        );
      },
    );
    asked.on('error', reject).end();
  });
}

describe('an HTTPS server', () => {
  it('answers what is under way in the old image, with the word that the connection ends', async () => {
    await start('https');
    const agent = new Agent({ keepAlive: true });
    undo.push(() => agent.destroy());
    expect(await ask(agent, '/hello/idle')).toMatchObject({ generation: 1, connection: 'keep-alive' });
    const held = ask(agent, '/hold/mine');
    const other = new Agent();
    undo.push(() => other.destroy());
    await ask(other, '/hello/read');
    const { fromPid, draining } = await update();
    expect(draining).toBeGreaterThan(0);
    release('mine');
    expect(await held).toMatchObject({ generation: 1, word: 'mine', connection: 'close' });
    await drained(fromPid);
    expect(await ask(agent, '/hello/next')).toMatchObject({ generation: 2 });
  });
});

function askHttp2(session: ClientHttp2Session, path: string): Promise<About> {
  const stream = session.request({ ':path': path });
  return text(stream).then((body) => JSON.parse(body) as About);
}

describe('an HTTP/2 server', () => {
  it('says GOAWAY, and answers the streams that are open', async () => {
    await start('http2');
    const session = connectHttp2(`https://localhost:${luod.port}`, { ca });
    undo.push(() => session.destroy());
    expect(await askHttp2(session, '/hello/one')).toMatchObject({ generation: 1 });
    const held = askHttp2(session, '/hold/mine');
    expect(await askHttp2(session, '/hello/read')).toMatchObject({ generation: 1 });
    const goaway = once(session, 'goaway');
    const { fromPid } = await update();
    await goaway;
    release('mine');
    expect(await held).toMatchObject({ generation: 1, word: 'mine' });
    await once(session, 'close');
    await drained(fromPid);
    const next = connectHttp2(`https://localhost:${luod.port}`, { ca });
    undo.push(() => next.destroy());
    expect(await askHttp2(next, '/hello/two')).toMatchObject({ generation: 2 });
  });
});

describe('a counter', () => {
  it('never goes backwards, and misses no request of any image', async () => {
    await start('http');
    const held = await HttpConnection.open(luod.port);
    const asking = await HttpConnection.open(luod.port);
    undo.push(
      () => held.close(),
      () => asking.close(),
    );
    let sent = 0;
    let last = 0;
    const count = async () => {
      asking.get('/count');
      sent++;
      const { count: now } = await asking.json<About & { count: number }>();
      expect(now).toBeGreaterThan(last);
      last = now;
    };
    held.get('/hold/a');
    sent++;
    await count();
    for (let generation = 2; generation <= 4; generation++) {
      expect(await update()).toMatchObject({ ok: true, generation });
      await count();
      await count();
    }
    // The first image lingers, and its next request is counted there.
    held.get('/hello/b');
    sent++;
    release('a');
    expect(await held.json<About>()).toMatchObject({ generation: 1 });
    await held.json<About>();
    await count();
    expect(last).toBe(sent);
  });
});
