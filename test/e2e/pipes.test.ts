/** Two fifos and a service that copies from one to the other, through updates and a crash. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { createServer, type Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LuodProcess, programPath } from './luod-process.js';

const { O_RDWR, O_NONBLOCK } = constants;

let luod: LuodProcess;
let folder: string;
let source: Socket;
let target: Socket;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-pipes-'));
});
afterEach(async () => {
  source?.destroy();
  target?.destroy();
  await luod?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Writes a growing number a word, as fast as it is taken, and checks what comes back. */
class Numbers {
  sent = 0;
  received = 0;
  wrong = 0;
  #isOver = false;
  #rest: Buffer = Buffer.alloc(0);
  #settled: (() => void) | undefined;

  readonly #to: Socket;

  constructor(to: Socket, from: Socket) {
    this.#to = to;
    from.on('data', (chunk: Buffer) => this.#check(chunk));
    to.on('drain', () => this.#send());
    this.#send();
  }

  #send(): void {
    while (!this.#isOver) {
      const words = new Uint32Array(1000);
      for (let i = 0; i < words.length; i++) words[i] = this.sent++;
      if (!this.#to.write(Buffer.from(words.buffer))) return;
    }
  }

  #check(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    for (; at + 4 <= bytes.length; at += 4) {
      if (bytes.readUInt32LE(at) !== this.received++ % 2 ** 32) this.wrong++;
    }
    this.#rest = bytes.subarray(at);
    if (this.#isOver && this.received >= this.sent) this.#settled?.();
  }

  async end(): Promise<void> {
    this.#isOver = true;
    if (this.received < this.sent) await new Promise<void>((resolve) => (this.#settled = resolve));
  }
}

it('five updates lose, double and reorder no byte; after a crash the pipes are there', {
  timeout: 120_000,
}, async () => {
  const [input, output] = [join(folder, 'in'), join(folder, 'out')];
  execFileSync('mkfifo', [input, output]);
  luod = await LuodProcess.start({
    command: [process.execPath, programPath('pipes.mjs')],
    env: { IN: input, OUT: output },
  });
  await luod.says(/generation 1 copies/);
  source = new Socket({ fd: openSync(input, O_RDWR | O_NONBLOCK), readable: false });
  target = new Socket({ fd: openSync(output, O_RDWR | O_NONBLOCK), writable: false });
  const numbers = new Numbers(source, target);
  for (let generation = 2; generation <= 6; generation++) {
    const r = await luod.update();
    if (!r.ok) console.log(r, luod.stderr, await luod.exited);
    expect(r).toMatchObject({ ok: true, generation });
  }
  await numbers.end();
  expect([numbers.wrong, numbers.received]).toEqual([0, numbers.sent]);
  const told = [...luod.stderr.matchAll(/update: generation \d copies behind (\d+)/g)].map(([, bytes]) =>
    Number(bytes),
  );
  expect(told.length).toBe(5);
  expect(told.every((bytes, i) => bytes > (told[i - 1] ?? 0))).toBe(true);

  // Everything was copied, so that a crash loses nothing but the program's own state.
  const { services } = (await luod.status()) as unknown as { services: { pid: number }[] };
  process.kill(services[0]!.pid, 'SIGKILL');
  const after = once(target, 'data');
  source.write(Buffer.from(Uint32Array.of(numbers.sent).buffer));
  expect((await after)[0].readUInt32LE(0)).toBe(numbers.sent);
  await luod.says(/crash: generation 7 copies/);
});

it('a client’s connection over a unix path is one for all generations', async () => {
  const said: string[] = [];
  let connections = 0;
  const upstream: Server = createServer((socket) => {
    connections++;
    socket.setEncoding('utf8').on('data', (text: string) => {
      said.push(text);
      socket.write(`heard ${text}`);
    });
  });
  const path = join(folder, 'upstream.sock');
  upstream.listen(path);
  await once(upstream, 'listening');
  luod = await LuodProcess.start({
    command: [process.execPath, programPath('upstream.mjs')],
    env: { UPSTREAM: path },
  });
  for (let generation = 2; generation <= 4; generation++) {
    expect(await luod.update()).toMatchObject({ ok: true, generation });
  }
  await luod.says(/generation 4 was told heard 4/);
  expect([said, connections]).toEqual([['1', '2', '3', '4'], 1]);
  const closed = once(upstream, 'close');
  upstream.close();
  await luod.stop();
  await closed;
});
