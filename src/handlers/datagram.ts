/**
 * A UDP socket of Node's (`dgram.Socket`), bound or connected.
 *
 * Nearly all of it is the kernel's and crosses with the descriptor: datagrams that wait to be read, the address and the peer, multicast
 * memberships, broadcast, TTL, loopback, the sizes of the buffers. Node reads one datagram at a time and emits it at once, so that
 * none waits in user space; from the freeze on the old image reads none. What is saved is the rest: which kind it is, and
 * datagrams that were sent and that the kernel did not take yet.
 *
 * The new image binds a socket of Node's to the descriptor whose reading is held back, as is what the program sends, until `start`,
 * after the commit. Node has no public way to the handle below; it is found by its symbol, and a Node without it is refused with
 * ENOSYS rather than trusted (20 to 26 have it).
 *
 * Not carried: a datagram to a host *name* that is still being looked up. One to an address waits for nothing.
 */
import { createSocket, Socket, type SocketType } from 'node:dgram';
import { isIP } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { closeFd } from '../linux/fd.js';
import { shareAddress, sharesAddress } from '../linux/socket-facts.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { recordedFileHandler } from './recorded-file.js';

const COMPATIBLE = 'liveupdate-datagram-v1';

/** Values of Node's own bindState and connectState. */
const BOUND = 2;
const DISCONNECTED = 0;
const CONNECTED = 2;

interface SendRequest {
  oncomplete?: (...args: unknown[]) => void;
}

type Lookup = (address: string | undefined, callback: (error: Error | null, ip?: string) => void) => void;

/** libuv's handle below a socket, as far as it is used here. */
interface UdpHandle {
  readonly fd: number;
  lookup: Lookup;
  recvStart(): number;
  recvStop(): number;
  close(): void;
  getpeername(out: object): number;
  /** The last arguments: port, address and whether there is a callback; or, of a connected socket, the last alone. */
  send(request: SendRequest, list: Uint8Array[], length: number, ...rest: unknown[]): number;
}

interface SocketState {
  handle: UdpHandle | null;
  bindState: number;
  connectState: number;
}

/** A datagram that libuv keeps until the kernel takes it. `port` and `address` are absent on a connected socket. */
interface Unsent {
  readonly bytes: Uint8Array;
  readonly port?: number;
  readonly address?: string;
}

interface Saved {
  readonly type: SocketType;
  readonly isOpen: boolean;
  readonly unsent: readonly Unsent[];
}

function stateOf(socket: Socket): SocketState {
  const symbol = Object.getOwnPropertySymbols(socket).find(
    ({ description }) => description === 'state symbol',
  );
  const state = symbol && (socket as unknown as Record<symbol, SocketState | undefined>)[symbol];
  if (state === undefined || !('bindState' in state) || !('connectState' in state)) {
    throw new LiveUpdateError('ENOSYS', `Node ${process.versions.node} hides the descriptor of a UDP socket`);
  }
  return state;
}

const known = new WeakMap<Socket, Datagrams>();

