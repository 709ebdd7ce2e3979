/** What a cell is played on: a luod with matrix.mjs under it, and clients that count. */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { ask } from '../../src/cli/luod-client.js';
import type { LuodStatus } from '../../src/daemon/luod-status.js';
import type { Deadlines } from '../../src/daemon/phases.js';
import type { UpdateResult } from '../../src/daemon/update.js';
import { ByteClients } from '../e2e/byte-clients.js';
import { HttpClients, HttpConnection } from '../e2e/http-clients.js';
import { LuodProcess, programPath, run } from '../e2e/luod-process.js';

const TCP_CLIENTS = 5;
const HTTP_CLIENTS = 2;

/** What matrix.mjs says of itself. */
export interface Report {
  readonly pid: number;
  readonly generation: number;
  readonly origin: string;
  readonly damaged: number;
  readonly udp: number;
  readonly child: number;
}

export interface PlannedFault {
  readonly image: 'old' | 'new';
  readonly of: string;
  readonly callback: string;
  readonly fault: string;
}

/** Numbered datagrams, one at a time; each answer has the counts of the service, which rise by one whoever answers. */
class Datagrams {
  readonly wrong: string[] = [];
  answered = 0;
  readonly #socket: UdpSocket;
  readonly #port: number;
  #count: number | undefined;
  #isPaused = false;
  #idle: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  private constructor(socket: UdpSocket, port: number) {
    this.#socket = socket;
    this.#port = port;
    socket.on('message', (bytes) => this.#take(String(bytes)));
    this.#send();
  }

  static async open(port: number): Promise<Datagrams> {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    return new Datagrams(socket, port);
  }

  #send(): void {
    this.#socket.send(String(this.answered), this.#port, '127.0.0.1');
  }

  #take(answer: string): void {
    const [number, count, counter] = answer.split(' ').map(Number) as [number, number, number];
    this.#count ??= count - 1;
    if (number !== this.answered || count !== ++this.#count || counter !== count)
      this.wrong.push(`${answer}, when ${this.answered} ${this.#count} was due`);
    this.answered++;
    if (this.#isPaused) this.#idle?.();
    else this.#timer = setTimeout(() => this.#send(), 2);
  }

  /** Waits for the answer that is due, and sends no more. */
  async pause(): Promise<void> {
    const answer = new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
    this.#isPaused = true;
    await answer;
  }

  resume(): void {
    this.#isPaused = false;
    this.#send();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#socket.close();
  }
}

export class Stage {
  readonly luod: LuodProcess;
  readonly #folder: string;
  readonly #upstream: Server;
  /** The program's own connection, at its other end. */
  #upstreamBytes = 0;
  #upstreamClosed = 0;
  readonly #upstreamSockets = new Set<Socket>();
  #tcp!: ByteClients;
  #http!: HttpClients;
  #udp!: Datagrams;
  #child = 0;
  /** How often the program had to be started again. */
  deaths = 0;

