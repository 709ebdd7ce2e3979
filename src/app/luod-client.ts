/**
 * Sessions that luod keeps for this program, by its protocol (docs/protocol.md): for files that are to outlive the program
 * without luod running it. The same in Python: examples/python/luod.py.
 */
import { LiveUpdateError } from '../core/errors.js';
import { reportedError } from '../core/reported-error.js';
import type { Token } from '../core/types.js';
import { dial } from '../handover/dial.js';
import { ENV_SOCKET, PROTOCOL_VERSION } from '../handover/protocol.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd, dupFds } from '../linux/fd.js';

interface Answer {
  readonly message: WireMessage;
  readonly fds: number[];
}

interface Question {
  readonly request: object;
  /** Duplicates, in case it has to be asked again. */
  readonly fds: readonly number[];
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: LiveUpdateError) => void;
}

/** Bytes of a line of luod's: a list of everything may be long. */
const ANSWER_BYTES = 64 << 20;
/** Connections that end without a word before that is told: a luod does so to a user whom it does not know. */
const ATTEMPTS = 10;

/**
 * Questions and answers over one wire. When luod is replaced, the wire is the same and the next luod says so: what was not
 * answered is asked again.
 */
class Conversation {
  readonly #wire: Wire;
  /** By the id of the request; by the word and id of luo-agent's. */
  readonly #waiting = new Map<number | string, Question>();
  readonly #event: (answer: Answer) => void;
  #next = 1;
  #ended: LiveUpdateError | undefined;
  #isHeard = false;
  #isListening = false;

