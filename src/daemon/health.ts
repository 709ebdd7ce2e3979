/**
 * Is a version healthy? What is asked, when, and what an answer leads to.
 *
 *   when                                 what is asked                                         not healthy
 *   ready() was called, nothing frozen   a URL until it answers 2xx, a command once            rolled back, no connection noticed
 *   the minimum uptime after that        the same again each second; the process lives         rolled back
 *   the watch after the commit           the same again each second: see probation.ts          back to the command before
 *
 * Before the commit the new version does not accept on its carried listeners: a URL there is answered by the old one. What is
 * to be asked then is a socket of the program's own, opened before ready(), or whatever a command looks at.
 *
 * Not to be healthy is an answer and no exception: every question here returns why, or undefined. Each has its own limit, so
 * all of them end; whoever has no use for the answer any more aborts the signal, upon which a command is killed.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { ENV_IMAGE, ENV_SOCKET, type ErrorReport } from '../handover/protocol.js';
import { runCheck } from './health-command.js';
import { askUrl, parseHealthUrl } from './health-url.js';
import { type Infer, z } from './lazy-zod.js';

/** Between questions to a URL that has not answered well yet. */
const POLL_MS = 100;
/** For one answer of a URL; then it is asked again. */
const ANSWER_MS = 5000;
/** Between questions once it was healthy. */
const AGAIN_MS = 1000;

const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_WATCH_MS = 10_000;
const LONGEST_MS = 86_400_000;

const milliseconds = z.number().int().nonnegative().max(LONGEST_MS);

const url = z
  .string()
  .max(4096)
  .superRefine((text, context) => {
    try {
      parseHealthUrl(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: LiveUpdateError.from(error).message });
    }
  });

const healthCheck = z.union([
  z.strictObject({ url }),
  z.strictObject({ command: z.array(z.string().max(100_000)).min(1).max(1000) }),
]);

/** What an operator says of health, for a service or for one update. */
export const healthWords = z.object({
  /** null: nothing is asked. */
  check: healthCheck.nullable().optional(),
  timeout: milliseconds.min(1).optional(),
  minUptime: milliseconds.optional(),
  watch: milliseconds.optional(),
});

/** What follows for one update. */
export const healthPolicy = z.object({
  check: healthCheck.optional(),
  /** For a URL to answer well, and for each run of a command. */
  timeoutMs: milliseconds.min(1),
  /** From ready() to the freeze, at least. */
  minUptimeMs: milliseconds,
  /** From the commit on; 0: not watched, nor asked after the commit. */
  watchMs: milliseconds,
});

export type HealthCheck = Infer<typeof healthCheck>;
export type HealthWords = Infer<typeof healthWords>;
export type HealthPolicy = Infer<typeof healthPolicy>;

/** For an update whose version is trusted: nothing is asked and nothing watched, unless the same request says so. */
export const TRUSTED: HealthWords = { check: null, minUptime: 0, watch: 0 };

/** @param words Of the service, then of the request: the later word counts. */
export function policyOf(...words: (HealthWords | undefined)[]): HealthPolicy {
  const said = <K extends keyof HealthWords>(key: K) =>
    words.map((one) => one?.[key]).findLast((word) => word !== undefined);
  return {
    check: said('check') ?? undefined,
    timeoutMs: said('timeout') ?? DEFAULT_TIMEOUT_MS,
    minUptimeMs: said('minUptime') ?? 0,
    watchMs: said('watch') ?? DEFAULT_WATCH_MS,
  };
}

/** Who is asked. */
export interface Candidate {
  readonly service: string;
  readonly generation: number;
  readonly pid: number | undefined;
  /** Where commands run. */
  readonly cwd: string;
  /** luod's own socket, so that a command may ask luod. */
  readonly socket: string;
  readonly stage: 'ready' | 'committed';
}

/** The check is asked once. */
async function askOnce(
  check: HealthCheck,
  candidate: Candidate,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ErrorReport | undefined> {
  if ('url' in check) return await askUrl(check.url, Math.min(timeoutMs, ANSWER_MS), signal);
  const { service, generation, pid, cwd, socket, stage } = candidate;
  // What makes luod itself somebody's image is not for a check.
  const { [ENV_IMAGE]: _image, ...own } = process.env;
  const env = {
    ...own,
    [ENV_SOCKET]: socket,
    LIVEUPDATE_CANDIDATE_PID: String(pid ?? ''),
    LIVEUPDATE_CANDIDATE_SERVICE: service,
    LIVEUPDATE_CANDIDATE_GENERATION: String(generation),
    LIVEUPDATE_CANDIDATE_STAGE: stage,
  };
  return await runCheck({ command: check.command, cwd, env, timeoutMs, signal });
}

/**
 * A URL is asked until it answers well, a command runs once.
 * @returns why it is not healthy; undefined when it is.
 */
export async function askUntilHealthy(
  policy: Pick<HealthPolicy, 'check' | 'timeoutMs'>,
  candidate: Candidate,
  signal: AbortSignal,
): Promise<ErrorReport | undefined> {
  const { check, timeoutMs } = policy;
  if (check === undefined) return undefined;
  if ('command' in check) return await askOnce(check, candidate, timeoutMs, signal);
  const until = performance.now() + timeoutMs;
  let last: ErrorReport | undefined;
  for (;;) {
    const left = Math.max(1, until - performance.now());
    const reason = await askOnce(check, candidate, left, signal);
    if (reason === undefined || signal.aborted) return reason;
    // A question that the end of the time cut short says less than the answer before it.
    if (last === undefined || reason.code !== 'ETIMEDOUT' || left >= ANSWER_MS) last = reason;
    if (performance.now() + POLL_MS >= until) {
      const message = `${check.url} was not healthy within ${timeoutMs} ms: ${last.message}`;
      return { code: 'ETIMEDOUT', message };
    }
    await pause(POLL_MS, signal);
  }
}

/** Whether anything is asked before the commit. */
export function hasGate({ check, minUptimeMs }: HealthPolicy): boolean {
  return check !== undefined || minUptimeMs > 0;
}

/**
 * The gate before the freeze, for a version that called ready(). That the process lives is its caller's to see.
 * @returns why it must not take over; undefined when it may.
 */
export async function passGate(
  policy: HealthPolicy,
  candidate: Candidate,
  signal: AbortSignal,
): Promise<ErrorReport | undefined> {
  const { check, timeoutMs, minUptimeMs } = policy;
  const since = performance.now();
  const reason = await askUntilHealthy(policy, candidate, signal);
  if (reason !== undefined) return reason;
  for (;;) {
    const left = minUptimeMs - (performance.now() - since);
    if (left <= 0 || signal.aborted) return undefined;
    await pause(Math.min(left, AGAIN_MS), signal);
    if (check === undefined) continue;
    // It was healthy once: here, where going back costs nobody anything, a single bad answer is enough.
    const later = await askOnce(check, candidate, timeoutMs, signal);
    if (later !== undefined) return { ...later, message: `healthy at first, and then ${later.message}` };
  }
}

/** How long to wait until it is asked again, at most until `until` (ms since the epoch). */
export function untilNext(until: number): number {
  return Math.min(AGAIN_MS, Math.max(0, until - Date.now()));
}

/** Waits, or less when it is called off. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  // The signal is looked at by whoever waits here.
  await delay(ms, undefined, { signal }).catch(() => undefined);
}
