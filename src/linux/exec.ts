/** This process, replaced in place: execve(2). */
import { LiveUpdateError } from '../core/errors.js';
import { isCloseOnExec, isNonBlocking, setCloseOnExec, setNonBlocking } from './fd.js';
import { addressOf, errno, failure, libc } from './libc.js';

/** argv or envp: addresses of C strings, with a null at the end. The strings must outlive the call. */
function vector(words: readonly string[]): { table: Buffer; strings: Buffer[] } {
  const strings = words.map((word) => Buffer.from(`${word}\0`));
  const table = Buffer.alloc(8 * (words.length + 1));
  for (const [at, string] of strings.entries()) table.writeBigUInt64LE(addressOf(string), 8 * at);
  return { table, strings };
}

/**
 * Replaces this program by another; the pid stays. Node opens every descriptor close-on-exec, 0 to 2 as well; those three
 * are inherited, blocking again as a program expects them, and so is what `inherited` names.
 * @throws {LiveUpdateError} ENOENT, EACCES, E2BIG, ENOMEM, ENOEXEC, ... and this program goes on, every descriptor as it was;
 *   EINVAL for a word with NUL; EBADF for an inherited descriptor that is not open.
 */
export function execve(
  path: string,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  inherited: readonly number[] = [],
): never {
  const variables = Object.entries(env).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  if ([path, ...argv, ...variables].some((word) => word.includes('\0'))) {
    throw new LiveUpdateError('EINVAL', 'a word with NUL', { operation: 'execve' });
  }
  const words = vector(argv);
  const variablesTable = vector(variables);
  const undo: (() => void)[] = [];
  try {
    for (const fd of [0, 1, 2]) passStandard(fd, undo);
    for (const fd of inherited) pass(fd, undo);
    libc.execve(path, words.table, variablesTable.table);
    const error = errno();
    throw failure('execve', error);
  } finally {
    for (const step of undo.reverse()) step();
  }
}

function pass(fd: number, undo: (() => void)[]): void {
  if (!isCloseOnExec(fd)) return;
  undo.push(() => setCloseOnExec(fd, true));
  setCloseOnExec(fd, false);
}

function passStandard(fd: number, undo: (() => void)[]): void {
  try {
    pass(fd, undo);
    if (!isNonBlocking(fd)) return;
    // A program that goes on reads it by epoll, and a read that blocks would stop its loop.
    undo.push(() => setNonBlocking(fd, true));
    setNonBlocking(fd, false);
  } catch (error) {
    // Closed, as a daemon's may be.
    if (LiveUpdateError.from(error).code !== 'EBADF') throw error;
  }
}
