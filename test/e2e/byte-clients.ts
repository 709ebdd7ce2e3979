/**
 * Clients of an echo server that check every byte: the byte at offset k of connection c is a function of k and c, so one that
 * is lost, doubled, or out of order shows, and where.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

const MAX_CHUNK = 512;

interface Client {
  readonly socket: Socket;
  readonly seed: number;
  sent: number;
  received: number;
  timer: NodeJS.Timeout | undefined;
}

function byteAt(seed: number, offset: number): number {
  return (Math.imul(offset + 1, 2654435761) >>> 13) + seed + offset;
}

function chunk(seed: number, start: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let i = 0; i < length; i++) bytes[i] = byteAt(seed, start + i);
  return bytes;
}

export class ByteClients {
  readonly #clients: Client[] = [];
  readonly #where: { port: number; host: string } | { path: string };
  readonly #pauseMs: number;
  /** Connections that ended without being asked to. */
  closed = 0;
  /** The first wrong byte of each connection that had one. */
  readonly wrong: string[] = [];
  #stopping = false;
  #idle: (() => void) | undefined;

  private constructor(where: { port: number; host: string } | { path: string }, pauseMs: number) {
    this.#where = where;
    this.#pauseMs = pauseMs;
  }

  static async open(where: number | string, count: number, pauseMs = 20): Promise<ByteClients> {
    const clients = new ByteClients(
      typeof where === 'number' ? { port: where, host: '127.0.0.1' } : { path: where },
      pauseMs,
    );
    await clients.add(count);
    return clients;
  }

  /** Opens more, and waits until each has had an answer. */
  async add(count: number): Promise<void> {
    await Promise.all(Array.from({ length: count }, () => this.#open()));
  }

  async #open(): Promise<void> {
    const socket = connect(this.#where);
    const client: Client = { socket, seed: this.#clients.length, sent: 0, received: 0, timer: undefined };
    this.#clients.push(client);
    socket.on('close', () => {
      clearTimeout(client.timer);
      if (!this.#stopping) this.closed++;
      this.#idle?.();
    });
    await once(socket, 'connect');
    socket.on('error', () => undefined);
    socket.on('data', (bytes) => this.#check(client, bytes));
    this.#send(client);
    await once(socket, 'data');
  }

  #send(client: Client): void {
    if (this.#stopping) return;
    const length = 1 + Math.floor(Math.random() * MAX_CHUNK);
    client.socket.write(chunk(client.seed, client.sent, length));
    client.sent += length;
  }

  #check(client: Client, bytes: Buffer): void {
    const expected = chunk(client.seed, client.received, bytes.length);
    if (!bytes.equals(expected)) {
      const at = bytes.findIndex((byte, i) => byte !== expected[i]);
      this.wrong.push(`connection ${client.seed}, offset ${client.received + at}`);
    }
    client.received += bytes.length;
    if (client.received > client.sent) this.wrong.push(`connection ${client.seed}: more than was sent`);
    if (client.received < client.sent) return;
    client.timer = setTimeout(() => this.#send(client), Math.random() * 2 * this.#pauseMs);
    this.#idle?.();
  }

  get size(): number {
    return this.#clients.length;
  }

  get sent(): number {
    return this.#clients.reduce((sum, { sent }) => sum + sent, 0);
  }

  /** Waits until every client that is still connected has had an echo of what it sent from now on. */
  async progress(): Promise<void> {
    const before = this.#clients.map(({ sent }) => sent);
    const due = () =>
      this.#clients.some(({ socket, received }, i) => !socket.destroyed && received <= (before[i] as number));
    while (due()) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
  }

  /** Sends no more, waits for every echo that is due, and counts what did not come. */
  async settle(): Promise<{ missing: number }> {
    this.#stopping = true;
    for (const { timer } of this.#clients) clearTimeout(timer);
    const missing = () => this.#clients.reduce((sum, { sent, received }) => sum + sent - received, 0);
    const due = () =>
      this.#clients.some(({ socket, sent, received }) => !socket.destroyed && received < sent);
    while (due()) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    return { missing: missing() };
  }

  close(): void {
    this.#stopping = true;
    for (const { socket, timer } of this.#clients) {
      clearTimeout(timer);
      socket.destroy();
    }
  }
}
