/** What luod lets its clients have. Whoever wants more is told which errno, and nothing that is held is touched. */
import { totalmem } from 'node:os';
import { fdHeadroom } from '../linux/fd.js';

export interface Limits {
  /** Connections at one time, images and operators among them. EMFILE. */
  readonly clients: number;
  /** Sessions of one user. ENOSPC. */
  readonly sessionsPerUid: number;
  /** Files of one session. ENOSPC. */
  readonly filesPerSession: number;
  /** Descriptors held for sessions, their own wires among them, in all. EMFILE. */
  readonly heldFds: number;
  /** Bytes of memory kept for one user, by the sizes that memfds had when they were kept. ENOSPC. */
  readonly bytesPerUid: number;
  /** Bytes of one message to luod. EMSGSIZE, and the connection ends. */
  readonly lineBytes: number;
  /** Bytes of answers and events that a client does not read. The connection ends. */
  readonly queuedBytes: number;
  /** Programs' names that one connection is subscribed as. ENOSPC. */
  readonly subscriptionsPerClient: number;
  /** Milliseconds from the first byte of a message to its last. ETIMEDOUT, and the connection ends. */
  readonly stallMs: number;
}

/** Descriptors that luod keeps for itself: images, updates, logs. */
const RESERVE = 512;

/**
 * The defaults on this process: what RLIMIT_NOFILE leaves after the clients and a reserve, so that no limit of the system is met
 * before luod's own.
 * @param clients Connections at one time.
 */
export function defaultLimits(clients = 1000): Limits {
  const free = Math.max(0, fdHeadroom() - RESERVE - clients);
  return {
    clients,
    sessionsPerUid: 10_000,
    filesPerSession: 10_000,
    heldFds: free,
    bytesPerUid: Math.floor(totalmem() / 2),
    lineBytes: 1 << 20,
    queuedBytes: 16 << 20,
    subscriptionsPerClient: 100,
    stallMs: 10_000,
  };
}
