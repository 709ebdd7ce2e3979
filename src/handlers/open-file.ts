/**
 * A regular file that is open: the position, the flags (O_APPEND among them) and what the descriptor leads to, also when the path leads
 * elsewhere by now, belong to the open file and cross with the descriptor.
 *
 * Everything here is synchronous, and has to be: an fs call that runs in one of libuv's threads cannot be halted, and would move the
 * position or write behind the new image's back. So nothing is ever under way at the freeze. What a read stream has read ahead is not
 * counted as read: the next image goes on behind the last byte that was consumed. What a corked write stream holds is
 * written.
 *
 * Node's own FileHandle and fs streams are refused: the one cannot be made from a descriptor, and both work in threads.
 */
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  ReadStream,
  readlinkSync,
  readSync,
  WriteStream,
  writeSync,
} from 'node:fs';
import { Readable, Writable } from 'node:stream';
import { LiveUpdateError } from '../core/errors.js';
import { OwnedFd, seek, tell } from '../linux/fd.js';
import { fdFacts } from '../linux/fd-facts.js';
import type { CarriedFileHandler, Handover } from './carried.js';
import { recordedFileHandler } from './recorded-file.js';
import { unreadBytes } from './socket-hooks.js';

const COMPATIBLE = 'liveupdate-file-v1';

interface Saved {
  /** For people: where it was when it was opened. */
  readonly path: string;
  /** Bytes in front of the position that were read and not consumed. */
  readonly unread: number;
  readonly isOpen: boolean;
}

/** `keep()` takes it. */
export class OpenFile implements Disposable {
  readonly path: string;
  readonly #fd: OwnedFd;
  #isOpen = true;
  #isHeld: boolean;
  #unread = 0;
  #reading: Readable | undefined;
  readonly #writing = new Set<Writable>();
  #waiting: (() => void)[] = [];
  #onGone: (() => void) | undefined;

  private constructor(fd: number, path: string, isHeld: boolean) {
    this.#fd = new OwnedFd(fd);
    this.path = path;
    this.#isHeld = isHeld;
  }

