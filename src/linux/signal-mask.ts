/** Signals that wait: pthread_sigmask(3). */
import { constants } from 'node:os';
import { failure, libc } from './libc.js';

const SIG_BLOCK = 0;
const SIG_UNBLOCK = 1;
/** sigset_t, as libc has it; the kernel looks at the first eight bytes. */
const SET_BYTES = 128;

function change(how: number, signals: readonly NodeJS.Signals[]): void {
  const set = Buffer.alloc(SET_BYTES);
  let bits = 0n;
  for (const signal of signals) bits |= 1n << BigInt(constants.signals[signal] - 1);
  set.writeBigUInt64LE(bits);
  const error = libc.pthreadSigmask(how, set, null);
  if (error !== 0) throw failure('pthread_sigmask', error);
}

/**
 * Lets `signals` wait, for this thread and what it executes: across an execve(2) they are not lost, and do not end a program that
 * has no handlers yet. Node's other threads still take them, so this is for the last moment.
 */
export function blockSignals(signals: readonly NodeJS.Signals[]): void {
  change(SIG_BLOCK, signals);
}

/** Delivers what waited, and what comes. */
export function unblockSignals(signals: readonly NodeJS.Signals[]): void {
  change(SIG_UNBLOCK, signals);
}
