/**
 * Programs that wait to be told when to preserve, in the words of the public luo-agent:
 *
 *     program → luod   {"cmd":"SUBSCRIBE","id":"web"}
 *     luod → program   {"event":"START_PRESERVATION","id":"web","fds":1} + the descriptor of a session for it
 *     program → luod   {"cmd":"READY","id":"web"}           everything is in the session
 *     its next image   {"cmd":"CLAIM","id":"web"}           gets the session's descriptor, with the files to retrieve
 *
 * An id is a program's own among those of its user, and the session's name. The session is one like any other, with custody 'hold':
 * it lives on with luod when the program ends.
 */
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import { closeFd } from '../linux/fd.js';
import type { Peer } from './host-session.js';
import { checkName, type HostSessions } from './host-sessions.js';
import { settles } from './phases.js';

/** A subscriber's connection. */
export interface AgentConnection {
  /** Its group in the keeper. */
  readonly group: string;
  readonly peer: Peer;
  send(message: object, fds?: readonly number[]): void;
}

/** A subscription as the keeper has it. */
export interface SubscriptionRecord {
  readonly id: string;
  /** Whether everything is in its session. */
  readonly ready: boolean;
}

interface Subscription {
  readonly id: string;
  readonly connection: AgentConnection;
  isReady: boolean;
  /** Who waits for READY (true) or the end of the connection (false). */
  readonly waiting: Set<(isReady: boolean) => void>;
}

export interface Preservation {
  /** Whether nobody is late. */
  ok: boolean;
  /** Programs whose files are in their sessions. */
  readonly ready: string[];
  /** Those that did not say so in time, or that could not be asked, and why. */
  readonly late: { id: string; uid: number; reason: string }[];
}

export interface AgentsOptions {
  readonly sessions: HostSessions;
  /** Subscriptions of one connection. */
  readonly limit: number;
  /** Told when the subscriptions of a connection are others than they were. */
  readonly changed: (connection: AgentConnection, subscriptions: SubscriptionRecord[]) => void;
}

export class Agents {
  readonly #options: AgentsOptions;
  readonly #subscriptions = new Map<string, Subscription>();

  constructor(options: AgentsOptions) {
    this.#options = options;
  }

  #changed(connection: AgentConnection): void {
    this.#options.changed(connection, this.subscriptions(connection));
  }

  subscriptions(connection: AgentConnection): SubscriptionRecord[] {
    return [...this.#subscriptions.values()]
      .filter((subscription) => subscription.connection === connection)
      .map(({ id, isReady: ready }) => ({ id, ready }));
  }

  /**
   * @throws {LiveUpdateError} EEXIST when another connection of this user has the id; EINVAL when it is no session's name; ENOSPC for
   *   too many on one connection.
   */
  subscribe(id: string, connection: AgentConnection): void {
    if (this.#known(id, connection) !== undefined) return;
    const { limit } = this.#options;
    if (this.subscriptions(connection).length >= limit) {
      throw new LiveUpdateError('ENOSPC', `a connection is subscribed as ${limit} programs at most`);
    }
    this.restore({ id, ready: false }, connection);
    this.#changed(connection);
  }

  #known(id: string, connection: AgentConnection): Subscription | undefined {
    const known = this.#subscriptions.get(key(connection.peer.uid, id));
    return known?.connection === connection ? known : undefined;
  }

  /** As `subscribe`, of what the keeper has already. */
  restore({ id, ready }: SubscriptionRecord, connection: AgentConnection): void {
    const own = key(connection.peer.uid, id);
    if (this.#subscriptions.has(own)) {
      throw new LiveUpdateError('EEXIST', `another program of yours is subscribed as '${id}'`);
    }
    checkName(id, { operation: 'SUBSCRIBE' });
    this.#subscriptions.set(own, { id, connection, isReady: ready, waiting: new Set() });
  }

  /** @throws {LiveUpdateError} ENOENT when it is not subscribed; EINVAL when it has no session to preserve in. */
  ready(id: string, connection: AgentConnection): void {
    const subscription = this.#known(id, connection);
    if (subscription === undefined) {
      throw new LiveUpdateError('ENOENT', `this connection is not subscribed as '${id}'`);
    }
    if (!this.#options.sessions.isOwned(connection.peer.uid, id)) {
      throw new LiveUpdateError('EINVAL', 'there was no START_PRESERVATION, or its session is closed');
    }
    subscription.isReady = true;
    this.#changed(connection);
    for (const told of subscription.waiting) told(true);
  }

  /** @returns the descriptor of the session that was left for `id`, to send and close. @throws {LiveUpdateError} ENOENT, EINVAL. */
  claim(peer: Peer, id: string): number {
    return this.#options.sessions.retrieve(peer, id);
  }

  /** A connection ended. */
  left(connection: AgentConnection): void {
    for (const [own, subscription] of this.#subscriptions) {
      if (subscription.connection !== connection) continue;
      this.#subscriptions.delete(own);
      for (const told of subscription.waiting) told(false);
    }
  }

  /**
   * Tells every subscriber to preserve that has not, and waits until all are ready, or `timeoutMs` has passed. One whose session is
   * there and READY stays as it is.
   */
  async preserve(timeoutMs: number): Promise<Preservation> {
    const result: Preservation = { ok: true, ready: [], late: [] };
    const answers = [...this.#subscriptions.values()].map(async (subscription) => {
      const { id, connection } = subscription;
      const reason = await this.#ask(subscription, timeoutMs);
      if (reason === undefined) result.ready.push(id);
      else result.late.push({ id, uid: connection.peer.uid, reason });
    });
    await Promise.all(answers);
    result.ok = result.late.length === 0;
    return result;
  }

  /** @returns why it is not ready. */
  async #ask(subscription: Subscription, timeoutMs: number): Promise<string | undefined> {
    const { id, connection, waiting } = subscription;
    const { sessions } = this.#options;
    if (!sessions.isOwned(connection.peer.uid, id)) {
      let fd: number | undefined;
      subscription.isReady = false;
      try {
        fd = sessions.create(connection.peer, id, 'hold');
        connection.send({ event: 'START_PRESERVATION', id }, [fd]);
        this.#changed(connection);
      } catch (error) {
        return LiveUpdateError.from(error).message;
      } finally {
        if (fd !== undefined) closeFd(fd);
      }
    }
    if (subscription.isReady) return undefined;
    const { promise, resolve } = withResolvers<boolean>();
    waiting.add(resolve);
    try {
      if (!(await settles(promise, timeoutMs))) return `not READY within ${timeoutMs} ms`;
      return (await promise) ? undefined : 'its connection ended';
    } finally {
      waiting.delete(resolve);
    }
  }
}

function key(uid: number, id: string): string {
  return `${uid} ${id}`;
}
