/**
 * What a program keeps across updates: one session for each named thing. Token 0 is the thing itself; a listener's
 * live connections are the other tokens of its session.
 */
import type { Server, Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import type { Token } from '../core/types.js';
import { Connection } from '../handlers/connection.js';
import type { Listener } from '../handlers/listener.js';

/** Kinds as they stand in session names: `memory:cache`. */
export type Kind = 'state' | 'memory' | 'listener' | 'keep';

export const FILE_TOKEN: Token = 0n;

/** The kernel's limit for a session's name. */
const MAX_NAME_BYTES = 63;

/** @throws {LiveUpdateError} EINVAL when `name` is empty, no string, holds a NUL, or is too long with its kind. */
export function sessionName(kind: Kind, name: string): string {
  if (typeof name !== 'string' || name.length === 0 || name.includes('\0')) {
    throw new LiveUpdateError(
      'EINVAL',
      `a name is a string of 1 byte or more without NUL, not ${JSON.stringify(name)}`,
    );
  }
  const session = `${kind}:${name}`;
  const bytes = Buffer.byteLength(session);
  if (bytes > MAX_NAME_BYTES) {
    throw new LiveUpdateError(
      'EINVAL',
      `'${session}' has ${bytes} bytes; a session's name has at most ${MAX_NAME_BYTES}`,
    );
  }
  return session;
}

/** A named thing that is not a listener. */
export interface KeptFile {
  readonly session: string;
  readonly kind: Kind;
  readonly file: unknown;
  readonly listener?: undefined;
}

/** A listener and its live connections. */
export class KeptListener {
  readonly session: string;
  readonly kind = 'listener';
  readonly file: Listener;
  /** In the order in which they came, which is the order of their tokens. */
  readonly connections = new Map<Token, Connection>();
  #nextToken: Token = FILE_TOKEN + 1n;
  #onConnection: ((token: Token, connection: Connection) => void) | undefined;

  constructor(session: string, listener: Listener) {
    this.session = session;
    this.file = listener;
  }

  /** Counts every connection of `server` from now on. */
  watch(server: Server): void {
    // First in line: the program's own listener may already ask for connection(socket).state.
    server.prependListener('connection', (socket: Socket) => {
      if (!bySocket.has(socket)) this.#enter(this.#nextToken++, Connection.of(socket));
    });
  }

  /** Takes in a connection that crossed, under the token it had. */
  enter(token: Token, connection: Connection): void {
    if (token >= this.#nextToken) this.#nextToken = token + 1n;
    this.#enter(token, connection);
  }

  #enter(token: Token, connection: Connection): void {
    const { socket } = connection;
    this.connections.set(token, connection);
    bySocket.set(socket, connection);
    socket.once('close', () => this.connections.delete(token));
    this.#onConnection?.(token, connection);
  }

  /** Tells of every connection that comes from now on; undefined ends that. */
  onConnection(listener: ((token: Token, connection: Connection) => void) | undefined): void {
    this.#onConnection = listener;
  }
}

export type Kept = KeptFile | KeptListener;

const bySocket = new WeakMap<Socket, Connection>();

/** The connection of a socket that came through a kept listener. */
export function connectionOf(socket: Socket): Connection | undefined {
  return bySocket.get(socket);
}
