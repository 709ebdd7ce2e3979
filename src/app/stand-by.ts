/**
 * What an image that was taken over still does before its process ends, without a turn of the event loop: it frees the ports of its own,
 * says so, and stands still for a while.
 *
 * To end is work of the kernel's, up to 20 ms of a processor, which cannot be interrupted, and that comes worst while the successor tells its program of
 * ten thousand connections and V8 compiles what it does. So the end waits until that is over, as long as somebody is there who says when.
 */
import { openSync } from 'node:fs';
import { type OldToSuccessor, toWire } from '../handover/protocol.js';
import type { Wire } from '../handover/wire.js';
import { closeFd, replaceFd } from '../linux/fd.js';
import { freePorts } from '../linux/listen-socket.js';
import { waitReadable } from '../linux/scm-rights.js';

/** How long it stands still at least: until then the successor runs most of its code for the first time. */
const LEAST_MS = 200;
/** And how long it waits for the successor's program to have all its connections. Ten thousand take a third of it. */
const MOST_MS = 1000;
/**
 * Then, or when that takes longer than so many ms, it lets go of its duplicates, since what the successor closes ends for its peer when the last of them
 * is gone: so many at once, and with a pause in ms, so that others have the processor. Ten thousand at once cost clients 3 ms.
 */
const LET_GO_AFTER_MS = 150;
const LET_GO_AT_ONCE = 250;
const LET_GO_PAUSE_MS = 1;
/** How long a successor may take to read one word. */
const SAY_MS = 100;

export class StandBy {
  readonly #direct: Wire;
  /** Descriptors of what is the successor's, until this process lets go of them. */
  readonly #severed: number[] = [];
  /** The successor's program has all its connections. */
  #isSettled = false;
  /** The successor says when it is settled. */
  #isAwaited = true;

  constructor(direct: Wire) {
    this.#direct = direct;
  }

  /** The successor has committed. @param announces Whether it will say that it is settled; an older version does not. */
  committed(announces: boolean): void {
    this.#isAwaited = announces;
  }

  settled(): void {
    this.#isSettled = true;
  }

  /** From now on `fd`, which stays open, is nobody's in this process. */
  add(fd: number): void {
    this.#severed.push(fd);
  }

  /**
   * Closes whatever still listens in this process, and tells the successor, whose program may want the port.
   * @param lingers Of an image that serves on: nothing is closed.
   */
  leave(lingers: boolean): void {
    try {
      if (!lingers) freePorts(new Set(this.#severed));
    } catch {
      // No descriptor is left to look with: the ports are free when this process ends.
    }
    try {
      this.#direct.send(toWire({ type: 'left' } satisfies OldToSuccessor));
      this.#direct.flushNow(SAY_MS);
    } catch {
      // The successor is gone or does not read: it waits for this word no longer than for this process.
    }
  }

  /** @param limitMs In how many milliseconds this process is killed at the latest. */
  wait(limitMs: number): void {
    const began = performance.now();
    // Its last moments are for the program's 'exit' listeners.
    const most = Math.min(MOST_MS, Math.max(0, limitMs / 2));
    const least = Math.min(LEAST_MS, most);
    while (this.#isAwaited && this.#direct.isOpen) {
      const stood = performance.now() - began;
      const until = this.#isSettled ? least : most;
      if (stood >= until) return;
      const letsGo = this.#isSettled || stood >= LET_GO_AFTER_MS;
      if (letsGo) replaceAll(this.#severed.splice(-LET_GO_AT_ONCE));
      let next = until - stood;
      if (!letsGo) next = Math.min(next, LET_GO_AFTER_MS - stood);
      else if (this.#severed.length > 0) next = LET_GO_PAUSE_MS;
      if (waitReadable([this.#direct.fd], next).length > 0) this.#direct.receiveNow();
    }
  }
}

/** Not closed: libuv has these numbers, and what the program opens as it exits must not get one of them. */
function replaceAll(fds: readonly number[]): void {
  if (fds.length === 0) return;
  const nowhere = openSync('/dev/null', 'r');
  for (const fd of fds) replaceFd(nowhere, fd);
  closeFd(nowhere);
}
