/**
 * Everything at once, for long: HTTP keep-alive, WebSocket, TCP and UDP clients that check each byte, and an update every second.
 * LIVEUPDATE_SOAK_SECONDS says how long (180).
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { ByteClients } from './byte-clients.js';
import { HttpClients, HttpConnection } from './http-clients.js';
import { fdsOf, freePort, LuodProcess, programPath } from './luod-process.js';

const SECONDS = Number(process.env.LIVEUPDATE_SOAK_SECONDS ?? 180);

interface Report {
  generation: number;
  requests: number;
  bytes: number;
  ticks: number;
  damaged: number;
  fds: number;
  rss: number;
  heapUsed: number;
}

const undo: (() => unknown)[] = [];

afterEach(async () => {
  for (const act of undo.splice(0).reverse()) await act();
});

/** Sends numbers, a few at a time, each when another came back. */
class NumberedClient {
  readonly seen = new Map<number, number>();
  readonly wrong: string[] = [];
  #next = 0;
  #isOver = false;
  #settled: (() => void) | undefined;
  readonly #send: (number: number) => void;
  readonly #isOrdered: boolean;

  constructor(send: (number: number) => void, window: number, isOrdered: boolean) {
    this.#send = send;
    this.#isOrdered = isOrdered;
    for (let i = 0; i < window; i++) send(this.#next++);
  }

  hear(number: number): void {
    if (this.#isOrdered && number !== this.seen.size)
      this.wrong.push(`${number} after ${this.seen.size - 1}`);
    this.seen.set(number, (this.seen.get(number) ?? 0) + 1);
    if ((this.seen.get(number) as number) > 1) this.wrong.push(`${number} came twice`);
    if (!this.#isOver) setTimeout(() => this.#isOver || this.#send(this.#next++), Math.random() * 20);
    else if (this.seen.size === this.#next) this.#settled?.();
  }

  /** Resolves when every number has come back. */
  async settle(): Promise<void> {
    this.#isOver = true;
    if (this.seen.size === this.#next) return;
    await new Promise<void>((resolve) => {
      this.#settled = resolve;
    });
  }
}

async function webSocketClient(port: number): Promise<NumberedClient> {
  const ws = new WebSocket(`ws://127.0.0.1:${port}/`);
  await once(ws, 'open');
  const client = new NumberedClient((number) => ws.send(`${number} ${'x'.repeat(number % 3000)}`), 2, true);
  ws.on('message', (data: Buffer) => {
    const [number, text] = data.toString().split(' ') as [string, string];
    if (text.length !== Number(number) % 3000) client.wrong.push(`${number} was cut`);
    client.hear(Number(number));
  });
  let isOver = false;
  ws.on('close', () => isOver || client.wrong.push('closed'));
  undo.push(() => {
    isOver = true;
    ws.terminate();
  });
  return client;
}

function datagramClient(socket: Socket, port: number): NumberedClient {
  const client = new NumberedClient((number) => socket.send(String(number), port, '127.0.0.1'), 16, false);
  socket.on('message', (bytes) => client.hear(Number(bytes)));
  return client;
}

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1] as number;

function residentOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

it('an update every second costs no client of any kind a byte, and the service nothing that stays', {
  timeout: SECONDS * 1000 + 240_000,
}, async () => {
  const [tcp, web, udp] = [await freePort(), await freePort(), await freePort()];
  const luod = await LuodProcess.start({
    command: [process.execPath, programPath('soak.mjs')],
    env: { TCP: String(tcp), WEB: String(web), UDP: String(udp) },
  });
  undo.push(() => luod.stop());
  const bytes = await ByteClients.open(tcp, 50, 40);
  const http = await HttpClients.open(web, 30, (n) => (n % 4 === 0 ? '/slow/WORD' : '/hello/WORD'), 40);
  undo.push(
    () => bytes.close(),
    () => http.close(),
  );
  const numbered: NumberedClient[] = [];
  for (let i = 0; i < 10; i++) numbered.push(await webSocketClient(web));
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  undo.push(() => socket.close());
  numbered.push(datagramClient(socket, udp));
  const asking = await HttpConnection.open(web);
  undo.push(() => asking.close());
  const ask = async () => {
    asking.get('/report');
    return await asking.json<Report>();
  };

  const reports: Report[] = [];
  const luodMemory: number[] = [];
  const luodFds: number[] = [];
  const end = performance.now() + SECONDS * 1000;
  for (let generation = 2; performance.now() < end; generation++) {
    const next = performance.now() + 1000;
    const result = await luod.updateTo([]);
    expect(result).toMatchObject({ ok: true, generation, unfinished: [] });
    const report = await ask();
    expect(report.requests).toBeGreaterThan(reports.at(-1)?.requests ?? 0);
    expect(report.ticks).toBeGreaterThanOrEqual(reports.at(-1)?.ticks ?? 0);
    expect(report.damaged).toBe(0);
    reports.push(report);
    luodMemory.push(residentOf(luod.pid));
    luodFds.push(fdsOf(luod.pid));
    expect([http.failures, bytes.wrong, numbered.flatMap(({ wrong }) => wrong)]).toEqual([[], [], []]);
    expect([http.closed, bytes.closed]).toEqual([0, 0]);
    await sleep(Math.max(0, next - performance.now()));
  }

  await http.settle();
  for (const client of numbered) await client.settle();
  expect(await bytes.settle()).toEqual({ missing: 0 });
  expect([http.failures, bytes.wrong, numbered.flatMap(({ wrong }) => wrong)]).toEqual([[], [], []]);
  expect([http.closed, bytes.closed]).toEqual([0, 0]);
  const last = await ask();
  expect(last.bytes).toBe(bytes.sent);
  // Every request of every client was counted, by whichever image answered it; and the reports.
  expect(last.requests).toBe(http.requests + reports.length + 1);

  // Nothing grows from image to image, but for the noise of one garbage collection.
  const quarter = Math.ceil(reports.length / 4);
  const early = reports.slice(quarter, 2 * quarter);
  const late = reports.slice(-quarter);
  expect(median(late.map(({ fds }) => fds))).toBeLessThanOrEqual(median(early.map(({ fds }) => fds)) + 2);
  expect(median(late.map(({ rss }) => rss))).toBeLessThan(1.2 * median(early.map(({ rss }) => rss)));
  expect(median(luodFds.slice(-quarter))).toBeLessThanOrEqual(
    median(luodFds.slice(quarter, 2 * quarter)) + 2,
  );
  expect(median(luodMemory.slice(-quarter))).toBeLessThan(
    median(luodMemory.slice(quarter, 2 * quarter)) + 24 * (1 << 20),
  );
  process.stdout.write(
    `soak: ${reports.length} updates, ${http.requests} requests, ${bytes.sent} bytes over TCP, ${numbered
      .slice(0, -1)
      .reduce(
        (sum, { seen }) => sum + seen.size,
        0,
      )} WebSocket messages, ${numbered.at(-1)?.seen.size} datagrams\n`,
  );
});
