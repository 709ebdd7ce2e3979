/**
 * Descriptors through a unix socket: SCM_RIGHTS, unix(7), sendmsg(2), recvmsg(2); and waiting for them with poll(2).
 *
 * The kernel takes 253 a message and attaches them to its first byte. A receiver whose control buffer or descriptor table
 * is too small loses some of them silently, but for MSG_CTRUNC: then everything that did arrive is closed and the failure told, so
 * nothing leaks and nobody goes on with half.
 */
import { ERRNO, LiveUpdateError } from '../core/errors.js';
import { closeFd, fdHeadroom } from './fd.js';
import { addressOf, errno, failure, libc } from './libc.js';

/** SCM_MAX_FD of the kernel. */
export const MAX_FDS_PER_MESSAGE = 253;

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

const POLLIN = 1;
const POLLOUT = 4;

/** struct msghdr and struct iovec on 64-bit Linux. */
const MSGHDR = { iov: 16, iovLength: 24, control: 32, controlLength: 40, flags: 48 } as const;
const CMSG_HEADER = 16;
const CMSG_LEVEL = 8;
const CMSG_TYPE = 12;
const CMSG_ALIGN = 8;
const CONTROL_BYTES = CMSG_HEADER + MAX_FDS_PER_MESSAGE * 4 + 4;
const DATA_BYTES = 64 << 10;

// One set of buffers for all messages: a call is over before the next begins. Larger than V8 keeps on its own heap,
// where the collector would move them.
const header = Buffer.alloc(4096);
const control = Buffer.alloc(4096);
const data = Buffer.alloc(DATA_BYTES);
const IOVEC = 64;
header.writeBigUInt64LE(addressOf(header) + BigInt(IOVEC), MSGHDR.iov);
header.writeBigUInt64LE(1n, MSGHDR.iovLength);
header.writeBigUInt64LE(addressOf(data), IOVEC);

function prepare(dataLength: number, controlLength: number): void {
  header.writeBigUInt64LE(controlLength === 0 ? 0n : addressOf(control), MSGHDR.control);
  header.writeBigUInt64LE(BigInt(controlLength), MSGHDR.controlLength);
  header.writeInt32LE(0, MSGHDR.flags);
  header.writeBigUInt64LE(BigInt(dataLength), IOVEC + 8);
}

/**
 * Sends the first bytes of `bytes` (at most 64 KiB) with all of `fds` attached, without waiting.
 * @returns the number of bytes sent, or undefined when the socket takes nothing now (then no descriptor went either).
 * @throws {LiveUpdateError} EINVAL for more than 253 descriptors or descriptors without a byte; EPIPE, ECONNRESET when the peer
 *   is gone; EBADF for a closed descriptor; ETOOMANYREFS for more on their way than the user may have.
 */
export function sendFds(socket: number, bytes: Uint8Array, fds: readonly number[]): number | undefined {
  if (fds.length > MAX_FDS_PER_MESSAGE)
    throw new LiveUpdateError('EINVAL', `${fds.length} descriptors in one message`, { operation: 'sendmsg' });
  if (bytes.length === 0)
    throw new LiveUpdateError('EINVAL', 'a message needs a byte', { operation: 'sendmsg' });
  const length = Math.min(bytes.length, DATA_BYTES);
  data.set(bytes.length === length ? bytes : bytes.subarray(0, length));
  let controlLength = 0;
  if (fds.length > 0) {
    const used = CMSG_HEADER + fds.length * 4;
    control.writeBigUInt64LE(BigInt(used), 0);
    control.writeInt32LE(SOL_SOCKET, CMSG_LEVEL);
    control.writeInt32LE(SCM_RIGHTS, CMSG_TYPE);
    for (let i = 0; i < fds.length; i++) control.writeInt32LE(fds[i] as number, CMSG_HEADER + i * 4);
    controlLength = align(used);
  }
  prepare(length, controlLength);
  for (;;) {
    const sent = libc.sendmsg(socket, header, MSG_NOSIGNAL | MSG_DONTWAIT);
    const error = errno();
    if (sent >= 0) return Number(sent);
    if (error === ERRNO.EAGAIN) return undefined;
    if (error !== ERRNO.EINTR) throw failure('sendmsg', error);
  }
}

export interface Received {
  /** A view of the shared receive buffer: valid until the next call. */
  readonly bytes: Uint8Array;
  /** The receiver's to close; all close-on-exec. */
  readonly fds: number[];
  /** The peer has closed and everything was read. */
  readonly eof: boolean;
}

/**
 * Receives what is there, without waiting.
 * @returns undefined when nothing is there.
 * @throws {LiveUpdateError} EMFILE when this process had no room for all descriptors, EMSGSIZE when more than `maxFds` came; both
 *   close those that arrived. ECONNRESET when the peer is gone.
 */
