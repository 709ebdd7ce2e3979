/**
 * What `ws` 8 keeps in private about a WebSocket, taken out in one image and put into a new one in the next.
 *
 * The package is the program's own: nothing here imports it. Its classes come from the program's `WebSocketServer`, and a
 * WebSocket that crossed is made by the server's own handshake, replayed on the socket with the answer muted: so whatever
 * the server sets on a new one (options, limits, listeners, `clients`) is set on this one. Private are only the state
 * of the parser and of the sender, and the deflate extension's way to zlib; these are pinned by `probe`, which carries half a
 * frame from one WebSocket to another before the program relies on it.
 *
 * The parser's state is plain data, and so is what the program has sent and waits for zlib. zlib's state is not to be had:
 * deflating begins anew, which any peer understands, since a fresh stream refers to nothing; inflating goes on with the last bytes
 * it gave out as its dictionary (`InflatedWindow`).
 */
import type { EventEmitter } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { createRequire } from 'node:module';
import { Duplex, type Writable } from 'node:stream';
import { type ErrorContext, LiveUpdateError } from '../core/errors.js';

export const OPEN = 1;
const DEFLATE = 'permessage-deflate';

/** The parser waits for bytes in the states up to this one; in later ones for zlib, or for the next turn of the loop. */
const LAST_WAITING_STATE = 4;

/** What the two sides agreed on for compression. */
export interface DeflateParams {
  readonly server_no_context_takeover?: true;
  readonly client_no_context_takeover?: true;
  readonly server_max_window_bits?: number;
  readonly client_max_window_bits?: number;
}

type Inflated = (error: Error | null, bytes?: Buffer) => void;

export interface Deflate {
  readonly params: DeflateParams | null;
  _options: { zlibInflateOptions?: object };
  decompress(bytes: Buffer, isLast: boolean, callback: Inflated): void;
  compress(data: string | Uint8Array, isLast: boolean, callback: (...args: unknown[]) => void): void;
}

interface ParserFields {
  _state: number;
  _fin: boolean;
  _opcode: number;
  _masked: boolean;
  _mask: Uint8Array | undefined;
  _compressed: boolean;
  _fragmented: number;
  _payloadLength: number;
  _totalPayloadLength: number;
  _messageLength: number;
  /** Since 8.21. */
  _numFragments?: number;
  _fragments: Uint8Array[];
  _buffers: Uint8Array[];
  _bufferedBytes: number;
}

const NUMBERS = [
  '_state',
  '_opcode',
  '_fragmented',
  '_payloadLength',
  '_totalPayloadLength',
  '_messageLength',
  '_bufferedBytes',
] as const;
const FLAGS = ['_fin', '_masked', '_compressed'] as const;
const LISTS = ['_fragments', '_buffers'] as const;

/** What the parser's sender knows of a frame besides its bytes. */
interface FrameOptions {
  readonly opcode: number;
  readonly fin: boolean;
}

type Data = string | Uint8Array;
type Dispatch = (data: Data, compress: boolean, options: FrameOptions, callback: unknown) => void;

interface SenderFields {
  /** 0 at rest, 1 while zlib has a frame, 2 while a Blob is read. */
  _state: number;
  /** What waits for that: by what method (`dispatch`, or another for a Blob), and its arguments. */
  _queue: [unknown, ...Parameters<Dispatch>][];
  _firstFragment: boolean;
  _compress: boolean;
  /** Sends a frame, by zlib if it is to be compressed. */
  dispatch: Dispatch;
  send(data: Data, options: { binary: boolean; compress: boolean; fin: boolean; mask: boolean }): void;
  ping(data: Data, mask: boolean): void;
  pong(data: Data, mask: boolean): void;
}

const DEFLATING = 1;
const PING = 9;
const PONG = 10;
const BINARY = 2;
const CONTINUATION = 0;

