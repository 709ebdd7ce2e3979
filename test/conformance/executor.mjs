// Runs a sequence, step by step, on a system: the kernel's orchestrator, or ours behind the same ioctls. What every step
// answered is all that leaves it, so that two systems can be compared.
//
// A step names sessions and files by number; the number counts round what is open, so that any part of a sequence is a
// sequence again. A negative number is a descriptor that is not open.

import { closeSync } from 'node:fs';
import { errnoName } from '../../build/core/index.js';
import {
  answeredFd,
  answeredName,
  LIVEUPDATE_IOCTL,
  liveupdateStruct,
  memfdSize,
  sealMemfd,
  seek,
} from '../../build/linux/index.js';
import { describe, inodeOf, isMemory, makeFile, pattern, writeAt } from './files.mjs';

/** The bytes of a session's name: `prefix` keeps the sequences of one run apart. */
function nameBytes(name, prefix) {
  if (name.raw !== undefined) return Buffer.from(name.raw, 'latin1');
  const text = Buffer.from(`${prefix}${name.base}`);
  return name.bytes === undefined
    ? text
    : Buffer.concat([text, Buffer.alloc(64, 'x')]).subarray(0, name.bytes);
}

export class Executor {
  #system;
  #prefix;
  #sessions = [];
  /** {fd, inode, isMemory, wasPreserved} */
  #files = [];
  #device;

  /** @param system openDevice, ioctl, close, takeFlbLog. @param device its open device. */
  constructor(system, prefix, device) {
    this.#system = system;
    this.#prefix = prefix;
    this.#device = device;
  }

  get device() {
    return this.#device;
  }

  /** Runs a step. @returns {{ r: string, [fact: string]: unknown, flb?: string[] }} r: 'ok' or an errno's name. */
  step(step) {
    const answer = this.#perform(step);
    const flb = this.#system.takeFlbLog();
    return flb.length === 0 ? answer : { ...answer, flb };
  }

  #perform(step) {
    switch (step.op) {
      case 'openDevice': {
        const answer = this.#system.openDevice();
        if (typeof answer === 'string') return { r: answer };
        this.#device = answer;
        return { r: 'ok' };
      }
      case 'closeDevice':
        if (this.#device === -1) return { r: 'EBADF' };
        this.#system.close(this.#device);
        this.#device = -1;
        return { r: 'ok' };
      case 'createSession':
      case 'retrieveSession':
        return this.#session(step);
      case 'preserve':
        return this.#preserve(step);
      case 'retrieve': {
        const struct = liveupdateStruct('retrieveFd', { token: BigInt(step.token), fd: -1 });
        const r = this.#ioctl(this.#sessionFd(step.session), LIVEUPDATE_IOCTL.retrieveFd, struct);
        if (r !== 'ok') return { r };
        this.#files.push(this.#file(answeredFd(struct), true));
        return { r, ...this.#look(this.#files.at(-1)) };
      }
      case 'finish':
      case 'getName': {
        const struct = liveupdateStruct(step.op);
        struct.writeUInt32LE(step.reserved, 4);
        const r = this.#ioctl(this.#sessionFd(step.session), LIVEUPDATE_IOCTL[step.op], struct);
        return r === 'ok' && step.op === 'getName' ? { r, name: answeredName(struct) } : { r };
      }
      case 'closeSession': {
        const fd = this.#sessionFd(step.session);
        if (fd === -1) return { r: 'EBADF' };
        this.#sessions.splice(this.#sessions.indexOf(fd), 1);
        this.#system.close(fd);
        return { r: 'ok' };
      }
      case 'ioctl':
        return this.#raw(step);
      case 'file': {
        const fd = makeFile(step.spec, (number) => this.#pick(number).fd);
        if (fd !== -1) this.#files.push(this.#file(fd, false));
        return { r: 'ok' };
      }
      default:
        return this.#touch(step);
    }
  }

  #pick(number) {
    return pick(this.#files, number) ?? NO_FILE;
  }

  #sessionFd(number) {
    return pick(this.#sessions, number) ?? -1;
  }

  #file(fd, wasPreserved) {
    return { fd, inode: inodeOf(fd), isMemory: isMemory(fd), wasPreserved };
  }

  #ioctl(fd, number, struct) {
    const result = this.#system.ioctl(fd, number, struct);
    return result === 0 ? 'ok' : errnoName(result);
  }

  #session(step) {
    const struct = liveupdateStruct(step.op, { fd: -1 });
    nameBytes(step.name, this.#prefix).copy(struct, 8);
    const r = this.#ioctl(this.#device, LIVEUPDATE_IOCTL[step.op], struct);
    if (r === 'ok') this.#sessions.push(answeredFd(struct));
    return { r };
  }

