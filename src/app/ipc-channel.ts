/**
 * The channel to a parent that is Node (pm2, `child_process.fork`), kept open across execve(2): Node finds it by two variables, which
 * it takes out of the environment as it starts, so that they are read where the kernel keeps what the process began with.
 */
import { readFileSync } from 'node:fs';

const NAMES = ['NODE_CHANNEL_FD', 'NODE_CHANNEL_SERIALIZATION_MODE'];

export interface IpcChannel {
  /** The channel's descriptor. */
  readonly fd: number;
  /** What the next image's environment needs. */
  readonly env: Readonly<Record<string, string>>;
}

/** @returns undefined when there is none, or it was closed. */
export function ipcChannel(): IpcChannel | undefined {
  if (!process.connected) return undefined;
  const env: Record<string, string> = {};
  for (const variable of readFileSync('/proc/self/environ', 'utf8').split('\0')) {
    const name = NAMES.find((candidate) => variable.startsWith(`${candidate}=`));
    if (name !== undefined) env[name] = variable.slice(name.length + 1);
  }
  const fd = Number(env.NODE_CHANNEL_FD);
  return Number.isSafeInteger(fd) ? { fd, env } : undefined;
}
