import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { HttpConnection } from './http-clients.js';
import { LuodProcess, programPath } from './luod-process.js';

const PROGRAM = [process.execPath, programPath('event-stream.mjs')];

interface Service {
  readonly generation: number;
  readonly next: number;
  readonly states: readonly { readonly born: number; readonly told: number }[];
}

let luod: LuodProcess;
let control: HttpConnection;
const open: (HttpConnection | Events)[] = [];

afterEach(async () => {
  for (const connection of open.splice(0)) connection.close();
  control?.close();
  await luod?.stop();
});

async function start(): Promise<void> {
  luod = await LuodProcess.start({ command: PROGRAM });
  control = await HttpConnection.open(luod.port);
}

async function ask(path: string): Promise<Service> {
  control.get(path);
  return control.json<Service>();
}

/** A client of /events, which reads chunks, or to the end of the connection. */
class Events {
  readonly connection: HttpConnection;
  readonly #isChunked: boolean;
  text = '';
  isEnded = false;
  #wake: (() => void) | undefined;

  private constructor(connection: HttpConnection, isChunked: boolean) {
    this.connection = connection;
    this.#isChunked = isChunked;
  }

  static async listen(version: '1.0' | '1.1'): Promise<Events> {
    const connection = await HttpConnection.open(luod.port);
    const events = new Events(connection, version === '1.1');
    open.push(events);
    connection.send(`GET /events HTTP/${version}\r\nHost: test\r\n\r\n`);
    const { status, headers } = await connection.head();
    expect([status, headers.get('content-type')]).toEqual([200, 'text/event-stream']);
    expect(headers.get('transfer-encoding')).toBe(events.#isChunked ? 'chunked' : undefined);
    if (events.#isChunked) void events.#readChunks();
    else connection.socket.on('data', () => events.#take(connection.takeAll()));
    return events;
  }

  async #readChunks(): Promise<void> {
    for (;;) {
      const chunk = await this.connection.chunk().catch(() => undefined);
      if (chunk === undefined) return;
      if (chunk.length === 0) this.isEnded = true;
      this.#take(chunk);
    }
  }

  #take(bytes: Buffer): void {
    this.text += bytes;
    this.#wake?.();
  }

  async has(text: string): Promise<void> {
    while (!this.text.includes(text))
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
  }

  /** The numbers, in their order. */
  get ids(): number[] {
    return [...this.text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));
  }

  close(): void {
    this.connection.close();
  }
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);

describe('event streams', () => {
  it('go on through updates: no event is lost, none comes twice', { timeout: 60_000 }, async () => {
    await start();
    const clients = [await Events.listen('1.1'), await Events.listen('1.0'), await Events.listen('1.1')];
    let isOver = false;
    const emitting = (async () => {
      while (!isOver) await ask('/emit/3');
    })();
    for (let generation = 2; generation <= 6; generation++)
      expect(await luod.updateTo([])).toMatchObject({ ok: true, generation, draining: 0 });
    isOver = true;
    await emitting;
    const { next, states } = await ask('/emit/1');
    expect(states).toHaveLength(3);
    for (const { born, told } of states) expect([born, told]).toEqual([1, next]);
    for (const client of clients) {
      await client.has(`id: ${next}\ndata: from 6\n\n`);
      expect(client.ids).toEqual(upTo(next));
      expect(client.text).toMatch(/^: \/events\n\nid: 1\ndata: from 1\n\n/);
      expect(client.text.match(/^: /gm)).toHaveLength(1);
    }
    const closed = clients.map(({ connection }) => once(connection.socket, 'close'));
    await ask('/end');
    await Promise.all(closed);
    expect(clients.map(({ text, isEnded }) => [text.endsWith('data: the end\n\n'), isEnded])).toEqual([
      [true, true],
      [true, false],
      [true, true],
    ]);
    expect((await ask('/emit/0')).states).toEqual([]);
  });

  it('whose client leaves are closed in the image that has them', async () => {
    await start();
    const client = await Events.listen('1.1');
    const other = await Events.listen('1.1');
    await client.has('events');
    await other.has('events');
    expect(await luod.updateTo([])).toMatchObject({ ok: true, draining: 0 });
    client.close();
    while ((await ask('/emit/1')).states.length > 1);
    const { next } = await ask('/emit/1');
    await other.has(`id: ${next}\n`);
    expect(other.ids).toEqual(upTo(next));
  });

  it('stay with another request behind them', async () => {
    await start();
    const client = await Events.listen('1.1');
    await client.has('events');
    client.connection.get('/emit/1');
    await client.has('id: 1\n');
    const { draining } = await luod.updateTo([]);
    expect(draining).toBe(1);
    expect((await ask('/emit/1')).states).toEqual([]);
  });

  it('stay with the first byte of another request behind them', async () => {
    await start();
    const client = await Events.listen('1.1');
    await client.has('events');
    client.connection.send('G');
    const { draining } = await luod.updateTo([]);
    expect(draining).toBe(1);
    client.connection.send('ET /emit/1 HTTP/1.1\r\nhost: x\r\n\r\n');
    await client.has('id: 1\n');
  });

  it('go on behind an update that is rolled back', async () => {
    await start();
    const client = await Events.listen('1.1');
    await ask('/emit/2');
    // Refused behind the freeze: nobody takes them.
    const result = await luod.updateTo(['env', 'WITHOUT=1', ...PROGRAM]);
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { code: 'EINVAL' } });
    expect(result.error?.message).toContain("'stream:events'");
    await ask('/emit/2');
    await client.has('id: 4\n');
    expect(client.ids).toEqual(upTo(4));
  });

  it('are closed by a version that gives them up', async () => {
    await start();
    const client = await Events.listen('1.1');
    const closed = once(client.connection.socket, 'close');
    const result = await luod.updateTo(['env', 'WITHOUT=1', 'DROP=stream:events', ...PROGRAM]);
    expect(result).toMatchObject({ ok: true });
    await closed;
    expect(client.isEnded).toBe(false);
  });

  it('cannot have a Content-Length', async () => {
    await start();
    control.get('/bad');
    expect((await control.response()).body.toString()).toBe('EINVA');
  });
});
