/**
 * The connections of an HTTP/1 server. One can cross between two requests: then neither the parser nor the program holds anything
 * of it. One with a request under way stays in the old image, is answered there, and crosses right behind the last byte of its
 * response. So an upload, a long answer and a stream of events end where they began, and the connection lives on.
 *
 * Whether a connection is between two requests is known exactly: no response is assigned to its socket, and its parser has not
 * begun a message, not even the first byte of one (`HttpParsers`). A connection whose first byte never came is known by its bytes.
 *
 * A connection that was upgraded is no HTTP any more: what it became says how it crosses (`UpgradedProtocol`), and one of which
 * nobody says so stays to its end.
 *
 * What Node keeps beside: the keep-alive timeout begins anew in the next image; request counts (`maxRequestsPerSocket`) too.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Connection } from './connection.js';
import { HttpParsers, type Parser } from './http-parsers.js';
import { endAfterResponses } from './last-responses.js';
import type { ServerProtocol } from './server-protocol.js';
import type { Upgrades } from './upgrades.js';

/** What of Node's HTTP server stands on a socket, in Node 20 to 26. */
interface HttpSocket extends Socket {
  /** The response that has the socket now. */
  _httpMessage?: ServerResponse | null;
  /** Gone after an upgrade. */
  parser?: Parser | null;
  _handle: { bytesRead: number } | null;
}

export function httpProtocol(server: Server, upgrades: Upgrades): ServerProtocol {
  const parsers = HttpParsers.of(server);
  // Undoes the timeout of an idle connection when its next request comes, as Node does for its own.
  server.prependListener('request', ({ socket }: IncomingMessage) => {
    // A stream with another request behind it is a request under way like any other.
    const connection = Connection.from(socket);
    if (connection?.upgraded !== undefined) connection.upgraded = undefined;
    if (waiting.delete(socket)) socket.setTimeout(server.timeout);
  });
  return {
    crosses: true,
    movable: () => {
      const idle = parsers.idle();
      return (connection) => isBetweenRequests(connection, idle);
    },
    save: (connection) => (isUnused(connection) ? UNUSED : undefined),
    checkUpgrade: (name) => upgrades.check(name),
    prepare: (connection) => upgrades.prepare(connection),
    receive: (connection) => {
      if ((connection.saved?.name ?? '') !== '') upgrades.receive(connection);
      else receive(server, connection);
    },
    linger: (staying, canCross) => linger(server, staying, canCross),
    lastResponses: (staying) => lastResponses(server, staying),
  };
}

function lastResponses(server: Server, staying: Iterable<Connection>): void {
  const idle = HttpParsers.of(server).idle();
  for (const connection of staying) {
    const response = (connection.socket as HttpSocket)._httpMessage;
    if (connection.upgraded !== undefined) connection.upgraded.end();
    else if (response) response.shouldKeepAlive = false;
    else if (isBetweenRequests(connection, idle)) connection.socket.destroy();
  }
  endAfterResponses(server);
}

function isBetweenRequests(connection: Connection, idle: ReadonlySet<Parser>): boolean {
  const socket = connection.socket as HttpSocket;
  // Nobody has seen a byte of it since it crossed.
  if (!connection.isAnnounced) return true;
  const { parser } = socket;
  // An upgraded connection speaks something else, which only its own protocol could carry.
  if (socket._httpMessage || socket.writableEnded || !parser) return false;
  return idle.has(parser) || socket._handle?.bytesRead === 0;
}

/** What crosses with a connection on which nothing was ever asked: its client may take its time. */
const UNUSED = 'unused';
/** Such connections of an image before. */
const unused = new WeakSet<Socket>();

function isUnused({ socket, crossed }: Connection): boolean {
  return (!crossed || unused.has(socket)) && (socket as HttpSocket)._handle?.bytesRead === 0;
}

/** Sockets that wait for their next request, which Node would take for new ones: a minute, and then a 408. */
const waiting = new WeakSet<Socket>();

function receive(server: Server, connection: Connection): void {
  const { socket } = connection;
  server.emit('connection', socket);
  if (connection.saved?.value === UNUSED) unused.add(socket);
  else if (connection.isSilent && server.keepAliveTimeout > 0) {
    waiting.add(socket);
    socket.setTimeout(server.keepAliveTimeout);
  }
}

function linger(
  server: Server,
  staying: Iterable<Connection>,
  canCross: (connection: Connection) => void,
): void {
  /** Looked at together, behind all that this turn of the loop finishes: each look goes through every connection that stayed. */
  const answered = new Set<Connection>();
  const look = () => {
    const idle = HttpParsers.of(server).idle();
    for (const connection of answered) {
      answered.delete(connection);
      if (!connection.socket.destroyed && isBetweenRequests(connection, idle)) canCross(connection);
    }
  };
  const whenAnswered = (connection: Connection, response: ServerResponse) => {
    const socket = connection.socket as HttpSocket;
    // Behind Node's own listener, which takes the socket from the response, or gives it to the next one.
    response.once('finish', () => {
      const next = socket._httpMessage;
      if (next) {
        whenAnswered(connection, next);
        return;
      }
      if (answered.size === 0) setImmediate(look);
      answered.add(connection);
    });
  };
  const onRequest = ({ socket }: IncomingMessage, response: ServerResponse) => {
    const connection = Connection.from(socket);
    if (connection !== undefined) whenAnswered(connection, response);
  };
  server.prependListener('request', onRequest);
  // Without a listener of the program's these are Node's own to answer, and told as 'request'.
  for (const event of ['checkContinue', 'checkExpectation']) {
    if (server.listenerCount(event) > 0) server.prependListener(event, onRequest);
  }
  for (const connection of staying) {
    const whenMovable = () => connection.upgraded?.whenMovable(() => canCross(connection));
    whenMovable();
    // A request that came in part may be one for an upgrade.
    connection.onUpgraded(whenMovable);
    const response = (connection.socket as HttpSocket)._httpMessage;
    if (response) whenAnswered(connection, response);
  }
}
