/** This process, replaced in place: execve(2). */
import { LiveUpdateError } from '../core/errors.js';
import { setCloseOnExec, setNonBlocking } from './fd.js';
import { addressOf, errno, failure, libc } from './libc.js';

/** argv or envp: addresses of C strings, with a null at the end. The strings must outlive the call. */
function vector(words: readonly string[]): { table: Buffer; strings: Buffer[] } {
  const strings = words.map((word) => Buffer.from(`${word}\0`));
  const table = Buffer.alloc(8 * (words.length + 1));
  for (const [at, string] of strings.entries()) table.writeBigUInt64LE(addressOf(string), 8 * at);
  return { table, strings };
}

/**
 * Replaces this program by another; the pid stays. Only descriptors 0 to 2 are inherited, since Node opens all others
 * close-on-exec; they are made blocking again, as a program expects them.
 * @throws {LiveUpdateError} ENOENT, EACCES, E2BIG, ENOMEM, ... and this program goes on; EINVAL for a word with NUL.
 */
export function execve(
  path: string,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): never {
  const variables = Object.entries(env).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  if ([path, ...argv, ...variables].some((word) => word.includes('\0'))) {
    throw new LiveUpdateError('EINVAL', 'a word with NUL', { operation: 'execve' });
  }
  for (const fd of [0, 1, 2]) {
    try {
      setCloseOnExec(fd, false);
      setNonBlocking(fd, false);
    } catch (error) {
      // Closed, as a daemon's may be.
      if (LiveUpdateError.from(error).code !== 'EBADF') throw error;
    }
  }
  const words = vector(argv);
  const variablesTable = vector(variables);
  libc.execve(path, words.table, variablesTable.table);
  const error = errno();
  throw failure('execve', error);
}
