/**
 * A listening socket of a TLS server: as any other, and the ticket keys (ticket-keys.ts) depend on it. Its connections drain
 * (draining-connections.ts).
 */
import { LiveUpdateError } from '../core/errors.js';
import type { LiveUpdate } from '../core/index.js';
import { isThenable } from '../core/sequence.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { Listener, listenerHandler } from './listener.js';
import { isTls } from './server-kinds.js';
import { TicketKeys } from './ticket-keys.js';

/** Registers the handler, with its FLB; before `listenerHandler`, which would take the same file. */
export function registerTlsListeners(
  orchestrator: LiveUpdate,
  handover: Handover,
  register: (handler: CarriedFileHandler) => void,
): TicketKeys {
  const plain = listenerHandler(handover);
  const tickets = new TicketKeys(handover);
  const takeKeys = () => {
    const keys = orchestrator.getIncoming(tickets.flb);
    const take = (came: Buffer) => {
      tickets.take(came);
      return orchestrator.putIncoming(tickets.flb);
    };
    return isThenable(keys) ? keys.then(take) : take(keys);
  };
  const handler: CarriedFileHandler<Listener> = {
    ...plain,
    compatible: 'liveupdate-tls-listener-v1',
    ops: {
      ...plain.ops,
      canPreserve: (_handler, file) =>
        file instanceof Listener && file.server !== undefined && isTls(file.server),
      retrieve(args) {
        plain.ops.retrieve(args);
        try {
          return takeKeys();
        } catch (error) {
          // What luod held for a dead image has no FLBs: clients shake hands again.
          if (!(error instanceof LiveUpdateError && (error.code === 'ENOENT' || error.code === 'ENODATA')))
            throw error;
        }
      },
    },
  };
  register(handler as CarriedFileHandler);
  orchestrator.registerFlb(handler, tickets.flb);
  return tickets;
}
