/**
 * HTTP clients that count: each has one keep-alive connection, sends a request, checks the answer to the last byte, and sends the
 * next. What fails is kept with the reason: a connection that was closed, a response that is another's, or half of one.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface HttpResponse {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** One connection, on which responses are read in order; for Content-Length and chunked bodies. */
export class HttpConnection {
  readonly socket: Socket;
  isClosed = false;
  #bytes = Buffer.alloc(0);
  #wake: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (bytes: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, bytes]);
      this.#wake?.();
    });
    // 'close' follows.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.isClosed = true;
      this.#wake?.();
    });
  }

  static async open(where: number | string): Promise<HttpConnection> {
    const socket = typeof where === 'number' ? connect(where, '127.0.0.1') : connect(where);
    await once(socket, 'connect');
    return new HttpConnection(socket);
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text);
  }

  get(path: string): void {
    this.send(`GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`);
  }

  /** Waits for more bytes than `length`. */
  async #more(length: number): Promise<void> {
    while (this.#bytes.length <= length) {
      if (this.isClosed) throw new Error(`the connection was closed, ${this.#bytes.length} bytes came`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async #line(): Promise<string> {
    for (;;) {
      const end = this.#bytes.indexOf('\r\n');
      if (end === -1) await this.#more(this.#bytes.length);
      else return this.#take(end + 2).toString('latin1', 0, end);
    }
  }

  #take(length: number): Buffer {
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }

  async #exactly(length: number): Promise<Buffer> {
    await this.#more(length - 1);
    return this.#take(length);
  }

  /** The head of the next response. */
  async head(): Promise<Omit<HttpResponse, 'body'>> {
    const status = Number((await this.#line()).split(' ')[1]);
    const headers = new Map<string, string>();
    for (let line = await this.#line(); line !== ''; line = await this.#line()) {
      const colon = line.indexOf(':');
      headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    return { status, headers };
  }

  /** The next chunk of a chunked body; empty at its end. */
  async chunk(): Promise<Buffer> {
    const length = Number.parseInt(await this.#line(), 16);
    const bytes = await this.#exactly(length);
    await this.#line();
    return bytes;
  }

  async response(): Promise<HttpResponse> {
    const head = await this.head();
    const length = head.headers.get('content-length');
    if (length !== undefined) return { ...head, body: await this.#exactly(Number(length)) };
    const chunks: Buffer[] = [];
    for (let chunk = await this.chunk(); chunk.length > 0; chunk = await this.chunk()) chunks.push(chunk);
    return { ...head, body: Buffer.concat(chunks) };
  }

  async json<T>(): Promise<T> {
    const { status, body } = await this.response();
    if (status !== 200) throw new Error(`status ${status}: ${body.toString()}`);
    return JSON.parse(body.toString()) as T;
  }

  /** What has come and was not read. */
  takeAll(): Buffer {
    return this.#take(this.#bytes.length);
  }

  /** Bytes that came and were not asked for. */
  get rest(): number {
    return this.#bytes.length;
  }

  close(): void {
    this.socket.destroy();
  }
}

/** Who answered. */
export interface About {
  readonly generation: number;
  readonly pid: number;
  readonly word: string;
}

export class HttpClients {
  readonly #connections: HttpConnection[] = [];
  readonly #running: Promise<void>[] = [];
  readonly failures: string[] = [];
  requests = 0;
  #isStopping = false;

  /**
   * @param path The path of the n-th request of a client; `WORD` stands for what its answer is known by.
   * @param pauseMs Between two requests of one client, at most.
   */
  static async open(
    where: number | string,
    count: number,
    path: (request: number) => string = () => '/hello/WORD',
    pauseMs = 20,
  ): Promise<HttpClients> {
    const clients = new HttpClients();
    for (let client = 0; client < count; client++) {
      const connection = await HttpConnection.open(where);
      clients.#connections.push(connection);
      clients.#running.push(clients.#ask(connection, client, path, pauseMs));
    }
    return clients;
  }

  async #ask(
    connection: HttpConnection,
    client: number,
    path: (request: number) => string,
    pauseMs: number,
  ): Promise<void> {
    for (let request = 0; !this.#isStopping; request++) {
      const word = `c${client}r${request}`;
      try {
        connection.get(path(request).replace('WORD', word));
        const answer = await connection.json<About>();
        if (answer.word !== word || connection.rest > 0) throw new Error(`the answer is ${answer.word}'s`);
        this.requests++;
      } catch (error) {
        this.failures.push(`client ${client}, request ${request}: ${(error as Error).message}`);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, Math.random() * pauseMs));
    }
  }

  /** Connections that ended. */
  get closed(): number {
    return this.#connections.filter(({ isClosed }) => isClosed).length;
  }

  /** Waits for every answer that is due; the connections stay. */
  async settle(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#running);
  }

  close(): void {
    this.#isStopping = true;
    for (const connection of this.#connections) connection.close();
  }
}