  /** @param event Told of what luod says unasked; owns the descriptors. */
  constructor(fd: number, event: (answer: Answer) => void = ({ fds }) => closeAll(fds)) {
    this.#event = event;
    this.#wire = new Wire(
      fd,
      {
        message: (message, fds) => this.#take(message, fds),
        closed: (error) => this.#end(error ?? new LiveUpdateError('EPIPE', 'luod closed the connection')),
      },
      { lineBytes: ANSWER_BYTES },
      // A luod that has no room says so and hangs up, maybe before it was asked anything.
      { hearsLastWord: true },
    );
    this.#wire.unref();
  }

  get fd(): number {
    return this.#wire.fd;
  }

  get isEnded(): boolean {
    return this.#ended !== undefined;
  }

  /** It ended before luod had said anything. */
  get isUnheard(): boolean {
    return this.isEnded && !this.#isHeard;
  }

  #take(message: WireMessage, fds: number[]): void {
    this.#isHeard = true;
    if (message.type === 'event') {
      this.#event({ message, fds });
      return;
    }
    if (message.type === 'refused') this.#end(refusal(message));
    else if (message.type === 'restarted') this.#askAgain();
    const id = message.cmd === undefined ? (message.id as number) : `${message.cmd} ${message.id}`;
    const question = this.#settle(id);
    if (question === undefined) closeAll(fds);
    else if (message.ok === true) question.resolve({ message, fds });
    else question.reject(refusal(message));
  }

  /** The next luod throws away what it finds, up to a 'resume'; the first of two may end a line that the last one began to read. */
  #askAgain(): void {
    this.#wire.send({ type: 'resume' });
    this.#wire.send({ type: 'resume' });
    for (const { request, fds } of this.#waiting.values()) this.#wire.send({ ...request, retry: true }, fds);
  }

  #settle(id: number | string): Question | undefined {
    const question = this.#waiting.get(id);
    if (question === undefined) return undefined;
    this.#waiting.delete(id);
    closeAll(question.fds);
    if (this.#waiting.size === 0 && !this.#isListening) this.#wire.unref();
    return question;
  }

  /** Keeps the event loop alive for what luod may say. */
  listen(): void {
    this.#isListening = true;
    this.#wire.ref();
  }

  #end(error: LiveUpdateError): void {
    this.#ended = error;
    for (const id of [...this.#waiting.keys()]) this.#settle(id)?.reject(error);
  }

  /** @param fds Borrowed. */
  async ask(request: WireMessage, fds: readonly number[] = []): Promise<Answer> {
    const id = this.#next++;
    return await this.#send(id, { ...request, id }, fds);
  }

  /** One of luo-agent's words, whose id is a program's. */
  async command(cmd: string, id: string): Promise<Answer> {
    const key = `${cmd} ${id}`;
    if (this.#waiting.has(key)) throw new LiveUpdateError('EBUSY', `${key} was not answered yet`);
    return await this.#send(key, { cmd, id }, []);
  }

  async #send(id: number | string, request: object, fds: readonly number[]): Promise<Answer> {
    if (this.#ended !== undefined) throw this.#ended;
    return await new Promise<Answer>((resolve, reject) => {
      this.#waiting.set(id, { request, fds: dupFds(fds), resolve, reject });
      this.#wire.ref();
      this.#wire.send(request, fds);
    });
  }

  close(): void {
    this.#wire.close();
    this.#end(new LiveUpdateError('EBADF', 'it is closed'));
  }
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeFd(fd);
}

function refusal(message: WireMessage): LiveUpdateError {
  return reportedError(message.error as { code: string; message: string });
}

/** What luod knows of a file that it keeps. */
export interface KeptDescriptor {
  readonly token: string;
  readonly kind: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
  /** FLBs that it depends on. */
  readonly flbs: readonly string[];
}

/** What luod holds as an FLB. */
export interface KeptFlb {
  readonly flb: string;
  readonly bytes: number;
  /** Kept files that depend on it. */
  readonly files: number;
  /** Whether the connection that registered it is there. */
  readonly registered: boolean;
  readonly ageSeconds: number;
}

/** Preserves what a program has in `session`; when it resolves luod is told that it is READY. */
export type Preserve = (session: LuodSession) => Promise<void>;

/**
 * A connection to luod. A luod that is replaced or killed takes it over; if it ended all the same (luod had no keeper, say), the next
 * request opens another. Sessions are gone then, and so is what was not answered: EPIPE.
 */
export class LuodClient implements AsyncDisposable {
  readonly #path: string;
  readonly #preserves = new Map<string, { preserve: Preserve; failed: (error: LiveUpdateError) => void }>();
  #conversation: Conversation;
  #isClosed = false;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#conversation = this.#converse(fd);
  }

  #converse(fd: number): Conversation {
    return new Conversation(fd, (event) => this.#hear(event));
  }

  /** The conversation, or a new one when luod ended the last. */
  async #open(): Promise<Conversation> {
    if (!this.#conversation.isEnded || this.#isClosed) return this.#conversation;
    const fd = await dial(this.#path);
    if (this.#conversation.isEnded) {
      this.#conversation = this.#converse(fd);
      for (const id of this.#preserves.keys()) await this.#conversation.command('SUBSCRIBE', id);
      if (this.#preserves.size > 0) this.#conversation.listen();
    } else closeFd(fd);
    return this.#conversation;
  }

  async #ask(request: WireMessage, fds: readonly number[] = []): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      const conversation = await this.#open();
      try {
        return await conversation.ask(request, fds);
      } catch (error) {
        // Let in by a luod that was killed before its keeper had the connection, which is before it read a request: nothing was done.
        if (!conversation.isUnheard || this.#isClosed || attempt === ATTEMPTS) throw error;
      }
    }
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
    return new LuodClient(path, await dial(path));
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
    const { fds } = await this.#ask(request);
    if (fds[0] === undefined) throw new LiveUpdateError('EPROTO', 'a session without its descriptor');
    return new LuodSession(fds[0]);
  }

  /** Gives up what was left under a name, with its files. @returns how many sessions. @throws {LiveUpdateError} ENOENT, EBUSY. */
  async dropSession(name: string): Promise<number> {
    const { message } = await this.#ask({ type: 'drop_session', name });
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
    const { message } = await this.#ask({ type: 'self_update', binary });
    return {
      version: message.version as string,
      pid: message.pid as number,
      sessions: message.sessions as number,
      services: message.services as number,
    };
  }

  /**
   * What luod speaks and allows.
   * @throws {LiveUpdateError} EPROTONOSUPPORT when it speaks no version that this client does.
   */
  async hello(): Promise<{ protocol: number; version: string; limits: Readonly<Record<string, number>> }> {
    const { message } = await this.#ask({
      type: 'hello',
      protocol: [PROTOCOL_VERSION],
      client: 'liveupdate',
    });
    const { protocol, version, limits } = message;
    return { protocol, version, limits } as Awaited<ReturnType<LuodClient['hello']>>;
  }

  /**
   * Registers memory that all of this user's programs can have by its name, and that luod keeps as long as any file depends on it
   * (`LuodSession.preserve`); or, without one, as long as this connection lives.
   * @param fd A memfd, which may be closed afterwards.
   * @throws {LiveUpdateError} EINVAL for a name that is not 1 to 47 bytes without NUL; EBADF, ENOENT for what is no memfd; EEXIST:
   *   `retrieveFlb` gives it; ENOSPC, EMFILE at luod's limits.
   */
  async registerFlb(name: string, fd: number): Promise<void> {
    await this.#ask({ type: 'register_flb', name }, [fd]);
  }

  /** @returns a descriptor of an FLB's memory, the caller's to close. @throws {LiveUpdateError} ENOENT. */
  async retrieveFlb(name: string): Promise<number> {
    const { fds } = await this.#ask({ type: 'retrieve_flb', name });
    if (fds[0] === undefined) throw new LiveUpdateError('EPROTO', 'an FLB without its descriptor');
    return fds[0];
  }

  /** Ends the registration. @returns how many files keep the memory all the same. @throws {LiveUpdateError} ENOENT. */
  async unregisterFlb(name: string): Promise<number> {
    return (await this.#ask({ type: 'unregister_flb', name })).message.files as number;
  }

  /** This user's FLBs. */
  async listFlbs(): Promise<KeptFlb[]> {
    return (await this.#ask({ type: 'list_flbs' })).message.flbs as KeptFlb[];
  }

  /**
   * Has luod call `preserve` with a session when everything is about to be replaced (`luoctl preserve`). Keeps the event loop alive.
   * @param id A name of this program's own, by which its next image says `claim`.
   * @param failed Told when `preserve` throws: luod hears nothing, and tells the operator who is late.
   * @throws {LiveUpdateError} EEXIST when another program of this user has the id; EINVAL for a name that is none.
   */
  async subscribe(
    id: string,
    preserve: Preserve,
    failed: (error: LiveUpdateError) => void = (error) => process.emitWarning(error),
  ): Promise<void> {
    const conversation = await this.#open();
    await conversation.command('SUBSCRIBE', id);
    this.#preserves.set(id, { preserve, failed });
    conversation.listen();
  }

  /** What the image before preserved. @throws {LiveUpdateError} ENOENT when nothing was; EINVAL when it is claimed. */
  async claim(id: string): Promise<LuodSession> {
    const { fds } = await (await this.#open()).command('CLAIM', id);
    if (fds[0] === undefined) throw new LiveUpdateError('EPROTO', 'a session without its descriptor');
    return new LuodSession(fds[0]);
  }

  #hear({ message, fds }: Answer): void {
    const id = String(message.id);
    const subscriber = this.#preserves.get(id);
    const [fd] = fds;
    if (message.event !== 'START_PRESERVATION' || subscriber === undefined || fd === undefined) {
      closeAll(fds);
      return;
    }
    const session = new LuodSession(fd);
    const conversation = this.#conversation;
    subscriber
      .preserve(session)
      .then(() => conversation.command('READY', id))
      .catch(async (error: unknown) => {
        subscriber.failed(LiveUpdateError.from(error, { operation: 'preserve', session: id }));
        // Half of it is of no use, and its name has to be free for the next time.
        await session.abandon();
      })
      // luod is gone, and the session with it.
      .catch(() => session.close());
  }

  /** Closes the connection. Sessions live on. */
  close(): void {
    this.#isClosed = true;
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
   * @param options.flbs FLBs that the file depends on: luod keeps them as long as it keeps the file.
   * @returns what luod found it to be.
   * @throws {LiveUpdateError} in this order: EINVAL: the session came from another owner. EEXIST: the token is in use. EBADF,
   *   ENOENT: luod keeps no such file. EBUSY: it is kept already. ENOENT: no such FLB. ENOSPC, EMFILE: luod's limits.
   */
  async preserve(fd: number, token: Token, options: { flbs?: readonly string[] } = {}): Promise<string> {
    const request = { type: 'preserve_fd', token: String(token), flbs: options.flbs };
    const { message } = await this.#conversation.ask(request, [fd]);
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

  /**
   * Ends the session now, for every process that has it, as if the last descriptor were closed.
   * @throws {LiveUpdateError} EPIPE when luod is gone.
   */
  async closeNow(): Promise<void> {
    await this.#conversation.ask({ type: 'close' });
    this.close();
  }

  /** Takes everything out again, so that nothing is held, and ends the session. */
  async abandon(): Promise<void> {
    for (const { token } of await this.list()) await this.unpreserve(BigInt(token));
    await this.closeNow();
  }

  /** Gives this descriptor up; the last one decides what becomes of the session (see `LuodClient.createSession`). */
  close(): void {
    this.#conversation.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