export function recvFds(
  socket: number,
  { maxBytes, maxFds }: { maxBytes: number; maxFds: number },
): Received | undefined {
  const room = Math.min(maxFds, MAX_FDS_PER_MESSAGE);
  prepare(
    Math.min(maxBytes, DATA_BYTES),
    room === 0 ? 0 : Math.min(align(CMSG_HEADER + room * 4), CONTROL_BYTES),
  );
  let received: number;
  for (;;) {
    received = Number(libc.recvmsg(socket, header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
    const error = errno();
    if (received >= 0) break;
    if (error === ERRNO.EAGAIN) return undefined;
    if (error !== ERRNO.EINTR) throw failure('recvmsg', error);
  }
  const fds = readControl(Number(header.readBigUInt64LE(MSGHDR.controlLength)));
  // The kernel rounds the control buffer up, so one more than asked for may fit.
  const tooMany = fds.length > room;
  if (tooMany || (header.readInt32LE(MSGHDR.flags) & MSG_CTRUNC) !== 0) {
    for (const fd of fds) closeFd(fd);
    if (tooMany || fds.length >= room)
      throw new LiveUpdateError('EMSGSIZE', `more than ${room} descriptors came with one message`, {
        operation: 'recvmsg',
      });
    throw new LiveUpdateError(
      'EMFILE',
      `no room for all descriptors that came (${fdHeadroom()} left); raise \`ulimit -n\``,
      { operation: 'recvmsg' },
    );
  }
  return { bytes: data.subarray(0, received), fds, eof: received === 0 };
}

/**
 * Throws away what has arrived, without waiting; the kernel closes the descriptors, for which there is no room.
 * @throws {LiveUpdateError} EBADF, ENOTSOCK.
 */
export function discardArrived(socket: number): void {
  for (;;) {
    prepare(DATA_BYTES, 0);
    const received = Number(libc.recvmsg(socket, header, MSG_DONTWAIT));
    const error = errno();
    if (received > 0 || (received < 0 && error === ERRNO.EINTR)) continue;
    if (received === 0 || error === ERRNO.EAGAIN) return;
    throw failure('recvmsg', error);
  }
}

function readControl(length: number): number[] {
  const fds: number[] = [];
  let at = 0;
  while (at + CMSG_HEADER <= length) {
    const size = Number(control.readBigUInt64LE(at));
    if (size < CMSG_HEADER || at + size > length) break;
    if (
      control.readInt32LE(at + CMSG_LEVEL) === SOL_SOCKET &&
      control.readInt32LE(at + CMSG_TYPE) === SCM_RIGHTS
    ) {
      for (let i = at + CMSG_HEADER; i + 4 <= at + size; i += 4) fds.push(control.readInt32LE(i));
    }
    at += align(size);
  }
  return fds;
}

function align(bytes: number): number {
  return Math.ceil(bytes / CMSG_ALIGN) * CMSG_ALIGN;
}

const pollFds = Buffer.alloc(4096);
const POLLFD_BYTES = 8;
const MAX_POLL_FDS = pollFds.length / POLLFD_BYTES;

/**
 * Waits, with the event loop standing still, until one of `fds` can be read (or has ended), at most `timeoutMs`
 * milliseconds (-1: for ever).
 * @returns those that can; none after the time. @throws {LiveUpdateError} EINVAL for more than 512.
 */
export function waitReadable(fds: readonly number[], timeoutMs: number): number[] {
  return waitFor(fds, POLLIN, timeoutMs);
}

/** As `waitReadable`, for one descriptor and writing. @returns false after the time. */
export function waitWritable(fd: number, timeoutMs: number): boolean {
  return waitFor([fd], POLLOUT, timeoutMs).length > 0;
}

function waitFor(fds: readonly number[], events: number, timeoutMs: number): number[] {
  if (fds.length > MAX_POLL_FDS)
    throw new LiveUpdateError('EINVAL', `${fds.length} descriptors`, { operation: 'poll' });
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    for (let i = 0; i < fds.length; i++) {
      pollFds.writeInt32LE(fds[i] as number, i * POLLFD_BYTES);
      pollFds.writeInt32LE(events, i * POLLFD_BYTES + 4);
    }
    const left = timeoutMs < 0 ? -1 : Math.max(0, Math.ceil(deadline - performance.now()));
    const ready = libc.poll(pollFds, fds.length, left);
    const error = errno();
    if (ready >= 0) return fds.filter((_, i) => pollFds.readInt16LE(i * POLLFD_BYTES + 6) !== 0);
    if (error !== ERRNO.EINTR) throw failure('poll', error);
  }
}
