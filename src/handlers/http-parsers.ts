/**
 * Which connections of an HTTP/1 server have no message under way, by the list that Node keeps for `closeIdleConnections()` and its
 * timeouts. A parser has begun a message with its first byte, and has none under way behind its last. A new parser, of which no byte
 * came, counts as one with a message under way in Node 20 to 24, and as one without in 26.12: nothing may depend on it.
 *
 * The parser itself does not tell: its `duration()` went from Node 22, 24 and 26 with one of their releases.
 */
import type { Server } from 'node:http';
import { LiveUpdateError } from '../core/errors.js';

/** llhttp's binding below a connection: `socket.parser`. */
export type Parser = object;

interface ConnectionsList {
  /** Those without a message under way. */
  idle(): Parser[];
}

const LIST = 'http.server.connections';

const known = new WeakMap<Server, HttpParsers>();

export class HttpParsers {
  readonly #list: ConnectionsList;
  #idle: ReadonlySet<Parser> | undefined;

  /** Those of `server`. @throws {LiveUpdateError} ENOSYS for a Node that keeps no such list. */
  static of(server: Server): HttpParsers {
    const parsers = known.get(server) ?? new HttpParsers(server);
    known.set(server, parsers);
    return parsers;
  }

  private constructor(server: Server) {
    // Node makes the list when the server listens, and tells it only of parsers that come later. Connections that cross come before.
    if (listOf(server) === undefined)
      server
        .listeners('listening')
        .find(({ name }) => name === 'setupConnectionsTracking')
        ?.call(server);
    const list = listOf(server);
    if (typeof list?.idle !== 'function')
      throw new LiveUpdateError(
        'ENOSYS',
        `Node ${process.versions.node} hides which HTTP connections have a request under way`,
        { operation: 'listen' },
      );
    this.#list = list;
  }

  /** As of now. Nothing is parsed before the code that runs now returns, so that it may ask of each connection. */
  idle(): ReadonlySet<Parser> {
    if (this.#idle === undefined) {
      this.#idle = new Set(this.#list.idle());
      queueMicrotask(() => {
        this.#idle = undefined;
      });
    }
    return this.#idle;
  }
}

function listOf(server: Server): ConnectionsList | undefined {
  const symbol = Object.getOwnPropertySymbols(server).find(({ description }) => description === LIST);
  return symbol && (server as unknown as Record<symbol, ConnectionsList | undefined>)[symbol];
}