/** A `WebSocket` of `ws`. */
export interface WebSocketInternals extends EventEmitter {
  readonly readyState: number;
  readonly isPaused: boolean;
  readonly protocol: string;
  binaryType: string;
  pause(): void;
  resume(): void;
  close(code?: number, reason?: string): void;
  terminate(): void;
  _extensions: Record<string, Deflate | undefined>;
  _receiver: Writable & ParserFields & { _loop: boolean };
  _sender: SenderFields;
  _socket: Duplex;
}

type Upgraded = (ws: WebSocketInternals, request: IncomingMessage) => void;
type HandleUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer, callback: Upgraded) => void;

/** A `WebSocketServer` of `ws`. */
export interface ServerInternals extends EventEmitter {
  readonly clients?: Set<unknown>;
  readonly options: Record<string, unknown> & {
    readonly perMessageDeflate?: object | false;
    readonly WebSocket: new (...args: never[]) => unknown;
  };
  handleUpgrade: HandleUpgrade;
  completeUpgrade(...args: unknown[]): void;
}

/** A parser in the middle of a message, or of a frame. */
type SavedParser = ParserFields;

/** A frame that the program has sent, and of which no byte has left: zlib has it, or it waits for zlib. */
export interface UnsentFrame {
  readonly opcode: number;
  readonly fin: boolean;
  readonly compress: boolean;
  readonly data: Data;
}

/** What the handshake brought, for good. */
export interface Agreed {
  readonly protocol: string;
  readonly deflate?: DeflateParams | undefined;
}

/** What a WebSocket is in the middle of; absent where it is as in a new one. */
export interface Resumed {
  readonly parser?: SavedParser | undefined;
  /** In the middle of a message that the program sends in fragments: whether it is compressed. */
  readonly sending?: { readonly compress: boolean } | undefined;
  readonly unsent?: readonly UnsentFrame[] | undefined;
  readonly binaryType?: string | undefined;
}

/** The compression of `ws`, if the two sides agreed on one. */
export function deflateOf(ws: WebSocketInternals): Deflate | undefined {
  return ws._extensions[DEFLATE];
}

/** Whether nothing that came is in the hands of zlib or of the event loop, nothing that goes a Blob's, and it is not about to end. */
export function isAtRest(ws: WebSocketInternals): boolean {
  const { _receiver: parser, _sender: sender, _socket: socket } = ws;
  return (
    ws.readyState === OPEN &&
    !socket.writableEnded &&
    !socket.readableEnded &&
    parser.writableLength === 0 &&
    !parser._loop &&
    parser._state <= LAST_WAITING_STATE &&
    sender._state <= DEFLATING &&
    sender._queue.every(([method]) => method === sender.dispatch)
  );
}

/** The frame that zlib is at work on; `read` tells it as long as there is one. */
export function watchDeflating(
  ws: WebSocketInternals,
  deflate: Deflate,
): { read(): UnsentFrame | undefined } {
  const { _sender: sender } = ws;
  const { dispatch } = sender;
  const { compress: deflating } = deflate;
  let frame: UnsentFrame | undefined;
  sender.dispatch = (data, compress, options, callback) => {
    if (compress) frame = toFrame(data, compress, options);
    dispatch.call(sender, data, compress, options, callback);
  };
  deflate.compress = (data, isLast, callback) =>
    deflating.call(deflate, data, isLast, (...args) => {
      frame = undefined;
      callback(...args);
    });
  return { read: () => frame };
}

function toFrame(data: Data, compress: boolean, { opcode, fin }: FrameOptions): UnsentFrame {
  return { opcode, fin, compress, data };
}

export function agreedOn(ws: WebSocketInternals): Agreed {
  return { protocol: ws.protocol, deflate: deflateOf(ws)?.params ?? undefined };
}

/**
 * Of a WebSocket at rest, what it is in the middle of. Copies nothing.
 * @param deflating What zlib is at work on: no byte of it has been sent, so it is compressed again.
 * @returns undefined when it is in the middle of nothing.
 */
