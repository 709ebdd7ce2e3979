/** What the previous kernel left for a service (kernel-map.ts), in luod's hands until the service has everything. */
import { LiveUpdateError } from '../core/errors.js';
import { decodeHandover, encodeHandover, type Handover } from '../handover/codec.js';
import { readImageFile, writeImageFile } from '../handover/image-file.js';
import type { PassRecord } from '../handover/records.js';
import { closeFd } from '../linux/fd.js';
import { type ListenAddress, openListeningSocket } from '../linux/listen-socket.js';
import type { LiveupdateDevice, LiveupdateSession } from '../linux/liveupdate.js';
import {
  IMAGE_TOKEN,
  kernelSessionName,
  MAP_TOKEN,
  parseMap,
  retrieveOurs,
  serviceMap,
} from './kernel-map.js';

/** Of a listener that waits for its program; the program's own takes its place then. */
const BACKLOG = 511;

/** In the place of a descriptor that could not be made again. */
const MISSING = -1;

export class KernelArrival {
  readonly session: string;
  /** Of the image that left it. */
  readonly generation: number;
  /** Listeners that could not be made again, and why; the image is without them. */
  readonly lost: readonly string[];
  readonly #kernelSession: LiveupdateSession;
  readonly #encoded: Buffer;
  readonly #fds: number[];

  private constructor(
    session: LiveupdateSession,
    parts: { generation: number; encoded: Buffer; fds: number[]; lost: string[] },
  ) {
    this.#kernelSession = session;
    this.session = session.name;
    this.generation = parts.generation;
    this.#encoded = parts.encoded;
    this.#fds = parts.fds;
    this.lost = parts.lost;
  }

  /**
   * Takes what came for `service`.
   * @returns undefined when nothing did.
   * @throws {LiveUpdateError} EINVAL when it cannot be understood, and then it stays with this process, unread, for as long as
   *   it lives; EBUSY when another luod has it.
   */
  static take(device: LiveupdateDevice, service: string): KernelArrival | undefined {
    const session = retrieveOurs(device, kernelSessionName(service));
    if (session === undefined) return undefined;
    const fds: number[] = [];
    try {
      const { generation, descriptors } = parseMap(
        serviceMap,
        readImageFile(session.retrieve(MAP_TOKEN)),
        session.name,
      );
      const encoded = readImageFile(session.retrieve(IMAGE_TOKEN));
      const handover = decodeHandover(encoded, { fdCount: descriptors.length });
      const lost: string[] = [];
      for (const descriptor of descriptors) {
        fds.push(
          'memfd' in descriptor
            ? session.retrieve(BigInt(descriptor.memfd))
            : listenAgain(descriptor.listener, lost),
        );
      }
      const parts = lost.length === 0 ? { encoded, fds } : withoutMissing(handover, fds);
      return new KernelArrival(session, { generation, lost, ...parts });
    } catch (error) {
      for (const fd of fds) if (fd !== MISSING) closeFd(fd);
      // Not closed: that would finish the session, and discard what somebody may still make sense of.
      throw LiveUpdateError.from(error, {
        operation: 'take from the previous kernel',
        session: session.name,
      });
    }
  }

  get fdCount(): number {
    return this.#fds.length;
  }

  /** As a handover for a new image: the first descriptor is the image file and the caller's to close, the others luod's. */
  toHandover(): number[] {
    return [writeImageFile(this.#encoded), ...this.#fds];
  }

  /** The service has everything: the kernel's session ends. @throws {LiveUpdateError} EBUSY. */
  finish(): void {
    try {
      this.#kernelSession.finish();
    } finally {
      this.close();
    }
  }

  /** Gives everything up. */
  close(): void {
    for (const fd of this.#fds.splice(0)) closeFd(fd);
    this.#kernelSession.close();
  }
}

function listenAgain(address: ListenAddress, lost: string[]): number {
  try {
    return openListeningSocket(address, BACKLOG);
  } catch (error) {
    // The folder of a unix socket, or an interface, may be missing in the new kernel; the program then listens as it can.
    const where = 'path' in address ? address.path : `${address.host} port ${address.port}`;
    lost.push(`${where}: ${LiveUpdateError.from(error).message}`);
    return MISSING;
  }
}

/** The handover without the records that lack a descriptor, and without the sessions whose files they were. */
function withoutMissing(
  { image, records }: Handover,
  fds: readonly number[],
): { encoded: Buffer; fds: number[] } {
  const gone = new Set<number>();
  const kept: PassRecord[] = [];
  const left: number[] = [];
  for (const { handle, bytes, fdStart, fdCount } of records) {
    const own = fds.slice(fdStart, fdStart + fdCount);
    if (own.includes(MISSING)) {
      gone.add(handle);
      for (const fd of own) if (fd !== MISSING) closeFd(fd);
      continue;
    }
    kept.push({ handle, bytes, fdStart: left.length, fdCount });
    left.push(...own);
  }
  const sessions = image.sessions.filter(({ files }) => !files.some(({ data }) => gone.has(Number(data))));
  // An FLB counts files, of which there are fewer now: at most all that are left can depend on it.
  const files = sessions.reduce((sum, session) => sum + session.files.length, 0);
  const flbs = image.flbs
    .map((flb) => ({ ...flb, count: Math.min(flb.count, files) }))
    .filter(({ count }) => count > 0);
  return { encoded: encodeHandover({ image: { ...image, sessions, flbs }, records: kept }), fds: left };
}
