/**
 * Linux's own Live Update Orchestrator: `/dev/liveupdate`, include/uapi/linux/liveupdate.h.
 *
 * Every argument is a struct that begins with its own size, so that either side may be the newer one: a kernel takes a
 * longer struct if what it does not know is zero (else E2BIG), and no struct shorter than the operation's first form (EINVAL).
 *
 * The device has one opener in the whole system; its sessions outlive it. A session belongs to its descriptor: when the
 * last duplicate is closed (or its owner dies), an outgoing session is called off, and a retrieved one is finished.
 */
import { openSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { isSessionName } from '../core/names.js';
import type { Token } from '../core/types.js';
import { OwnedFd, setCloseOnExec } from './fd.js';
import { errno, failure, libc } from './libc.js';

export const LIVEUPDATE_DEVICE = '/dev/liveupdate';

/** `_IO(0xBA, nr)`: no size and no direction in the number. */
const request = (number: number): number => (0xba << 8) | number;

/** The numbers of the operations. */
export const LIVEUPDATE_IOCTL = {
  createSession: request(0x00),
  retrieveSession: request(0x01),
  preserveFd: request(0x40),
  retrieveFd: request(0x41),
  finish: request(0x42),
  getName: request(0x43),
} as const;

/** Bytes of each operation's struct. */
export const LIVEUPDATE_STRUCT = {
  createSession: 72,
  retrieveSession: 72,
  preserveFd: 16,
  retrieveFd: 16,
  finish: 8,
  getName: 72,
} as const;

/** Where things stand in the structs: {size, fd, name[64]}, {size, fd, token}, {size, reserved}, {size, reserved, name[64]}. */
const SIZE_AT = 0;
const FD_AT = 4;
const NAME_AT = 8;
const TOKEN_AT = 8;

export type LiveupdateOperation = keyof typeof LIVEUPDATE_IOCTL;

/**
 * ioctl(2) with a struct of the caller's making. The struct is updated by what the kernel answers.
 * @returns 0, or the negative errno.
 */
export function liveupdateIoctl(fd: number, number: number, struct: Uint8Array | null): number {
  const result = libc.ioctl(fd, number, struct);
  const error = errno();
  return result === -1 ? -error : result;
}

/** A struct of an operation, with its size and nothing else. `fd` is an output in most, and an input in preserveFd. */
export function liveupdateStruct(
  operation: LiveupdateOperation,
  fields: { fd?: number; token?: Token; name?: string } = {},
): Buffer {
  const size = LIVEUPDATE_STRUCT[operation];
  const struct = Buffer.alloc(size);
  struct.writeUInt32LE(size, SIZE_AT);
  if (fields.fd !== undefined) struct.writeInt32LE(fields.fd, FD_AT);
  if (fields.token !== undefined) struct.writeBigUInt64LE(fields.token, TOKEN_AT);
  if (fields.name !== undefined) struct.write(fields.name, NAME_AT, 'utf8');
  return struct;
}

/** The descriptor that createSession, retrieveSession and retrieveFd answer with. */
export function answeredFd(struct: Buffer): number {
  return struct.readInt32LE(FD_AT);
}

/** The name that getName answers with. */
export function answeredName(struct: Buffer): string {
  const name = struct.subarray(NAME_AT);
  const end = name.indexOf(0);
  return name.toString('utf8', 0, end === -1 ? name.length : end);
}

const HINTS: Partial<Record<string, string>> = {
  EBUSY: 'another program has the device open, or the file is preserved already',
  ENOENT: 'no such session, no such token, or no handler of this kernel takes the file',
  EEXIST: 'the name or token is in use',
  EINVAL: 'not in this state of the session, or not known to this kernel',
  ENOSPC: 'this kernel takes no more files in one session',
  ENOMEM: 'no memory, or this kernel takes no more sessions',
  EPERM: 'not permitted',
};

function perform(
  fd: number,
  operation: LiveupdateOperation,
  struct: Buffer,
  context: { session?: string; token?: Token },
): Buffer {
  const result = liveupdateIoctl(fd, LIVEUPDATE_IOCTL[operation], struct);
  if (result >= 0) return struct;
  const { code } = failure('ioctl', -result);
  throw new LiveUpdateError(code, HINTS[code] ?? 'refused by the kernel', {
    operation: `kernel ${operation}`,
    ...context,
  });
}

/** The kernel's orchestrator. */
export class LiveupdateDevice implements Disposable {
  readonly #fd: OwnedFd;

  private constructor(fd: number) {
    this.#fd = new OwnedFd(fd);
  }

  /**
   * Opens the device; the first open after a live update takes in what the previous kernel left.
   * @throws {LiveUpdateError} ENOENT: this kernel has no live update, or it is switched off. EBUSY: another program has it
   *   open. EIO: what the previous kernel left could not be read, now or before. ENODEV: the node stands for no device. EACCES,
   *   EPERM: only root may.
   */
  static open(path: string = LIVEUPDATE_DEVICE): LiveupdateDevice {
    try {
      return new LiveupdateDevice(openSync(path, 'r+'));
    } catch (cause) {
      const { code } = LiveUpdateError.from(cause);
      throw new LiveUpdateError(code, OPEN_HINTS[code] ?? (cause as Error).message, {
        operation: `open ${path}`,
        cause,
      });
    }
  }

  get fd(): number {
    return this.#fd.fd;
  }

  /**
   * A new outgoing session (LIVEUPDATE_IOCTL_CREATE_SESSION).
   * @throws {LiveUpdateError} EINVAL for a name that is not 1 to 63 bytes without NUL; EEXIST; ENOMEM; EMFILE.
   */
  createSession(name: string): LiveupdateSession {
    return this.#session('createSession', name);
  }

  /**
   * A session that the previous kernel left (LIVEUPDATE_IOCTL_RETRIEVE_SESSION), once.
   * @throws {LiveUpdateError} ENOENT when none has this name; EINVAL when it was retrieved already, or for a bad name; EMFILE.
   */
  retrieveSession(name: string): LiveupdateSession {
    return this.#session('retrieveSession', name);
  }

  #session(operation: 'createSession' | 'retrieveSession', name: string): LiveupdateSession {
    if (!isSessionName(name)) {
      throw new LiveUpdateError('EINVAL', "a session's name is 1 to 63 bytes without NUL", {
        operation: `kernel ${operation}`,
        session: String(name),
      });
    }
    const answer = perform(this.fd, operation, liveupdateStruct(operation, { name, fd: -1 }), {
      session: name,
    });
    return new LiveupdateSession(answeredFd(answer), name, operation === 'retrieveSession');
  }

  /** Lets the next opener in. Sessions live on. */
  close(): void {
    this.#fd.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const OPEN_HINTS: Partial<Record<string, string>> = {
  ENOENT: 'this kernel has no live update, or it is switched off; `luoctl doctor` says what is missing',
  ENXIO: 'no device behind the node',
  ENODEV: 'no device behind the node',
  EBUSY: 'another program has the device open',
  EIO: 'what the previous kernel left could not be read; only a reboot clears this',
  EACCES: 'only root may open it',
  EPERM: 'only root may open it',
};

/** A session of the kernel's, for as long as its descriptor is open. */
export class LiveupdateSession implements AsyncDisposable {
  readonly name: string;
  /** Whether it came from the previous kernel. */
  readonly isIncoming: boolean;
  readonly #fd: OwnedFd;

  /** Owns `fd`, a session's descriptor (it may have come from another process). */
  constructor(fd: number, name: string, isIncoming: boolean) {
    this.#fd = new OwnedFd(fd);
    this.name = name;
    this.isIncoming = isIncoming;
  }

  /** @throws {LiveUpdateError} EBADF when closed. */
  get fd(): number {
    return this.#fd.fd;
  }

  /**
   * Preserves the file behind `fd` (LIVEUPDATE_SESSION_PRESERVE_FD); the descriptor may be closed afterwards.
   * @throws {LiveUpdateError} EINVAL for an incoming session; EEXIST for a token in use; EBADF; ENOENT when no handler of the
   *   kernel takes such a file (today: memfds); EBUSY when it is preserved already; ENOSPC before Linux 7.2 after 128
   *   files; what the handler fails with (EOPNOTSUPP for seals it does not know, ENOMEM, EFBIG).
   */
  preserve(fd: number, token: Token): void {
    perform(this.fd, 'preserveFd', liveupdateStruct('preserveFd', { fd, token }), {
      session: this.name,
      token,
    });
  }

  /**
   * A descriptor of the file under `token` (LIVEUPDATE_SESSION_RETRIEVE_FD), close-on-exec, the caller's to close. Again gives
   * another descriptor of the same file.
   * @throws {LiveUpdateError} EINVAL for an outgoing session; ENOENT for an unknown token or a finished session; EMFILE; what
   *   the handler failed with, each time.
   */
  retrieve(token: Token): number {
    const answer = perform(this.fd, 'retrieveFd', liveupdateStruct('retrieveFd', { token, fd: -1 }), {
      session: this.name,
      token,
    });
    const fd = answeredFd(answer);
    // Linux before 7.3 leaves it open across exec.
    setCloseOnExec(fd, true);
    return fd;
  }

  /**
   * Everything is where it belongs (LIVEUPDATE_SESSION_FINISH): files never retrieved are discarded.
   * @throws {LiveUpdateError} EINVAL for an outgoing session; EBUSY when a handler cannot finish yet.
   */
  finish(): void {
    perform(this.fd, 'finish', liveupdateStruct('finish'), { session: this.name });
  }

  /**
   * The session's name as the kernel has it (LIVEUPDATE_SESSION_GET_NAME).
   * @throws {LiveUpdateError} EINVAL before Linux 7.2.
   */
  getName(): string {
    return answeredName(perform(this.fd, 'getName', liveupdateStruct('getName'), { session: this.name }));
  }

  /** Gives this descriptor up; again is harmless. The last one calls an outgoing session off, or finishes a retrieved one. */
  close(): void {
    this.#fd.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
