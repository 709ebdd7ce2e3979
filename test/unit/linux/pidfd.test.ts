import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { closeFd } from '../../../src/linux/fd.js';
import { endOfProcess, openPidfd, parentOf } from '../../../src/linux/pidfd.js';
import { watchFd } from '../../../src/linux/poll.js';

/** Starts a shell that is nobody's child here, runs `script`, and waits for its own input's end first. */
function stranger(script: string): { pid: number; go: () => void } {
  const fifo = execFileSync('mktemp', ['-u'], { encoding: 'utf8' }).trim();
  execFileSync('mkfifo', [fifo]);
  const text = `(read line < "$0"; ${script}) > /dev/null 2>&1 & echo $!`;
  const pid = Number(execFileSync('sh', ['-c', text, fifo], { encoding: 'utf8' }));
  return { pid, go: () => void execFileSync('sh', ['-c', 'echo > "$0"; rm "$0"', fifo]) };
}

async function ends(pidfd: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const watch = watchFd(pidfd, { readable: true }, () => {
      watch.close();
      resolve();
    });
  });
}

describe('a process by its descriptor', () => {
  it.each([
    ['exit 7', { code: 7, signal: null }],
    ['kill -TERM $(exec sh -c "echo \\$PPID")', { code: null, signal: 'SIGTERM' }],
  ])('that is nobody’s child here and ends by %s', async (script, end) => {
    const { pid, go } = stranger(script);
    const pidfd = openPidfd(pid);
    expect(parentOf(pid)).not.toBe(process.pid);
    go();
    await ends(pidfd);
    expect(endOfProcess(pidfd, pid)).toEqual(end);
    closeFd(pidfd);
  });

  it('that is a child, and one that is not there', async () => {
    const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] });
    const pid = child.pid as number;
    const pidfd = openPidfd(pid);
    expect(parentOf(pid)).toBe(process.pid);
    const exited = once(child, 'exit');
    child.stdin.end();
    await ends(pidfd);
    await exited;
    closeFd(pidfd);
    expect(parentOf(pid)).toBeUndefined();
    expect(() => openPidfd(pid)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
  });
});
