/**
 * A listening TCP or unix socket. Its queue of connections that nobody has accepted yet is the kernel's, so not one is
 * refused or reset while the images change places.
 *
 * The new image binds its own `net.Server` to the descriptor but accepts nothing until `start`, after the commit: a
 * connection that a refused image had accepted would be lost with it.
 */
import { type AddressInfo, Server } from 'node:net';
import { LiveUpdateError } from '../core/errors.js';
import type { FileOpArgs } from '../core/types.js';
import { stopWatching } from '../linux/epoll.js';
import { closeFd, replaceFd } from '../linux/fd.js';
import { handleFd } from '../linux/handle-fd.js';
import { openUnreachableListener } from '../linux/listen-socket.js';
import { isListening } from '../linux/socket-facts.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { openSharedPort, type SharedListenOptions } from './shared-port.js';

const COMPATIBLE = 'liveupdate-listener-v1';

/** No path: the kernel chose the name. */
const UNREACHABLE = '\0';

/** Where a listener listens: a TCP address, or the path of a unix socket. */
export type ListenerAddress = AddressInfo | string;

interface Saved {
  readonly address: ListenerAddress;
  readonly backlog: number | undefined;
}

/** What Node has of a server, in 20 to 26. */
type ServerInternals = Omit<Server, never> & {
  _handle: { readonly fd: number; close(): void; unref(): void } | null;
  _emitCloseIfDrained(): void;
};

/** Handles that are open and do nothing: one that is collected would be closed. */
const inert = new Set<object>();

export class Listener {
  readonly address: ListenerAddress;
  readonly backlog: number | undefined;
  #server: Server | undefined;
  #fd: number | undefined;

  private constructor(saved: Saved, server: Server | undefined, fd: number | undefined) {
    this.address = saved.address;
    this.backlog = saved.backlog;
    this.#server = server;
    this.#fd = fd;
  }

