/** A listening socket: what must be known of one to make it again, and making it. socket(2), bind(2), listen(2), ip(7), ipv6(7). */
import { readFileSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd, replaceFd } from './fd.js';
import { errno, failure, libc } from './libc.js';
import { isListener, socketFlag } from './socket-facts.js';

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_REUSEPORT = 15;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;

/** struct sockaddr_un: family, then the path with its NUL. */
const PATH_AT = 2;
const PATH_BYTES = 108;
/** struct sockaddr_in: family, port, address, padding. */
const INET_BYTES = 16;
/** struct sockaddr_in6: family, port, flow, address, scope. */
const INET6_BYTES = 28;
const PORT_AT = 2;
const INET_ADDRESS_AT = 4;
const INET6_ADDRESS_AT = 8;
const SCOPE_AT = 24;

/** Where a socket listens, as plain data. */
export type ListenAddress =
  /** A unix socket; an abstract name begins with NUL. */
  | { readonly path: string }
  | {
      /** Numeric. */
      readonly host: string;
      readonly port: number;
      /** The interface of a link-local address, by number; 0 for none. */
      readonly scope: number;
      /** A socket on `::` that leaves IPv4 to others. */
      readonly ipv6Only: boolean;
      /** Others may listen on the same address. */
      readonly reusePort: boolean;
    };

/**
 * Where a socket is bound.
 * @throws {LiveUpdateError} EBADF, ENOTSOCK; EOPNOTSUPP for a family other than unix, IPv4 and IPv6, or a unix socket without
 *   a name. getsockname(2)
 */
export function listenAddress(fd: number): ListenAddress {
  const sockaddr = Buffer.alloc(PATH_AT + PATH_BYTES + 1);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(sockaddr.length - 1);
  const result = libc.getsockname(fd, sockaddr, length);
  const error = errno();
  if (result === -1) throw failure('getsockname', error);
  const bytes = sockaddr.subarray(0, length.readUInt32LE());
  const family = bytes.readUInt16LE(0);
  if (family === AF_UNIX && bytes.length > PATH_AT) return { path: pathOf(bytes.subarray(PATH_AT)) };
  if (family !== AF_INET && family !== AF_INET6) {
    throw new LiveUpdateError('EOPNOTSUPP', 'a socket of a family that cannot be made again');
  }
  const six = family === AF_INET6;
  return {
    host: six ? textOfSix(bytes.subarray(INET6_ADDRESS_AT)) : bytes.subarray(INET_ADDRESS_AT, 8).join('.'),
    port: bytes.readUInt16BE(PORT_AT),
    scope: six ? bytes.readUInt32LE(SCOPE_AT) : 0,
    ipv6Only: six && socketFlag(fd, IPPROTO_IPV6, IPV6_V6ONLY),
    reusePort: socketFlag(fd, SOL_SOCKET, SO_REUSEPORT),
  };
}

/**
 * A new socket that listens, close-on-exec and non-blocking; the caller owns it.
 * @throws {LiveUpdateError} EADDRINUSE, EADDRNOTAVAIL, EACCES from bind(2), ENOENT for a path in no folder; EINVAL for an address
 *   that is none, or a path that is too long; EMFILE.
 */
