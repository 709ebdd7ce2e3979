/**
 * All live connections of a listener, as one file.
 *
 * Ten thousand connections are one thing at the cut: they freeze in one loop, their states cross as one array, and nothing is
 * looked up, allocated or called back for each of them. A connection has a number in its set, given when it came, by which
 * both images know it.
 *
 * The set crosses in passes while the old image serves: each pass brings numbers and as many descriptors. Connections
 * that come later wait for the next pass, the last of them for the freeze; the end of one that crossed is told at once.
 * The freeze's record says which numbers are still live, and in the same order their states.
 */
import type { Server } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { handleFd } from '../linux/handle-fd.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { Connection } from './connection.js';

export const CONNECTIONS_COMPATIBLE = 'liveupdate-connections-v1';

/** A record of a pass, or of the freeze: a structured clone. */
interface SavedSet {
  /** Numbers of connections whose descriptors come with this record, in their order. */
  readonly fresh: Uint32Array;
  /** At the freeze: the numbers of all live connections. */
  readonly live?: Uint32Array;
  /** At the freeze: their states, in the same order; absent when no connection has one. */
  readonly states?: readonly unknown[] | undefined;
  /** At the freeze: what user space held, of the few where it held something. */
  readonly pending?: readonly (readonly [number, Uint8Array])[];
}

/** How the set tells its handler of what happens while it is preserved. */
interface Preserved {
  /** Those that have not crossed yet. */
  readonly waiting: Map<number, Connection>;
  /** Calls back with the number of one that had crossed and ended. */
  readonly ended: (id: number) => void;
}

export class ConnectionSet {
  readonly #members = new Map<number, Connection>();
  #nextId = 1;
  #preserved: Preserved | undefined;

  get size(): number {
    return this.#members.size;
  }

  [Symbol.iterator](): IterableIterator<Connection> {
    return this.#members.values();
  }

  /** Takes in a connection that came just now. */
  add(connection: Connection): void {
    this.#enter(this.#nextId, connection);
  }