  #preserve(step) {
    const file = step.file === 'session' ? { fd: this.#sessionFd(step.session) } : this.#pick(step.file);
    const struct = liveupdateStruct('preserveFd', { fd: file.fd, token: BigInt(step.token) });
    const r = this.#ioctl(this.#sessionFd(step.session), LIVEUPDATE_IOCTL.preserveFd, struct);
    if (r === 'ok') {
      for (const other of this.#files) if (other.inode === file.inode) other.wasPreserved = true;
    }
    return { r };
  }

  /** A struct of any size, filled with any byte behind what the operation knows. */
  #raw({ target, session, number, size, length, known, tail }) {
    const fd = target === 'device' ? this.#device : this.#sessionFd(session);
    if (length === 0) return { r: this.#ioctl(fd, number, null) };
    const struct = Buffer.alloc(Math.max(length, size));
    struct.writeUInt32LE(size, 0);
    // A name that cannot collide: the number of sessions so far is in it.
    struct.write(`${this.#prefix}${known}`, 8, Math.min(60, Math.max(0, struct.length - 8)));
    if (tail !== 0 && size > 72) struct[size - 1] = tail;
    const r = this.#ioctl(fd, number, struct);
    if (r === 'ok' && CREATES.has(number)) this.#sessions.push(answeredFd(struct));
    return { r };
  }

  /** Steps on the files themselves. */
  #touch(step) {
    const file = this.#pick(step.file);
    if (file.fd === -1) return { r: 'none' };
    if (!file.isMemory && step.op !== 'closeFile') return { r: 'skipped' };
    switch (step.op) {
      case 'write': {
        const size = memfdSize(file.fd);
        // Inside: growing a preserved file is refused by the kernel alone.
        const length = Math.min(step.length, size);
        if (length === 0) return { r: 'skipped' };
        return attempt(() => writeAt(file.fd, pattern(length, step.seed), step.at % (size - length + 1)));
      }
      case 'seek':
        return attempt(() => seek(file.fd, step.position));
      case 'seal':
        // The kernel saves the seals in preserve; what comes later is not carried by it.
        if (file.wasPreserved) return { r: 'skipped' };
        return attempt(() => sealMemfd(file.fd, step.seals));
      case 'closeFile':
        closeSync(file.fd);
        this.#files.splice(this.#files.indexOf(file), 1);
        return { r: 'ok' };
      case 'look':
        return attempt(() => this.#look(file));
      default:
        throw new Error(`no such step: ${step.op}`);
    }
  }

  #look(file) {
    return { ...describe(file.fd), same: this.#files.findIndex(({ inode }) => inode === file.inode) };
  }

  /** The end of a sequence that is called off: every session and file goes, newest first. */
  callOff() {
    for (const fd of this.#sessions.splice(0).reverse()) this.#system.close(fd);
    this.closeFiles();
    return this.#system.takeFlbLog();
  }

  closeFiles() {
    for (const { fd } of this.#files.splice(0)) closeSync(fd);
  }
}

const NO_FILE = Object.freeze({ fd: -1, inode: '', isMemory: false, wasPreserved: false });

/** The one of that number, counted round; nothing for a negative number. */
function pick(list, number) {
  return number < 0 || list.length === 0 ? undefined : list[number % list.length];
}

const CREATES = new Set([LIVEUPDATE_IOCTL.createSession, LIVEUPDATE_IOCTL.retrieveSession]);

function attempt(work) {
  try {
    return { r: 'ok', ...work() };
  } catch (error) {
    return { r: error.code ?? 'EIO' };
  }
}

/**
 * The first life of many sequences, one after another on one system. Those without a second life are called off.
 * @returns for each sequence the answers of its steps, and `end`, the FLB callbacks of its calling off.
 */
export function runFirstLives(system, sequences) {
  return runAll(
    system,
    sequences,
    (sequence) => sequence.before,
    (sequence) => sequence.after === null,
  );
}

/** The second life, after the reboot, of those that have one. */
export function runSecondLives(system, sequences) {
  return runAll(
    system,
    sequences,
    (sequence) => sequence.after ?? [],
    () => false,
  );
}

function runAll(system, sequences, stepsOf, isCalledOff) {
  const results = [];
  let device = -1;
  for (const [number, sequence] of sequences.entries()) {
    if (device === -1) device = system.openDevice();
    if (typeof device === 'string') throw new Error(`the device does not open: ${device}`);
    const executor = new Executor(system, `q${number}-`, device);
    const answers = stepsOf(sequence).map((step) => executor.step(step));
    device = executor.device;
    const end = isCalledOff(sequence) ? executor.callOff() : [];
    executor.closeFiles();
    results.push({ answers, end });
  }
  return results;
}
