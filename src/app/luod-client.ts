/**
 * Sessions that luod keeps for this program, by its protocol (docs/protocol.md): for files that are to outlive the program
 * without luod running it. The same in Python: examples/python/luod.py.
 */
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import type { Token } from '../core/types.js';
import { dial } from '../handover/dial.js';
import { ENV_SOCKET } from '../handover/protocol.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';

interface Answer {
  readonly message: WireMessage;
  readonly fds: number[];
}

/** Questions and answers over one wire, in order or not. */
class Conversation {
  readonly #wire: Wire;
  readonly #waiting = new Map<number, ReturnType<typeof withResolvers<Answer>>>();
  #next = 1;
  #ended: LiveUpdateError | undefined;

  constructor(fd: number) {
    this.#wire = new Wire(fd, {
      message: (message, fds) => this.#take(message, fds),
      closed: (error) => this.#end(error ?? new LiveUpdateError('EPIPE', 'luod closed the connection')),
    });
    this.#wire.unref();
  }

  get fd(): number {
    return this.#wire.fd;
  }

  #take(message: WireMessage, fds: number[]): void {
    if (message.type === 'refused') {
      this.#end(refusal(message));
      return;
    }
    const waiting = this.#waiting.get(message.id as number);
    if (waiting === undefined) {
      for (const fd of fds) closeFd(fd);
      return;
    }
    this.#waiting.delete(message.id as number);
    if (this.#waiting.size === 0) this.#wire.unref();
    if (message.ok === true) waiting.resolve({ message, fds });
    else waiting.reject(refusal(message));
  }

  #end(error: LiveUpdateError): void {
    this.#ended = error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  ask(request: WireMessage, fds: readonly number[] = []): Promise<Answer> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const id = this.#next++;
    const waiting = withResolvers<Answer>();
    this.#waiting.set(id, waiting);
    this.#wire.ref();
    this.#wire.send({ ...request, id }, fds);
    return waiting.promise;
  }

  close(): void {
    this.#wire.close();
    this.#end(new LiveUpdateError('EBADF', 'it is closed'));
  }
}

function refusal(message: WireMessage): LiveUpdateError {
  const { code, message: text } = message.error as { code: string; message: string };
  return LiveUpdateError.from(Object.assign(new Error(text), { code }));
}

/** What luod knows of a file that it keeps. */
export interface KeptDescriptor {
  readonly token: string;
  readonly kind: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

/** A connection to luod. */
export class LuodClient implements AsyncDisposable {
  readonly #conversation: Conversation;

  private constructor(fd: number) {
    this.#conversation = new Conversation(fd);
  }

  /**
   * @param path luod's socket; default: `LIVEUPDATE_SOCKET` of the environment.
   * @throws {LiveUpdateError} EINVAL without a path; ENOENT, ECONNREFUSED when no luod listens there; EACCES.
   */
  static async connect(path: string | undefined = process.env[ENV_SOCKET]): Promise<LuodClient> {
    if (path === undefined) {
      throw new LiveUpdateError('EINVAL', `give luod's socket, or set ${ENV_SOCKET}`, {
        operation: 'connect',
      });
    }
    return new LuodClient(await dial(path));
  }

  /**
   * A new session. With custody 'release' its files are let go when the last descriptor of it is closed; with 'hold' they stay
   * until the next owner, of the same user, finishes it.
   * @throws {LiveUpdateError} EINVAL for a name that is not 1 to 63 bytes without NUL; EEXIST; ENOSPC, EMFILE at luod's limits.
   */
  createSession(name: string, options: { custody?: 'release' | 'hold' } = {}): Promise<LuodSession> {
    return this.#session({ type: 'create_session', name, custody: options.custody ?? 'release' });
  }

  /**
   * A session that its owner left.
   * @throws {LiveUpdateError} ENOENT when none was left; EINVAL when it has its next owner already.
   */
  retrieveSession(name: string): Promise<LuodSession> {
    return this.#session({ type: 'retrieve_session', name });
  }

  async #session(request: WireMessage): Promise<LuodSession> {
    const { fds } = await this.#conversation.ask(request);
    if (fds[0] === undefined) throw new LiveUpdateError('EPROTO', 'a session without its descriptor');
    return new LuodSession(fds[0]);
  }

  /** Gives up what was left under a name, with its files. @returns how many sessions. @throws {LiveUpdateError} ENOENT, EBUSY. */
  async dropSession(name: string): Promise<number> {
    const { message } = await this.#conversation.ask({ type: 'drop_session', name });
    return message.dropped as number;
  }

  /** Closes the connection. Sessions live on. */
  close(): void {
    this.#conversation.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** A session of luod's, for as long as its descriptor, or a duplicate anywhere, is open. */
export class LuodSession implements AsyncDisposable {
  readonly #conversation: Conversation;

  /** Owns `fd`, which may have come from another process. */
  constructor(fd: number) {
    this.#conversation = new Conversation(fd);
  }

  /** The session's descriptor, to pass on. */
  get fd(): number {
    return this.#conversation.fd;
  }

  /**
   * Keeps the file behind `fd`, which may be closed afterwards.
   * @returns what luod found it to be.
   * @throws {LiveUpdateError} in this order: EINVAL: the session came from another owner. EEXIST: the token is in use. EBADF,
   *   ENOENT: luod keeps no such file. EBUSY: it is kept already. ENOSPC, EMFILE: luod's limits.
   */
  async preserve(fd: number, token: Token): Promise<string> {
    const { message } = await this.#conversation.ask({ type: 'preserve_fd', token: String(token) }, [fd]);
    return message.kind as string;
  }

  /** Takes a file out again. @throws {LiveUpdateError} EINVAL, ENOENT. */
  async unpreserve(token: Token): Promise<void> {
    await this.#conversation.ask({ type: 'unpreserve_fd', token: String(token) });
  }

  /**
   * A descriptor of the file under `token`, the caller's to close; again gives another one.
   * @throws {LiveUpdateError} EINVAL: the session is the caller's own. ENOENT: no such token, or finished.
   */
  async retrieve(token: Token): Promise<number> {
    const { fds } = await this.#conversation.ask({ type: 'retrieve_fd', token: String(token) });
    if (fds[0] === undefined) throw new LiveUpdateError('EPROTO', 'a file without its descriptor');
    return fds[0];
  }

  /** luod gives the files up, also those that were not retrieved. @throws {LiveUpdateError} EINVAL: the session is the caller's own. */
  async finish(): Promise<void> {
    await this.#conversation.ask({ type: 'finish' });
  }

  /** @throws {LiveUpdateError} EPIPE when luod is gone. */
  async getName(): Promise<string> {
    return (await this.#conversation.ask({ type: 'get_name' })).message.name as string;
  }

  /** What is kept. */
  async list(): Promise<KeptDescriptor[]> {
    return (await this.#conversation.ask({ type: 'list' })).message.files as KeptDescriptor[];
  }

  /** Gives this descriptor up; the last one decides what becomes of the session (see `LuodClient.createSession`). */
  close(): void {
    this.#conversation.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
