/** Whether two descriptors are one open file: kcmp(2). */
import { errno, failure, libc } from './libc.js';

const SYS_KCMP = process.arch === 'arm64' ? 272 : 312;
const KCMP_FILE = 0;

/**
 * Compares the open files behind two descriptors of this process, in an order that holds while they are open.
 * @returns 0 for one open file, else negative or positive.
 * @throws {LiveUpdateError} EBADF; ENOSYS without CONFIG_KCMP.
 */
export function compareOpenFiles(one: number, other: number): number {
  const result = libc.kcmp(SYS_KCMP, process.pid, process.pid, KCMP_FILE, one, other);
  const error = errno();
  if (result === -1) throw failure('kcmp', error);
  // 1: less, 2: greater.
  return result === 0 ? 0 : result === 1 ? -1 : 1;
}
