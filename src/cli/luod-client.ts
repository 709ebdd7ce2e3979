/** Questions to luod and their answers, over its socket. */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';

export interface Reply {
  readonly ok: boolean;
  readonly error?: { code: string; message: string; phase?: string };
  readonly [field: string]: unknown;
}

/** What luod says of itself, or before it answers. */
export interface LuodEvent {
  readonly type: string;
  readonly [field: string]: unknown;
}

interface Question {
  readonly request: object;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: LiveUpdateError) => void;
}

/** A connection to luod. What was asked and not answered is asked again when another luod takes over. */
export class Asking {
  readonly #socket: Socket;
  readonly #event: (message: LuodEvent) => void;
  readonly #questions = new Map<number, Question>();
  readonly #ended = withResolvers<never>();
  #subscription: object | undefined;
  #next = 1;
  /** Rejects with EPIPE when the connection ends. */
  readonly ended: Promise<never> = this.#ended.promise;

  private constructor(socket: Socket, event: (message: LuodEvent) => void) {
    this.#socket = socket;
    this.#event = event;
    this.ended.catch(() => undefined);
    const lines = createInterface({ input: socket, crlfDelay: Number.POSITIVE_INFINITY });
    lines.on('line', (line) => this.#take(JSON.parse(line) as LuodEvent));
    // 'close' follows, and tells.
    socket.on('error', () => undefined);
    socket.once('close', () => {
      const error = new LiveUpdateError('EPIPE', 'luod ended before it answered');
      for (const { reject } of this.#questions.values()) reject(error);
      this.#questions.clear();
      this.#ended.reject(new LiveUpdateError('EPIPE', 'luod ended'));
    });
  }

  /**
   * @param event Told of what luod says besides its answers.
   * @throws {LiveUpdateError} ENOENT or ECONNREFUSED when no luod listens there, EACCES when it is another user's.
   */
  static async open(path: string, event: (message: LuodEvent) => void): Promise<Asking> {
    const socket = createConnection({ path });
    try {
      await once(socket, 'connect');
    } catch (error) {
      throw explain(error, path);
    }
    return new Asking(socket, event);
  }

  #say(message: object): void {
    this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  #take(message: LuodEvent): void {
    const { type, id, ...reply } = message;
    if (type === 'restarted') this.#askAgain();
    else if (type === 'refused') this.#settle(this.#questions.keys().next().value, { ok: false, ...reply });
    else if (type === 'reply') this.#settle(id as number, reply as unknown as Reply);
    else {
      this.#event({ type, ...reply });
      // It was printed: luod waits for that before it leaves the kernel.
      if (type === 'farewell') this.#say({ type: 'goodbye' });
    }
  }

  #settle(id: number | undefined, reply: Reply): void {
    if (id === undefined) return;
    this.#questions.get(id)?.resolve(reply);
    this.#questions.delete(id);
  }

  /** The next luod throws away what it finds up to a 'resume', the first of which may end a line that was begun. */
  #askAgain(): void {
    this.#say({ type: 'resume' });
    this.#say({ type: 'resume' });
    if (this.#subscription !== undefined) this.#say(this.#subscription);
    for (const { request } of this.#questions.values()) this.#say({ ...request, retry: true });
  }

  /** @throws {LiveUpdateError} EPIPE when luod ended before it answered. */
  ask(question: { type: string; [field: string]: unknown }): Promise<Reply> {
    const id = this.#next++;
    // Known again by its key when luod is killed before it answers.
    const request = { ...question, id, key: randomUUID() };
    if (question.type === 'subscribe') this.#subscription = { type: 'subscribe' };
    const { promise, resolve, reject } = withResolvers<Reply>();
    this.#questions.set(id, { request, resolve, reject });
    this.#say(request);
    return promise;
  }

  close(): void {
    this.#socket.destroy();
  }
}

/**
 * Asks one question.
 * @param event Told of what luod says before its answer.
 * @throws {LiveUpdateError} ENOENT or ECONNREFUSED when no luod listens there, EACCES when it is another user's, EPIPE when
 *   luod ended before it answered.
 */
export async function ask(
  path: string,
  request: { type: string; [field: string]: unknown },
  event: (message: LuodEvent) => void = () => undefined,
): Promise<Reply> {
  const asking = await Asking.open(path, event);
  try {
    return await asking.ask(request);
  } finally {
    asking.close();
  }
}

function explain(error: unknown, path: string): LiveUpdateError {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ECONNREFUSED') {
    const text = `no luod listens at ${path}; start one with \`luod run -- COMMAND\` or \`luod serve\`, or name another with --socket`;
    return new LiveUpdateError(code, text, { cause: error });
  }
  if (code === 'EACCES')
    return new LiveUpdateError('EACCES', `${path} belongs to another user's luod`, { cause: error });
  return LiveUpdateError.from(error, { operation: 'ask' });
}