export function saveWebSocket(ws: WebSocketInternals, deflating?: UnsentFrame): Resumed | undefined {
  const { _receiver: parser, _sender: sender, binaryType } = ws;
  const isQuiet = isBetweenMessages(parser) && sender._firstFragment && sender._queue.length === 0;
  if (isQuiet && deflating === undefined && binaryType === 'nodebuffer') return undefined;
  const unsent = sender._queue.map(([, data, compress, options]) => toFrame(data, compress, options));
  if (deflating !== undefined) unsent.unshift(deflating);
  return {
    parser: isBetweenMessages(parser) ? undefined : pick(parser),
    sending: sender._firstFragment ? undefined : { compress: sender._compress },
    unsent: unsent.length === 0 ? undefined : unsent,
    binaryType: binaryType === 'nodebuffer' ? undefined : binaryType,
  };
}

function isBetweenMessages(parser: ParserFields): boolean {
  return parser._state === 0 && parser._fragmented === 0 && parser._bufferedBytes === 0;
}

function pick(parser: ParserFields): SavedParser {
  const saved: Record<string, unknown> = { _mask: parser._mask };
  for (const key of [...NUMBERS, ...FLAGS, ...LISTS]) saved[key] = parser[key];
  if (parser._numFragments !== undefined) saved._numFragments = parser._numFragments;
  return saved as unknown as SavedParser;
}

/** The saved bytes are a view of the whole handover's record, which must not live as long as they do. */
function copyOf(bytes: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  copy.set(bytes);
  return copy;
}

/** In the place of a server's `clients`, for a WebSocket that the program is not to see before the commit. */
export class HiddenClients {
  readonly #clients: Set<unknown> | undefined;
  #hidden: unknown;

  constructor(clients: Set<unknown> | undefined) {
    this.#clients = clients;
  }

  add(ws: unknown): void {
    this.#hidden = ws;
  }

  delete(ws: unknown): boolean {
    this.#hidden = undefined;
    return this.#clients?.delete(ws) ?? false;
  }

  get size(): number {
    return this.#clients?.size ?? 0;
  }

