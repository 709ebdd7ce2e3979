/**
 * Connections that come after the cut. An old image lingers while it serves what could not cross, and hands each connection on as
 * soon as it can (an HTTP connection behind its response): 'late' messages over the direct wire of that update, which stays open
 * as long as the old image lives.
 *
 * If this image is itself replaced meanwhile, its successor gets the wires: the old images notice nothing, and what they had sent
 * and nobody had read waits in the sockets. A message may have come in part; that part goes along.
 */
import { LiveUpdateError } from '../core/errors.js';
import { readImageFile } from '../handover/image-file.js';
import type { OldToSuccessor } from '../handover/protocol.js';
import { Wire, type WireEvents } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';

/** Gives a connection to the program. Owns `fds`. */
export type TakeIn = (session: string, record: Uint8Array, fds: number[]) => void;

/** A wire as a frozen image hands it on: the first descriptor is the socket. */
export interface InheritedWire {
  readonly begun: string;
  readonly fds: number[];
}

export class LateArrivals {
  readonly #wires = new Set<Wire>();
  readonly #takeIn: TakeIn;

  constructor(takeIn: TakeIn) {
    this.#takeIn = takeIn;
  }

  /** The direct wire of the update by which this image came: its old image may linger. */
  follow(wire: Wire): void {
    if (!wire.isOpen) return;
    wire.unref();
    this.#wires.add(wire);
  }

  /** A wire that the old image had inherited itself. Owns the descriptors. */
  inherit({ begun, fds: [fd, ...fds] }: InheritedWire): void {
    if (fd === undefined) return;
    const events: WireEvents = {
      message: (message, itsFds) => this.take(message as unknown as OldToSuccessor, itsFds),
      closed: () => this.#wires.delete(wire),
    };
    const wire = new Wire(fd, events, {}, { begun: { bytes: Buffer.from(begun, 'base64'), fds } });
    this.follow(wire);
  }

  /** The next image has the wires. */
  letGo(): void {
    for (const wire of this.#wires) wire.close();
    this.#wires.clear();
  }

  ended(wire: Wire): void {
    this.#wires.delete(wire);
  }

  take(message: OldToSuccessor, fds: number[]): void {
    const file = message.type === 'late' ? fds.shift() : undefined;
    if (message.type !== 'late' || file === undefined) {
      for (const fd of fds) closeFd(fd);
      return;
    }
    try {
      this.#takeIn(message.session, readImageFile(file), fds);
    } catch (error) {
      // One connection that cannot be read must not end a program that serves others.
      for (const fd of fds) closeFd(fd);
      process.emitWarning(LiveUpdateError.from(error, { operation: 'late', session: message.session }));
    }
  }

  /** The wires as the next image is to have them; the descriptors are borrowed, and nothing is read here until `take` goes on. */
  toHandOn(): InheritedWire[] {
    return [...this.#wires]
      .filter((wire) => wire.isOpen)
      .map((wire) => {
        const { bytes, fds } = wire.begun;
        return { begun: bytes.toString('base64'), fds: [wire.fd, ...fds] };
      });
  }
}
