/**
 * What an image leaves to the program that execve(2) puts in its place: open descriptors, and a memfd that says which they are
 * and what they belong to.
 *
 * One variable of the environment names the memfd and the SHA-256 of its head, which holds a number that was never used
 * before; so the two belong together, and a variable that was copied, made up, or left over finds nothing that it fits. The head also
 * names the process: execve keeps the pid, and a child that got everything by mistake is somebody else.
 *
 * The memfd, little endian: u64 bytes of the head · the head, JSON · the passes, each a whole handover (layout.ts), behind
 * padding to 8. `FORM` must change with any change of this.
 *
 * Taking it has two steps. `take()` is for the first moment of a process, before anybody can start a child: the
 * variable is gone from the environment, and the descriptors are close-on-exec again. `open()` reads the passes.
 */
import { readSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd, dupFd, setCloseOnExec } from '../linux/fd.js';
import { isMemfd } from '../linux/memfd.js';
import { decodeHandover, type Handover } from './codec.js';
import { readImageFile, writeImageFile } from './image-file.js';

export const ENV_INHERITANCE = 'LIVEUPDATE_EXEC';

const FORM = 'liveupdate-exec-v1';
const LENGTH_BYTES = 8;
/** Far above the numbers of as many descriptors as a process can have. */
const MAX_HEAD_BYTES = 64 * 1024 ** 2;
/** 0 to 2 are the program's own. */
const FIRST_FD = 3;

/** A handover that was encoded, and its descriptors. */
export interface EncodedPass {
  readonly encoded: Uint8Array;
  readonly fds: readonly number[];
}

/** A handover that was read; its descriptors are the reader's. */
export interface InheritedPass {
  readonly handover: Handover;
  readonly fds: number[];
}

interface Head {
  readonly form: string;
  readonly nonce: string;
  readonly pid: number;
  /** Of the image that inherits. */
  readonly generation: number;
  readonly passes: readonly { readonly bytes: number; readonly fds: number[] }[];
}

/**
 * Writes everything down for the next program of this process.
 * @returns `fd`, the caller's, which is to be inherited beside the passes' own; `variable`, the value of `ENV_INHERITANCE`.
 * @throws {LiveUpdateError} EMFILE, ENOMEM, ENOSPC.
 */
export function writeInheritance(
  generation: number,
  passes: readonly EncodedPass[],
): { fd: number; variable: string } {
  const head: Head = {
    form: FORM,
    nonce: crypto().randomBytes(16).toString('hex'),
    pid: process.pid,
    generation,
    passes: passes.map(({ encoded, fds }) => ({ bytes: encoded.length, fds: [...fds] })),
  };
  const text = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(text.length));
  const padding = Buffer.alloc(paddedTo8(text.length) - text.length);
  const fd = writeImageFile(length, text, padding, ...passes.map(({ encoded }) => encoded));
  return { fd, variable: `${fd}:${digest(text)}` };
}

function paddedTo8(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}

/** Loaded where it is used: most processes inherit nothing, and it takes 5 ms. */
function crypto(): typeof import('node:crypto') {
  return process.getBuiltinModule('node:crypto');
}

function digest(bytes: Uint8Array): string {
  return crypto().createHash('sha256').update(bytes).digest('hex');
}

function refused(text: string, cause?: unknown): LiveUpdateError {
  const why = `${ENV_INHERITANCE} in the environment is not for this process: ${text}`;
  return new LiveUpdateError('EINVAL', why, { operation: 'inherit', cause });
}

export class Inheritance {
  readonly #fd: number;
  readonly #head: Head;
  readonly #passesAt: number;

  private constructor(fd: number, head: Head, passesAt: number) {
    this.#fd = fd;
    this.#head = head;
    this.#passesAt = passesAt;
  }

