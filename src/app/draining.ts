/**
 * Before an update in place nobody can linger: what cannot cross ends with execve. So the connections that can cross at some
 * moments (HTTP, between two requests) are brought to such a moment together:
 *
 *   waiting   the program serves; those that were busy when it began are awaited, for a long answer may take its time
 *   resting   each that can cross reads no more, and a new one not at all: the next request waits in the kernel, and is the next
 *             image's. The answers that are under way end. It is a part of the blackout, so it is short
 *
 * What is busy after that is cut off, and said. Servers whose connections never cross (TLS, HTTP/2) are not waited for: a client that
 * keeps its connection open would make every update wait.
 *
 * `wake` undoes it.
 */
import type { Socket } from 'node:net';
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';
import { Connection } from '../handlers/connection.js';
import { type Kept, KeptListener } from './kept.js';
import { countStaying } from './lingering.js';

const WAIT_MS = 10_000;
const REST_MS = 2000;
/** How often it is looked. */
const LOOK_MS = 5;

export class Draining {
  readonly #listeners: KeptListener[];
  readonly #resting = new Set<Connection>();
  readonly #rest = (socket: Socket) => {
    const connection = Connection.from(socket);
    if (connection !== undefined) this.#lay(connection);
  };
  #isOver = false;

  constructor(kept: readonly Kept[]) {
    this.#listeners = kept.filter((one) => one instanceof KeptListener);
  }

  /** Resolves when all is at rest, or after the time for it. */
  async rest(): Promise<void> {
    const awaited = new Set(this.#busy());
    await this.#until(WAIT_MS, () => {
      const busy = new Set(this.#busy());
      for (const connection of awaited) if (!busy.has(connection)) awaited.delete(connection);
      return awaited.size === 0;
    });
    if (this.#isOver) return;
    for (const { file } of this.#crossing()) file.server?.on('connection', this.#rest);
    await this.#until(REST_MS, () => this.#isAtRest());
    const left = this.#busy().length + this.#drainingOnly();
    if (left === 0) return;
    process.emitWarning(`${left} connections cannot cross the update and are cut off`, 'LiveUpdateWarning');
    // Node tells of a warning in a later turn, and the freeze may leave none.
    await nextTurn();
  }

  /** The update was called off: everything is read again. */
  wake(): void {
    this.#isOver = true;
    for (const { file } of this.#crossing()) file.server?.off('connection', this.#rest);
    for (const connection of this.#resting) connection.wake();
    this.#resting.clear();
  }

  async #until(ms: number, isOver: () => boolean): Promise<void> {
    const end = performance.now() + ms;
    while (!this.#isOver && !isOver() && performance.now() < end) await pause(LOOK_MS);
  }

  #crossing(): KeptListener[] {
    return this.#listeners.filter(({ protocol }) => protocol.crosses && protocol.movable !== undefined);
  }

  #drainingOnly(): number {
    return countStaying(this.#listeners.filter(({ protocol }) => !protocol.crosses));
  }

  #busy(): Connection[] {
    const busy: Connection[] = [];
    for (const { connections, protocol } of this.#crossing()) {
      const isMovable = protocol.movable?.();
      for (const connection of connections) {
        if (!connection.isOpen || this.#resting.has(connection)) continue;
        const { upgraded } = connection;
        if (upgraded === undefined ? isMovable?.(connection) === false : !upgraded.isMovable())
          busy.push(connection);
      }
    }
    return busy;
  }

  /** Lays to rest what can cross now. @returns whether that is all. */
  #isAtRest(): boolean {
    const busy = new Set(this.#busy());
    for (const { connections } of this.#crossing()) {
      for (const connection of connections) if (!busy.has(connection)) this.#lay(connection);
    }
    return busy.size === 0;
  }

  #lay(connection: Connection): void {
    // One that was upgraded has no requests, and may have to answer its peer.
    if (!connection.isOpen || connection.upgraded !== undefined) return;
    this.#resting.add(connection);
    connection.rest();
  }
}
