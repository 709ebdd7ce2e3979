import { LiveUpdateError } from '../core/errors.js';

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

/** Does `work`, and writes what became of it. @throws what it throws. */
export function audited<T>(audit: Audit, event: Omit<AuditEvent, 'result'>, work: () => T): T {
  let result = 'ok';
  try {
    return work();
  } catch (error) {
    result = LiveUpdateError.from(error).code;
    throw error;
  } finally {
    audit({ ...event, result });
  }
}

/** Lines that wait for a disk that is full. */
const WAITING_BYTES = 1 << 20;

/**
 * Writes to a file (appending, mode 0600) or, for '-', to stderr. Each line is written before the answer goes out, so that
 * no death of luod loses one.
 *
 * A line that cannot be written must not cost a session: it waits for the next one that can, up to a mebibyte of them, and `log`
 * is told when that begins, when lines are lost, and when it is over.
 * @throws the errno of open(2), as Node's system error.
 */
export async function auditTo(path: string, log: (line: string) => void): Promise<Audit> {
  // Only who writes a log pays for the logger: two MiB of private memory.
  const { pino } = await import('pino');
  const destination = pino.destination({
    dest: path === '-' ? 2 : path,
    sync: true,
    append: true,
    mode: 0o600,
    maxLength: WAITING_BYTES,
  });
  let isFailing = false;
  let lost = 0;
  destination.on('error', (error: Error) => {
    if (!isFailing) log(`the audit cannot be written, and waits: ${error.message}`);
    isFailing = true;
  });
  destination.on('drop', () => {
    if (lost === 0) log(`the audit cannot be written, and lines of it are lost`);
    lost++;
  });
  destination.on('write', () => {
    if (isFailing) log(`the audit is written again${lost === 0 ? '' : `; ${lost} lines of it were lost`}`);
    isFailing = false;
    lost = 0;
  });
  const audit = pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination);
  return (event) => audit.info(event);
}
