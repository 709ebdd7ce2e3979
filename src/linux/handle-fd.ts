/** The descriptor below one of Node's sockets or servers. Node has no public word for it; `_handle.fd` is in 20 to 26. */
import type { Server, Socket } from 'node:net';

/** Undefined when it is not open (yet, or any more). */
export function handleFd(owner: Socket | Server): number | undefined {
  const fd = (owner as unknown as { _handle: { fd?: number } | null })._handle?.fd;
  return fd === undefined || fd < 0 ? undefined : fd;
}
