/**
 * A health check that is a command: healthy when it exits with 0. It runs in a process group of its own, so that what it started is
 * gone with it, and what it printed last is told when it fails.
 */
import { spawn } from 'node:child_process';
import { withResolvers } from '../core/resolvers.js';
import type { ErrorReport } from '../handover/protocol.js';

/** Of its output, as much as a person reads. */
const SAID_BYTES = 1000;
/** How long its output may stay open after its end, by something that it left behind outside its group. */
const DRAIN_MS = 200;

export interface CommandCheck {
  readonly command: readonly string[];
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * Runs it once.
 * @returns why it is not healthy: ECHILD it exited otherwise or was killed, ETIMEDOUT it did not end in time, ECANCELED it was called
 *   off, or the errno with which it did not start; undefined when it is.
 */
export async function runCheck(check: CommandCheck): Promise<ErrorReport | undefined> {
  const { command, cwd, env, timeoutMs, signal } = check;
  const name = `the health check '${command.join(' ')}'`;
  if (signal.aborted) return { code: 'ECANCELED', message: `${name} was called off` };
  const child = spawn(command[0] as string, command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    cwd,
    env,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-SAID_BYTES);
    });
  }
  const { promise: ended, resolve } = withResolvers<ErrorReport | undefined>();
  const end = (reason: ErrorReport) => {
    resolve(reason);
    killGroup(child.pid);
  };
  const cancel = () => end({ code: 'ECANCELED', message: `${name} was called off` });
  const late = () =>
    end({ code: 'ETIMEDOUT', message: `${name} did not end within ${Math.round(timeoutMs)} ms` });
  const timer = setTimeout(late, timeoutMs);
  signal.addEventListener('abort', cancel);
  const { promise: closed, resolve: close } = withResolvers<void>();
  child.once('error', (error) => {
    // Only a failed start ends here; nothing else is done to it that could fail.
    const { code = 'EIO' } = error as NodeJS.ErrnoException;
    const why = code === 'ENOENT' ? `no such command, or no folder ${cwd}` : error.message;
    resolve({ code, message: `${name} cannot be started: ${why}` });
    close();
  });
  child.once('exit', (code, killedBy) => {
    if (code === 0) resolve(undefined);
    const how = killedBy === null ? `exited with code ${code}` : `was killed by ${killedBy}`;
    resolve({ code: 'ECHILD', message: `${name} ${how}` });
    killGroup(child.pid);
    setTimeout(close, DRAIN_MS).unref();
  });
  child.once('close', () => close());
  try {
    const reason = await ended;
    await closed;
    if (reason === undefined || said.trim() === '') return reason;
    return { ...reason, message: `${reason.message}: ${said.trim()}` };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', cancel);
    child.stdout.destroy();
    child.stderr.destroy();
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    // Nobody of it is left, which is what was wanted.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