export function openListeningSocket(address: ListenAddress, backlog: number): number {
  const sockaddr = 'path' in address ? unixAddress(address.path) : inetAddress(address);
  const fd = libc.socket(sockaddr.readUInt16LE(0), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  check('socket', fd, errno());
  try {
    if (!('path' in address)) {
      setFlag(fd, SOL_SOCKET, SO_REUSEADDR, true);
      if (address.reusePort) setFlag(fd, SOL_SOCKET, SO_REUSEPORT, true);
      if (isSix(address.host)) setFlag(fd, IPPROTO_IPV6, IPV6_V6ONLY, address.ipv6Only);
    }
    check('bind', libc.bind(fd, sockaddr, sockaddr.length), errno());
    check('listen', libc.listen(fd, backlog), errno());
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/**
 * A unix socket that listens under a name that the kernel chose and nobody knows: accept(2) says EAGAIN for ever. The caller owns it.
 * @throws {LiveUpdateError} EMFILE, ENFILE.
 */
export function openUnreachableListener(): number {
  const fd = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  check('socket', fd, errno());
  const family = Buffer.alloc(PATH_AT);
  family.writeUInt16LE(AF_UNIX);
  try {
    // Only a family: the kernel binds it to a free abstract name. unix(7), autobind
    check('bind', libc.bind(fd, family, family.length), errno());
    check('listen', libc.listen(fd, 1), errno());
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/**
 * Closes every listening socket of this process, and has one that nobody can reach in its place: libuv has the number, also in another
 * thread, and must not get another file by it. proc_pid_status(5): FDSize
 * @param except Descriptors that are none; with ten thousand connections to skip it costs 2 ms.
 * @returns the descriptors.
 * @throws {LiveUpdateError} EMFILE, ENFILE. {Error} EMFILE: no descriptor is left to look.
 */
export function freePorts(except: ReadonlySet<number>): number[] {
  const slots = /^FDSize:\s*(\d+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
  const nowhere = openUnreachableListener();
  try {
    const freed: number[] = [];
    for (let fd = 0; fd < Number(slots ?? 0); fd++) {
      if (fd === nowhere || except.has(fd) || !isListener(fd)) continue;
      replaceFd(nowhere, fd);
      freed.push(fd);
    }
    return freed;
  } finally {
    closeFd(nowhere);
  }
}

function check(call: string, result: number, error: number): void {
  if (result === -1) throw failure(call, error);
}

function setFlag(fd: number, level: number, name: number, on: boolean): void {
  const value = Buffer.alloc(4);
  value.writeInt32LE(on ? 1 : 0);
  check('setsockopt', libc.setsockopt(fd, level, name, value, value.length), errno());
}

/** A path ends at its NUL; an abstract name begins with one and is as long as it is. */
function pathOf(bytes: Buffer): string {
  const end = bytes.indexOf(0, 1);
  return bytes.toString('utf8', 0, bytes[0] === 0 || end === -1 ? bytes.length : end);
}

function unixAddress(path: string): Buffer {
  const bytes = Buffer.from(path);
  if (bytes.length === 0 || bytes.length >= PATH_BYTES) {
    throw new LiveUpdateError('EINVAL', `no path of a unix socket: '${path}'`, { operation: 'bind' });
  }
  const sockaddr = Buffer.alloc(PATH_AT + PATH_BYTES);
  sockaddr.writeUInt16LE(AF_UNIX, 0);
  bytes.copy(sockaddr, PATH_AT);
  return sockaddr.subarray(0, PATH_AT + bytes.length + (bytes[0] === 0 ? 0 : 1));
}

/** Of a numeric address, whose digits are checked where it is taken apart. */
function isSix(host: string): boolean {
  return host.includes(':');
}

function inetAddress({ host, port, scope }: { host: string; port: number; scope: number }): Buffer {
  const six = isSix(host);
  const sockaddr = Buffer.alloc(six ? INET6_BYTES : INET_BYTES);
  sockaddr.writeUInt16LE(six ? AF_INET6 : AF_INET, 0);
  sockaddr.writeUInt16BE(port, PORT_AT);
  if (six) {
    bytesOfSix(host).copy(sockaddr, INET6_ADDRESS_AT);
    sockaddr.writeUInt32LE(scope, SCOPE_AT);
    return sockaddr;
  }
  const numbers = host.split('.').map(Number);
  if (numbers.length !== 4 || numbers.some((number) => !(number >= 0 && number < 256))) {
    throw new LiveUpdateError('EINVAL', `no numeric address: '${host}'`, { operation: 'bind' });
  }
  Buffer.from(numbers).copy(sockaddr, INET_ADDRESS_AT);
  return sockaddr;
}

/** Eight groups in full, which every reader of IPv6 takes. */
function textOfSix(bytes: Buffer): string {
  return Array.from({ length: 8 }, (_, group) => bytes.readUInt16BE(2 * group).toString(16)).join(':');
}

/** The bytes of an IPv6 address in any of its texts (RFC 4291, 2.2): in full, with `::` for a run of zeros, with an IPv4 address at its end. */
function bytesOfSix(text: string): Buffer {
  const [before = '', after, ...more] = text.split('::');
  const head = groupsOf(before);
  const tail = groupsOf(after ?? '');
  const zeros = after === undefined ? 0 : 8 - head.length - tail.length;
  const groups = [...head, ...Array<number>(Math.max(zeros, 0)).fill(0), ...tail];
  const isAddress = more.length === 0 && groups.length === 8 && (after === undefined || zeros > 0);
  if (!isAddress || groups.some((group) => !(group >= 0 && group <= 0xffff)))
    throw new LiveUpdateError('EINVAL', `no numeric address: '${text}'`, { operation: 'bind' });
  const bytes = Buffer.alloc(16);
  for (const [at, group] of groups.entries()) bytes.writeUInt16BE(group, 2 * at);
  return bytes;
}

/** Of one side of a `::`, which `isIPv6` has found good. */
function groupsOf(text: string): number[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    // NaN for what is no number, which is refused with its address.
    if (!group.includes('.'))
      return [/^[0-9a-f]{1,4}$/i.test(group) ? Number.parseInt(group, 16) : Number.NaN];
    const numbers = group.split('.').map((part) => (/^\d{1,3}$/.test(part) ? Number(part) : Number.NaN));
    if (numbers.length !== 4 || numbers.some((number) => !(number <= 255))) return [Number.NaN];
    const [a, b, c, d] = numbers as [number, number, number, number];
    return [(a << 8) | b, (c << 8) | d];
  });
}
