/**
 * A client's keep-alive connection: one request at a time, every byte of the reply accounted for, and for each failure a kind:
 *
 *   refused   nobody listens                    closed    ended (FIN) with a request under way
 *   connect   another failure to connect        reset     reset with a request under way
 *   status    a reply, but not 200              wrong     a reply that is not the one that is due
 *   timeout   no reply in time
 *
 * No request is ever sent again: a client cannot know whether it was done.
 */
import net from 'node:net';
import { BODY_BYTES, lettersOf } from './programs/application.mjs';

const TIMEOUT_MS = 10_000;
const HEAD_END = Buffer.from('\r\n\r\n');
const EMPTY = Buffer.alloc(0);

export class Failure extends Error {
  constructor(kind, message) {
    super(message ?? kind);
    this.kind = kind;
  }
}

export class HttpConnection {
  #socket;
  #bytes = EMPTY;
  /** The request under way: { number, resolve, reject, timer }. */
  #due;
  #onClose;

  /** `onClose` is called when an open connection ends, with a request under way or not. */
  constructor(onClose) {
    this.#onClose = onClose;
  }

  get isOpen() {
    return this.#socket !== undefined;
  }

  /** @throws {Failure} refused, connect. */
  async connect(port) {
    const socket = net.connect(port, '127.0.0.1');
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', ({ code, message }) =>
        reject(new Failure(code === 'ECONNREFUSED' ? 'refused' : 'connect', message)),
      );
    });
    socket.setNoDelay(true);
    this.#socket = socket;
    this.#bytes = EMPTY;
    let error;
    socket.on('error', (cause) => {
      error = cause;
    });
    socket.on('data', (bytes) => this.#take(bytes));
    socket.on('end', () => this.#ended(socket, 'closed'));
    socket.on('close', () => this.#ended(socket, error === undefined ? 'closed' : 'reset'));
  }

  #ended(socket, kind) {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    socket.destroy();
    this.#onClose();
    this.#fail(new Failure(kind));
  }

  #fail(failure) {
    const due = this.#due;
    if (due === undefined) return;
    this.#due = undefined;
    clearTimeout(due.timer);
    due.reject(failure);
  }

  /** Resolves to { version, counter, cache }. @throws {Failure} */
  request(number) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(new Failure('timeout'));
        this.close();
      }, TIMEOUT_MS);
      this.#due = { number, resolve, reject, timer };
      this.#socket.write(`GET /${number} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    });
  }

  #take(bytes) {
    this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes]);
    const headEnd = this.#bytes.indexOf(HEAD_END);
    if (headEnd === -1) return;
    const { status, headers } = parseHead(this.#bytes.toString('latin1', 0, headEnd));
    const bodyStart = headEnd + HEAD_END.length;
    const length = Number(headers['content-length']);
    if (!Number.isSafeInteger(length)) return this.#spoil('status', `${status}, without a length`);
    if (this.#bytes.length < bodyStart + length) return;
    const due = this.#due;
    if (due === undefined || this.#bytes.length > bodyStart + length)
      return this.#spoil('wrong', 'more than was asked for');
    const body = this.#bytes.subarray(bodyStart);
    this.#bytes = EMPTY;
    if (status !== 200) this.#fail(new Failure('status', String(status)));
    else if (!isReply(body, due.number)) return this.#spoil('wrong', 'another body than is due');
    else {
      this.#due = undefined;
      clearTimeout(due.timer);
      due.resolve({
        version: headers['x-version'],
        counter: Number(headers['x-counter']),
        cache: headers['x-cache'],
      });
    }
    // The server's word that it will close; a client closes first, so that no request gets into the way.
    if (headers.connection?.toLowerCase() === 'close') {
      const socket = this.#socket;
      if (socket !== undefined) this.#ended(socket, 'closed');
    }
  }

  #spoil(kind, message) {
    this.#fail(new Failure(kind, message));
    this.close();
  }

  /** Ends it from this side; `onClose` is not called. */
  close() {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.destroy();
    this.#fail(new Failure('closed'));
  }
}

function parseHead(text) {
  const [first, ...lines] = text.split('\r\n');
  const headers = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { status: Number(first.split(' ')[1]), headers };
}

function isReply(body, number) {
  if (body.length !== BODY_BYTES) return false;
  const lineEnd = body.indexOf(10);
  const [, answered] = /^request (\d+) version \S+ pid \d+$/.exec(body.toString('latin1', 0, lineEnd)) ?? [];
  if (Number(answered) !== number) return false;
  return body.subarray(lineEnd + 1).equals(lettersOf(number).subarray(lineEnd + 1));
}