  /** From now on it is one of the server's. */
  show(): void {
    if (this.#hidden !== undefined) this.#clients?.add(this.#hidden);
  }
}

/**
 * Makes a WebSocket of `server` on a socket that has delivered nothing yet, and delivers nothing now.
 * @returns undefined when the server takes nobody any more.
 */
export function openWebSocket(
  server: ServerInternals,
  socket: Duplex,
  agreed: Agreed,
  clients: HiddenClients,
): WebSocketInternals | undefined {
  // A server without `clientTracking` has none.
  return replayHandshake(server, socket, agreed, server.clients === undefined ? {} : { clients });
}

/** Lets it go on as `saved` says; what is to be sent follows with `resumeSending`. */
export function restoreWebSocket(ws: WebSocketInternals, { parser, binaryType }: Resumed): void {
  if (binaryType !== undefined) ws.binaryType = binaryType;
  if (parser === undefined) return;
  Object.assign(ws._receiver, parser, {
    _mask: parser._mask && copyOf(parser._mask),
    _fragments: parser._fragments.map(copyOf),
    _buffers: parser._buffers.map(copyOf),
  });
}

/** In the next image: what the program had sent goes on. Once the WebSocket is watched. */
export function resumeSending({ _sender: sender }: WebSocketInternals, saved: Resumed): void {
  const { unsent = [] } = saved;
  const first = unsent.find(({ opcode }) => opcode < PING);
  // Where the sender was before the first of these frames.
  const within = first === undefined ? saved.sending : first.opcode === CONTINUATION ? first : undefined;
  if (within !== undefined) {
    sender._firstFragment = false;
    sender._compress = within.compress;
  }
  for (const { opcode, fin, compress, data } of unsent) {
    if (opcode === PING) sender.ping(data, false);
    else if (opcode === PONG) sender.pong(data, false);
    else sender.send(data, { binary: opcode === BINARY, compress, fin, mask: false });
  }
}

/** A request that the server's own checks take; the key is answered to nobody. */
function handshakeOf({ protocol, deflate }: Agreed): IncomingMessage {
  const headers: Record<string, string> = {
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': `${'A'.repeat(22)}==`,
  };
  // A name that parses; the handshake's `handleProtocols` gives the real one.
  if (protocol !== '') headers['sec-websocket-protocol'] = 'any';
  if (deflate !== undefined) {
    const params = Object.entries(deflate).map(([name, value]) =>
      value === true ? name : `${name}=${value}`,
    );
    headers['sec-websocket-extensions'] = [DEFLATE, ...params].join('; ');
  }
  return { method: 'GET', url: '/', headers, socket: {} } as unknown as IncomingMessage;
}

/** As offered, so agreed: of the server's own conditions none may change what was agreed on before. */
const UNCONDITIONAL = {
  serverNoContextTakeover: undefined,
  clientNoContextTakeover: undefined,
  serverMaxWindowBits: undefined,
  clientMaxWindowBits: undefined,
};

function replayHandshake(
  server: ServerInternals,
  socket: Duplex,
  agreed: Agreed,
  changed: Record<string, unknown> = {},
): WebSocketInternals | undefined {
  const { handleUpgrade, completeUpgrade } = ownerOf(server, 'completeUpgrade') as ServerInternals;
  const { perMessageDeflate } = server.options;
  const differences: Record<string | symbol, unknown> = {
    options: {
      ...server.options,
      verifyClient: null,
      handleProtocols: () => agreed.protocol,
      perMessageDeflate: agreed.deflate !== undefined && { ...perMessageDeflate, ...UNCONDITIONAL },
      ...((changed.options as object | undefined) ?? {}),
    },
    completeUpgrade,
    shouldHandle: () => true,
    // 'headers' would tell the program of a handshake that it has seen before.
    emit: (event: string, ...args: unknown[]) => event !== 'headers' && server.emit(event, ...args),
    ...('clients' in changed ? { clients: changed.clients } : {}),
  };
  const stand = new Proxy(server, {
    get: (target, key) => (Object.hasOwn(differences, key) ? differences[key] : Reflect.get(target, key)),
  });
  let made: WebSocketInternals | undefined;
  const muted = socket as Partial<Pick<Duplex, 'write' | 'end'>>;
  const { write, end } = socket;
  muted.write = () => true;
  muted.end = () => socket;
  try {
    handleUpgrade.call(stand, handshakeOf(agreed), socket, Buffer.alloc(0), (ws) => {
      made = ws;
    });
  } finally {
    // Not deleted: V8 makes a slow dictionary of an object that loses properties.
    muted.write = write;
    muted.end = end;
  }
  return made;
}

/** The prototype that has `method` itself: the package's own class, below whatever the program derived from it. */
function ownerOf(object: object, method: string): object | undefined {
  for (let proto: object | null = object; proto !== null; proto = Object.getPrototypeOf(proto)) {
    if (Object.hasOwn(proto, method)) return proto;
  }
  return undefined;
}

/**
 * Whether what this module knows of `ws` holds for the one that `server` is of: carries half a frame.
 * @throws {LiveUpdateError} EINVAL for what is no `WebSocketServer`; ENOSYS for a `ws` of other insides.
 */
export function probe(server: ServerInternals, names: ErrorContext): void {
  if (ownerOf(server, 'completeUpgrade') === undefined || typeof server.options?.WebSocket !== 'function')
    throw new LiveUpdateError('EINVAL', "it is no WebSocketServer of the package 'ws', version 8", names);
  let missing: string | undefined;
  try {
    missing = carryHalfAFrame(server);
  } catch (error) {
    missing = LiveUpdateError.from(error).message;
  }
  if (missing === undefined) return;
  throw new LiveUpdateError(
    'ENOSYS',
    `the connections of this 'ws' (${versionOfWs()}) cannot cross: ${missing}; 8.18 to 8.23 are known to work`,
    names,
  );
}

/** A masked frame with the text 'probe', the mask being zero. */
const FRAME = Buffer.from([0x81, 0x85, 0, 0, 0, 0, ...Buffer.from('probe')]);

/** One that is of nobody's and connected to nothing; of the package's own class, since the program's may count. */
function openScratch(server: ServerInternals, agreed: Agreed): WebSocketInternals | undefined {
  const base = ownerOf(server.options.WebSocket.prototype as object, 'setSocket')?.constructor;
  return replayHandshake(server, new Duplex({ read: () => undefined, write: () => undefined }), agreed, {
    options: { WebSocket: base, allowSynchronousEvents: true },
    clients: undefined,
  });
}

/** How often a rehearsal builds: the first fifty take ten times as long as the rest. */
const REHEARSED = 100;

/** Builds WebSockets as the cut will, with nothing at stake, so that it finds the code compiled. */
export function rehearse(server: ServerInternals): void {
  const deflate = server.options.perMessageDeflate ? {} : undefined;
  for (let i = 0; i < REHEARSED; i++) openScratch(server, { protocol: '', deflate });
}

/** @returns what is not as it should be. */
function carryHalfAFrame(server: ServerInternals): string | undefined {
  const open = (agreed: Agreed) => openScratch(server, agreed);
  const before = open({ protocol: 'probe', deflate: { client_max_window_bits: 10 } });
  const after = open({ protocol: 'probe', deflate: {} });
  if (before === undefined || after === undefined) return 'a handshake cannot be replayed';
  // Neither is closed: nothing else has them, and closing one of other insides may throw, later and in nobody's reach.
  const missing = missingOf(before);
  if (missing !== undefined) return `${missing} is not what it was`;
  before._sender._state = DEFLATING;
  before._sender.send('waits', { binary: false, compress: true, fin: true, mask: false });
  const [frame, ...others] = saveWebSocket(before)?.unsent ?? [];
  if (frame?.opcode !== 1 || !frame.fin || !frame.compress || frame.data !== 'waits' || others.length > 0)
    return 'what waits to be sent is not where it was';
  before._receiver.write(FRAME.subarray(0, 8));
  const parser = saveWebSocket(before)?.parser;
  if (parser === undefined || !isAtRest(before)) return 'half a frame is not where it was';
  Object.assign(after._receiver, parser);
  let text = '';
  after.on('message', (bytes: Buffer) => {
    text = bytes.toString();
  });
  after._receiver.write(FRAME.subarray(8));
  return text === 'probe' ? undefined : 'half a frame does not go on';
}

function missingOf(ws: WebSocketInternals): string | undefined {
  const { _receiver: parser, _sender: sender } = ws;
  const deflate = deflateOf(ws);
  const checks: Record<string, boolean> = {
    WebSocket: ws.readyState === OPEN && ws.protocol === 'probe' && ws.isPaused === false,
    '_socket and _receiver': ws._socket instanceof Duplex && typeof parser?.write === 'function',
    '_receiver._loop': typeof parser?._loop === 'boolean',
    '_sender._state': sender?._state === 0,
    '_sender._queue': Array.isArray(sender?._queue),
    '_sender.dispatch()': typeof sender?.dispatch === 'function',
    '_sender._firstFragment': sender?._firstFragment === true && typeof sender._compress === 'boolean',
    'the compression': deflate?.params?.client_max_window_bits === 10,
    '_options of the compression': typeof deflate?._options === 'object',
    'compress() and decompress()':
      typeof deflate?.compress === 'function' && typeof deflate.decompress === 'function',
  };
  for (const key of NUMBERS) checks[`_receiver.${key}`] = typeof parser?.[key] === 'number';
  for (const key of FLAGS) checks[`_receiver.${key}`] = typeof parser?.[key] === 'boolean';
  for (const key of LISTS) checks[`_receiver.${key}`] = Array.isArray(parser?.[key]);
  return Object.keys(checks).find((name) => !checks[name]);
}

/** For people: the program may have more than one. */
function versionOfWs(): string {
  try {
    const { version } = createRequire(`${process.argv[1] ?? process.cwd()}/`)('ws/package.json') as {
      version: string;
    };
    return version;
  } catch {
    // Bundled, or under another name.
    return 'of an unknown version';
  }
}
