/**
 * What happens in luod, told to whoever subscribed: events of sessions, as in the audit, and of services. Somebody who does not
 * read loses his connection: events that are late are not worth what it takes to keep them.
 */
import type { AuditEvent } from './audit.js';
import type { ServiceState } from './service.js';

/** A service changed: its state, or the process that serves. */
export interface ServiceEvent {
  readonly event: 'service';
  readonly service: string;
  readonly state: ServiceState;
  readonly pid: number | undefined;
  readonly generation: number;
}

export type LuodEvent = AuditEvent | ServiceEvent;

export interface Subscriber {
  readonly uid: number;
  /** Hears of everybody's sessions, and of services. */
  readonly isOperator: boolean;
  /** @throws when it cannot take any more. */
  send(message: { type: 'event' } & LuodEvent): void;
  /** Ends its connection. */
  hangUp(): void;
}

export class Events {
  readonly #subscribers = new Set<Subscriber>();

  /** @returns what ends the subscription. */
  subscribe(subscriber: Subscriber): () => void {
    this.#subscribers.add(subscriber);
    return () => this.#subscribers.delete(subscriber);
  }

  publish(event: LuodEvent): void {
    for (const subscriber of this.#subscribers) {
      const isOwn = 'uid' in event && event.uid === subscriber.uid;
      if (!subscriber.isOperator && !isOwn) continue;
      try {
        subscriber.send({ type: 'event', ...event });
      } catch {
        // It does not read (ENOBUFS), and learns by the end of its connection that it missed something.
        this.#subscribers.delete(subscriber);
        subscriber.hangUp();
      }
    }
  }
}
