/** The flags by which an operator says when a version is healthy: for a service (`luod run`, `luoctl start`) and for one update. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { LiveUpdateError } from '../core/errors.js';
import type { HealthCheck, HealthWords } from '../daemon/health.js';
import { parseHealthUrl } from '../daemon/health-url.js';
import { duration } from './arguments.js';
import { commandWords } from './command-words.js';

export interface HealthFlags {
  /** false: --no-health. */
  health?: HealthCheck | false;
  healthTimeout?: number;
  minUptime?: number;
  watch?: number;
}

export const HEALTH_HELP = `
A health check is http://127.0.0.1:PORT/PATH, unix:/SOCKET:/PATH, or a command: words, or a JSON array of them. A URL is asked until it
answers 2xx, a command is run and must exit with 0; before the new version takes over and, while it is watched, each second after. Before
the commit the carried listeners are still the old version's: let the program answer at a socket of its own, or give a command, which
finds LIVEUPDATE_CANDIDATE_PID, _SERVICE, _GENERATION and _STAGE ('ready' or 'committed') in its environment.`;

/** @param isUpdate Of an update, whose service may have words of its own. */
export function addHealthOptions(command: Command, isUpdate: boolean): Command {
  const option = (flag: string, text: string) =>
    command.addOption(new Option(flag, text).argParser(durationOr0));
  command.addOption(
    new Option('--health <check>', 'what a new version must pass: a URL, or a command').argParser(
      parseHealthCheck,
    ),
  );
  if (isUpdate) command.option('--no-health', "ask nothing, whatever the service's own check is");
  command.addOption(
    new Option(
      '--health-timeout <time>',
      'for a URL to answer well, for a command to end (default: 10s)',
    ).argParser(duration),
  );
  option(
    '--min-uptime <time>',
    'how long a new version must live, healthy, before it takes over (default: 0)',
  );
  option(
    '--watch <time>',
    'how long after it took over luod goes back to the command before if it dies or is unhealthy; 0: not at all (default: 10s)',
  );
  return command;
}

export function toHealthWords(flags: HealthFlags): HealthWords {
  const { health, healthTimeout: timeout, minUptime, watch } = flags;
  return { check: health === false ? null : health, timeout, minUptime, watch };
}

/** `--health` as luod takes it. @throws {InvalidArgumentError} with what is wrong. */
export function parseHealthCheck(text: string): HealthCheck {
  try {
    if (text.trimStart().startsWith('[')) return { command: fromJson(text) };
    // Anything with a scheme is meant to be a URL, so that a mistake in one is told as that.
    if (!/^(unix:|[a-z][a-z\d+.-]*:\/\/)/i.test(text)) return { command: commandWords(text) };
    parseHealthUrl(text);
    return { url: text };
  } catch (error) {
    throw new InvalidArgumentError(LiveUpdateError.from(error).message);
  }
}

function fromJson(text: string): [string, ...string[]] {
  let words: unknown;
  try {
    words = JSON.parse(text);
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', `no JSON array of words: ${(cause as Error).message}`, { cause });
  }
  if (!Array.isArray(words) || words.length === 0 || !words.every((word) => typeof word === 'string')) {
    throw new LiveUpdateError(
      'EINVAL',
      'no JSON array of words, like ["curl", "-f", "http://127.0.0.1:8080/"]',
    );
  }
  return words as [string, ...string[]];
}

/** As `duration`, or 0. */
function durationOr0(text: string): number {
  return /^0(ms|s|m)?$/.test(text) ? 0 : duration(text);
}