  /**
   * Opens a regular file.
   * @param flags As of `fs.open()`: 'r', 'a', 'w+', ...
   * @throws {LiveUpdateError} EINVAL when it is no regular file, or for flags that are none; ENOENT, EACCES, ... of open(2).
   */
  static open(path: string, flags: string | number = 'r', mode = 0o666): OpenFile {
    let fd: number;
    try {
      fd = openSync(path, flags, mode);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code?.startsWith('ERR_') !== true) throw LiveUpdateError.from(error, { operation: 'open' });
      throw new LiveUpdateError('EINVAL', (error as Error).message, { operation: 'open', cause: error });
    }
    if (fstatSync(fd).isFile()) return new OpenFile(fd, path, false);
    closeSync(fd);
    throw new LiveUpdateError('EINVAL', `${path} is no regular file`, { operation: 'open' });
  }

  /** @internal Owns `fd` also when it throws. @throws {LiveUpdateError} EINVAL. */
  static adopt(fd: number, record: Uint8Array): OpenFile {
    const owned = new OwnedFd(fd);
    try {
      const { path } = parse(record);
      if (fdFacts(fd)?.kind !== 'file')
        throw new LiveUpdateError('EINVAL', 'the descriptor is no regular file', { handler: COMPATIBLE });
      return new OpenFile(owned.take(), path, true);
    } catch (error) {
      owned.close();
      throw error;
    }
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** The descriptor, for fs's synchronous calls; this object closes it. @throws {LiveUpdateError} EBADF when it was closed. */
  get fd(): number {
    return this.#fd.fd;
  }

  #ownFd(operation: string): number {
    if (!this.#isHeld) return this.#fd.fd;
    throw new LiveUpdateError('EBUSY', 'before ready() the file is the image’s before', { operation });
  }

  /** Where the next read or write is, in bytes; a write to an appending file is at the end. @throws {LiveUpdateError} EBADF. */
  get position(): number {
    return tell(this.#fd.fd);
  }

  /** @throws {LiveUpdateError} EBADF; EINVAL; EBUSY in a new image before `ready()`. */
  set position(position: number) {
    seek(this.#ownFd('seek'), position);
  }

  /**
   * Reads up to `length` bytes at the position, which moves, or at `at`, which does not move it.
   * @returns fewer at the end of the file, and none behind it.
   * @throws {LiveUpdateError} EBADF when it was closed, or not opened for it; EBUSY, without `at`, before `ready()`.
   */
  read(length: number, at?: number): Buffer {
    const fd = at === undefined ? this.#ownFd('read') : this.#fd.fd;
    const bytes = Buffer.allocUnsafe(length);
    try {
      return bytes.subarray(0, readSync(fd, bytes, 0, length, at ?? null));
    } catch (error) {
      throw LiveUpdateError.from(error, { operation: 'read' });
    }
  }

  /**
   * Writes all of it at the position, which moves, or at `at`.
   * @throws {LiveUpdateError} EBADF when it was closed, or not opened for it; ENOSPC and others of write(2): a part may be written;
   *   EBUSY in a new image before `ready()`.
   */
  write(data: string | Uint8Array, at?: number): void {
    const fd = this.#ownFd('write');
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    try {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(fd, bytes, done, bytes.length - done, at === undefined ? null : at + done);
      }
    } catch (error) {
      throw LiveUpdateError.from(error, { operation: 'write' });
    }
  }

  /** Waits until what was written is on the disk. @throws {LiveUpdateError} EBADF; EIO. fsync(2) */
  sync(): void {
    try {
      fsyncSync(this.#fd.fd);
    } catch (error) {
      throw LiveUpdateError.from(error, { operation: 'fsync' });
    }
  }

  /**
   * A stream from the position on. It does not close the file. In the next image another one goes on where this one's reader was.
   * @throws {LiveUpdateError} EBUSY while another one is read: they would share the position.
   */
  createReadStream(): Readable {
    if (this.#reading !== undefined && !this.#reading.closed)
      throw new LiveUpdateError('EBUSY', 'the file is being read by a stream', { operation: 'read' });
    const stream: Readable = new Readable({
      read: (size) => {
        this.#whenOwn(() => {
          if (stream.destroyed) return;
          try {
            const bytes = this.read(size);
            stream.push(bytes.length === 0 ? null : bytes);
          } catch (error) {
            stream.destroy(error as Error);
          }
        });
      },
    });
    this.#reading = stream;
    return stream;
  }

  /** A stream that writes at the position. It does not close the file. */
  createWriteStream(): Writable {
    const stream: Writable = new Writable({
      write: (chunk: Buffer, _encoding, callback) => {
        this.#whenOwn(() => {
          try {
            this.write(chunk);
          } catch (error) {
            callback(error as Error);
            return;
          }
          callback();
        });
      },
    });
    this.#writing.add(stream);
    stream.once('close', () => this.#writing.delete(stream));
    return stream;
  }

  /** Now, or after the commit. */
  #whenOwn(act: () => void): void {
    if (this.#isHeld) this.#waiting.push(act);
    else act();
  }

  /** Closes it; again is harmless. */
  close(): void {
    if (!this.#isOpen) return;
    this.letGo();
    if (this.#onGone !== undefined) setImmediate(this.#onGone);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** @internal Calls back when it was closed. */
  whenClosed(callback: () => void): void {
    this.#onGone = callback;
    if (!this.#isOpen) setImmediate(callback);
  }

  /** @internal @param atFreeze What is corked is written, and what was read ahead told. */
  toRecord(atFreeze: boolean): Buffer {
    let unread = 0;
    if (atFreeze && this.#isOpen) {
      for (const stream of this.#writing) while (stream.writableCorked > 0) stream.uncork();
      if (this.#reading !== undefined && !this.#reading.destroyed) unread = unreadBytes(this.#reading).length;
    }
    const saved: Saved = { path: this.path, unread, isOpen: this.#isOpen };
    return Buffer.from(JSON.stringify(saved));
  }

  /** @internal What changed until the freeze. @throws {LiveUpdateError} EINVAL for a damaged record. */
  restore(record: Uint8Array): void {
    const { unread, isOpen } = parse(record);
    this.#unread = unread;
    if (!isOpen) this.close();
  }

  /** @internal It is this image's own from now on. */
  start(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    if (this.#isOpen && this.#unread > 0) seek(this.fd, tell(this.fd) - this.#unread);
    for (const act of this.#waiting.splice(0)) act();
  }

  /** @internal Closes the descriptor; the open file may live on. */
  letGo(): void {
    this.#isOpen = false;
    this.#fd.close();
  }
}

function parse(record: Uint8Array): Saved {
  try {
    const saved = JSON.parse(Buffer.from(record).toString('utf8')) as Saved;
    if (typeof saved.path === 'string' && Number.isSafeInteger(saved.unread)) return saved;
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', 'a damaged record of a file', { handler: COMPATIBLE, cause });
  }
  throw new LiveUpdateError('EINVAL', 'a record of a file without a path', { handler: COMPATIBLE });
}

/** What Node has for open files, and cannot be kept. */
function refuse(value: unknown): undefined {
  const { fd } = value as { fd?: unknown };
  const isHandle = (value as object).constructor.name === 'FileHandle' && typeof fd === 'number';
  if (!isHandle && !(value instanceof ReadStream) && !(value instanceof WriteStream)) return undefined;
  const where = typeof fd === 'number' && fd >= 0 ? ` (${readlinkSync(`/proc/self/fd/${fd}`)})` : '';
  const text = `a ${(value as object).constructor.name}${where} reads and writes in threads, which cannot be halted; keep OpenFile.open(path, flags), and for a fifo a net.Socket on its descriptor`;
  throw new LiveUpdateError('EOPNOTSUPP', text, { operation: 'keep', handler: COMPATIBLE });
}

export function openFileHandler(handover: Handover): CarriedFileHandler<OpenFile> {
  return recordedFileHandler(
    handover,
    {
      compatible: COMPATIBLE,
      isOurs: (file) => file instanceof OpenFile,
      fds: (file) => [file.fd],
      toRecord: (file, atFreeze) => file.toRecord(atFreeze),
      adopt: (record, takeFd) => OpenFile.adopt(takeFd(), record),
      restore: (file, record) => file.restore(record),
      abandon: (file) => file.letGo(),
    },
    {
      custody: (file) => ({ bytes: file.toRecord(false), fds: [file.fd] }),
      toFile: (value) => (value instanceof OpenFile ? value : refuse(value)),
      start: (file) => file.start(),
      sever: (file) => file.letGo(),
      onGone: (file, callback) => file.whenClosed(callback),
    },
  );
}
