/** What a descriptor is, found out by looking at it: fstat(2), /proc/self/fdinfo, socket(7). */
import { type BigIntStats, fstatSync, readFileSync, readlinkSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { accessMode, tell } from './fd.js';
import { listenAddress } from './listen-socket.js';
import { isMemfd, memfdSeals } from './memfd.js';
import { isListening, socketCookie, socketDomain, socketType } from './socket-facts.js';

export const FD_KINDS = [
  'memfd',
  'listener',
  'stream',
  'datagram',
  'pipe',
  'eventfd',
  'timerfd',
  'file',
  'directory',
] as const;

export type FdKind = (typeof FD_KINDS)[number];

export interface FdFacts {
  readonly kind: FdKind;
  /**
   * The same for every descriptor of one live file; undefined when only a comparison can tell (compareOpenFiles). Files, directories
   * and memfds are their inode, as the kernel's orchestrator has it; the two ends of a pipe are two.
   */
  readonly identity: string | undefined;
  /** For people and records: plain data. */
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

const S_IFMT = 0o170000n;
const S_IFIFO = 0o010000n;
const S_IFDIR = 0o040000n;
const S_IFREG = 0o100000n;
const S_IFSOCK = 0o140000n;
const ACCESS = ['read', 'write', 'read and write'] as const;

/**
 * @returns undefined for what is none of `FD_KINDS` (a device, an epoll, ...).
 * @throws {LiveUpdateError} EBADF.
 */
export function fdFacts(fd: number): FdFacts | undefined {
  let stat: BigIntStats;
  try {
    stat = fstatSync(fd, { bigint: true });
  } catch (cause) {
    throw LiveUpdateError.from(cause, { operation: 'fstat' });
  }
  const inode = `${stat.dev}:${stat.ino}`;
  const access = ACCESS[accessMode(fd)] ?? 'none';
  switch (stat.mode & S_IFMT) {
    case S_IFREG: {
      const details = { size: Number(stat.size), position: tell(fd), access };
      if (isMemfd(fd))
        return { kind: 'memfd', identity: inode, details: { ...details, seals: memfdSeals(fd) } };
      return { kind: 'file', identity: inode, details: { ...details, path: linkOf(fd) } };
    }
    case S_IFDIR:
      return { kind: 'directory', identity: inode, details: { path: linkOf(fd) } };
    case S_IFIFO:
      return { kind: 'pipe', identity: `${inode}:${access}`, details: { access, path: linkOf(fd) } };
    case S_IFSOCK:
      return socketFacts(fd);
    default:
      return anonymousFacts(fd);
  }
}

function linkOf(fd: number): string {
  return readlinkSync(`/proc/self/fd/${fd}`);
}

function socketFacts(fd: number): FdFacts | undefined {
  const type = socketType(fd);
  const domain = socketDomain(fd);
  if (domain === undefined || domain === 'netlink') return undefined;
  const identity = `socket:${socketCookie(fd)}`;
  if (type === 'dgram') return { kind: 'datagram', identity, details: { domain } };
  if (type !== 'stream' && type !== 'seqpacket') return undefined;
  if (!isListening(fd)) return { kind: 'stream', identity, details: { domain, type } };
  const address = domain === 'vsock' ? {} : listenAddress(fd);
  return { kind: 'listener', identity, details: { domain, type, ...address } };
}

/** Anonymous inodes: one inode for all of a kind, so that the link's name says which it is. */
function anonymousFacts(fd: number): FdFacts | undefined {
  switch (linkOf(fd)) {
    case 'anon_inode:[eventfd]': {
      const id = /^eventfd-id:\s*(\d+)$/m.exec(infoOf(fd))?.[1];
      return { kind: 'eventfd', identity: id === undefined ? undefined : `eventfd:${id}`, details: {} };
    }
    case 'anon_inode:[timerfd]':
      return { kind: 'timerfd', identity: undefined, details: {} };
    default:
      return undefined;
  }
}

function infoOf(fd: number): string {
  return readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
}
