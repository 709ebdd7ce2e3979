/**
 * WebSockets: connections of an HTTP server that a `WebSocketServer` of the package `ws` has upgraded. They cross at almost any
 * moment: in the middle of a frame, of a message in fragments, of a compressed message, with messages that wait to be compressed.
 *
 * Life in the old image: `handleUpgrade` is watched, so that every WebSocket is known with the request it came by → settled,
 * right before the freeze: nothing more is read from it, and what zlib is at work on is done and told to the program while the
 * program is still in charge → saved. One that is not at rest even then (a Blob that is slow to be read; a closing handshake) stays: the old image lingers, does it, and hands the WebSocket on. One that is closing ends there.
 *
 * Life in the new image: built while the old one still serves, from what it told ahead, and seen by nobody; after the commit brought to
 * what was saved and emitted as 'connection' on the server, all of them before any of them says a word, so that a program that
 * tells all its `clients` leaves none out.
 */
import type { EventEmitter } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { Connection, type Receiver, type UpgradedProtocol } from './connection.js';
import { InflatedWindow } from './inflated-window.js';
import { restoreRequest, saveRequest } from './saved-request.js';
import { setConnectionOf } from './upgrades.js';
import {
  type Agreed,
  agreedOn,
  type Deflate,
  deflateOf,
  HiddenClients,
  isAtRest,
  OPEN,
  openWebSocket,
  probe,
  type Resumed,
  rehearse,
  restoreWebSocket,
  resumeSending,
  type ServerInternals,
  saveWebSocket,
  type UnsentFrame,
  type WebSocketInternals,
  watchDeflating,
} from './websocket-internals.js';

/** A `WebSocketServer` of the package `ws`, as far as its type matters to a caller. */
export interface WebSocketServerLike extends EventEmitter {
  handleUpgrade(...args: never[]): void;
}

/** How often a lingering image looks whether a WebSocket is at rest: `ws` tells of it in no way. */
const LOOK_MS = 5;

/** Service Restart: the client may come again. */
const CLOSE_RESTART = 1012;

/** What is known of a WebSocket while the program serves: for good, but for the window. */
interface Ahead extends Agreed {
  readonly request: string;
  /** What the peer's next compressed bytes may refer to. */
  readonly window: readonly Uint8Array[];
}

/** Undefined when the next image has all of it. */
type Saved =
  | {
      readonly ahead: Ahead | undefined;
      readonly resumed: Resumed | undefined;
      /** What came into the window behind the one that was told ahead. */
      readonly inflated: readonly Uint8Array[] | undefined;
      readonly isPaused: boolean;
    }
  | undefined;

/** A WebSocket that nobody has seen yet. */
interface Prepared {
  readonly ws: WebSocketInternals;
  readonly clients: HiddenClients;
  readonly request: IncomingMessage;
  readonly window: InflatedWindow | undefined;
}

/** All WebSockets of one server. */
export class WebSockets implements Receiver {
  readonly name: string;
  readonly #server: ServerInternals;
  readonly #prepared = new WeakMap<Connection, Prepared>();

  /**
   * @param name By which the next image knows them.
   * @throws {LiveUpdateError} EINVAL for what is no `WebSocketServer`, or one that listens by itself; EBUSY when it has clients
   *   already; ENOSYS for a `ws` that this cannot look into.
   */
  constructor(name: string, server: WebSocketServerLike) {
    this.name = name;
    this.#server = server as unknown as ServerInternals;
    const names = { operation: 'webSockets', session: name };
    probe(this.#server, names);
    const { options, clients } = this.#server;
    if (typeof options.port === 'number') {
      throw new LiveUpdateError(
        'EINVAL',
        'the WebSocketServer listens by itself; make it with { server } or { noServer: true }, and give the HTTP server to lu.listen()',
        names,
      );
    }
    if (clients !== undefined && clients.size > 0)
      throw new LiveUpdateError('EBUSY', 'the WebSocketServer has clients already', names);
    this.#watch();
  }

  /** Every upgrade goes by here, also without a server of its own, and before the program gets the WebSocket. */
  #watch(): void {
    const server = this.#server;
    const { handleUpgrade } = server;
    server.handleUpgrade = (request, socket, head, callback) =>
      handleUpgrade.call(server, request, socket, head, (ws, itsRequest) => {
        const connection = Connection.from(socket as Socket);
        if (connection !== undefined)
          this.#enter(ws, connection, saveRequest(itsRequest), windowOf(ws, undefined));
        callback(ws, itsRequest);
      });
  }

