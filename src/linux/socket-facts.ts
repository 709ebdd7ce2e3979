/** What the kernel says of a socket, and is told: getsockopt(2), setsockopt(2), socket(7), unix(7); and shutdown(2). */
import { errno, failure, libc } from './libc.js';

const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_TYPE = 3;
const SO_ERROR = 4;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SO_PROTOCOL = 38;
const SO_DOMAIN = 39;
const SO_COOKIE = 57;

export const SHUT_RD = 0;
export const SHUT_WR = 1;
export const SHUT_RDWR = 2;

const SOCKET_TYPES = new Map([
  [1, 'stream'],
  [2, 'dgram'],
  [3, 'raw'],
  [5, 'seqpacket'],
] as const);
const DOMAINS = new Map([
  [1, 'unix'],
  [2, 'inet'],
  [10, 'inet6'],
  [16, 'netlink'],
  [40, 'vsock'],
] as const);

const value = Buffer.alloc(4096);
const length = Buffer.alloc(4096);

function option(fd: number, name: number, bytes: number, level: number = SOL_SOCKET): Buffer {
  const error = ask(fd, name, bytes, level);
  if (error !== undefined) throw failure('getsockopt', error);
  return value;
}

/** The answer is in `value`. @returns the errno of a failure. */
function ask(fd: number, name: number, bytes: number, level: number): number | undefined {
  length.writeUInt32LE(bytes, 0);
  const result = libc.getsockopt(fd, level, name, value, length);
  const error = errno();
  return result === -1 ? error : undefined;
}

/** 'stream', 'dgram', 'seqpacket', 'raw', or undefined for another. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function socketType(fd: number): 'stream' | 'dgram' | 'raw' | 'seqpacket' | undefined {
  return SOCKET_TYPES.get(option(fd, SO_TYPE, 4).readInt32LE(0) as 1);
}

/** 'unix', 'inet', 'inet6', 'netlink', 'vsock', or undefined for another. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function socketDomain(fd: number): 'unix' | 'inet' | 'inet6' | 'netlink' | 'vsock' | undefined {
  return DOMAINS.get(option(fd, SO_DOMAIN, 4).readInt32LE(0) as 1);
}

/** IPPROTO number. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function socketProtocol(fd: number): number {
  return option(fd, SO_PROTOCOL, 4).readInt32LE(0);
}

/** Whether listen(2) was called on it. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function isListening(fd: number): boolean {
  return option(fd, SO_ACCEPTCONN, 4).readInt32LE(0) === 1;
}

/** The same of any number: also false for what is no socket, or not open, at no more than the price of asking. */
export function isListener(fd: number): boolean {
  return ask(fd, SO_ACCEPTCONN, 4, SOL_SOCKET) === undefined && value.readInt32LE(0) === 1;
}

/** An option that is on or off. @throws {LiveUpdateError} EBADF, ENOTSOCK; ENOPROTOOPT (as EIO) when the socket has no such option. */
export function socketFlag(fd: number, level: number, name: number): boolean {
  return option(fd, name, 4, level).readInt32LE(0) !== 0;
}

/** Sets an option that is on or off. @throws {LiveUpdateError} EBADF, ENOTSOCK, EPERM. */
export function setSocketFlag(fd: number, level: number, name: number, on: boolean): void {
  value.writeInt32LE(on ? 1 : 0, 0);
  const result = libc.setsockopt(fd, level, name, value, 4);
  const error = errno();
  if (result === -1) throw failure('setsockopt', error);
}

/** SO_REUSEADDR: whether another socket that has it, too, may have the same port. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function sharesAddress(fd: number): boolean {
  return socketFlag(fd, SOL_SOCKET, SO_REUSEADDR);
}

/** @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function shareAddress(fd: number, on: boolean): void {
  setSocketFlag(fd, SOL_SOCKET, SO_REUSEADDR, on);
}

/** The errno that waits on the socket; reading it clears it. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function socketError(fd: number): number {
  return option(fd, SO_ERROR, 4).readInt32LE(0);
}

/** A number that no other socket of this boot has, the same for every duplicate. @throws {LiveUpdateError} EBADF, ENOTSOCK. */
export function socketCookie(fd: number): bigint {
  return option(fd, SO_COOKIE, 8).readBigUInt64LE(0);
}

export interface Credentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Who was at the other end when it connected. @throws {LiveUpdateError} EBADF, EIO when it is no unix socket. */
export function peerCredentials(fd: number): Credentials {
  const bytes = option(fd, SO_PEERCRED, 12);
  return { pid: bytes.readInt32LE(0), uid: bytes.readUInt32LE(4), gid: bytes.readUInt32LE(8) };
}

/** Ends one or both directions for every duplicate. A peer that is gone already is no error. @throws {LiveUpdateError} EBADF. */
export function shutdown(fd: number, how: number): void {
  const result = libc.shutdown(fd, how);
  const error = errno();
  if (result === 0) return;
  const problem = failure('shutdown', error);
  if (problem.code !== 'ENOTCONN') throw problem;
}
