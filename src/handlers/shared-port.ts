/**
 * A TCP port that several processes of one user listen on: SO_REUSEPORT, socket(7). Each has a listening socket and a queue of its own,
 * and the kernel chooses one for a new connection by the four numbers of its addresses and ports; what is in a queue is that socket's alone.
 *
 * So a socket goes to the next image as any listener does, with its queue, and stays open while its program is dead (luod holds it): who
 * was put into its queue is answered late, not refused. Only when the last holder closes it is its queue lost.
 *
 * Node's own `reusePort` came with Node 23; this works in every version, and the server listens on a descriptor.
 */
import { lookup } from 'node:dns/promises';
import { isIP, type ListenOptions } from 'node:net';
import { networkInterfaces } from 'node:os';
import { LiveUpdateError } from '../core/errors.js';
import { openListeningSocket } from '../linux/listen-socket.js';

/** Node's. */
const DEFAULT_BACKLOG = 511;

/** Options of `lu.listen`: Node's, and whether other processes of this user may listen on the same port. */
export interface SharedListenOptions extends ListenOptions {
  reusePort?: boolean | undefined;
}

/**
 * A socket that listens where `options` say; the caller owns it.
 * @throws {LiveUpdateError} EINVAL for a port that is none; EADDRINUSE when somebody listens there who does not share, EACCES,
 *   EADDRNOTAVAIL, EMFILE. A host that is not found is told as Node tells it.
 */
export async function openSharedPort(options: SharedListenOptions): Promise<number> {
  const { host, backlog = DEFAULT_BACKLOG, ipv6Only = false } = options;
  const port = Number(options.port ?? 0);
  if (!Number.isInteger(port) || port < 0 || port > 0xffff) {
    throw new LiveUpdateError('EINVAL', `no port: ${String(options.port)}`, { operation: 'listen' });
  }
  const open = (address: string) => {
    const [numeric = '', zone] = address.split('%');
    const where = { host: numeric, port, scope: scopeOf(zone), ipv6Only, reusePort: true };
    return openListeningSocket(where, backlog);
  };
  if (host !== undefined) return open(isIP(host) === 0 ? (await lookup(host)).address : host);
  try {
    return open('::');
  } catch (error) {
    const { code } = LiveUpdateError.from(error);
    if (code === 'EADDRINUSE' || code === 'EACCES') throw error;
    // A machine without IPv6, as Node finds it.
    return open('0.0.0.0');
  }
}

/** The number of the interface that a link-local address names; 0 for none. */
function scopeOf(zone: string | undefined): number {
  if (zone === undefined) return 0;
  if (/^\d+$/.test(zone)) return Number(zone);
  const six = networkInterfaces()[zone]?.find(({ family }) => family === 'IPv6');
  if (six?.scopeid === undefined)
    throw new LiveUpdateError('EADDRNOTAVAIL', `no interface '${zone}' with IPv6`, { operation: 'listen' });
  return six.scopeid;
}
