/**
 * WebSocket clients that check: each sends messages of every kind, whose bytes leave in pieces with pauses in between, so that a cut
 * finds frames half sent; and expects each back as it went, in order.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { type ClientOptions, WebSocket } from 'ws';

/** What a client may agree on with a server that compresses. */
export const MODES: Record<string, ClientOptions['perMessageDeflate']> = {
  plain: false,
  'context takeover': { threshold: 0 },
  'no context takeover': { threshold: 0, clientNoContextTakeover: true, serverNoContextTakeover: true },
};

export interface About {
  readonly generation: number;
  readonly state: { readonly born: number; readonly messages: number; readonly url: string };
  readonly url: string;
  readonly agent: string;
  readonly protocol: string;
  readonly extensions: string;
  readonly port: number;
}

interface Sent {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/** The largest piece that leaves at once, if pieces are asked for. */
const PIECE = 3000;

export class WebSocketClient {
  readonly ws: WebSocket;
  readonly #expected: Sent[] = [];
  readonly #out: Buffer[] = [];
  #isWriting = false;
  #wake: (() => void) | undefined;
  #answer: ((text: string) => void) | undefined;
  #write: (bytes: Uint8Array) => void = () => undefined;
  failure: string | undefined;
  sent = 0;

  private constructor(ws: WebSocket) {
    this.ws = ws;
    ws.on('message', (data: Buffer, isBinary) => this.#hear(data, isBinary));
    ws.on('close', (code, reason) => this.#fail(`closed with ${code} ${reason}`));
    // 'close' follows.
    ws.on('error', () => undefined);
  }

  /** @param isChopped Its bytes leave in pieces. */
  static async open(
    url: string,
    options: ClientOptions & { protocols?: string[] } = {},
    isChopped = false,
  ): Promise<WebSocketClient> {
    const client = new WebSocketClient(new WebSocket(url, options.protocols ?? [], options));
    await once(client.ws, 'open');
    if (isChopped) client.#chop();
    return client;
  }

  #chop(): void {
    const { _socket: socket } = this.ws as unknown as { _socket: Socket };
    this.#write = socket.write.bind(socket) as (bytes: Uint8Array) => void;
    socket.write = ((bytes: string | Uint8Array, callback?: () => void) => {
      for (let rest = Buffer.from(bytes as Uint8Array); rest.length > 0; ) {
        // A few are tiny: the head of a frame may come in half.
        const length =
          Math.random() < 0.3 ? 1 + Math.floor(Math.random() * 8) : Math.ceil(Math.random() * PIECE);
        this.#out.push(rest.subarray(0, rest.length > 200_000 ? 100_000 : length));
        rest = rest.subarray(this.#out.at(-1)?.length);
      }
      if (typeof callback === 'function') process.nextTick(callback);
      this.#next();
      return true;
    }) as typeof socket.write;
  }

  #next(): void {
    if (this.#isWriting) return;
    const piece = this.#out.shift();
    if (piece === undefined) return;
    this.#isWriting = true;
    this.#write(piece);
    setTimeout(() => {
      this.#isWriting = false;
      this.#next();
    }, Math.random() * 3);
  }

  #fail(reason: string): void {
    this.failure ??= reason;
    this.#wake?.();
  }

  #hear(data: Buffer, isBinary: boolean): void {
    const answer = this.#answer;
    if (answer !== undefined && this.#expected.length === 0) {
      this.#answer = undefined;
      answer(data.toString());
      return;
    }
    const expected = this.#expected.shift();
    if (expected === undefined) this.#fail(`${data.length} bytes that were not asked for`);
    else if (expected.isBinary !== isBinary || !expected.data.equals(data))
      this.#fail(`not what was sent: ${data.length} of ${expected.data.length} bytes`);
    this.#wake?.();
  }

  /** Sends a message, in fragments. */
  say(data: string | Buffer, fragments = 1): void {
    this.#expected.push({ data: Buffer.from(data), isBinary: typeof data !== 'string' });
    this.sent++;
    const size = Math.ceil(data.length / fragments);
    for (let i = 0; i < fragments; i++) {
      this.ws.send(data.slice(i * size, (i + 1) * size), { fin: i === fragments - 1 });
      if (i < fragments - 1 && i % 2 === 0) this.ws.ping(`fragment ${i}`);
    }
  }

  /** Waits until at most `count` echoes are due. */
  async settle(count = 0): Promise<void> {
    while (this.#expected.length > count && this.failure === undefined)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
  }

  /** What the server knows of this connection. */
  async who(): Promise<About> {
    await this.settle();
    const answer = new Promise<string>((resolve) => {
      this.#answer = resolve;
    });
    this.ws.send('who');
    this.sent++;
    return JSON.parse(await answer) as About;
  }

  close(): void {
    this.ws.terminate();
  }
}

const WORDS = 'the quick brown fox jumps over the lazy dog and then goes on € '.split(' ');

/** A message of a random kind and size, and the number of its fragments. */
function message(n: number): [string | Buffer, number] {
  const length = n % 41 === 7 ? 1_300_000 : Math.floor(Math.random() ** 3 * 30_000);
  const fragments = n % 3 === 0 ? 1 + (n % 5) : 1;
  if (n % 4 === 1) return [randomBytes(length), fragments];
  let text = `${n} `;
  while (text.length < Math.min(length, 20_000))
    text += `${WORDS[Math.floor(Math.random() * WORDS.length)]} `;
  return [n % 4 === 2 ? Buffer.from(text) : text, fragments];
}

export class WebSocketClients {
  readonly clients: WebSocketClient[] = [];
  readonly #running: Promise<void>[] = [];
  #isStopping = false;

  /** `perMode` clients for each of `MODES`, which talk until `settle`. */
  static async open(url: string, perMode: number): Promise<WebSocketClients> {
    const all = new WebSocketClients();
    for (const perMessageDeflate of Object.values(MODES)) {
      for (let i = 0; i < perMode; i++) {
        const client = await WebSocketClient.open(url, { perMessageDeflate }, true);
        all.clients.push(client);
        all.#running.push(all.#talk(client, all.clients.length));
      }
    }
    return all;
  }

  async #talk(client: WebSocketClient, seed: number): Promise<void> {
    for (let n = seed; !this.#isStopping && client.failure === undefined; n++) {
      client.say(...message(n));
      await client.settle(3);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
    }
    await client.settle();
  }

  /** Waits for every echo that is due; the connections stay. */
  async settle(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#running);
  }

  get failures(): string[] {
    return this.clients.flatMap(({ failure }, i) =>
      failure === undefined ? [] : [`client ${i}: ${failure}`],
    );
  }

  get sent(): number {
    return this.clients.reduce((sum, { sent }) => sum + sent, 0);
  }

  close(): void {
    this.#isStopping = true;
    for (const client of this.clients) client.close();
  }
}