  /**
   * Finds out whether this process has taken over from another program, and takes the variable out of `env`.
   * @returns undefined when nothing was inherited.
   * @throws {LiveUpdateError} EINVAL for a variable that is not for this process. What is surely a duplicate of what
   *   another process has is closed; nothing else is touched.
   */
  static take(env: NodeJS.ProcessEnv): Inheritance | undefined {
    const variable = env[ENV_INHERITANCE];
    delete env[ENV_INHERITANCE];
    if (variable === undefined) return undefined;
    const [, number, expected] = /^(\d{1,7}):([0-9a-f]{64})$/.exec(variable) ?? [];
    if (number === undefined || expected === undefined) throw refused('it has another form');
    const fd = Number(number);
    if (fd < FIRST_FD || !isMemfd(fd)) throw refused(`descriptor ${fd} is no memory file`);
    const text = readHead(fd);
    if (digest(text) !== expected) throw refused(`descriptor ${fd} holds something else`);
    const head = parseHead(text, fd);
    const inheritance = new Inheritance(fd, head, LENGTH_BYTES + paddedTo8(text.length));
    if (head.pid !== process.pid) {
      inheritance.discard();
      throw refused(
        `it was left to process ${head.pid}; the command of an update must become the program itself, by exec`,
      );
    }
    try {
      for (const own of inheritance.#fds()) setCloseOnExec(own, true);
    } catch (cause) {
      inheritance.discard();
      throw refused('something closed descriptors on the way', cause);
    }
    return inheritance;
  }

  #fds(): number[] {
    return [this.#fd, ...this.#head.passes.flatMap(({ fds }) => fds)];
  }

  /** The number of this image. */
  get generation(): number {
    return this.#head.generation;
  }

  /**
   * Reads and checks everything, the pass of the freeze last. The descriptors are the caller's from now on.
   * @throws {LiveUpdateError} EINVAL for damage or an unknown version; all descriptors are closed then.
   */
  open(): InheritedPass[] {
    try {
      const bytes = readImageFile(dupFd(this.#fd));
      const passes: InheritedPass[] = [];
      let at = this.#passesAt;
      for (const pass of this.#head.passes) {
        const handover = decodeHandover(bytes.subarray(at, at + pass.bytes), { fdCount: pass.fds.length });
        passes.push({ handover, fds: pass.fds });
        at += pass.bytes;
      }
      closeFd(this.#fd);
      return passes;
    } catch (error) {
      this.discard();
      throw LiveUpdateError.from(error, { operation: 'inherit' });
    }
  }

  /** Closes everything. */
  discard(): void {
    for (const fd of this.#fds()) {
      try {
        closeFd(fd);
      } catch (error) {
        // Closed on the way here, which is then why it is discarded.
        if (LiveUpdateError.from(error).code !== 'EBADF') throw error;
      }
    }
  }
}

/** The head's bytes; empty when there is none. */
function readHead(fd: number): Buffer {
  const length = Buffer.alloc(LENGTH_BYTES);
  if (readSync(fd, length, 0, LENGTH_BYTES, 0) < LENGTH_BYTES) return Buffer.alloc(0);
  const bytes = length.readBigUInt64LE();
  if (bytes > BigInt(MAX_HEAD_BYTES)) return Buffer.alloc(0);
  const text = Buffer.alloc(Number(bytes));
  let at = 0;
  while (at < text.length) {
    const read = readSync(fd, text, at, text.length - at, LENGTH_BYTES + at);
    if (read === 0) break;
    at += read;
  }
  return text.subarray(0, at);
}

/** @param fd The file's own descriptor, which cannot be among those that it names. */
function parseHead(text: Buffer, fd: number): Head {
  const head = parseJson(text);
  if (head.form !== FORM)
    throw refused(`its form is ${JSON.stringify(head.form)}, and this version reads ${FORM}`);
  const { pid, generation, passes } = head;
  const isSound =
    Number.isSafeInteger(pid) &&
    Number.isSafeInteger(generation) &&
    Array.isArray(passes) &&
    passes.length > 0 &&
    passes.every((pass) => Number.isSafeInteger(pass?.bytes) && pass.bytes >= 0 && Array.isArray(pass.fds));
  if (!isSound) throw refused('its head is damaged');
  const fds = (passes as Head['passes']).flatMap((pass) => pass.fds);
  const isOwn = (own: unknown) => Number.isSafeInteger(own) && (own as number) >= FIRST_FD && own !== fd;
  if (!fds.every(isOwn) || new Set(fds).size !== fds.length)
    throw refused('it names descriptors that cannot be');
  return head as Head;
}

function parseJson(text: Buffer): Partial<Head> {
  try {
    const value: unknown = JSON.parse(text.toString('utf8'));
    if (typeof value === 'object' && value !== null) return value;
  } catch (cause) {
    throw refused('its head is no JSON', cause);
  }
  throw refused('its head is damaged');
}
