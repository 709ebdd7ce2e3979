/**
 * Answers without an end in sight, above all event streams, that go on in the next image. A response is little more than how
 * its body is framed: in chunks, or up to the end of the connection. With that, and the bytes that the connection carries anyway, the
 * next image makes a response whose head is sent, and the program writes on where it stopped, between two writes of its own.
 *
 * A response crosses when its request has been read to the end, no other came behind it, and the program does not hold it corked.
 * Else it stays, as any request under way does.
 *
 * One that crossed has no parser behind it: what its client sends is not looked at, and when it ends its connection does.
 */
import { IncomingMessage, type Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { Connection, type Receiver, type UpgradedProtocol } from './connection.js';
import { HttpParsers, type Parser } from './http-parsers.js';
import { restoreRequest, saveRequest } from './saved-request.js';
import { setConnectionOf } from './upgrades.js';

/** Gets each response, with its request: when it is opened, and in the next image again. */
export type StreamListener = (response: ServerResponse, request: IncomingMessage) => void;
export type OpenStream = (request: IncomingMessage, response: ServerResponse) => void;

/** How often a lingering image looks whether a corked response is free. */
const LOOK_MS = 5;

const LENGTH = /\r\ncontent-length:/i;

/** What of Node's response has no public way in, in Node 20 to 26. */
interface ResponseInternals {
  _header: string | null;
  _headerSent: boolean;
  _hasBody: boolean;
  chunkedEncoding: boolean;
  readonly outputSize: number;
}

interface HttpSocket extends Socket {
  _httpMessage?: ServerResponse | null;
  /** None on a connection that crossed as a stream. */
  parser?: Parser | null;
  server?: Server;
}

interface Saved {
  readonly request: string;
  readonly head: string;
  readonly isChunked: boolean;
  readonly statusCode: number;
}

/** A response that nobody has seen yet. */
interface Prepared {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

export class ResponseStreams implements Receiver {
  readonly name: string;
  readonly #listener: StreamListener;
  readonly #prepared = new WeakMap<Connection, Prepared>();

  /**
   * @param name By which the next image knows them.
   * @throws {LiveUpdateError} ENOSYS for a Node whose responses cannot be made to go on.
   */
  constructor(name: string, listener: StreamListener) {
    this.name = name;
    this.#listener = listener;
    const probe = new ServerResponse(new IncomingMessage(undefined as unknown as Socket));
    startBehindHead(probe, { head: 'HTTP/1.1 200 OK\r\n\r\n', isChunked: true, statusCode: 200 });
    if (!probe.headersSent || typeof internals(probe).outputSize !== 'number')
      throw new LiveUpdateError('ENOSYS', `Node ${process.versions.node} hides how a response is sent`, {
        operation: 'streams',
        session: name,
      });
  }

  /** @throws {LiveUpdateError} EINVAL, ENOENT: see `Program.streams`. */
  open(request: IncomingMessage, response: ServerResponse): void {
    const names = { operation: 'open', session: this.name };
    const connection = Connection.from(request.socket);
    if (connection === undefined)
      throw new LiveUpdateError('ENOENT', 'the request did not come through lu.listen()', names);
    // A head that writeHead() has made is text only.
    const hasLength = response.hasHeader('content-length') || LENGTH.test(internals(response)._header ?? '');
    if (hasLength || response.writableEnded || !internals(response)._hasBody)
      throw new LiveUpdateError('EINVAL', 'the answer has an end: a Content-Length, or no body', names);
    response.flushHeaders();
    // Another answer's turn is before this one: pipelined. It is answered in the image that has them all.
    if ((request.socket as HttpSocket)._httpMessage === response)
      this.#enter(connection, response, request, saveRequest(request));
    setConnectionOf(response, connection);
    this.#listener(response, request);
  }

  #enter(connection: Connection, response: ServerResponse, request: IncomingMessage, saved: string): void {
    const stream = new CarriedResponse(this.name, response, request, saved);
    connection.upgraded = stream;
    response.once('close', () => {
      if (connection.upgraded === stream) connection.upgraded = undefined;
    });
    setConnectionOf(response, connection);
  }

  prepare(connection: Connection): void {
    this.#prepared.set(connection, rebuild(connection, connection.ahead?.value as Saved));
  }

  receive(connection: Connection): void {
    const socket = connection.socket as HttpSocket;
    const saved = (connection.saved?.value ?? connection.saved?.ahead) as Saved;
    const { request, response } = this.#prepared.get(connection) ?? rebuild(connection, saved);
    this.#prepared.delete(connection);
    // As Node's own server does with the first response of a connection.
    response.assignSocket(socket);
    // Its end is the socket's 'close', by which Node closes a response.
    response.once('finish', () => socket.destroySoon());
    socket.on('error', () => socket.destroy());
    // Nothing is expected but the end, which is seen only by who reads.
    socket.on('data', () => undefined);
    socket.on('end', () => socket.destroy());
    this.#enter(connection, response, request, saved.request);
    this.#listener(response, request);
  }
}

function rebuild({ socket }: Connection, saved: Saved): Prepared {
  const request = restoreRequest(saved.request, socket);
  const response = new ServerResponse(request);
  startBehindHead(response, saved);
  return { request, response };
}

function internals(response: ServerResponse): ResponseInternals {
  return response as unknown as ResponseInternals;
}

function startBehindHead(response: ServerResponse, saved: Omit<Saved, 'request'>): void {
  response.statusCode = saved.statusCode;
  response.shouldKeepAlive = false;
  Object.assign(internals(response), {
    _header: saved.head,
    _headerSent: true,
    _hasBody: true,
    chunkedEncoding: saved.isChunked,
  });
}

class CarriedResponse implements UpgradedProtocol {
  readonly name: string;
  readonly #response: ServerResponse;
  readonly #request: IncomingMessage;
  readonly #saved: string;

  constructor(name: string, response: ServerResponse, request: IncomingMessage, saved: string) {
    this.name = name;
    this.#response = response;
    this.#request = request;
    this.#saved = saved;
  }

  isMovable(): boolean {
    const socket = this.#request.socket as HttpSocket;
    return (
      !this.#response.writableEnded &&
      !socket.destroyed &&
      socket._httpMessage === this.#response &&
      this.#response.writableCorked <= socket.writableCorked &&
      internals(this.#response).outputSize === 0 &&
      this.#request.complete &&
      // Not even the first byte of another request.
      (!socket.parser || !socket.server || HttpParsers.of(socket.server).idle().has(socket.parser))
    );
  }

  isSettling(): boolean {
    return false;
  }

  get aheadBytes(): number {
    return this.#saved.length;
  }

  /** All of it is known with the head. */
  ahead(): Saved {
    const { _header: head, chunkedEncoding: isChunked } = internals(this.#response);
    return { request: this.#saved, head: head ?? '', isChunked, statusCode: this.#response.statusCode };
  }

  save(hasAhead: boolean): Saved | undefined {
    return hasAhead ? undefined : this.ahead();
  }

  hold(): void {
    // What its client might send is no part of it.
  }

  release(): void {
    // See hold().
  }

  whenMovable(callback: () => void): void {
    const look = () => {
      if (this.isMovable()) callback();
      else if (!this.#response.writableEnded && !this.#response.destroyed) setTimeout(look, LOOK_MS);
    };
    setImmediate(look);
  }

  end(): void {
    this.#response.end();
  }
}
