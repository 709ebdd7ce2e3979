/** One question to luod and its answer, over its socket. */
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { LiveUpdateError } from '../core/errors.js';

export interface Reply {
  readonly ok: boolean;
  readonly error?: { code: string; message: string; phase?: string };
  readonly [field: string]: unknown;
}

/** What luod says before it answers. */
export interface LuodEvent {
  readonly type: string;
  readonly [field: string]: unknown;
}

/**
 * @param event Told of what luod says before its answer.
 * @throws {LiveUpdateError} ENOENT or ECONNREFUSED when no luod listens there, EACCES when it is another user's, EPIPE when
 *   luod ended before it answered.
 */
export async function ask(
  path: string,
  request: Record<string, unknown>,
  event: (message: LuodEvent) => void = () => undefined,
): Promise<Reply> {
  const socket = createConnection({ path });
  try {
    socket.write(`${JSON.stringify({ ...request, id: 1 })}\n`);
    const lines = createInterface({ input: socket, crlfDelay: Number.POSITIVE_INFINITY });
    for await (const line of lines) {
      const { type, id: _id, ...reply } = JSON.parse(line) as { type: string; id: unknown };
      if (type === 'reply') return reply as unknown as Reply;
      event({ type, ...reply });
      // It was printed: luod waits for that before it leaves the kernel.
      if (type === 'farewell') socket.write(`${JSON.stringify({ type: 'goodbye' })}\n`);
    }
  } catch (error) {
    throw explain(error, path);
  } finally {
    socket.destroy();
  }
  throw new LiveUpdateError('EPIPE', 'luod ended before it answered');
}

function explain(error: unknown, path: string): LiveUpdateError {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ECONNREFUSED') {
    const text = `no luod listens at ${path}; start one with \`luod run -- COMMAND\`, or name another with --socket`;
    return new LiveUpdateError(code, text, { cause: error });
  }
  if (code === 'EACCES')
    return new LiveUpdateError('EACCES', `${path} belongs to another user's luod`, { cause: error });
  return LiveUpdateError.from(error, { operation: 'ask' });
}
