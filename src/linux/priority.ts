/** What a process is worth to the scheduler: setpriority(2), and the autogroup of its session, sched(7). */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';

const LOWEST = 19;
const TASKS = '/proc/self/task';
/** proc_pid_stat(5): the session, counted behind the name, which may have spaces. */
const SESSION = 3;

/**
 * For a process that has nothing left to do but to end: everybody else runs first, from now on. Each of its threads is lowered, since the
 * one that dies last closes the descriptors and takes the memory down, and that is seldom the first. Where the kernel makes a group of each
 * session (`sched_autogroup_enabled`), nice counts within it alone, so the group is lowered, too, unless a child is there to share it.
 * What cannot be lowered stays as it is: the end comes all the same.
 */
export function giveWay(): void {
  try {
    const threads = readdirSync(TASKS);
    for (const thread of threads) setPriority(Number(thread), LOWEST);
    if (leadsSession() && threads.every(hasNoChild)) writeFileSync('/proc/self/autogroup', String(LOWEST));
  } catch {
    // No descriptor left to list them, a thread that has ended, a kernel without autogroups or lists of children, too many such requests:
    // only the order of processes depends on it.
  }
}

function leadsSession(): boolean {
  const stat = readFileSync('/proc/self/stat', 'utf8');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[SESSION]) === process.pid;
}

/** One that outlives this process would stay in the group. */
function hasNoChild(thread: string): boolean {
  return readFileSync(`${TASKS}/${thread}/children`, 'utf8').trim() === '';
}
