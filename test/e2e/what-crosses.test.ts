/**
 * The table of docs/what-crosses.md is what the handlers do; and of a program that holds one of each, all of it crosses in place. So do
 * WebSockets and event streams, which no handler has.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import WebSocket from 'ws';
import { HttpConnection } from './http-clients.js';
import { freePort, programPath, run } from './luod-process.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const undo: (() => unknown)[] = [];

afterEach(async () => {
  for (const act of undo.splice(0).reverse()) await act();
});

/** A program that luod does not run. */
async function start(
  name: string,
  env: NodeJS.ProcessEnv = {},
): Promise<{ child: ChildProcess; port: number }> {
  const port = await freePort();
  const child = spawn(process.execPath, [programPath(name)], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, ...env, PORT: String(port) },
  });
  const exit = once(child, 'exit');
  undo.push(() => {
    child.kill('SIGTERM');
    return exit;
  });
  return { child, port };
}

/** A connection as soon as somebody listens. */
async function dial(port: number): Promise<HttpConnection> {
  const connections: HttpConnection[] = [];
  await expect
    .poll(async () => {
      connections.push(await HttpConnection.open(port));
      return connections.length;
    })
    .toBe(1);
  undo.push(() => connections[0]?.close());
  return connections[0] as HttpConnection;
}

it('the page says what the handlers do', async () => {
  const { code, stdout, stderr } = await run([process.execPath, join(root, 'scripts', 'what-crosses.mjs')]);
  expect(code, stderr).toBe(0);
  expect(stdout.split('\n').length).toBeGreaterThan(20);
  expect(readFileSync(join(root, 'docs', 'what-crosses.md'), 'utf8')).toContain(stdout);
});

it('in place, one of each kind crosses', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-crosses-'));
  undo.push(() => rmSync(folder, { recursive: true }));
  const path = (name: string) => join(folder, name);
  const upstream = createServer().listen(path('upstream'));
  const sockets: Socket[] = [];
  upstream.on('connection', (socket) => sockets.push(socket));
  undo.push(() => upstream.close());
  undo.push(() => sockets[0]?.destroy());
  await run(['mkfifo', path('fifo')]);
  writeFileSync(path('plan'), JSON.stringify({ old: 0, faults: [] }));
  const { child } = await start('matrix.mjs', {
    PLAN: path('plan'),
    WEB: path('web'),
    CONTROL: path('control'),
    UPSTREAM: path('upstream'),
    FIFO: path('fifo'),
    LOG: path('log'),
  });
  const report = async () => {
    const socket = createConnection(path('control')).setEncoding('utf8');
    let text = '';
    for await (const chunk of socket) text += chunk;
    return JSON.parse(text) as { generation: number };
  };
  await expect.poll(report).toMatchObject({ generation: 1 });
  const before = await report();
  child.kill('SIGHUP');
  await expect.poll(report).toEqual({ ...before, generation: 2, origin: 'update' });
  expect(sockets.map(({ readyState }) => readyState)).toEqual(['open']);
});

it('in place, a WebSocket crosses', async () => {
  const { child, port } = await start('websocket-service.mjs');
  await dial(port);
  const ws = new WebSocket(`ws://127.0.0.1:${port}/echo`);
  undo.push(() => ws.terminate());
  await once(ws, 'open');
  const ask = async () => {
    ws.send('who');
    const [answer] = (await once(ws, 'message')) as [Buffer];
    return JSON.parse(String(answer)) as object;
  };
  expect(await ask()).toMatchObject({ generation: 1, state: { messages: 1 } });
  child.kill('SIGHUP');
  // Asked of the old image until it is gone; a message that is not answered would show in the count.
  let asked = 1;
  await expect
    .poll(async () => {
      asked++;
      return await ask();
    })
    .toMatchObject({ generation: 2 });
  expect(await ask()).toMatchObject({ state: { messages: asked + 1 } });
});

it('in place, an event stream crosses', async () => {
  const { child, port } = await start('event-stream.mjs');
  const stream = await dial(port);
  stream.get('/events');
  await stream.head();
  expect(String(await stream.chunk())).toBe(': /events\n\n');
  child.kill('SIGHUP');
  let count = 0;
  let text = '';
  do {
    count++;
    const asking = await HttpConnection.open(port);
    asking.get('/emit/1');
    await asking.response();
    asking.close();
    text = '';
    while (!text.endsWith('\n\n')) text += String(await stream.chunk());
    expect(text).toContain(`id: ${count}\n`);
  } while (!text.includes('from 2'));
});
