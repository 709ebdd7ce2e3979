/** A question of luoctl's: asked, and told as people or programs read it. */
import type { Command } from 'commander';
import { LiveUpdateError } from '../core/errors.js';
import { socketPath } from '../daemon/socket-address.js';
import { EXIT_REFUSED } from './arguments.js';
import { ask, type Reply } from './luod-client.js';

/** What every command that asks luod understands. */
export interface AskFlags {
  socket?: string;
  json?: boolean;
}

/** Adds the flags of `AskFlags`. */
export function withAskFlags(command: Command): Command {
  return command
    .option(
      '--socket <path>',
      "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)",
    )
    .option('--json', 'one JSON object');
}

/**
 * Asks luod and prints the answer: as one JSON object, or as `human` writes it. A refusal is one line on stderr and exit code 1.
 */
export async function tell(
  flags: AskFlags,
  request: { type: string; [field: string]: unknown },
  human: (reply: Reply) => string,
): Promise<void> {
  let reply: Reply;
  try {
    reply = await ask(socketPath(flags.socket), request);
  } catch (error) {
    refuse(flags, error);
    return;
  }
  if (flags.json === true) process.stdout.write(`${JSON.stringify(reply)}\n`);
  else if (
    reply.ok ||
    reply.rolledBack !== undefined ||
    reply.workers !== undefined ||
    reply.error === undefined
  )
    (reply.ok ? process.stdout : process.stderr).write(human(reply));
  else process.stderr.write(`luoctl: ${reply.error?.message}\n`);
  if (!reply.ok) process.exitCode = EXIT_REFUSED;
}

/** Prints why something could not be done. */
export function refuse(flags: AskFlags, error: unknown): void {
  const { code, message } = LiveUpdateError.from(error);
  if (flags.json === true)
    process.stdout.write(`${JSON.stringify({ ok: false, error: { code, message } })}\n`);
  else process.stderr.write(`luoctl: ${message}\n`);
  process.exitCode = EXIT_REFUSED;
}
