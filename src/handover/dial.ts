/**
 * A connected unix stream socket as a bare descriptor, for a `Wire`. Node connects and accepts (so that nothing blocks
 * and errors are Node's own); the descriptor is then taken out of Node's hands before a byte is read.
 */
import { createConnection, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { dupFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';

/** How long a full backlog is waited for: its owner may be busy, or dead with the next one on its way. */
const BACKLOG_MS = 10_000;
const RETRY_MS = 5;

/** @throws {LiveUpdateError} ENOENT, ECONNREFUSED (nobody listens), EACCES, EAGAIN (the backlog has been full for ten seconds). */
export async function dial(path: string): Promise<number> {
  const started = performance.now();
  for (;;) {
    try {
      return await dialOnce(path);
    } catch (error) {
      const isFull = LiveUpdateError.from(error).code === 'EAGAIN';
      if (!isFull || performance.now() - started > BACKLOG_MS) throw error;
      // unix(7): a connect that does not block is not queued, and nothing tells when there is room.
      await delay(RETRY_MS);
    }
  }
}

async function dialOnce(path: string): Promise<number> {
  const socket = createConnection({ path });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', (error) => reject(LiveUpdateError.from(error, { operation: 'connect' })));
  });
  return detach(socket);
}

/** The caller owns the result; Node's socket is gone. The socket must not have begun to read. */
export function detach(socket: Socket): number {
  const fd = handleFd(socket);
  if (fd === undefined) throw new LiveUpdateError('EBADF', 'the socket is closed');
  try {
    return dupFd(fd);
  } finally {
    socket.destroy();
  }
}
