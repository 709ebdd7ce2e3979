/**
 * Orphans: processes whose parent ended. A subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) gets those among its descendants, in init's
 * place, and has to wait for them, or they stay zombies.
 *
 * libuv waits for its own children alone, each by its pid. What it does not know stays a zombie, and that is how an orphan is told:
 * one that has been a zombie for a while, in which libuv would have heard of it many times over. Taking a child of
 * libuv's would be worse than leaving an orphan, since its end would never be told.
 *
 * The while serves another end: who watches the process by a pidfd finds out how it ended also where the kernel (before 6.15) tells
 * that of zombies alone.
 */
import { readFileSync } from 'node:fs';
import { errno, failure, libc } from './libc.js';
import { isZombie } from './pidfd.js';

const PR_SET_CHILD_SUBREAPER = 36;
const WNOHANG = 1;
const GRACE_MS = 1000;

/** Children of this process's first thread, which starts all of libuv's and gets all orphans. proc_pid_task(5) */
function children(): number[] {
  const list = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim();
  return list === '' ? [] : list.split(' ').map(Number);
}

/**
 * Takes in orphans from now on, and waits for each a second after its end. Lasts across execve(2), and is not inherited.
 * @returns false when the kernel does not list children (CONFIG_PROC_CHILDREN): they go to init, as before.
 */
export function adoptOrphans(): boolean {
  try {
    children();
  } catch {
    // No such list; without it nobody could be found that is to be waited for.
    return false;
  }
  const result = libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  const error = errno();
  if (result === -1) throw failure('prctl', error);
  let suspects = new Set<number>();
  let isDue = false;
  const later = () => {
    if (isDue) return;
    isDue = true;
    setTimeout(sweep, GRACE_MS).unref();
  };
  const sweep = () => {
    isDue = false;
    const zombies = children().filter(isZombie);
    for (const pid of zombies) if (suspects.has(pid)) libc.waitpid(pid, null, WNOHANG);
    suspects = new Set(zombies.filter((pid) => !suspects.has(pid)));
    if (suspects.size > 0) later();
  };
  process.on('SIGCHLD', later);
  // Some may have come to a luod before this one, in the same process.
  later();
  return true;
}