  #enter(
    ws: WebSocketInternals,
    connection: Connection,
    request: string,
    window: InflatedWindow | undefined,
  ): void {
    setConnectionOf(ws, connection);
    connection.upgraded = new CarriedWebSocket(this.name, ws, request, window);
  }

  rehearse(): void {
    rehearse(this.#server);
  }

  prepare(connection: Connection): void {
    // The WebSocket listens to it, which would begin to read what is the old image's still.
    connection.holdReading();
    const prepared = this.#open(connection, connection.ahead?.value as Ahead);
    if (prepared !== undefined) this.#prepared.set(connection, prepared);
  }

  /** @returns undefined when the server takes nobody any more. */
  #open(connection: Connection, ahead: Ahead): Prepared | undefined {
    const { socket } = connection;
    const clients = new HiddenClients(this.#server.clients);
    const ws = openWebSocket(this.#server, socket, ahead, clients);
    // What the old image had read and not parsed is put back before the parser is restored.
    socket.pause();
    if (ws === undefined) return undefined;
    const window = windowOf(ws, ahead.window);
    return { ws, clients, window, request: restoreRequest(ahead.request, socket) };
  }

  receive(connection: Connection): void {
    const saved = connection.saved?.value as Saved;
    const ahead = saved?.ahead ?? (connection.saved?.ahead as Ahead);
    const prepared = this.#prepared.get(connection) ?? this.#open(connection, ahead);
    if (prepared === undefined) {
      connection.socket.destroy();
      return;
    }
    const { ws, clients, request, window } = prepared;
    this.#prepared.delete(connection);
    // More came than a window has: that one is another.
    if (saved?.ahead !== undefined) window?.clear();
    for (const part of saved?.ahead?.window ?? saved?.inflated ?? []) window?.append(part);
    if (saved?.resumed !== undefined) restoreWebSocket(ws, saved.resumed);
    if (saved?.isPaused) ws.pause();
    else connection.socket.resume();
    this.#enter(ws, connection, ahead.request, window);
    if (saved?.resumed !== undefined) resumeSending(ws, saved.resumed);
    clients.show();
    this.#server.emit('connection', ws, request);
  }
}

class CarriedWebSocket implements UpgradedProtocol {
  readonly name: string;
  readonly #ws: WebSocketInternals;
  readonly #request: string;
  readonly #window: InflatedWindow | undefined;
  readonly #deflating: { read(): UnsentFrame | undefined } | undefined;
  /** How far the window was when it was told ahead. */
  #aheadMark = 0;
  /** Settled, and not by the program's own pause(). */
  #isHeld = false;

  constructor(name: string, ws: WebSocketInternals, request: string, window: InflatedWindow | undefined) {
    this.name = name;
    this.#ws = ws;
    this.#request = request;
    this.#window = window;
    const deflate = deflateOf(ws);
    if (deflate !== undefined) this.#deflating = watchDeflating(ws, deflate);
  }

  isMovable(): boolean {
    return isAtRest(this.#ws);
  }

  isSettling(): boolean {
    return this.#ws.readyState === OPEN && !isAtRest(this.#ws);
  }

  get aheadBytes(): number {
    return this.#request.length + (this.#window?.length ?? 0);
  }

  ahead(): Ahead {
    this.#aheadMark = this.#window?.mark ?? 0;
    return this.#aheadNow();
  }

  #aheadNow(): Ahead {
    return { ...agreedOn(this.#ws), request: this.#request, window: this.#window?.parts() ?? [] };
  }

  save(hasAhead: boolean): Saved {
    // Most have said nothing since.
    const isSame = this.#window === undefined || this.#window.mark === this.#aheadMark;
    const inflated = isSame ? undefined : this.#window.since(this.#aheadMark);
    const ahead = hasAhead && (isSame || inflated !== undefined) ? undefined : this.#aheadNow();
    const resumed = saveWebSocket(this.#ws, this.#deflating?.read());
    const isPaused = this.#ws.isPaused && !this.#isHeld;
    if (ahead === undefined && resumed === undefined && inflated === undefined && !isPaused) return undefined;
    return { ahead, resumed, inflated: ahead === undefined ? inflated : undefined, isPaused };
  }

  hold(): void {
    if (this.#ws.readyState !== OPEN || this.#ws.isPaused) return;
    this.#isHeld = true;
    this.#ws.pause();
  }

  release(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#ws.resume();
  }

  whenMovable(callback: () => void): void {
    const look = () => {
      if (isAtRest(this.#ws)) callback();
      else if (this.#ws.readyState === OPEN) setTimeout(look, LOOK_MS);
      // It closes, for which the other side has to be heard.
      else this.release();
    };
    this.hold();
    setImmediate(look);
  }

  end(): void {
    this.release();
    this.#ws.close(CLOSE_RESTART);
  }
}

/**
 * Keeps what the inflating of `ws` gives out from now on, as far as the peer may refer to it.
 * @param before What another had given out, for one that goes on behind it.
 * @returns undefined when nothing is compressed.
 */
function windowOf(
  ws: WebSocketInternals,
  before: readonly Uint8Array[] | undefined,
): InflatedWindow | undefined {
  const deflate = deflateOf(ws);
  return deflate && watchInflated(deflate, before);
}

function watchInflated(deflate: Deflate, before: readonly Uint8Array[] | undefined): InflatedWindow {
  const { client_max_window_bits: bits = 15, client_no_context_takeover: forgets = false } =
    deflate.params ?? {};
  const window = new InflatedWindow(bits, before);
  const { decompress, _options: options } = deflate;
  if (before !== undefined) {
    const zlibInflateOptions = {
      ...options.zlibInflateOptions,
      // Read when the stream is made, with the first bytes that come.
      get dictionary() {
        return window.length === 0 ? undefined : window.bytes();
      },
    };
    deflate._options = { ...options, zlibInflateOptions };
  }
  deflate.decompress = (bytes, isLast, callback) =>
    decompress.call(deflate, bytes, isLast, (error, inflated) => {
      if (forgets && isLast) window.clear();
      else if (inflated !== undefined) window.append(inflated);
      callback(error, inflated);
    });
  return window;
}
