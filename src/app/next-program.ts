/**
 * What a process replaces itself by, and whether that can run: once execve(2) has succeeded there is nobody to go back to, so
 * whatever can be known before is found out before, while the program serves.
 *
 *   the command       resolved by PATH; a file that this user may execute
 *   the script        of a plain `node SCRIPT`: found as Node finds it, readable, and its text compiles (`node --check`)
 *
 * What it imports, and what it does, is not looked at.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, realpathSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, delimiter, extname, join, resolve } from 'node:path';
import { LiveUpdateError } from '../core/errors.js';

export interface NextProgram {
  /** The file to execute. */
  readonly path: string;
  readonly argv: readonly string[];
}

/** Where execvp(3) looks without a PATH. */
const DEFAULT_PATH = '/usr/local/bin:/bin:/usr/bin';
const CHECK_MS = 20_000;
/** Of what the check has to say, as much as a person reads. */
const SAID_BYTES = 2000;
/** Flags with which this process has no script: it was given the code itself, or reads it. */
const WITHOUT_SCRIPT = /^(-e|--eval|-p|--print|-pe|-i|--interactive|--run)(=|$)/;
/** Flags that may make something else of a script's text. */
const CHANGES_SYNTAX = /^(-r|--(require|import|loader|experimental|harmony|js|input|strip))/;

/**
 * @param command The default is what this process runs: the same Node, flags, script and arguments.
 * @throws {LiveUpdateError} EINVAL for a command that is no list of words, or a script that does not compile; ENOENT, EACCES,
 *   ENOTDIR for a file that is not there or may not be executed or read; EMFILE, ENOMEM, EAGAIN when the check cannot be run.
 */
export async function nextProgram(command?: readonly string[]): Promise<NextProgram> {
  if (command === undefined) {
    const { execPath, execArgv, argv, argv0 } = process;
    const script = execArgv.some((flag) => WITHOUT_SCRIPT.test(flag)) ? undefined : argv[1];
    const path = findExecutable(execPath);
    if (script !== undefined) await checkScript(path, execArgv, script);
    return { path, argv: [argv0, ...execArgv, ...argv.slice(1)] };
  }
  const [file, first] = command;
  if (file === undefined || file === '' || command.some((word) => !isWord(word))) {
    throw new LiveUpdateError('EINVAL', 'a command is a list of one word or more, without NUL');
  }
  const path = findExecutable(file);
  // Behind a flag only Node knows which word is the script.
  if (first !== undefined && !first.startsWith('-') && isNode(path)) await checkScript(path, [], first);
  return { path, argv: command };
}

function isWord(word: unknown): boolean {
  return typeof word === 'string' && !word.includes('\0');
}

/** As execvp(3) looks for it. */
function findExecutable(file: string): string {
  if (file.includes('/')) {
    requireExecutable(file);
    return file;
  }
  let failure: LiveUpdateError | undefined;
  for (const folder of (process.env.PATH ?? DEFAULT_PATH).split(delimiter)) {
    const path = join(folder === '' ? '.' : folder, file);
    try {
      requireExecutable(path);
      return path.includes('/') ? path : `./${path}`;
    } catch (error) {
      const found = LiveUpdateError.from(error);
      if (found.code === 'EACCES') failure ??= found;
    }
  }
  throw failure ?? new LiveUpdateError('ENOENT', `no '${file}' in PATH`, { operation: 'exec' });
}

function requireExecutable(path: string): void {
  requireAccess(path, constants.X_OK);
  // A folder may be searched, which is the same bit.
  if (!statSync(path).isFile())
    throw new LiveUpdateError('EACCES', `'${path}' is no file`, { operation: 'exec' });
}

function requireAccess(path: string, mode: number): void {
  try {
    accessSync(path, mode);
  } catch (error) {
    throw LiveUpdateError.from(error, { operation: 'exec' });
  }
}

function isNode(path: string): boolean {
  return realpathSync(path) === realpathSync(process.execPath) || basename(path) === 'node';
}

async function checkScript(node: string, flags: readonly string[], script: string): Promise<void> {
  const file = findScript(script);
  requireAccess(file, constants.R_OK);
  const allFlags = [...flags, ...(process.env.NODE_OPTIONS ?? '').split(/\s+/)];
  if (!/^\.[cm]?js$/.test(extname(file)) || allFlags.some((flag) => CHANGES_SYNTAX.test(flag))) return;
  await checkSyntax(node, file);
}

/** With the endings and the folder's index that Node tries, too. */
function findScript(script: string): string {
  const path = resolve(script);
  try {
    return createRequire(`${path}/`).resolve(path);
  } catch (cause) {
    throw new LiveUpdateError('ENOENT', `the script '${path}' is not there`, { operation: 'exec', cause });
  }
}

async function checkSyntax(node: string, file: string): Promise<void> {
  // Without the flags: a port of the inspector, say, is this process's.
  const { NODE_OPTIONS: _, ...env } = process.env;
  const child = spawn(node, ['--check', file], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env,
    timeout: CHECK_MS,
    killSignal: 'SIGKILL',
  });
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-SAID_BYTES);
  });
  const code = await once(child, 'close').then(
    ([exitCode]) => exitCode as number | null,
    (error: unknown) => {
      throw LiveUpdateError.from(error, { operation: 'node --check' });
    },
  );
  // Any other failure is one of the check: this Node may not know how to check such a file.
  if (code !== 0 && said.includes('SyntaxError')) {
    throw new LiveUpdateError('EINVAL', `the script does not compile: ${said.trim()}`, { operation: 'exec' });
  }
}
