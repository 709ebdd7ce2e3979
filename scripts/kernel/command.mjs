// What the commands of this folder share: an error that says what to do next, child processes whose noise goes to a
// file, and progress lines. Nothing here knows of kernels.

import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** A failure that a person can act on: what went wrong, and the next step. Printed without a stack. */
export class ToolError extends Error {
  /** @param {string} message @param {{ hint?: string, tail?: string, cause?: unknown }} [more] */
  constructor(message, { hint, tail, cause } = {}) {
    super(message, { cause });
    this.name = 'ToolError';
    this.hint = hint;
    this.tail = tail;
  }
}

/** A command line that makes no sense: exit code 2. */
export class UsageError extends ToolError {}

/**
 * Runs a command's main function and turns what it throws into the exit codes of this project's commands:
 * 0 done, 1 failed, 2 usage. main() may return another code.
 */
export async function runMain(name, main) {
  try {
    process.exitCode = (await main(process.argv.slice(2))) ?? 0;
  } catch (error) {
    // parseArgs() marks its own complaints with these codes.
    const usage = error instanceof UsageError || String(error?.code).startsWith('ERR_PARSE_ARGS');
    const expected = usage || error instanceof ToolError;
    if (error.tail) process.stderr.write(`${error.tail.trimEnd()}\n`);
    process.stderr.write(`${name}: ${expected ? error.message : (error?.stack ?? error)}\n`);
    if (usage) process.stderr.write(`Try '${name} --help'.\n`);
    else if (error.hint) process.stderr.write(`${error.hint}\n`);
    process.exitCode = usage ? 2 : 1;
  }
}

/** Progress on stderr, each line with the time since the start: stdout stays free for results. */
export function progress(quiet = false) {
  const start = performance.now();
  return (line) => {
    if (quiet) return;
    const seconds = ((performance.now() - start) / 1000).toFixed(1).padStart(6);
    process.stderr.write(`[${seconds} s] ${line}\n`);
  };
}

// A plain user's PATH often lacks the sbin folders where Debian keeps kexec.
const searchPath = () =>
  `${process.env.PATH ?? ''}${delimiter}/usr/local/sbin${delimiter}/usr/sbin${delimiter}/sbin`;

/** The full path of a command, or undefined. */
export function which(command) {
  return searchPath()
    .split(delimiter)
    .filter(Boolean)
    .map((folder) => join(folder, command))
    .find((path) => existsSync(path));
}

export function tailOf(path, lines = 30) {
  if (!existsSync(path)) return '';
  return readFileSync(path, 'latin1').trimEnd().split(/\r?\n/).slice(-lines).join('\n');
}

/**
 * Runs a command with its output appended to a log file. The promise rejects with the log's tail when it fails.
 * @param {string} command @param {string[]} args
 * @param {{ log: string, cwd?: string, env?: Record<string, string>, onStart?: (pid: number) => void }} options
 */
export function logged(command, args, { log, cwd, env }) {
  return new Promise((resolve, reject) => {
    const out = openSync(log, 'a');
    const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', out, out] });
    closeSync(out);
    // A build that is interrupted must not leave the compiler running behind it.
    const stop = (signal) => {
      child.kill(signal);
      process.exit(signal === 'SIGINT' ? 130 : 143);
    };
    process.once('SIGINT', stop).once('SIGTERM', stop);
    const done = (failure) => {
      process.off('SIGINT', stop).off('SIGTERM', stop);
      if (failure) reject(new ToolError(failure, { tail: tailOf(log), hint: `The whole log: ${log}` }));
      else resolve();
    };
    child.once('error', (error) => done(`${command}: ${error.message}`));
    child.once('close', (code, signal) =>
      done(code === 0 ? undefined : `${command} ${args[0] ?? ''} failed (${signal ?? code})`),
    );
  });
}

/** A short command's stdout; throws when it fails. */
export function output(command, args, options = {}) {
  const child = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 26, ...options });
  if (child.error) throw new ToolError(`${command}: ${child.error.message}`);
  if (child.status !== 0)
    throw new ToolError(`${command} ${args[0] ?? ''} failed (${child.status})`, { tail: child.stderr });
  return child.stdout;
}
