/** Two ends of a private conversation: socketpair(2). */
import { errno, failure, libc } from './libc.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;

const pair = Buffer.alloc(4096);

/** Connected unix stream sockets, close-on-exec; both are the caller's. @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM. */
export function socketPair(): [number, number] {
  const result = libc.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
  const error = errno();
  if (result === -1) throw failure('socketpair', error);
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}
