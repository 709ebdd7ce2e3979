/**
 * WebSockets: connections of an HTTP server that a `WebSocketServer` of the package `ws` has upgraded. They cross at almost any
 * moment: in the middle of a frame, of a message in fragments, of a compressed message, with messages that wait to be compressed.
 *
 * Life in the old image: `handleUpgrade` is watched, so that every WebSocket is known with the request it came by → settled,
 * right before the freeze: nothing more is read from it, and what zlib is at work on is done and told to the program while the
 * program is still in charge → saved. One that is not at rest even then (a Blob that is slow to be read; a closing handshake) stays: the old image lingers, does it, and hands the WebSocket on. One that is closing ends there.
 *
 * Life in the new image: rebuilt and emitted as 'connection' on the server, all of them before any of them says a word, so that
 * a program that tells all its `clients` leaves none out.
 */
import type { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { Connection, type Receiver, type UpgradedProtocol } from './connection.js';
import { InflatedWindow } from './inflated-window.js';
import { restoreRequest, saveRequest } from './saved-request.js';
import { setConnectionOf } from './upgrades.js';
import {
  type Deflate,
  deflateOf,
  isAtRest,
  OPEN,
  probe,
  rebuildWebSocket,
  rehearse,
  resumeSending,
  type SavedWebSocket,
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

interface Saved extends SavedWebSocket {
  readonly request: string;
}

/** All WebSockets of one server. */
export class WebSockets implements Receiver {
  readonly name: string;
  readonly #server: ServerInternals;

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
        if (connection !== undefined) this.#enter(ws, connection, saveRequest(itsRequest));
        callback(ws, itsRequest);
      });
  }

  #enter(
    ws: WebSocketInternals,
    connection: Connection,
    request: string,
    window?: readonly Uint8Array[],
  ): void {
    setConnectionOf(ws, connection);
    connection.upgraded = new CarriedWebSocket(this.name, ws, request, window);
  }

  rehearse(): void {
    rehearse(this.#server);
  }

  receive(connection: Connection): void {
    const saved = connection.saved?.value as Saved;
    const { socket } = connection;
    const ws = rebuildWebSocket(this.#server, socket, saved);
    if (ws === undefined) {
      socket.destroy();
      return;
    }
    this.#enter(ws, connection, saved.request, saved.window);
    resumeSending(ws, saved);
    this.#server.emit('connection', ws, restoreRequest(saved.request, socket));
  }
}

class CarriedWebSocket implements UpgradedProtocol {
  readonly name: string;
  readonly #ws: WebSocketInternals;
  readonly #request: string;
  readonly #window: InflatedWindow | undefined;
  readonly #deflating: { read(): UnsentFrame | undefined } | undefined;
  /** Settled, and not by the program's own pause(). */
  #isHeld = false;

  constructor(
    name: string,
    ws: WebSocketInternals,
    request: string,
    window: readonly Uint8Array[] | undefined,
  ) {
    this.name = name;
    this.#ws = ws;
    this.#request = request;
    const deflate = deflateOf(ws);
    if (deflate === undefined) return;
    this.#window = watchInflated(deflate, window);
    this.#deflating = watchDeflating(ws, deflate);
  }

  isMovable(): boolean {
    return isAtRest(this.#ws);
  }

  isSettling(): boolean {
    return this.#ws.readyState === OPEN && !isAtRest(this.#ws);
  }

  save(): Saved {
    return {
      ...saveWebSocket(this.#ws, this.#deflating?.read()),
      request: this.#request,
      window: this.#window === undefined || this.#window.length === 0 ? undefined : this.#window.parts(),
      isPaused: (this.#ws.isPaused && !this.#isHeld) || undefined,
    };
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
 * Keeps what `deflate` gives out from now on, as far as the peer may refer to it.
 * @param before What another had given out, for one that goes on behind it.
 */
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