  private constructor(luod: LuodProcess, folder: string, upstream: Server) {
    this.luod = luod;
    this.#folder = folder;
    this.#upstream = upstream;
    upstream.on('connection', (socket) => {
      this.#upstreamSockets.add(socket);
      socket.on('data', (bytes) => {
        this.#upstreamBytes += bytes.length;
      });
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        this.#upstreamClosed++;
        this.#upstreamSockets.delete(socket);
      });
    });
  }

  static async open(): Promise<Stage> {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-matrix-'));
    const upstream = createServer().listen(join(folder, 'upstream'));
    const waiting: Socket[] = [];
    const keep = (socket: Socket) => waiting.push(socket);
    upstream.on('connection', keep);
    await run(['mkfifo', join(folder, 'fifo')]);
    writeFileSync(join(folder, 'plan'), JSON.stringify({ old: 0, faults: [] }));
    const luod = await LuodProcess.start({
      command: [process.execPath, programPath('matrix.mjs')],
      env: {
        PLAN: join(folder, 'plan'),
        WEB: join(folder, 'web'),
        UPSTREAM: join(folder, 'upstream'),
        FIFO: join(folder, 'fifo'),
        LOG: join(folder, 'log'),
      },
    });
    upstream.removeListener('connection', keep);
    const stage = new Stage(luod, folder, upstream);
    for (const socket of waiting) upstream.emit('connection', socket);
    await stage.#openClients();
    return stage;
  }

  async #openClients(): Promise<void> {
    const { udp, child } = await this.report();
    this.#child = child;
    this.#upstreamClosed = 0;
    this.#upstreamBytes = 0;
    this.#tcp = await ByteClients.open(this.luod.port, TCP_CLIENTS, 5);
    this.#http = await HttpClients.open(join(this.#folder, 'web'), HTTP_CLIENTS, undefined, 5);
    this.#udp = await Datagrams.open(udp);
  }

  #closeClients(): void {
    this.#tcp.close();
    this.#http.close();
    this.#udp.close();
  }

  async report(): Promise<Report> {
    const socket = createConnection(this.luod.control).setEncoding('utf8');
    let text = '';
    for await (const chunk of socket) text += chunk;
    return JSON.parse(text) as Report;
  }

  /** What `luoctl update` asks, without the start of luoctl. */
  async update(deadlines: Partial<Deadlines> = {}): Promise<UpdateResult> {
    const question = { type: 'update', deadlines: { total: 60_000, ...deadlines } };
    return (await ask(this.luod.socket, question)) as unknown as UpdateResult;
  }

  /** A connection that cannot cross as it is, so that the old image lingers: half of a request has come. */
  async beginRequest(): Promise<HttpConnection> {
    const connection = await HttpConnection.open(join(this.#folder, 'web'));
    connection.get('/hello/first');
    await connection.response();
    connection.send('GET /hello/second HTTP/1.1\r\n');
    return connection;
  }

  async #serviceState(): Promise<string> {
    const { services } = (await ask(this.luod.socket, { type: 'status' })) as unknown as LuodStatus;
    if (services[0] === undefined) throw new Error(`the service is gone:\n${this.luod.stderr}`);
    return services[0].state;
  }

  /** From now on these happen; none when there are none. */
  plan(old: number, faults: readonly PlannedFault[]): void {
    for (const index of [0, 1]) rmSync(join(this.#folder, `plan.${index}`), { force: true });
    writeFileSync(join(this.#folder, 'plan'), JSON.stringify({ old, faults }));
  }

  /** The pid of the image in which fault `index` of the plan came true. */
  cameTrue(index: number): number | undefined {
    const file = join(this.#folder, `plan.${index}`);
    return existsSync(file) ? Number(readFileSync(file, 'utf8')) : undefined;
  }

  /** Everybody has been served since, and nobody has seen anything wrong. */
  async check(title: string): Promise<void> {
    await this.#tcp.progress();
    const { requests } = this.#http;
    await this.#udp.pause();
    await expect.poll(() => this.#upstreamBytes, { message: title }).toBe(this.#udp.answered);
    this.#udp.resume();
    await expect
      .poll(() => this.#http.requests > requests || this.#http.failures.length > 0, { message: title })
      .toBe(true);
    const { damaged, child } = await this.report();
    expect(
      {
        wrong: [...this.#tcp.wrong, ...this.#http.failures, ...this.#udp.wrong],
        closed: this.#tcp.closed + this.#http.closed + this.#upstreamClosed,
        damaged,
        child,
      },
      title,
    ).toEqual({ wrong: [], closed: 0, damaged: 0, child: this.#child });
  }

  /** The program was started again: what luod held is there, connections are not. */
  async checkStartedAgain(title: string, dead: number): Promise<void> {
    this.deaths++;
    await expect.poll(() => this.#serviceState(), { message: title }).toBe('serving');
    const { pid, origin, damaged, child } = await this.report();
    expect(pid, title).not.toBe(dead);
    expect({ origin, damaged, child }, title).toEqual({ origin: 'crash', damaged: 0, child: this.#child });
    expect(this.#tcp.wrong, title).toEqual([]);
    this.#closeClients();
    await this.#openClients();
  }

  async close(): Promise<void> {
    this.#closeClients();
    await this.luod.stop();
    for (const socket of this.#upstreamSockets) socket.destroy();
    this.#upstream.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