  #enter(id: number, connection: Connection): void {
    if (id >= this.#nextId) this.#nextId = id + 1;
    this.#members.set(id, connection);
    connection.onGone(() => this.#members.delete(id));
    if (this.#preserved !== undefined) this.#await(this.#preserved, id, connection);
  }

  #await({ waiting, ended }: Preserved, id: number, connection: Connection): void {
    waiting.set(id, connection);
    connection.watchEnd(() => {
      // One that never crossed is nobody's but ours.
      if (!waiting.delete(id)) ended(id);
    });
  }

  /** From now on every member is to cross; `ended` is told the numbers of those that crossed and ended. */
  preserve(ended: (id: number) => void): void {
    const preserved: Preserved = { waiting: new Map(), ended };
    this.#preserved = preserved;
    for (const [id, connection] of this.#members) this.#await(preserved, id, connection);
  }

  unpreserve(): void {
    this.#preserved = undefined;
    for (const connection of this.#members.values()) connection.watchEnd(undefined);
  }

  /** How many have not crossed yet. */
  get waiting(): number {
    return this.#preserved?.waiting.size ?? 0;
  }

  /** The next `limit` connections to cross, with their descriptors (borrowed). */
  takeWaiting(limit: number): { ids: Uint32Array; fds: number[] } {
    const waiting = this.#preserved?.waiting ?? new Map<number, Connection>();
    const ids: number[] = [];
    const fds: number[] = [];
    for (const [id, { socket }] of waiting) {
      if (ids.length === limit) break;
      waiting.delete(id);
      const fd = handleFd(socket);
      if (fd === undefined) continue;
      ids.push(id);
      fds.push(fd);
    }
    return { ids: Uint32Array.from(ids), fds };
  }

  /**
   * Everything about the live connections that is not in the kernel. A rehearsal leaves out bytes that wait in user space:
   * there may be many, and nobody will see them.
   * @throws {LiveUpdateError} EIO for bytes that cannot be found again.
   */
  collect(rehearsing = false): Required<Omit<SavedSet, 'fresh'>> {
    const live = new Uint32Array(this.#members.size);
    const states: unknown[] = [];
    const pending: [number, Uint8Array][] = [];
    let count = 0;
    let hasState = false;
    for (const [id, connection] of this.#members) {
      if (!connection.isOpen) continue;
      live[count++] = id;
      const { state } = connection;
      if (state !== undefined) hasState = true;
      states.push(state);
      const bytes = rehearsing && !connection.isDrained ? undefined : connection.pending();
      if (bytes !== undefined) pending.push([id, bytes]);
    }
    return { live: live.subarray(0, count), states: hasState ? states : undefined, pending };
  }

  /** A pass came: builds its connections, which read nothing yet. @throws {LiveUpdateError} EINVAL. */
  adopt(ids: Uint32Array, takeFd: () => number): void {
    for (const id of ids) this.#enter(id, Connection.adopt(takeFd()));
  }

  /** Connections that ended in the old image: closes this one's duplicates. */
  abandon(ids: Iterable<number>): void {
    for (const id of ids) this.#members.get(id)?.socket.destroy();
  }

  /** Brings the adopted connections to what the freeze saved. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore({ live = new Uint32Array(0), states, pending = [] }: SavedSet): void {
    const ended = this.#members.size === live.length ? undefined : new Set(this.#members.keys());
    for (let i = 0; i < live.length; i++) {
      const id = live[i] as number;
      const connection = this.#members.get(id);
      if (connection === undefined) throw new LiveUpdateError('EINVAL', `the connection ${id} did not come`);
      if (states !== undefined) connection.state = states[i];
      ended?.delete(id);
    }
    if (ended !== undefined) this.abandon(ended);
    for (const [id, bytes] of pending) this.#members.get(id)?.restore(bytes);
  }

  /** After the commit: lets every connection that crossed flow. `onFlow` is called for each that the program gets. */
  arm(server: Server, onFlow: () => void): void {
    for (const connection of this.#members.values()) {
      if (connection.crossed) connection.arm(server, onFlow);
    }
  }

  /** Gives the program those that it has not got yet, a few at a turn of the loop. */
  async announce(perTurn: number): Promise<void> {
    let left = perTurn;
    for (const connection of [...this.#members.values()]) {
      try {
        connection.announce();
      } catch (error) {
        // As in any accept: the program's own listener threw. The other connections must come all the same.
        process.nextTick(() => {
          throw error;
        });
      }
      if (--left > 0) continue;
      left = perTurn;
      await nextTurn();
    }
  }

  sever(): void {
    for (const connection of this.#members.values()) connection.sever();
  }
}

export function connectionSetHandler(handover: Handover): CarriedFileHandler<ConnectionSet> {
  const adopt = (handle: number): ConnectionSet => {
    const { incoming } = handover;
    const set = incoming.adopt(handle, () => new ConnectionSet());
    const bytes = incoming.bytes(handle);
    if (bytes.length > 0) set.adopt(parse(bytes).fresh, () => incoming.takeFd(handle));
    return set;
  };
  return {
    compatible: CONNECTIONS_COMPATIBLE,
    adopt,
    ops: {
      canPreserve: (_handler, file) => file instanceof ConnectionSet,
      preserve(args: FileOpArgs<ConnectionSet>) {
        args.serializedData = toSerializedData(handover.outgoing.put());
      },
      unpreserve(args) {
        args.file!.unpreserve();
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      freeze(args) {
        const set = args.file!;
        const { ids: fresh, fds } = set.takeWaiting(Number.POSITIVE_INFINITY);
        const saved: SavedSet = { fresh, ...set.collect() };
        handover.outgoing.update(handleOf(args.serializedData), serializeValue(saved), fds);
      },
      retrieve(args) {
        const { incoming } = handover;
        const handle = handleOf(args.serializedData);
        const set = incoming.adopt(handle, () => new ConnectionSet());
        const saved = parse(incoming.bytes(handle));
        set.adopt(saved.fresh, () => incoming.takeFd(handle));
        set.restore(saved);
        args.file = set;
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined)
          for (const { socket } of handover.incoming.adopted<ConnectionSet>(handle) ?? []) socket.destroy();
        handover.incoming.drop(handle);
      },
    },
  };
}

/** The record of a pass. */
export function passRecord(ids: Uint32Array): Buffer {
  return serializeValue({ fresh: ids } satisfies SavedSet);
}

function parse(bytes: Uint8Array): SavedSet {
  const saved = deserializeValue(bytes) as Partial<SavedSet> | null;
  if (!(saved?.fresh instanceof Uint32Array))
    throw new LiveUpdateError('EINVAL', 'a damaged record', { handler: CONNECTIONS_COMPATIBLE });
  return saved as SavedSet;
}
