/**
 * A process by a descriptor: pidfd_open(2). It names one process for good, however often its pid is used again, it can be
 * polled for its end, and it can be passed on to who did not start it.
 */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { ERRNO } from '../core/errors.js';
import { errno, failure, libc } from './libc.js';

/** One number on every architecture: asm-generic/unistd.h. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_SEND_SIGNAL = 424;
const WNOHANG = 1;
/** _IOWR(0xff, 11, struct pidfd_info): linux/pidfd.h. */
const PIDFD_GET_INFO = 0xc040ff0b;
const PIDFD_INFO_EXIT = 1n << 3n;
/** struct pidfd_info, first version: a mask, a cgroup, eleven ids, the wait status. */
const INFO_BYTES = 64;
const INFO_EXIT_CODE = 60;

/**
 * Signals the process, and never another that got its pid.
 * @returns false when it has ended.
 * @throws {LiveUpdateError} EPERM; EINVAL for a number that is no signal.
 */
export function signalPidfd(pidfd: number, signal: number): boolean {
  const result = libc.pidfdSendSignal(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, null, 0);
  const error = errno();
  if (result === -1 && error === ERRNO.ESRCH) return false;
  if (result === -1) throw failure('pidfd_send_signal', error);
  return true;
}

/** How a process ended; null for both when nobody can tell any more. */
export interface EndOfProcess {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * @returns a descriptor, close-on-exec, that becomes readable when the process has ended.
 * @throws {LiveUpdateError} ESRCH when there is no such process; EMFILE; ENOSYS before Linux 5.3.
 */
export function openPidfd(pid: number): number {
  const fd = libc.pidfdOpen(SYS_PIDFD_OPEN, pid, 0);
  const error = errno();
  if (fd === -1) throw failure('pidfd_open', error);
  return fd;
}

/**
 * How a process that has ended did, reaping it when it is this process's own child. Of another's child it can be told while
 * that one has not reaped it, and after that since Linux 6.15.
 */
export function endOfProcess(pidfd: number, pid: number): EndOfProcess {
  const status = Buffer.alloc(4);
  if (libc.waitpid(pid, status, WNOHANG) === pid) return fromStatus(status.readInt32LE());
  const zombie = statusOfZombie(pid);
  if (zombie !== undefined) return fromStatus(zombie);
  const info = Buffer.alloc(INFO_BYTES);
  info.writeBigUInt64LE(PIDFD_INFO_EXIT);
  const told = libc.ioctl(pidfd, PIDFD_GET_INFO, info) === 0;
  if (!told || (info.readBigUInt64LE() & PIDFD_INFO_EXIT) === 0n) return { code: null, signal: null };
  return fromStatus(info.readInt32LE(INFO_EXIT_CODE));
}

/** The wait status in proc_pid_stat(5), its last field, which only a zombie has. */
function statusOfZombie(pid: number): number | undefined {
  const fields = statFields(pid);
  return fields?.[0] === 'Z' ? Number(fields.at(-1)) : undefined;
}

/** Whether it has ended and nobody has waited for it. */
export function isZombie(pid: number): boolean {
  return statFields(pid)?.[0] === 'Z';
}

/** The fields behind the program's name, which stands in brackets and may have anything in it: state, parent, ... */
function statFields(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat
      .slice(stat.lastIndexOf(')') + 2)
      .trim()
      .split(' ');
  } catch (error) {
    // Reaped.
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** The pid of a process's parent; undefined when there is no such process. proc_pid_stat(5) */
export function parentOf(pid: number): number | undefined {
  const fields = statFields(pid);
  return fields === undefined ? undefined : Number(fields[1]);
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ESRCH';
}

/** A wait status: waitpid(2). */
function fromStatus(status: number): EndOfProcess {
  const number = status & 0x7f;
  if (number === 0) return { code: (status >> 8) & 0xff, signal: null };
  const found = Object.entries(constants.signals).find(([, value]) => value === number);
  return { code: null, signal: (found?.[0] ?? null) as NodeJS.Signals | null };
}
