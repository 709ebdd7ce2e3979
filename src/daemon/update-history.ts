/**
 * What became of a service's updates, the last twenty of them, with reasons: kept beside the service, so that the next luod has
 * it, too.
 */

import { healthPolicy } from './health.js';
import { type Infer, z } from './lazy-zod.js';
import type { UpdateResult } from './update.js';

const MOST_ENTRIES = 20;
/** Of a command and of a reason, as much as a person reads. */
const MOST_CHARACTERS = 2000;

const kind = z.enum(['update', 'rollback', 'autoRollback']);

/** What an update was asked for. */
export const askedRecord = z.object({
  kind,
  by: z.string(),
  /** When, in ISO 8601. */
  at: z.string(),
  policy: healthPolicy,
  /** Milliseconds that it may take. */
  total: z.number().positive(),
  /** Of an automatic rollback: what is wrong with the version that runs. */
  reason: z.object({ code: z.string(), message: z.string() }).optional(),
});

export type Asked = Infer<typeof askedRecord>;

const historyEntry = z.object({
  /** When it was asked for, in ISO 8601; its name as well. */
  at: z.string(),
  kind,
  /** Who asked for it: a process and its user, the program, a signal, or luod after a watch. */
  by: z.string(),
  /**
   * ok: the new version serves · rolledBack: it never did · autoRolledBack: it did, was found bad, and the command before runs again ·
   * failed: the program had to be started again, or is unhealthy and there is nothing to go back to.
   */
  outcome: z.enum(['ok', 'rolledBack', 'autoRolledBack', 'failed']),
  fromGeneration: z.number(),
  toGeneration: z.number(),
  fromPid: z.number().optional(),
  toPid: z.number().optional(),
  command: z.array(z.string()),
  blackoutMs: z.number().nullable(),
  /** False when the program was restarted in the plain way. */
  carried: z.boolean(),
  error: z.object({ code: z.string(), message: z.string(), phase: z.string() }).optional(),
});

export const historyRecord = z.object({ entries: z.array(historyEntry).default([]) });

export type HistoryEntry = Infer<typeof historyEntry>;

/** An update that is over, as the history has it. */
export function entryOf(
  { kind, by, at }: Asked,
  result: UpdateResult,
  command: readonly string[],
  generations: { from: number; to: number },
): HistoryEntry {
  const { ok, rolledBack, fromPid, toPid, blackoutMs, carried, error } = result;
  return {
    at,
    kind,
    by,
    outcome: ok ? 'ok' : rolledBack === true ? 'rolledBack' : 'failed',
    fromGeneration: generations.from,
    toGeneration: generations.to,
    fromPid,
    toPid,
    command: [...command],
    blackoutMs,
    carried,
    error,
  };
}

export class UpdateHistory {
  #entries: HistoryEntry[] = [];
  readonly #keep: (record: { entries: HistoryEntry[] }) => void;

  /** @param keep Notes it beyond luod's end. */
  constructor(keep: (record: { entries: HistoryEntry[] }) => void) {
    this.#keep = keep;
  }

  /** The last one first. */
  get entries(): HistoryEntry[] {
    return [...this.#entries].reverse();
  }

  /** What the luod before had. */
  restore(entries: readonly HistoryEntry[]): void {
    this.#entries = entries.slice(-MOST_ENTRIES);
  }

  /** Adds an entry; one of the same time is the same, told again by the next luod. */
  add(entry: HistoryEntry): void {
    const others = this.#entries.filter(({ at }) => at !== entry.at);
    this.#entries = [...others, bounded(entry)].slice(-MOST_ENTRIES);
    this.note();
  }

  /** What was learned later of an entry, if it is still there. */
  amend(at: string, change: Pick<HistoryEntry, 'outcome' | 'error'>): void {
    this.#entries = this.#entries.map((entry) =>
      entry.at === at ? bounded({ ...entry, ...change }) : entry,
    );
    this.note();
  }

  /** Keeps it (again: the keeper is a new one). */
  note(): void {
    if (this.#entries.length > 0) this.#keep({ entries: this.#entries });
  }
}

function bounded(entry: HistoryEntry): HistoryEntry {
  let left = MOST_CHARACTERS;
  const command = entry.command.flatMap((word) => {
    if (left <= 0) return [];
    const kept = word.length > left ? `${word.slice(0, left)}...` : word;
    left -= word.length + 1;
    return [kept];
  });
  const { error } = entry;
  if (error === undefined) return { ...entry, command };
  return { ...entry, command, error: { ...error, message: error.message.slice(0, MOST_CHARACTERS) } };
}
