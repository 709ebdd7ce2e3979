/** One JSON line for each event of a session: who did what, and what became of it. */
export interface AuditEvent {
  /**
   * Of a session: create, retrieve, preserve, unpreserve, retrieveFd, finish, orphan, release, drop; of an FLB: registerFlb,
   * retrieveFlb, unregisterFlb, finishFlb.
   */
  readonly event: string;
  readonly uid: number;
  readonly pid: number;
  readonly session?: string | undefined;
  readonly flb?: string | undefined;
  readonly token?: string | undefined;
  /** What kind of file. */
  readonly kind?: string | undefined;
  /** 'ok' or an errno's name. */
  readonly result: string;
}

export type Audit = (event: AuditEvent) => void;

export const noAudit: Audit = () => undefined;

/**
 * Writes to a file (appending, mode 0600) or, for '-', to stderr. Each line is written before the answer goes out, so that
 * no death of luod loses one.
 * @throws the errno of open(2), as Node's system error.
 */
export async function auditTo(path: string): Promise<Audit> {
  // Only who writes a log pays for the logger: two MiB of private memory.
  const { pino } = await import('pino');
  const destination = pino.destination({
    dest: path === '-' ? 2 : path,
    sync: true,
    append: true,
    mode: 0o600,
  });
  const log = pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination);
  return (event) => log.info(event);
}
