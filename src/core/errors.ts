/**
 * Every failure of the orchestrator is a `LiveUpdateError` that carries an errno, as the kernel's calls do.
 */

/** The errnos this project answers with, by name, with their Linux numbers (asm-generic/errno*.h). */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENXIO: 6,
  ENODEV: 19,
  ENOTDIR: 20,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  EPIPE: 32,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENODATA: 61,
  ETIME: 62,
  EPROTO: 71,
  EBADMSG: 74,
  EOVERFLOW: 75,
  ENOTSOCK: 88,
  EMSGSIZE: 90,
  EPROTONOSUPPORT: 93,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ECONNRESET: 104,
  ENOBUFS: 105,
  ENOTCONN: 107,
  ETOOMANYREFS: 109,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  ECANCELED: 125,
} as const;

/** The name of an errno. */
export type ErrnoCode = keyof typeof ERRNO;

const NAMES = new Map<number, ErrnoCode>(
  (Object.entries(ERRNO) as [ErrnoCode, number][]).map(([name, number]) => [number, name]),
);

/** The name of a (positive or negative) errno number; EIO for one that is not in the table. */
export function errnoName(number: number): ErrnoCode {
  return NAMES.get(Math.abs(number)) ?? 'EIO';
}

/** Who and what a failure is about. All parts are optional and are told in the message. */
export interface ErrorContext {
  /** The operation that failed: 'preserve', 'freeze', 'memfd_create', ... */
  operation?: string;
  session?: string;
  token?: bigint;
  /** The handler's or FLB's `compatible`. */
  handler?: string;
  cause?: unknown;
}

/**
 * A failed operation. `code` is the errno's name and `errno` its negative number, as in Node's own system errors.
 */
export class LiveUpdateError extends Error {
  override readonly name = 'LiveUpdateError';
  readonly code: ErrnoCode;
  readonly errno: number;
  readonly operation: string | undefined;
  readonly session: string | undefined;
  readonly token: bigint | undefined;
  readonly handler: string | undefined;

  constructor(code: ErrnoCode, text: string, context: ErrorContext = {}) {
    super(describe(code, text, context), 'cause' in context ? { cause: context.cause } : undefined);
    this.code = code;
    this.errno = -ERRNO[code];
    this.operation = context.operation;
    this.session = context.session;
    this.token = context.token;
    this.handler = context.handler;
  }

  /**
   * `error` as a LiveUpdateError: itself if it is one; else wrapped, with the errno that the error carries (Node's
   * system errors do) or EIO.
   */
  static from(error: unknown, context: ErrorContext = {}): LiveUpdateError {
    if (error instanceof LiveUpdateError) return error;
    const text = error instanceof Error ? error.message : String(error);
    return new LiveUpdateError(codeOf(error), text, { ...context, cause: error });
  }
}

function codeOf(error: unknown): ErrnoCode {
  if (typeof error === 'object' && error !== null && 'code' in error) {
    const { code } = error;
    if (typeof code === 'string' && Object.hasOwn(ERRNO, code)) return code as ErrnoCode;
  }
  return 'EIO';
}

function describe(code: ErrnoCode, text: string, context: ErrorContext): string {
  const where = [
    context.session === undefined ? undefined : `session '${context.session}'`,
    context.token === undefined ? undefined : `token ${context.token}`,
    context.handler === undefined ? undefined : `handler '${context.handler}'`,
  ].filter((part) => part !== undefined);
  const operation = context.operation === undefined ? '' : `${context.operation}: `;
  return `${code}: ${operation}${text}${where.length === 0 ? '' : ` (${where.join(', ')})`}`;
}
