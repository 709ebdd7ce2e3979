/** What both commands do with their arguments: values that are checked at the door, and one clear line for a failure. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { LiveUpdateError } from '../core/errors.js';
import type { Deadlines } from '../daemon/phases.js';
import { MAX_WORKERS } from '../daemon/worker-names.js';

/** Exit codes: done, refused or rolled back, wrong usage. */
export const EXIT_REFUSED = 1;
export const EXIT_USAGE = 2;

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };

/** `30`, `30s`, `500ms`, `2m` as milliseconds; a bare number is seconds. */
export function duration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m)?$/.exec(text);
  const ms = match === null ? Number.NaN : Math.round(Number(match[1]) * (UNITS[match[2] ?? 's'] as number));
  if (!(ms > 0)) throw new InvalidArgumentError('Give a time above zero, like 30s, 500ms or 2m.');
  return ms;
}

export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Give a whole number, 0 or more.');
  return Number(text);
}

export function workerCount(text: string): number {
  const count = /^\d+$/.test(text) ? Number(text) : 0;
  if (count < 1 || count > MAX_WORKERS)
    throw new InvalidArgumentError(`Give a number of processes, 1 to ${MAX_WORKERS}.`);
  return count;
}

/** Adds the flags by which a program is kept running: `luod run` and `luoctl start` have the same. */
export function addServiceOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--restart <when>', 'when to start the program again after its end')
        .choices(['on-failure', 'always', 'never'])
        .default('on-failure'),
    )
    .option('--max-restarts <n>', 'restarts in a row before giving up', wholeNumber, 10)
    .option('--workers <n>', 'run it in so many processes, which listen on the same ports', workerCount);
}

/** The flags of the deadlines of an update, one for each phase. */
export function deadlineOptions(): Option[] {
  const option = (flag: string, text: string) => new Option(`--${flag} <time>`, text).argParser(duration);
  return [
    option('timeout', 'deadline of the whole update').default(30_000, '30s'),
    option('spawn-timeout', 'until the new version has called liveupdate()'),
    option('preserve-timeout', 'until it has called ready() and everything is preserved'),
    option('freeze-timeout', 'until the running version is frozen'),
    option('retrieve-timeout', 'until the new version has taken over'),
    option('finish-timeout', 'until the old version has left, or goes on after a rollback'),
    option('drain-timeout', 'how long the old version may serve what cannot cross (default: 30s)'),
  ];
}

export interface DeadlineFlags {
  timeout: number;
  spawnTimeout?: number;
  preserveTimeout?: number;
  freezeTimeout?: number;
  retrieveTimeout?: number;
  finishTimeout?: number;
  drainTimeout?: number;
}

export function toDeadlines(flags: DeadlineFlags): Deadlines {
  return {
    total: flags.timeout,
    spawn: flags.spawnTimeout,
    preserve: flags.preserveTimeout,
    freeze: flags.freezeTimeout,
    retrieve: flags.retrieveTimeout,
    finish: flags.finishTimeout,
    drain: flags.drainTimeout,
  };
}

/** One line on stderr, and the exit code. */
export function fail(command: string, error: unknown): void {
  process.stderr.write(`${command}: ${LiveUpdateError.from(error).message}\n`);
  process.exitCode = EXIT_REFUSED;
}
