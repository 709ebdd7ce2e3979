/**
 * Sessions that luod keeps for this program, by its protocol (docs/protocol.md): for files that are to outlive the program
 * without luod running it. The same in Python: examples/python/luod.py.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { Token } from '../core/types.js';
import { dial } from '../handover/dial.js';
import { ENV_SOCKET } from '../handover/protocol.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd, dupFd } from '../linux/fd.js';

interface Answer {
  readonly message: WireMessage;
  readonly fds: number[];
}

interface Question {
  readonly request: WireMessage;
  /** Duplicates, in case it has to be asked again. */
  readonly fds: readonly number[];
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: LiveUpdateError) => void;
}

/**
 * Questions and answers over one wire. When luod is replaced, the wire is the same and the next luod says so: what was not
 * answered is asked again.
 */
class Conversation {
  readonly #wire: Wire;
  readonly #waiting = new Map<number, Question>();
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
    if (message.type === 'refused') this.#end(refusal(message));
    else if (message.type === 'restarted') this.#askAgain();
    const question = this.#settle(message.id as number);
    if (question === undefined) {
      for (const fd of fds) closeFd(fd);
    } else if (message.ok === true) question.resolve({ message, fds });
    else question.reject(refusal(message));
  }

  /** The next luod throws away what it finds, up to a 'resume'; the first of two may end a line that the last one began to read. */
  #askAgain(): void {
    this.#wire.send({ type: 'resume' });
    this.#wire.send({ type: 'resume' });
    for (const { request, fds } of this.#waiting.values()) this.#wire.send({ ...request, retry: true }, fds);
  }

  #settle(id: number): Question | undefined {
    const question = this.#waiting.get(id);
    if (question === undefined) return undefined;
    this.#waiting.delete(id);
    for (const fd of question.fds) closeFd(fd);
    if (this.#waiting.size === 0) this.#wire.unref();
    return question;
  }

  #end(error: LiveUpdateError): void {
    this.#ended = error;
    for (const id of [...this.#waiting.keys()]) this.#settle(id)?.reject(error);
  }

  /** @param fds Borrowed. */
  async ask(request: WireMessage, fds: readonly number[] = []): Promise<Answer> {
    if (this.#ended !== undefined) throw this.#ended;
    const asked = { ...request, id: this.#next++ };
    return await new Promise<Answer>((resolve, reject) => {
      this.#waiting.set(asked.id, { request: asked, fds: fds.map((fd) => dupFd(fd)), resolve, reject });
      this.#wire.ref();
      this.#wire.send(asked, fds);
    });
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

  /**
   * Has luod replace itself, by `binary` (the path of a luod.js) or by what its own file is now. Operators only.
   * @returns what luod is now.
   * @throws {LiveUpdateError} EPROTO when the new version cannot take over, and nothing has happened; EOPNOTSUPP; EACCES.
   */
  async selfUpdate(
    binary?: string,
  ): Promise<{ version: string; pid: number; sessions: number; services: number }> {
    const { message } = await this.#conversation.ask({ type: 'self_update', binary });
    return {
      version: message.version as string,
      pid: message.pid as number,
      sessions: message.sessions as number,
      services: message.services as number,
    };
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
