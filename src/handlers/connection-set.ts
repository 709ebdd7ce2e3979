/**
 * All live connections of a listener, as one file.
 *
 * Ten thousand connections are one thing at the cut: they freeze in one loop, what changed of their states crosses as one array, and
 * nothing is looked up, allocated or called back for each of them. A connection has a number in its set, given when it came, by
 * which both images know it.
 *
 * The set crosses in passes while the old image serves: each pass brings numbers, as many descriptors, and the states as they are
 * then. Connections that come later wait for the next pass, the last of them for the freeze; the end of one that crossed is told at
 * once. The freeze's record says which numbers are still live, and brings the states that are no longer what their pass said.
 *
 * In the new image a connection that crossed is known to an epoll of the set's own from its pass on (`Readiness`). After the
 * commit those that have something to read flow at once; the silent ones, each of which costs libuv an epoll_ctl(2) and the program
 * a 'connection', follow a few at a turn of the loop, or when they speak.
 *
 * States of two connections that hold one object between them may hold two after the update.
 */
import type { Server } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { Readiness } from '../linux/epoll.js';
import { closeFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { Connection, type Duplicates, type UpgradedProtocol } from './connection.js';
import { isSame } from './same-value.js';
import type { ServerProtocol } from './server-protocol.js';

export const CONNECTIONS_COMPATIBLE = 'liveupdate-connections-v1';

/** How long the freeze waits for upgraded connections that are in the middle of something: zlib is done with most in one or two. */
const SETTLE_MS = 250;

/** How much of a turn of the loop goes to members that are to cross, in milliseconds: ten thousand at once would be a halt of some. */
const PRESERVING_MS = 0.5;

const NONE = new Uint32Array(0);

type Upgraded = readonly [id: number, name: string, saved: unknown, ahead?: unknown];

/** A record of a pass, or of the freeze: a structured clone. */
interface SavedSet {
  /** Numbers of connections whose descriptors come with this record, in their order. */
  readonly fresh: Uint32Array;
  /** At the freeze: the numbers of all live connections. */
  readonly live?: Uint32Array;
  /** Numbers whose states come with this record; in a pass all of `fresh`. */
  readonly changed: Uint32Array;
  /** Their states, in the same order. */
  readonly states: readonly unknown[];
  /** At the freeze: what user space held, of the few where it held something. */
  readonly pending?: readonly (readonly [number, Uint8Array])[];
  /**
   * At the freeze: of those that were upgraded, to what, what that saved, and what it told ahead if that did not come before; or without
   * a name, what their server's protocol did.
   */
  readonly upgraded?: readonly Upgraded[];
  /** In a pass: of those of `fresh` that were upgraded, to what, and what it tells ahead. */
  readonly ahead?: readonly (readonly [number, string, unknown])[];
}

/** How the set tells its handler of what happens while it is preserved. */
interface Preserved {
  /** Those that have not crossed yet. */
  readonly waiting: Map<number, Connection>;
  /** Called with the number of one that ends. */
  readonly onEnd: (id: number) => void;
}

/** See `ConnectionSet.rehearsals`. */
export interface Rehearsal {
  readonly size: number;
  /** @throws {LiveUpdateError} EINVAL when a state cannot be cloned. */
  run(): void;
}

export class ConnectionSet {
  readonly #members = new Map<number, Connection>();
  /** Those that could not cross at the freeze. */
  readonly #staying = new Map<number, Connection>();
  /** Old image: those that were moved ahead of the cut, and can still be given back. */
  readonly #moved = new Map<number, Connection>();
  /** New image: those that it serves ahead of the commit. */
  readonly #ahead = new Map<number, Connection>();
  /** New image: what the old one holds of these, until the freeze is restored or they are given back. */
  readonly #oldOnes: Duplicates = { exist: false };
  /** Of the server that they belong to; undefined when every connection can cross at any moment. */
  protocol: Pick<ServerProtocol, 'movable' | 'save' | 'receive' | 'checkUpgrade' | 'prepare'> | undefined;
  /** In a new image: tells of connections that crossed and have something to read. Undefined when there are none, or it cannot be had. */
  #readiness: Readiness | undefined;
  /**
   * Lets those flow that have something to read by now. Called at each turn of the loop until all flow, and not by a watch: libuv's epoll
   * would look through all of ours when it takes it in, which is 4 ms for ten thousand.
   */
  #armReady: (() => void) | undefined;
  #isReadinessRefused = false;
  /** New image: whether what is told ahead is built as it comes. */
  #isPreparing = false;
  /** While connections that crossed are let flow. */
  #armOne: ((connection: Connection) => void) | undefined;
  /** Those that do not wait for their next byte: user space held something of them. */
  #urgent: Connection[] = [];
  /** Those that the program gets before any other flows. */
  #upgraded: Connection[] = [];
  #nextId = 1;
  #preserved: Preserved | undefined;
  readonly #onGone = (id: number) => {
    this.#members.delete(id);
    this.#staying.delete(id);
    this.#moved.delete(id);
    this.#ahead.delete(id);
  };

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
    connection.enter(id, this.#onGone);
    if (this.#preserved !== undefined) this.#await(this.#preserved, id, connection);
  }

  #await({ waiting, onEnd }: Preserved, id: number, connection: Connection): void {
    waiting.set(id, connection);
    connection.watchEnd(onEnd);
  }

  /**
   * From now on every member is to cross; `ended` is told the numbers of those that crossed and ended. Resolves when all members are
   * known to it, some at a turn of the loop: the program serves.
   */
  async preserve(ended: (id: number) => void): Promise<void> {
    const waiting = new Map<number, Connection>();
    const onEnd = (id: number) => {
      // One that never crossed is nobody's but ours.
      if (!waiting.delete(id)) ended(id);
    };
    const preserved: Preserved = { waiting, onEnd };
    this.#preserved = preserved;
    let end = performance.now() + PRESERVING_MS;
    // Those that come meanwhile are at its end, and known.
    for (const [id, connection] of this.#members) {
      if (!waiting.has(id)) this.#await(preserved, id, connection);
      if (performance.now() < end) continue;
      await nextTurn();
      if (this.#preserved !== preserved) return;
      end = performance.now() + PRESERVING_MS;
    }
  }

  unpreserve(): void {
    this.#preserved = undefined;
    this.#staying.clear();
    for (const connection of this.#members.values()) {
      connection.watchEnd(undefined);
      connection.hasSent = false;
      connection.sent = undefined;
      connection.sentAhead = undefined;
      connection.upgraded?.release();
    }
  }

  /**
   * Right before the freeze: upgraded connections take in nothing more, and what they are in the middle of comes to its end while
   * the program is still in charge. What takes longer than a moment stays. `unpreserve` undoes it.
   */
  async settle(): Promise<void> {
    const upgraded = upgradedOf(this.#members.values());
    for (const other of upgraded) other.hold();
    const deadline = performance.now() + SETTLE_MS;
    // All of them at once: the program goes on, and may keep them busy.
    while (upgraded.some((other) => other.isSettling()) && performance.now() < deadline) await nextTurn();
  }

  /** How many have not crossed yet. */
  get waiting(): number {
    return this.#preserved?.waiting.size ?? 0;
  }

  /**
   * The next connections to cross, with their descriptors (borrowed).
   * @param bytes About how much they may tell ahead, all together; one may tell more.
   */
  takeWaiting(limit: number, bytes = Number.POSITIVE_INFINITY): { ids: Uint32Array; fds: number[] } {
    const waiting = this.#preserved?.waiting ?? new Map<number, Connection>();
    let left = bytes;
    return descriptorsOf(waiting, (id, { upgraded }, count) => {
      if (count === limit || left < 0) return false;
      left -= upgraded?.aheadBytes ?? 0;
      return waiting.delete(id);
    });
  }

  /** Those that could not cross at the freeze: after the commit they are the lingering image's. */
  get staying(): Iterable<Connection> & { readonly size: number } {
    return { size: this.#staying.size, [Symbol.iterator]: () => this.#staying.values() };
  }

  /**
   * The record of a pass. @throws {LiveUpdateError} EINVAL when a state cannot be cloned.
   */
  passRecord(fresh: Uint32Array): Buffer {
    const states = Array.from(fresh, (id) => this.#members.get(id)?.state);
    const record = serializeValue({
      fresh,
      changed: fresh,
      states,
      ahead: this.#tellAhead(fresh),
    } satisfies SavedSet);
    // What the next image has, to compare with at the freeze.
    const { states: clones } = parse(record);
    for (let i = 0; i < fresh.length; i++) {
      const connection = this.#members.get(fresh[i] as number);
      if (connection === undefined) continue;
      connection.sent = clones[i];
      connection.hasSent = true;
    }
    return record;
  }

  #tellAhead(fresh: Uint32Array): [number, string, unknown][] {
    const ahead: [number, string, unknown][] = [];
    for (const id of fresh) {
      const connection = this.#members.get(id);
      const upgraded = connection?.upgraded;
      if (connection === undefined || upgraded?.ahead === undefined) continue;
      ahead.push([id, upgraded.name, upgraded.ahead()]);
      connection.sentAhead = upgraded;
    }
    return ahead;
  }

  /**
   * Everything about the live connections that is neither in the kernel nor sent. Both arguments are always given: a default value is code
   * that a rehearsal would not run, and V8 would give up what it compiled when the freeze comes to it.
   * @param how 'rehearsal' leaves out bytes that wait in user space: there may be many, and nobody will see them. 'whole': the other
   *   side has nothing yet.
   * @throws {LiveUpdateError} EIO for bytes that cannot be found again.
   */
  #collect(
    how: 'freeze' | 'rehearsal' | 'whole',
    members: ReadonlyMap<number, Connection>,
  ): Required<Omit<SavedSet, 'fresh' | 'ahead'>> {
    const isMovable = this.protocol?.movable?.();
    const save = this.protocol?.save;
    this.#staying.clear();
    const upgraded: Upgraded[] = [];
    const live = new Uint32Array(members.size);
    const changed: number[] = [];
    const states: unknown[] = [];
    const pending: [number, Uint8Array][] = [];
    let count = 0;
    for (const [id, connection] of members) {
      if (!connection.isOpen) continue;
      const other = connection.upgraded;
      if (other === undefined ? isMovable?.(connection) === false : !other.isMovable()) {
        if (how === 'freeze') this.#staying.set(id, connection);
        continue;
      }
      live[count++] = id;
      // One that the program has not got yet goes on as it came.
      if (other !== undefined)
        upgraded.push([id, other.name, other.save(other === connection.sentAhead && how !== 'whole')]);
      else if (connection.saved !== undefined) {
        const { name, value, ahead } = connection.saved;
        upgraded.push([id, name, value, ahead]);
      } else {
        const value = save?.(connection);
        if (value !== undefined) upgraded.push([id, '', value]);
      }
      const { state } = connection;
      const isSent = connection.hasSent && how !== 'whole';
      if (!(isSent ? isSame(state, connection.sent) : state === undefined)) {
        changed.push(id);
        states.push(state);
      }
      const bytes = how === 'rehearsal' && !connection.isDrained ? undefined : connection.pending();
      if (bytes !== undefined) pending.push([id, bytes]);
    }
    return { live: live.subarray(0, count), changed: Uint32Array.from(changed), states, pending, upgraded };
  }

  /**
   * The record of the freeze, with the descriptors (borrowed) of those that have not crossed.
   * @throws {LiveUpdateError} EIO for bytes that cannot be found again; EINVAL when a state cannot be cloned.
   */
  takeRest(): { record: Buffer; fds: number[] } {
    const { ids: fresh, fds } = this.takeWaiting(Number.POSITIVE_INFINITY);
    return {
      record: serializeValue({ fresh, ...this.#collect('freeze', this.#members) } satisfies SavedSet),
      fds,
    };
  }

  /**
   * Rehearsals of the freeze, each of a part of the members: it collects what the freeze would, and throws it away. They can be repeated, and
   * the program may have its turn between two; each is made when it is asked for.
   * @param perPart How many connections each has at most.
   */
  *rehearsals(perPart: number): Generator<Rehearsal> {
    // A Map, as at the freeze: V8 compiles the loop for what it loops over.
    let part = new Map<number, Connection>();
    for (const [id, connection] of this.#members) {
      part.set(id, connection);
      if (part.size < perPart) continue;
      yield this.#rehearsal(part);
      part = new Map();
    }
    if (part.size > 0) yield this.#rehearsal(part);
  }

  #rehearsal(part: ReadonlyMap<number, Connection>): Rehearsal {
    return {
      size: part.size,
      run: () => {
        // The loop of `settle`, which goes through all of them as well.
        upgradedOf(part.values());
        serializeValue(this.#collect('rehearsal', part));
      },
    };
  }

  /**
   * In a lingering image: everything of connections that stayed and can cross now, and their descriptors (borrowed). They are
   * this image's no more: `Connection.detach` them when it is sent.
   * @throws {LiveUpdateError} EIO for bytes that cannot be found again; EINVAL when a state cannot be cloned.
   */
  takeLate(connections: readonly Connection[]): { record: Buffer; fds: number[] } {
    const wanted = new Set(connections);
    const late = new ConnectionSet();
    for (const [id, connection] of this.#staying)
      if (wanted.has(connection)) late.#members.set(id, connection);
    const { ids: fresh, fds } = descriptorsOf(late.#members, () => true);
    return {
      record: serializeValue({ ...late.#collect('whole', late.#members), fresh } satisfies SavedSet),
      fds,
    };
  }

  /** Old image: how many were moved ahead of the cut. */
  get moved(): number {
    return this.#moved.size;
  }

  /**
   * Old image, rolling: the next batch to move ahead of the cut. Its connections are parked, and are the next image's unless it gives them
   * back. Only what crossed in a pass and of which user space holds nothing; the rest waits for the cut.
   * @returns undefined when nothing more can be moved.
   * @throws {LiveUpdateError} EINVAL when a state cannot be cloned; nothing is parked then.
   */
  takeBatch(limit: number): Buffer | undefined {
    const isMovable = this.protocol?.movable?.();
    const batch = new Map<number, Connection>();
    for (const [id, connection] of this.#members) {
      if (batch.size === limit) break;
      if (!connection.hasSent || !connection.isOpen || !connection.isQuiet) continue;
      if (connection.upgraded !== undefined || isMovable?.(connection) === false) continue;
      batch.set(id, connection);
    }
    if (batch.size === 0) return undefined;
    const changed: number[] = [];
    const states: unknown[] = [];
    for (const [id, { state, sent }] of batch) {
      if (isSame(state, sent)) continue;
      changed.push(id);
      states.push(state);
    }
    const live = Uint32Array.from(batch.keys());
    const record = serializeValue({
      fresh: NONE,
      live,
      changed: Uint32Array.from(changed),
      states,
    } satisfies SavedSet);
    for (const [id, connection] of batch) {
      connection.park();
      this.#members.delete(id);
      this.#moved.set(id, connection);
    }
    return record;
  }

  /** New image, ahead of the commit: serves a batch. @throws {LiveUpdateError} EINVAL for a damaged record. */
  serveAhead(record: Uint8Array, server: Server): void {
    const saved = parse(record);
    this.#restoreThese(saved);
    this.#oldOnes.exist = true;
    for (const id of saved.live ?? NONE) {
      const connection = this.#members.get(id);
      if (connection === undefined) throw new LiveUpdateError('EINVAL', `the connection ${id} did not come`);
      this.#ahead.set(id, connection);
      connection.endAloudWhile(this.#oldOnes);
      connection.arm(server, this.protocol);
    }
    for (const id of saved.live ?? NONE) this.#members.get(id)?.announce();
  }

  /** New image: how many it serves ahead of the commit. */
  get ahead(): number {
    return this.#ahead.size;
  }

  /**
   * New image, called off: everything of the connections that it served ahead of the commit. Exact as long as the event loop does not turn
   * any more.
   * @throws {LiveUpdateError} EIO for bytes that cannot be found again; EINVAL when a state cannot be cloned.
   */
  giveBack(): Buffer {
    const back = new ConnectionSet();
    for (const [id, connection] of this.#ahead) {
      // The old image knows it as what it was before the upgrade: it ends.
      if (connection.upgraded === undefined) back.#members.set(id, connection);
    }
    this.#ahead.clear();
    // They are the old image's: whatever still destroys them here must not tell their peers.
    this.#oldOnes.exist = false;
    return serializeValue({ ...back.#collect('whole', back.#members), fresh: NONE } satisfies SavedSet);
  }

  /** Old image: the next one gave back what it served; those that are not there have ended. @throws {LiveUpdateError} EINVAL. */
  takeBack(record: Uint8Array): void {
    const { live = NONE, changed, states, pending = [] } = parse(record);
    const stateOf = new Map(Array.from(changed, (id, i) => [id, states[i]]));
    const pendingOf = new Map(pending);
    for (const id of live) {
      const connection = this.#moved.get(id);
      if (connection === undefined) continue;
      this.#moved.delete(id);
      this.#members.set(id, connection);
      connection.unpark(stateOf.get(id), pendingOf.get(id));
    }
    this.loseMoved();
  }

  /** Old image: the next one is gone, with what it had read and written. @returns how many connections end with it. */
  loseMoved(): number {
    const lost = this.#moved.size;
    for (const connection of [...this.#moved.values()]) connection.lose();
    this.#moved.clear();
    return lost;
  }

  /**
   * In an image that serves: takes in connections that a lingering one could not hand over before; they flow at once. Owns `fds`,
   * also when it throws.
   * @throws {LiveUpdateError} EINVAL for a damaged record, or descriptors that did not come.
   */
  takeIn(record: Uint8Array, fds: number[], server: Server): void {
    try {
      const saved = parse(record);
      if (fds.length < saved.fresh.length)
        throw new LiveUpdateError('EINVAL', 'fewer descriptors than connections');
      for (const id of saved.fresh) this.#enter(id, Connection.adopt(fds.shift() as number));
      this.#restoreThese(saved);
      for (const id of saved.fresh) this.#members.get(id)?.arm(server, this.protocol, () => undefined);
      for (const id of saved.fresh) attempt(() => this.#members.get(id)?.announce());
    } finally {
      for (const fd of fds.splice(0)) closeFd(fd);
    }
  }

  /** A pass, or the freeze, came: builds its connections, which read nothing yet. @throws {LiveUpdateError} EINVAL. */
  adopt({ fresh, changed, states, ahead = [] }: SavedSet, takeFd: () => number): void {
    for (const id of fresh) {
      const connection = Connection.adopt(takeFd());
      this.#enter(id, connection);
      this.#watchReadiness(id, connection);
    }
    for (let i = 0; i < changed.length; i++) {
      const connection = this.#members.get(changed[i] as number);
      if (connection !== undefined) connection.state = states[i];
    }
    for (const [id, name, value] of ahead) {
      const connection = this.#members.get(id);
      if (connection === undefined) continue;
      connection.ahead = { name, value };
      if (this.#isPreparing) this.#prepare(connection);
    }
  }

  /**
   * New image, when its program has registered who takes what: builds what was told ahead, `perTurn` at a turn of the loop, and from
   * now on as it comes.
   */
  async prepare(perTurn: number): Promise<void> {
    this.#isPreparing = true;
    let left = perTurn;
    for (const connection of [...this.#members.values()]) {
      if (connection.ahead === undefined) continue;
      this.#prepare(connection);
      if (--left > 0) continue;
      left = perTurn;
      await nextTurn();
    }
  }

  #prepare(connection: Connection): void {
    try {
      if (connection.isOpen) this.protocol?.prepare?.(connection);
    } catch {
      // The program's own code, which may have its reasons before the commit; it is run, and may throw, again when it gets the connection.
    }
  }

  #watchReadiness(id: number, { socket }: Connection): void {
    const fd = handleFd(socket);
    if (fd === undefined || this.#isReadinessRefused) return;
    try {
      this.#readiness ??= new Readiness();
      this.#readiness.add(fd, id);
    } catch (error) {
      // No descriptor or watch is left: all flow at once then, as fast as libuv can take them.
      this.#endReadiness();
      this.#isReadinessRefused = true;
      process.emitWarning(
        LiveUpdateError.from(error, { operation: 'adopt', handler: CONNECTIONS_COMPATIBLE }),
      );
    }
  }

  #endReadiness(): void {
    this.#armReady = undefined;
    this.#readiness?.closeApart();
    this.#readiness = undefined;
  }

  /** Connections that ended in the old image: closes this one's duplicates. */
  abandon(ids: Iterable<number>): void {
    for (const id of ids) this.#members.get(id)?.socket.destroy();
  }

  /** Brings the adopted connections to what the freeze saved. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore(saved: SavedSet): void {
    const { live = NONE } = saved;
    const expected = live.length + this.#ahead.size;
    if (this.#members.size !== expected) {
      const ended = new Set(this.#members.keys());
      for (const id of live) ended.delete(id);
      for (const id of this.#ahead.keys()) ended.delete(id);
      this.abandon(ended);
      if (this.#members.size !== expected)
        throw new LiveUpdateError('EINVAL', `${expected - this.#members.size} connections did not come`);
    }
    this.#oldOnes.exist = false;
    this.#ahead.clear();
    this.#restoreThese(saved);
    for (const [id, name] of saved.upgraded ?? []) {
      const connection = this.#members.get(id);
      if (name === '' || connection === undefined) continue;
      this.protocol?.checkUpgrade?.(name);
      this.#upgraded.push(connection);
    }
  }

  #restoreThese({ changed, states, pending = [], upgraded = [] }: SavedSet): void {
    for (let i = 0; i < changed.length; i++) {
      const id = changed[i] as number;
      const connection = this.#members.get(id);
      if (connection === undefined) throw new LiveUpdateError('EINVAL', `the connection ${id} did not come`);
      connection.state = states[i];
    }
    for (const [id, bytes] of pending) {
      const connection = this.#members.get(id);
      connection?.restore(bytes);
      if (connection !== undefined) this.#urgent.push(connection);
    }
    for (const [id, name, value, ahead] of upgraded) {
      const connection = this.#members.get(id);
      if (connection === undefined) continue;
      connection.saved = { name, value, ahead: ahead ?? connection.ahead?.value };
    }
  }

  /**
   * After the commit: lets those flow that have something to read or to write; the others follow with `announce`, or when they
   * speak. `onFlow` is called for each that the program gets. It gets all upgraded ones now: whoever speaks to all of them, when the
   * first message comes or the first request, must leave none out.
   */
  arm(server: Server, onFlow: () => void): void {
    const arm = (connection: Connection) => {
      if (connection.crossed && !connection.isArmed) connection.arm(server, this.protocol, onFlow);
    };
    this.#armOne = arm;
    for (const connection of this.#upgraded.splice(0)) {
      attempt(() => {
        arm(connection);
        connection.announce();
      });
    }
    for (const connection of this.#urgent.splice(0)) attempt(() => arm(connection));
    const readiness = this.#readiness;
    if (readiness === undefined) {
      for (const connection of this.#members.values()) arm(connection);
      return;
    }
    const armReady = () => {
      for (const id of readiness.take()) {
        const connection = this.#members.get(id);
        if (connection !== undefined) arm(connection);
      }
    };
    armReady();
    this.#armReady = armReady;
  }

  /**
   * Lets all flow, and gives the program those that it has not got yet, as many at a turn of the loop as come to `turnMs`: what a
   * program makes of a connection takes microseconds or much longer, and longest in its first ones.
   */
  async announce(turnMs: number): Promise<void> {
    const armOne = this.#armOne;
    let end = performance.now() + turnMs;
    for (const connection of [...this.#members.values()]) {
      if (!connection.isOpen) continue;
      attempt(() => {
        armOne?.(connection);
        connection.announce();
      });
      if (performance.now() < end) continue;
      await nextTurn();
      // An update was quicker, and what has crossed is the next image's.
      if (this.#armOne !== armOne) return;
      this.#armReady?.();
      end = performance.now() + turnMs;
    }
    this.#armOne = undefined;
    this.#endReadiness();
  }

  /** Ends all connections, and what watches them. */
  discard(): void {
    for (const { socket } of [...this.#members.values()]) socket.destroy();
    this.#armOne = undefined;
    this.#endReadiness();
  }

  /** After the commit, in an old image that ends. @returns the descriptors, which stay open, and are nobody's in this process any more. */
  sever(): number[] {
    const all = [this.#members, this.#moved];
    const fds = all.flatMap((connections) => descriptorsOf(connections, () => true).fds);
    for (const connections of all) for (const connection of connections.values()) connection.sever();
    return fds;
  }

  /** After the commit, in an old image that lingers: lets go of all that crossed. */
  detach(): void {
    this.#armOne = undefined;
    this.#endReadiness();
    for (const [id, connection] of [...this.#members]) {
      if (!this.#staying.has(id)) connection.detach();
      else connection.watchEnd(undefined);
    }
    for (const connection of [...this.#moved.values()]) connection.detach();
    this.#preserved = undefined;
  }
}

function upgradedOf(connections: Iterable<Connection>): UpgradedProtocol[] {
  const all: UpgradedProtocol[] = [];
  for (const { upgraded } of connections) if (upgraded !== undefined) all.push(upgraded);
  return all;
}

/** Numbers and descriptors (borrowed) of the connections that are open, as far as `isWanted`, which is told how many there are so far. */
function descriptorsOf(
  connections: ReadonlyMap<number, Connection>,
  isWanted: (id: number, connection: Connection, count: number) => boolean,
): { ids: Uint32Array; fds: number[] } {
  const ids: number[] = [];
  const fds: number[] = [];
  for (const [id, connection] of connections) {
    if (!isWanted(id, connection, ids.length)) break;
    const fd = handleFd(connection.socket);
    if (fd === undefined) continue;
    ids.push(id);
    fds.push(fd);
  }
  return { ids: Uint32Array.from(ids), fds };
}

/** Gives the program a connection. */
function attempt(announce: () => void): void {
  try {
    announce();
  } catch (error) {
    // As in any accept: the program's own listener threw. The other connections must come all the same.
    process.nextTick(() => {
      throw error;
    });
  }
}

export function connectionSetHandler(handover: Handover): CarriedFileHandler<ConnectionSet> {
  const adopt = (handle: number): ConnectionSet => {
    const { incoming } = handover;
    const set = incoming.adopt(handle, () => new ConnectionSet());
    const bytes = incoming.bytes(handle);
    if (bytes.length > 0) set.adopt(parse(bytes), () => incoming.takeFd(handle));
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
        const { record, fds } = set.takeRest();
        handover.outgoing.update(handleOf(args.serializedData), record, fds);
      },
      retrieve(args) {
        const { incoming } = handover;
        const handle = handleOf(args.serializedData);
        const set = incoming.adopt(handle, () => new ConnectionSet());
        const saved = parse(incoming.bytes(handle));
        set.adopt({ ...saved, changed: NONE }, () => incoming.takeFd(handle));
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

function parse(bytes: Uint8Array): SavedSet {
  const saved = deserializeValue(bytes) as Partial<SavedSet> | null;
  if (
    !(saved?.fresh instanceof Uint32Array && saved.changed instanceof Uint32Array) ||
    saved.changed.length !== saved.states?.length
  )
    throw new LiveUpdateError('EINVAL', 'a damaged record', { handler: CONNECTIONS_COMPATIBLE });
  return saved as SavedSet;
}
