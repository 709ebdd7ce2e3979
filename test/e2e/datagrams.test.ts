/** UDP under load: numbered datagrams through ten updates of the service that answers them. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { LuodProcess, programPath } from './luod-process.js';

/** Datagrams on their way: far fewer than any queue holds, so that none is lost by overflow. */
const WINDOW = 64;

let luod: LuodProcess;
let socket: Socket;

afterEach(async () => {
  socket?.close();
  await luod?.stop();
});

class Load {
  readonly answers: number[] = [];
  readonly generations = new Set<number>();
  /** The counts of the service, in the order of its answers. */
  readonly counts: number[] = [];
  sent = 0;
  #isOver = false;
  #settled: (() => void) | undefined;
  readonly #send: () => void;

  constructor(client: Socket, port: number) {
    this.#send = () => client.send(String(this.sent++), port, '127.0.0.1');
    client.on('message', (bytes) => {
      const [generation, count, number] = String(bytes).split(' ').map(Number) as [number, number, number];
      this.generations.add(generation);
      this.counts.push(count);
      this.answers[number] = (this.answers[number] ?? 0) + 1;
      if (!this.#isOver) this.#send();
      else if (this.counts.length >= this.sent) this.#settled?.();
    });
    for (let i = 0; i < WINDOW; i++) this.#send();
  }

  /** Sends no more, and waits for the last answer. */
  async end(): Promise<void> {
    this.#isOver = true;
    if (this.counts.length < this.sent) await new Promise<void>((resolve) => (this.#settled = resolve));
  }
}

async function start(): Promise<Load> {
  luod = await LuodProcess.start({ command: [process.execPath, programPath('datagrams.mjs')] });
  await luod.says(/port \d+/);
  await luod.serves(1);
  socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return new Load(socket, Number(/port (\d+)/.exec(luod.stderr)?.[1]));
}

it('ten updates lose no datagram and none is answered twice', { timeout: 120_000 }, async () => {
  const load = await start();
  for (let generation = 2; generation <= 11; generation++) {
    expect(await luod.update()).toMatchObject({ ok: true, generation });
  }
  await load.end();
  expect(load.answers.length).toBe(load.sent);
  expect(load.answers.every((times) => times === 1)).toBe(true);
  // The count is one for all generations: no datagram was read by two of them, or by none.
  expect(load.counts).toEqual(load.counts.map((_, i) => i + 1));
  expect(load.generations.size).toBe(11);
  expect(load.sent).toBeGreaterThan(5_000);
});

it('an update that is called off, and a crash, leave the socket', { timeout: 60_000 }, async () => {
  const load = await start();
  const command = ['env', 'FAULT=never', process.execPath, programPath('datagrams.mjs')];
  expect(await luod.updateTo(command)).toMatchObject({ ok: false, rolledBack: true });
  await load.end();
  expect(load.answers.every((times) => times === 1)).toBe(true);
  const { services } = (await luod.status()) as unknown as { services: { pid: number }[] };
  process.kill(services[0]!.pid, 'SIGKILL');
  // Sent to a port that nobody reads at the moment.
  const port = Number(/port (\d+)/.exec(luod.stderr)?.[1]);
  const answer = once(socket, 'message');
  socket.send('after', port, '127.0.0.1');
  expect(String((await answer)[0])).toBe('2 1 after');
});
