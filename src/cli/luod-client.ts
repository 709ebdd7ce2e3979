/** One question to luod and its answer, over its socket. */
import { randomUUID } from 'node:crypto';
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
 * Asks, and asks again when another luod takes over before the answer.
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
  const say = (message: object) => socket.write(`${JSON.stringify(message)}\n`);
  // Known again by its key when luod is killed before it answers.
  const question = { ...request, id: 1, key: randomUUID() };
  try {
    say(question);
    const lines = createInterface({ input: socket, crlfDelay: Number.POSITIVE_INFINITY });
    for await (const line of lines) {
      const { type, id: _id, ...reply } = JSON.parse(line) as { type: string; id: unknown };
      if (type === 'reply') return reply as unknown as Reply;
      if (type === 'restarted') {
        // The next luod throws away what it finds up to a 'resume', the first of which may end a line that was begun.
        for (const message of [{ type: 'resume' }, { type: 'resume' }, { ...question, retry: true }])
          say(message);
        continue;
      }
      event({ type, ...reply });
      // It was printed: luod waits for that before it leaves the kernel.
      if (type === 'farewell') say({ type: 'goodbye' });
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
