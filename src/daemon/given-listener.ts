/** The listening socket of a socket unit: sd_listen_fds(3). */
import { fstatSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import { listenAddress } from '../linux/listen-socket.js';
import { isListening, socketDomain, socketType } from '../linux/socket-facts.js';
import type { GivenFd } from './service-manager.js';

/**
 * Takes the one descriptor that is for luod to listen on; the given ones are its receiver's, so what else came is closed.
 * @param path Where luod was told to listen.
 * @returns undefined when none was given.
 * @throws {LiveUpdateError} EINVAL when it is no listening unix stream socket, listens elsewhere, or when there are several.
 */
export function takeListener(given: GivenFd[], path: string): number | undefined {
  const [one, another] = given.splice(0);
  if (one === undefined) return undefined;
  try {
    if (another !== undefined) throw refusal('gave several sockets; luod listens on one');
    const { fd } = one;
    const isUnix =
      fstatSync(fd).isSocket() &&
      socketDomain(fd) === 'unix' &&
      socketType(fd) === 'stream' &&
      isListening(fd);
    if (!isUnix) throw refusal('gave something else than a listening unix stream socket (ListenStream=)');
    const address = listenAddress(fd);
    const where = 'path' in address ? address.path : undefined;
    if (where !== path) throw refusal(`gave a socket at ${where}; say --socket ${where} as well`);
    return fd;
  } catch (error) {
    for (const extra of [one, another]) if (extra !== undefined) closeFd(extra.fd);
    throw error;
  }
}

function refusal(what: string): LiveUpdateError {
  return new LiveUpdateError('EINVAL', `the service manager ${what}`, { operation: 'listen' });
}
