/**
 * Who takes connections that became something else by an upgrade, in this image. The server that accepted such a connection
 * knows nothing of it any more; what it became has a name ('websocket:chat'), and in the next image whoever has registered that
 * name gets it.
 *
 * A name that nobody takes is found at the cut, before the commit, and refuses the update: connections would be lost. A version
 * that gives them up on purpose says `ready({ drop })`, and they are closed.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { Connection, Receiver } from './connection.js';

/** For `lu.connection()`, by what the program has in its hands: a WebSocket, say. */
const connections = new WeakMap<object, Connection>();

export function setConnectionOf(upgraded: object, connection: Connection): void {
  connections.set(upgraded, connection);
}

/** The connection below what it became. */
export function connectionOf(upgraded: object): Connection | undefined {
  return connections.get(upgraded);
}

export class Upgrades implements Receiver {
  readonly #receivers = new Map<string, Receiver>();
  #dropped: ReadonlySet<string> = new Set();

  /** @throws {LiveUpdateError} EEXIST when the name is in use; what `make` throws. */
  register(name: string, make: () => Receiver): void {
    if (this.#receivers.has(name))
      throw new LiveUpdateError('EEXIST', 'the name is in use in this program', { session: name });
    this.#receivers.set(name, make());
  }

  /** Connections of these names are closed when they come. */
  drop(names: ReadonlySet<string>): void {
    this.#dropped = names;
  }

  /** @throws {LiveUpdateError} EINVAL for a name that nobody takes and that was not dropped. */
  check(name: string): void {
    if (this.#receivers.has(name) || this.#dropped.has(name)) return;
    throw new LiveUpdateError(
      'EINVAL',
      `connections came that are '${name}' now, and this version does not ask for them; claim the name, or say ready({ drop: ['${name}'] })`,
    );
  }

  /** Before the cut, in an image that is to take over. */
  rehearse(): void {
    for (const receiver of this.#receivers.values()) receiver.rehearse?.();
  }

  /** Before the commit: whoever will take the connection builds what it can. */
  prepare(connection: Connection): void {
    this.#receivers.get(connection.ahead?.name ?? '')?.prepare?.(connection);
  }

  /** Gives the program a connection by what it became; one that nobody wants is closed. */
  receive(connection: Connection): void {
    const receiver = this.#receivers.get(connection.saved?.name ?? '');
    if (receiver === undefined) connection.socket.destroy();
    else receiver.receive(connection);
  }
}
