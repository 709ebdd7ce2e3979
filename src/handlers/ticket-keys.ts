/**
 * TLS session ticket keys: an FLB bound to the program's TLS listeners. A client that resumes its session presents a ticket that
 * only its maker's keys can open; with keys of its own every image would have every client go through a whole handshake again,
 * thousands at once right behind an update. So the keys live as long as any TLS listener does, image after image.
 *
 *   preserve   the first TLS listener is preserved: the keys, in a record
 *   retrieve   the first TLS listener is retrieved and asks: every TLS server of the new image gets them, before it accepts
 *   finish     the last is finished: the record is given up; the servers have the keys
 *
 * All TLS servers of a program share one set of keys. A server that was given `ticketKeys` of the program's own keeps those.
 */
import type { Server } from 'node:tls';
import { LiveUpdateError } from '../core/errors.js';
import type { Flb } from '../core/types.js';
import { type Handover, handleOf, toSerializedData } from './carried.js';

/** What Node calls the keys: a name, an HMAC key and an AES key of 16 bytes each. */
const KEY_BYTES = 48;

export class TicketKeys {
  readonly flb: Flb<Buffer>;
  readonly #servers = new Set<Server>();
  #keys: Buffer | undefined;

  constructor(handover: Handover) {
    this.flb = {
      compatible: 'liveupdate-tls-tickets-v1',
      ops: {
        preserve: (args) => {
          // A program may rotate them; what its server has now is what its clients' tickets need.
          const [server] = this.#servers;
          args.obj = server?.getTicketKeys() ?? Buffer.alloc(0);
          args.data = toSerializedData(handover.outgoing.put(args.obj));
        },
        unpreserve: (args) => handover.outgoing.drop(handleOf(args.data)),
        retrieve(args) {
          args.obj = Buffer.from(handover.incoming.bytes(handleOf(args.data)));
          if (args.obj.length !== KEY_BYTES && args.obj.length !== 0) {
            throw new LiveUpdateError('EINVAL', `ticket keys of ${args.obj.length} bytes`, {
              handler: args.flb.compatible,
            });
          }
        },
        finish: (args) => handover.incoming.drop(handleOf(args.data)),
      },
    };
  }

  /** Has `server` use the program's keys. */
  add(server: Server): void {
    // What tls.createServer({ ticketKeys }) leaves on the server.
    if ((server as { ticketKeys?: unknown }).ticketKeys !== undefined) return;
    this.#servers.add(server);
    server.once('close', () => this.#servers.delete(server));
    this.#keys ??= server.getTicketKeys();
    server.setTicketKeys(this.#keys);
  }

  /** The keys of the image before. */
  take(keys: Buffer): void {
    if (keys.length === 0) return;
    this.#keys = keys;
    for (const server of this.#servers) server.setTicketKeys(keys);
  }
}