/** A UDP socket and what is on its way out. */
export class Datagrams {
  readonly socket: Socket;
  readonly #state: SocketState;
  readonly #unsent = new Set<Unsent>();
  #held: (() => void)[] | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.#state = stateOf(socket);
    this.#watchSending();
    known.set(socket, this);
  }

  /** @throws {LiveUpdateError} EINVAL when the socket is not bound (yet, or any more). */
  static of(socket: Socket): Datagrams {
    const { handle, bindState } = stateOf(socket);
    if (handle === null || bindState !== BOUND || handle.fd < 0) {
      const text = "the UDP socket is not bound: wait for 'listening' (or 'connect')";
      throw new LiveUpdateError('EINVAL', text, { operation: 'keep', handler: COMPATIBLE });
    }
    return known.get(socket) ?? new Datagrams(socket);
  }

  /**
   * A socket of Node's on a descriptor that another image opened; nothing is read or sent. Owns `fd` also when it throws.
   * @throws {LiveUpdateError} EINVAL when it is no UDP socket, or the record is damaged.
   */
  static adopt(fd: number, record: Uint8Array): Datagrams {
    let socket: Socket | undefined;
    try {
      const { type } = parse(record);
      socket = createSocket(type);
      const handle = stateOf(socket).handle as UdpHandle;
      // Node begins to read where it binds; a property of the handle's own stands before that.
      handle.recvStart = () => 0;
      // libuv sets SO_REUSEADDR on what it opens: others could then take the port.
      const shares = sharesAddress(fd);
      socket.bind({ fd, exclusive: true });
      if (!shares) shareAddress(fd, false);
    } catch (cause) {
      if (socket === undefined || (stateOf(socket).handle?.fd ?? -1) < 0) closeFd(fd);
      socket?.close();
      if (cause instanceof LiveUpdateError) throw cause;
      throw new LiveUpdateError('EINVAL', `no UDP socket: ${(cause as Error).message}`, {
        operation: 'adopt',
        handler: COMPATIBLE,
        cause,
      });
    }
    const datagrams = new Datagrams(socket);
    datagrams.#hold();
    datagrams.#findPeer();
    return datagrams;
  }

  /** The kernel knows whether there is a peer; Node's connect() would fail with EISCONN. */
  #findPeer(): void {
    const isConnected = this.#state.handle?.getpeername({}) === 0;
    this.#state.connectState = isConnected ? CONNECTED : DISCONNECTED;
  }

  /** Remembers what libuv could not send at once, and sends to addresses at once, without a turn for the resolver. */
  #watchSending(): void {
    const handle = this.#state.handle as UdpHandle;
    const { send, lookup } = handle;
    handle.lookup = (address, callback) => {
      if (address !== undefined && isIP(address) !== 0) callback(null, address);
      else lookup(address, callback);
    };
    handle.send = (request, list, length, ...rest) => {
      const { oncomplete } = request;
      let entry: Unsent | undefined;
      request.oncomplete = (...args) => {
        if (entry !== undefined) this.#unsent.delete(entry);
        oncomplete?.apply(request, args);
      };
      // The last word is whether to call back.
      const result = send.call(handle, request, list, length, ...rest.slice(0, -1), true);
      if (result === 0) {
        const [port, address] = rest.length > 1 ? (rest as [number, string]) : [];
        const to = port === undefined || address === undefined ? {} : { port, address };
        entry = { bytes: Buffer.concat(list), ...to };
        this.#unsent.add(entry);
      }
      return result;
    };
  }

  #hold(): void {
    const held: (() => void)[] = [];
    this.socket.send = (...args: unknown[]) => {
      held.push(() => Reflect.apply(Socket.prototype.send, this.socket, args));
    };
    this.#held = held;
  }

  get fd(): number {
    const fd = this.#state.handle?.fd ?? -1;
    if (fd < 0) throw new LiveUpdateError('EBADF', 'the UDP socket is closed', { handler: COMPATIBLE });
    return fd;
  }

  get isOpen(): boolean {
    return this.#state.handle !== null;
  }

  toRecord(): Buffer {
    const saved: Saved = {
      type: (this.socket as unknown as { type: SocketType }).type,
      isOpen: this.isOpen,
      unsent: [...this.#unsent],
    };
    return serializeValue(saved);
  }

  /** What changed until the freeze. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore(record: Uint8Array): void {
    const { isOpen, unsent } = parse(record);
    this.#findPeer();
    for (const one of unsent) this.#unsent.add(one);
    if (!isOpen && this.isOpen) this.socket.close();
  }

  /** After the commit: reads, and sends first what the old image had not sent. Once. */
  start(): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#held = undefined;
    delete (this.socket as Partial<Socket>).send;
    const { handle } = this.#state;
    if (handle === null) return;
    const unsent = [...this.#unsent];
    this.#unsent.clear();
    for (const { bytes, port, address } of unsent) {
      if (port === undefined) this.socket.send(bytes);
      else this.socket.send(bytes, port, address);
    }
    for (const act of held) this.#act(act);
    this.#whenHeard(() => {
      if (this.#state.handle !== handle) return;
      delete (handle as Partial<UdpHandle>).recvStart;
      handle.recvStart();
    });
  }

  /** Past the commit what the program did wrong before it must not stop the takeover. */
  #act(act: () => void): void {
    try {
      act();
    } catch (error) {
      process.nextTick(() => this.socket.emit('error', error));
    }
  }

  /** Calls back when somebody listens for datagrams: Node would throw them away. */
  #whenHeard(callback: () => void): void {
    const { socket } = this;
    if (socket.listenerCount('message') > 0) {
      callback();
      return;
    }
    const onListener = (event: string | symbol) => {
      if (event !== 'message') return;
      socket.off('newListener', onListener);
      callback();
    };
    socket.on('newListener', onListener);
  }

  /** Takes the socket from this image, which hears nothing of it: what the program still does with it throws. */
  sever(): void {
    const { handle } = this.#state;
    this.#state.handle = null;
    this.socket.emit = () => false;
    handle?.recvStop();
    // Cancels what libuv has not sent; the next image does it.
    handle?.close();
  }

  /** Gives an adopted socket up. */
  close(): void {
    if (this.isOpen) this.socket.close();
  }
}

function parse(record: Uint8Array): Saved {
  const saved = deserializeValue(record) as Saved;
  if (saved?.type === 'udp4' || saved?.type === 'udp6') return saved;
  throw new LiveUpdateError('EINVAL', 'a damaged record of a UDP socket', { handler: COMPATIBLE });
}

export function datagramHandler(handover: Handover): CarriedFileHandler<Datagrams> {
  return recordedFileHandler(
    handover,
    {
      compatible: COMPATIBLE,
      isOurs: (file) => file instanceof Datagrams,
      fds: (file) => [file.fd],
      toRecord: (file) => file.toRecord(),
      adopt: (record, takeFd) => Datagrams.adopt(takeFd(), record),
      restore: (file, record) => file.restore(record),
      abandon: (file) => file.close(),
    },
    {
      custody: (file) => ({ bytes: file.toRecord(), fds: [file.fd] }),
      toFile: (value) => (value instanceof Socket ? Datagrams.of(value) : undefined),
      toObject: ({ socket }) => socket,
      start: (file) => file.start(),
      sever: (file) => file.sever(),
      onGone: (file, callback) => {
        if (file.isOpen) file.socket.once('close', callback);
        else setImmediate(callback);
      },
    },
  );
}
