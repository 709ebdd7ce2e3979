/** Which descriptors a kexec takes along: a memfd as it is, a listening socket by its address, and nothing else. */
import { readlinkSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { type ListenAddress, listenAddress } from '../linux/listen-socket.js';
import { isMemfd } from '../linux/memfd.js';
import { isListening } from '../linux/socket-facts.js';

export type KernelCrossing =
  | { readonly kind: 'memfd' }
  | { readonly kind: 'listener'; readonly address: ListenAddress }
  /** Stays behind; `what` is the kernel's word for it, as `socket:[1234]`. */
  | { readonly kind: 'left'; readonly what: string };

/** @throws {LiveUpdateError} EBADF. */
export function kernelCrossing(fd: number): KernelCrossing {
  if (isMemfd(fd)) return { kind: 'memfd' };
  try {
    if (isListening(fd)) return { kind: 'listener', address: listenAddress(fd) };
  } catch (error) {
    const { code } = LiveUpdateError.from(error);
    // No socket, or one of a family that cannot be made again.
    if (code !== 'ENOTSOCK' && code !== 'EOPNOTSUPP') throw error;
  }
  return { kind: 'left', what: readlinkSync(`/proc/self/fd/${fd}`) };
}