  /**
   * Makes `server` listen; with `reusePort`, beside other processes.
   * @throws {LiveUpdateError} the errno of bind(2) and listen(2): EADDRINUSE, EACCES, EADDRNOTAVAIL, ...; EINVAL for
   *   options that Node does not take.
   */
  static async open(server: Server, options: SharedListenOptions): Promise<Listener> {
    const what = options.path ?? `${options.host ?? '*'}:${options.port ?? 0}`;
    const fd = await sharedPort(options, what);
    const { backlog, signal } = options;
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error) => reject(listenError(error, what));
      server.once('error', failed);
      try {
        server.listen(fd === undefined ? options : { fd, backlog, signal }, () => {
          server.off('error', failed);
          resolve();
        });
      } catch (error) {
        server.off('error', failed);
        // What is thrown is found before the descriptor is taken.
        if (fd !== undefined) closeFd(fd);
        reject(listenError(error, what));
      }
    });
    return Listener.of(server, backlog);
  }

  /** The listener of a server that listens already. @throws {LiveUpdateError} EINVAL when it does not. */
  static of(server: Server, backlog?: number): Listener {
    const address = server.address();
    const fd = handleFd(server);
    if (address === null || fd === undefined)
      throw new LiveUpdateError('EINVAL', 'the server does not listen');
    return new Listener({ address, backlog }, server, undefined);
  }

  /** A listener that came from another image; owns `fd` also when it throws. @throws {LiveUpdateError} EINVAL. */
  static adopt(fd: number, record: Uint8Array): Listener {
    try {
      const saved = parse(record);
      if (!isListening(fd)) throw new LiveUpdateError('EINVAL', 'the descriptor is no listening socket');
      return new Listener(saved, undefined, fd);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /** Has `server` listen where nobody can connect. @throws {LiveUpdateError} EMFILE, ENFILE. */
  static unreachable(server: Server): Listener {
    const fd = openUnreachableListener();
    const listener = new Listener({ address: UNREACHABLE, backlog: undefined }, undefined, fd);
    listener.bind(server);
    listener.start();
    return listener;
  }

  get server(): Server | undefined {
    return this.#server;
  }

  /** The listening descriptor, wherever it is now. @throws {LiveUpdateError} EBADF when the server was closed. */
  get fd(): number {
    const fd = this.#fd ?? (this.#server === undefined ? undefined : handleFd(this.#server));
    if (fd === undefined) throw new LiveUpdateError('EBADF', 'the listener is closed');
    return fd;
  }

  /** Whether there is something to hand over. */
  get isOpen(): boolean {
    return this.#fd !== undefined || (this.#server !== undefined && handleFd(this.#server) !== undefined);
  }

  /**
   * Gives an adopted listener its server. `server.address()` answers from now on; nothing is accepted before `start`.
   * @throws {LiveUpdateError} EBUSY when it has one; EINVAL when `server` listens already.
   */
  bind(server: Server): void {
    if (this.#server !== undefined) throw new LiveUpdateError('EBUSY', 'the listener has its server already');
    if (server.listening) throw new LiveUpdateError('EINVAL', 'the server listens already');
    this.#server = server;
    // A program asks for its port right after listen(), when there is no handle to answer yet.
    server.address = () => this.address;
  }

  /** Begins to accept on the adopted descriptor. */
  start(): void {
    const server = this.#server;
    const fd = this.#fd;
    if (server === undefined || fd === undefined) return;
    this.#fd = undefined;
    delete (server as { address?: unknown }).address;
    server.listen(this.backlog === undefined ? { fd } : { fd, backlog: this.backlog });
    // Node knows neither the path of a listener that it did not bind, nor that it should go with the server.
    if (typeof this.address === 'string') (server as { _pipeName?: string })._pipeName = this.address;
  }

  /**
   * After the commit, in an old image that lingers: this image accepts nobody any more. The server gets its 'close' when its last
   * connection has ended.
   */
  sever(): void {
    const server = this.#server as ServerInternals | undefined;
    const handle = server?._handle;
    if (server === undefined || !handle) return;
    if (typeof this.address !== 'string') handle.close();
    else {
      // libuv unlinks the path of a unix listener that it closes, and the path is the next image's. So it stays open, behind a
      // descriptor to which nobody can connect.
      const unreachable = openUnreachableListener();
      stopWatching(handle.fd);
      replaceFd(unreachable, handle.fd);
      closeFd(unreachable);
      handle.unref();
      inert.add(handle);
    }
    server._handle = null;
    server._emitCloseIfDrained();
  }

  /** Gives the descriptor up, if no server took it. */
  close(): void {
    if (this.#fd === undefined) return;
    closeFd(this.#fd);
    this.#fd = undefined;
  }

  toRecord(): Buffer {
    const saved: Saved = { address: this.address, backlog: this.backlog };
    return Buffer.from(JSON.stringify(saved));
  }
}

function parse(record: Uint8Array): Saved {
  try {
    const saved = JSON.parse(Buffer.from(record).toString('utf8')) as Saved;
    if (typeof saved.address === 'string' || typeof saved.address.port === 'number') return saved;
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', 'a damaged listener record', { handler: COMPATIBLE, cause });
  }
  throw new LiveUpdateError('EINVAL', 'a listener record without an address', { handler: COMPATIBLE });
}

/** The socket for a server that shares its port; undefined for one that does not. */
async function sharedPort(options: SharedListenOptions, what: string): Promise<number | undefined> {
  if (options.reusePort !== true || !('port' in options)) return undefined;
  try {
    return await openSharedPort(options);
  } catch (error) {
    throw listenError(error, what);
  }
}

function listenError(error: unknown, what: string): LiveUpdateError {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'EADDRINUSE') {
    return new LiveUpdateError('EADDRINUSE', `${what} is taken by another program`, {
      operation: 'listen',
      cause: error,
    });
  }
  if (code?.startsWith('ERR_')) {
    return new LiveUpdateError('EINVAL', (error as Error).message, { operation: 'listen', cause: error });
  }
  return LiveUpdateError.from(error, { operation: 'listen' });
}

export function listenerHandler(handover: Handover): CarriedFileHandler<Listener> {
  const adopt = (handle: number): Listener =>
    handover.incoming.adopt(handle, () =>
      Listener.adopt(handover.incoming.takeFd(handle), handover.incoming.bytes(handle)),
    );
  return {
    compatible: COMPATIBLE,
    adopt,
    custody: (listener) => ({ bytes: listener.toRecord(), fds: [listener.fd] }),
    toFile: (value) => (value instanceof Server ? Listener.of(value) : undefined),
    toObject(listener) {
      if (listener.server === undefined) listener.bind(new Server());
      return listener.server;
    },
    sever: (listener) => listener.sever(),
    ops: {
      canPreserve: (_handler, file) => file instanceof Listener,
      preserve(args: FileOpArgs<Listener>) {
        const listener = args.file!;
        args.serializedData = toSerializedData(handover.outgoing.put(listener.toRecord(), [listener.fd]));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
      },
      retrieve(args) {
        args.file = adopt(handleOf(args.serializedData));
      },
      finish(args) {
        const handle = handleOf(args.serializedData);
        if (args.file === undefined) handover.incoming.adopted<Listener>(handle)?.close();
        else args.file.start();
        handover.incoming.drop(handle);
      },
    },
  };
}
