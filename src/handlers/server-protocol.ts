/**
 * How the connections of a server cross an update. What a connection is depends on what its server makes of it: of a plain
 * `net.Server` every connection can cross at any moment; of an HTTP server only between its requests; of a TLS or HTTP/2 server
 * none, since Node gives its keys and streams to nobody.
 *
 * Three moments, in this order:
 *
 *   movable    in the halted old image: which connections can cross as they are. The others stay: the old image lingers after the
 *              commit, serves them to their end, and hands on those that become movable
 *   receive    in the new image, after the commit: the program gets a connection that crossed
 *   linger     in the old image, after the commit, when some stayed: ends what can only end, and tells of what can cross now
 */
import { Server as HttpServer } from 'node:http';
import type { Server } from 'node:net';
import type { Connection } from './connection.js';
import { drainingProtocol } from './draining-connections.js';
import { httpProtocol } from './http-connections.js';
import { isHttp2, isTls } from './server-kinds.js';
import type { Upgrades } from './upgrades.js';

export interface ServerProtocol {
  /** Whether connections can cross at all. Those that cannot are the server's alone and stay to their end. */
  readonly crosses: boolean;
  /** Asked once for each cut, in the halted image; undefined when every connection can cross. */
  readonly movable: (() => (connection: Connection) => boolean) | undefined;
  /** What of a connection only its protocol knows and the next image needs: a structured clone, or undefined. In the halted image. */
  readonly save: ((connection: Connection) => unknown) | undefined;
  /**
   * Before the commit: connections came that were upgraded to `name`.
   * @throws {LiveUpdateError} EINVAL when nobody in this program takes them.
   */
  readonly checkUpgrade: ((name: string) => void) | undefined;
  /** Before the commit: builds what can be built of `connection.ahead`. Absent when nothing is ever told ahead. */
  prepare?(connection: Connection): void;
  /** Gives the program a connection that crossed, as its own accept would have. */
  receive(connection: Connection): void;
  /**
   * The next image has the listener, and everything that could cross.
   * @param staying The connections that could not.
   * @param canCross Called when a connection that stayed can cross now. It may be gone when this returns.
   */
  linger(staying: Iterable<Connection>, canCross: (connection: Connection) => void): void;
  /** From now on nothing more can cross: the next image is gone. Connections end after what they are doing. */
  lastResponses(staying: Iterable<Connection>): void;
}

/** The protocol that fits `server`; `upgrades` take what leaves it. */
export function protocolOf(server: Server, upgrades: Upgrades): ServerProtocol {
  if (isTls(server) || isHttp2(server)) return drainingProtocol(server);
  if (server instanceof HttpServer) return httpProtocol(server, upgrades);
  return {
    crosses: true,
    movable: undefined,
    save: undefined,
    checkUpgrade: undefined,
    receive: (connection) => void server.emit('connection', connection.socket),
    linger: () => undefined,
    lastResponses: () => undefined,
  };
}
