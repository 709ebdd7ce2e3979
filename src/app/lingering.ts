/**
 * An old image after the commit, when connections could not cross: a response under way, an upload, TLS, HTTP/2, an upgrade that
 * nobody can carry. It serves them to their end while the next image has everything else.
 *
 *   began        listeners accept nobody, what crossed is let go, memory is private
 *   draining     each connection that ends, or becomes one that can cross and is handed on, is one less
 *   over         none is left, or the deadline passed and the rest is cut off: the process exits
 *
 * The event loop turns again here for the first time since the freeze, so everything that is the next image's must have been let
 * go before (`begin` is synchronous, and called in the very callback that heard the verdict).
 *
 * Unhappy paths: when the next image is gone nothing can be handed on any more, and connections end behind their response. luod's
 * own end changes nothing. The deadline is this image's own; luod kills it a little later if it does not keep it.
 */
import type { Server, Socket } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import type { Connection } from '../handlers/connection.js';
import { writeImageFile } from '../handover/image-file.js';
import { type OldToSuccessor, toWire } from '../handover/protocol.js';
import type { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import type { KeptListener } from './kept.js';

export interface LingeringOptions {
  readonly listeners: readonly KeptListener[];
  readonly direct: Wire;
  readonly drainMs: number;
  /** How many connections are left; called at the beginning and when the number changes. */
  readonly changed: (connections: number) => void;
  /** Ends this process. */
  readonly over: () => never;
}

/** Connections of these listeners that are not the next image's. */
export function countStaying(listeners: readonly KeptListener[]): number {
  let count = 0;
  for (const kept of listeners) count += kept.protocol.crosses ? kept.connections.staying.size : openOf(kept);
  return count;
}

function openOf({ file }: KeptListener): number {
  return (file.server as (Server & { readonly _connections: number }) | undefined)?._connections ?? 0;
}

export class Lingering {
  readonly #options: LingeringOptions;
  #left = 0;
  #isCounting = false;

  constructor(options: LingeringOptions) {
    this.#options = options;
  }

  get connections(): number {
    return this.#left;
  }

  /** Synchronous: see above. The listeners' own descriptors were severed by their handler. */
  begin(): void {
    const { listeners, drainMs, direct } = this.#options;
    const sockets = new Set<Socket>();
    for (const kept of listeners) {
      kept.connections.detach();
      kept.file.server?.on('close', () => this.#count());
      if (kept.protocol.crosses) for (const { socket } of kept.connections.staying) sockets.add(socket);
      kept.protocol.linger(kept.connections.staying, (connection) => this.#handOn(kept, connection));
    }
    for (const socket of sockets) socket.once('close', () => this.#count());
    for (const kept of listeners) if (!direct.isOpen) kept.protocol.lastResponses(kept.connections.staying);
    setTimeout(() => this.#cutOff(), drainMs);
    // A server that drains tells only of its last connection.
    setInterval(() => this.#count(), RECOUNT_MS);
    this.#left = countStaying(listeners);
    this.#options.changed(this.#left);
    this.#count();
  }

  /** The next image is gone. */
  directEnded(): void {
    for (const kept of this.#options.listeners) kept.protocol.lastResponses(kept.connections.staying);
  }

  #handOn(kept: KeptListener, connection: Connection): void {
    const { direct } = this.#options;
    if (!connection.isOpen) return;
    if (!direct.isOpen) {
      connection.upgraded?.end();
      return;
    }
    let record: number | undefined;
    try {
      const late = kept.connections.takeLate([connection]);
      record = writeImageFile(late.record);
      const message: OldToSuccessor = { type: 'late', session: kept.session };
      direct.send(toWire(message), [record, ...late.fds]);
    } catch (error) {
      // It stays here and goes on; its client loses nothing but the move.
      process.emitWarning(LiveUpdateError.from(error, { operation: 'late', session: kept.session }));
      connection.upgraded?.release();
      return;
    } finally {
      if (record !== undefined) closeFd(record);
    }
    connection.detach();
    this.#count();
  }

  /** Once for all that ended in this turn of the loop. */
  #count(): void {
    if (this.#isCounting) return;
    this.#isCounting = true;
    setImmediate(() => {
      this.#isCounting = false;
      const left = countStaying(this.#options.listeners);
      if (left !== this.#left) {
        this.#left = left;
        this.#options.changed(left);
      }
      if (left > 0) return;
      // What was handed on last may wait for the socket.
      if (this.#options.direct.isOpen) this.#options.direct.flushNow(FLUSH_MS);
      this.#options.over();
    });
  }

  #cutOff(): void {
    if (this.#left > 0)
      process.emitWarning(
        `${this.#left} connections did not end in time and are cut off`,
        'LiveUpdateWarning',
      );
    this.#options.over();
  }
}

const RECOUNT_MS = 1000;
/** How long the last connection waits for a next image that does not read. */
const FLUSH_MS = 1000;
