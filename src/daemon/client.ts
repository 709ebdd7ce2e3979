/** Whoever is connected to luod's socket: an operator, a member of the group, or an image that said hello. */

import type { Wire } from '../handover/wire.js';
import type { AgentConnection } from './agents.js';
import type { Peer } from './host-session.js';
import type { ImageProcess } from './image-process.js';
import { z } from './lazy-zod.js';

export interface Client {
  /** Its group in the keeper. */
  readonly group: string;
  readonly peer: Peer;
  wire: Wire | undefined;
  image: ImageProcess | undefined;
  /** luod's own user, or root: may ask about and do everything. */
  readonly isOperator: boolean;
  /** Called when it has read the farewell. */
  goodbye?: () => void;
  /** Ends its subscription to events. */
  unsubscribe?: () => void;
  /** What it is to luo-agent's dialogue. */
  readonly agent: AgentConnection;
}

/** The listening socket's group in the keeper. */
export const LISTENER_GROUP = 'listener';

/** The listening socket as the keeper has it. */
export const listenerRecord = z.object({
  /** It is a socket unit's, whose name in the file system and mode are not luod's. */
  isGiven: z.boolean().default(false),
});

/** Clients' groups in the keeper: this and a number. */
export const CLIENT_GROUP = 'client ';

/** A client as the keeper has it. */
export const clientRecord = z.object({
  subscriptions: z.array(z.object({ id: z.string(), ready: z.boolean() })).default([]),
});
