/**
 * What a program keeps across updates: one session for each named thing. Token 0 is the thing itself, token 1 of a listener's
 * session the set of its live connections.
 */
import type { Server, Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { SESSION_NAME_BYTES } from '../core/names.js';
import type { Token } from '../core/types.js';
import type { CarriedFileHandler } from '../handlers/carried.js';
import { Connection } from '../handlers/connection.js';
import { ConnectionSet } from '../handlers/connection-set.js';
import { Listener } from '../handlers/listener.js';
import { Memory } from '../handlers/memory.js';
import { protocolOf, type ServerProtocol } from '../handlers/server-protocol.js';
import type { Upgrades } from '../handlers/upgrades.js';

/** Kinds as they stand in session names: `memory:cache`. */
export type Kind = 'state' | 'memory' | 'listener' | 'timer' | 'keep';
/** Of names that are no sessions of their own: what became of connections. */
type Upgrade = 'websocket' | 'stream';

export const FILE_TOKEN: Token = 0n;
export const CONNECTIONS_TOKEN: Token = 1n;

/** @throws {LiveUpdateError} EINVAL when `name` is empty, no string, holds a NUL, or is too long with its kind. */
export function sessionName(kind: Kind | Upgrade, name: string): string {
  if (typeof name !== 'string' || name.length === 0 || name.includes('\0')) {
    throw new LiveUpdateError(
      'EINVAL',
      `a name is a string of 1 byte or more without NUL, not ${JSON.stringify(name)}`,
    );
  }
  const session = `${kind}:${name}`;
  const bytes = Buffer.byteLength(session);
  if (bytes > SESSION_NAME_BYTES) {
    throw new LiveUpdateError(
      'EINVAL',
      `'${session}' has ${bytes} bytes; a session's name has at most ${SESSION_NAME_BYTES}`,
    );
  }
  return session;
}

/**
 * How the connections of a listener move: all in the cut, with everything else, as one consistent state; or most of them ahead of it, in
 * batches, while both images serve.
 */
export type Cut = 'atomic' | 'rolling';

/** Gives back what a file of an image holds that ends before its process does; what holds nothing but memory has nothing to give. */
export function discard(file: unknown): void {
  if (file instanceof ConnectionSet) file.discard();
  else if (file instanceof Memory || file instanceof Listener) file.close();
}

/** A named thing that is not a listener. */
export interface KeptFile {
  readonly session: string;
  readonly kind: Kind;
  readonly file: unknown;
  readonly handler: CarriedFileHandler;
  /** Whether the handler is one of the program's own, which may be asynchronous. */
  readonly isForeign: boolean;
}

/** A listener and its live connections. */
export class KeptListener {
  readonly session: string;
  readonly kind = 'listener';
  readonly file: Listener;
  readonly connections: ConnectionSet;
  readonly protocol: ServerProtocol;
  readonly cut: Cut;

  constructor(
    session: string,
    listener: Listener,
    connections: ConnectionSet,
    server: Server,
    upgrades: Upgrades,
    cut: Cut = 'atomic',
  ) {
    this.cut = cut;
    this.session = session;
    this.file = listener;
    this.connections = connections;
    this.protocol = protocolOf(server, upgrades);
    connections.protocol = this.protocol;
  }

  /** Counts every connection of `server` from now on. */
  watch(server: Server): void {
    if (!this.protocol.crosses) return;
    // First in line: the program's own listener may already ask for connection(socket).state.
    server.prependListener('connection', (socket: Socket) => {
      if (Connection.from(socket) === undefined) this.connections.add(Connection.of(socket));
    });
  }

  /** Calls back when the program closes `server`, and once more, with true, when its last connection has ended. */
  onClose(server: Server, onClose: (isOver: boolean) => void): void {
    const { close } = server;
    // Node has no event for it: 'close' waits for the last connection.
    server.close = (callback) => {
      onClose(false);
      return close.call(server, callback);
    };
    server.once('close', () => onClose(true));
  }
}

export type Kept = KeptFile | KeptListener;
