/**
 * What clients keep with luod, through a kexec: one session of the kernel's orchestrator for all of them.
 *
 *   session `luod:(clients)`
 *     token 0    the map: a JSON text (`ClientsMap`), the items that luod's store has, with what stands for each descriptor
 *     token 1..  the memfds, each once
 *
 * Memory crosses as it is, listeners by their address, in sessions with custody 'hold'; and the FLBs of their user. A client dies with
 * its kernel, so in the next one its session is what it is after any death of an owner: an orphan. Files of another kind, and
 * sessions with custody 'release', stay behind, which is told. A unix socket's path is made again only for luod's own user: luod
 * must not make files where another user says.
 *
 * The kernel gets the memory while clients are served, and what is new since then when they are not any more (`HostSessions.freeze`).
 * It cannot be told that a file was given up meanwhile: that one crosses, and is in no map.
 *
 * On the way back luod first puts everything into its own store, and then finishes the kernel's session: from there on it has
 * what a death of luod's does not take along.
 */
import { fstatSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { readImageFile } from '../handover/image-file.js';
import { kernelCrossing } from '../handover/kernel-crossing.js';
import { closeFd } from '../linux/fd.js';
import { openListeningSocket } from '../linux/listen-socket.js';
import type { LiveupdateDevice, LiveupdateSession } from '../linux/liveupdate.js';
import { sessionRecord } from './host-session.js';
import type { KeptItem } from './keeper-link.js';
import {
  descriptorInMap,
  kernelSessionName,
  MAP_TOKEN,
  MAP_VERSION,
  parseMap,
  preserveText,
  retrieveOurs,
} from './kernel-map.js';
import type { LeftBehind } from './kernel-update.js';
import { type Infer, z } from './lazy-zod.js';

/** In the place of a service's name. */
export const CLIENTS = '(clients)';

/** Of a listener that waits for its next owner. */
const BACKLOG = 511;

/** The kernel has no handler for such a memfd, cannot keep its seals, or has it from somebody else already. */
const NOT_TAKEN: ReadonlySet<string> = new Set(['ENOENT', 'EOPNOTSUPP', 'EBUSY']);

const clientsMap = z.object({
  version: z.literal(MAP_VERSION),
  items: z.array(
    z.object({
      group: z.string(),
      item: z.string(),
      record: z.record(z.string(), z.unknown()),
      descriptors: z.array(descriptorInMap),
    }),
  ),
});

type ClientsMap = Infer<typeof clientsMap>;
type Crossing = ClientsMap['items'][number]['descriptors'][number];

/** A descriptor that stays behind. */
interface Stays {
  readonly left: string;
}

export class KernelClientsWriter implements Disposable {
  readonly #device: LiveupdateDevice;
  /** By inode: one memfd may be a kept file and an FLB. */
  readonly #memfds = new Map<string, Crossing | Stays>();
  #session: LiveupdateSession | undefined;
  #items: ClientsMap['items'] = [];
  #next = MAP_TOKEN + 1n;

  constructor(device: LiveupdateDevice) {
    this.#device = device;
  }

  /** Undefined as long as there is nothing to keep. */
  get session(): LiveupdateSession | undefined {
    return this.#session;
  }

  get memfds(): number {
    return Number(this.#next - MAP_TOKEN - 1n);
  }

  /** How many sessions cross. */
  get sessions(): number {
    return this.#items.filter(({ item }) => item === 'session').length;
  }

  /**
   * Gives the kernel what it does not have yet.
   * @param items Of the clients' sessions and FLBs, as the store has them; descriptors borrowed.
   * @returns what stays behind.
   * @throws {LiveUpdateError} EEXIST when an operator's own tool has a session of the name; ENOMEM, ENOSPC.
   */
  take(items: readonly KeptItem[]): LeftBehind[] {
    const left: LeftBehind[] = [];
    const kept: ClientsMap['items'] = [];
    for (const [own, files] of sessionsOf(items)) {
      const record = sessionRecord.parse(own.record);
      const service = `uid ${record.uid}`;
      if (record.custody === 'release') {
        const what = `${files.length} files that a client keeps for as long as it lives (custody 'release')`;
        if (files.length > 0) left.push({ service, session: record.name, what });
        continue;
      }
      const crossing: ClientsMap['items'] = [];
      for (const file of files) {
        const [descriptor] = file.fds.map((fd) => this.#cross(fd, record.uid));
        if (descriptor === undefined) continue;
        if ('left' in descriptor) left.push({ service, session: record.name, what: descriptor.left });
        else crossing.push(toItem(file, [descriptor]));
      }
      if (crossing.length === 0) continue;
      const { socket: _socket, ...rest } = record;
      const orphan = { ...rest, state: 'orphaned', orphanedAt: record.orphanedAt ?? Date.now() };
      kept.push(toItem({ ...own, record: orphan }, []), ...crossing);
    }
    const needed = new Set(kept.flatMap(({ record }) => (record.flbs as string[] | undefined) ?? []));
    for (const flb of items.filter(({ item }) => item === 'flb')) {
      const { name, uid } = flb.record as { name: string; uid: number };
      if (!needed.has(name)) continue;
      const [descriptor] = flb.fds.map((fd) => this.#cross(fd, uid));
      if (descriptor === undefined) continue;
      if ('left' in descriptor)
        left.push({ service: `uid ${uid}`, what: `the FLB '${name}': ${descriptor.left}` });
      else kept.unshift(toItem(flb, [descriptor]));
    }
    this.#items = kept;
    return left;
  }

  #cross(fd: number, uid: number): Crossing | Stays {
    const crossing = kernelCrossing(fd);
    if (crossing.kind === 'left') return { left: `${crossing.what}, kept by a client` };
    if (crossing.kind === 'listener') {
      const { address } = crossing;
      if (!('path' in address) || uid === process.getuid?.()) return { listener: address };
      return { left: `the listener ${address.path}, another user's path` };
    }
    const { dev, ino } = fstatSync(fd);
    const key = `${dev}:${ino}`;
    const known = this.#memfds.get(key) ?? this.#preserve(fd);
    this.#memfds.set(key, known);
    return known;
  }

  #preserve(fd: number): Crossing | Stays {
    this.#session ??= this.#device.createSession(kernelSessionName(CLIENTS));
    const token = this.#next;
    try {
      this.#session.preserve(fd, token);
    } catch (error) {
      const { code, message } = LiveUpdateError.from(error);
      if (!NOT_TAKEN.has(code)) throw error;
      return { left: `memory that the kernel does not take: ${message}` };
    }
    this.#next++;
    return { memfd: String(token) };
  }

  /** Completes the session with the map of what was taken last. @throws {LiveUpdateError} EEXIST, ENOMEM, ENOSPC. */
  complete(): void {
    if (this.#items.length === 0) return;
    this.#session ??= this.#device.createSession(kernelSessionName(CLIENTS));
    const map: ClientsMap = { version: MAP_VERSION, items: this.#items };
    preserveText(this.#session, MAP_TOKEN, map);
  }

  /** Calls it off. */
  [Symbol.dispose](): void {
    this.#session?.close();
  }
}

/** The items of each session: its own, and its files'. */
function sessionsOf(items: readonly KeptItem[]): Map<KeptItem, KeptItem[]> {
  const own = new Map<string, KeptItem>();
  for (const item of items) if (item.item === 'session') own.set(item.group, item);
  const sessions = new Map<KeptItem, KeptItem[]>();
  for (const session of own.values()) sessions.set(session, []);
  for (const item of items) {
    const session = own.get(item.group);
    if (session !== undefined && session !== item) sessions.get(session)?.push(item);
  }
  return sessions;
}

function toItem({ group, item, record }: KeptItem, descriptors: Crossing[]): ClientsMap['items'][number] {
  return { group, item, record: record as Record<string, unknown>, descriptors };
}

/** What came for clients, in luod's hands until its store has it. */
export class KernelClients {
  readonly items: readonly KeptItem[];
  /** Listeners that could not be made again, and why; their sessions are without them. */
  readonly lost: readonly string[];
  readonly #session: LiveupdateSession;

  private constructor(session: LiveupdateSession, items: KeptItem[], lost: string[]) {
    this.#session = session;
    this.items = items;
    this.lost = lost;
  }

  get session(): string {
    return this.#session.name;
  }

  /**
   * Takes what came.
   * @returns undefined when nothing did. The descriptors of its items are the caller's.
   * @throws {LiveUpdateError} EINVAL when it cannot be understood, and then it stays with this process, unread, for as long as it
   *   lives; EBUSY when another luod has it.
   */
  static take(device: LiveupdateDevice): KernelClients | undefined {
    const session = retrieveOurs(device, kernelSessionName(CLIENTS));
    if (session === undefined) return undefined;
    const items: KeptItem[] = [];
    const lost: string[] = [];
    try {
      const map = parseMap(clientsMap, readImageFile(session.retrieve(MAP_TOKEN)), session.name);
      for (const { descriptors, ...rest } of map.items) {
        const fds = descriptors.flatMap((descriptor) => open(session, descriptor, lost));
        // A file that could not be made again; a session's own item has none.
        if (fds.length === descriptors.length) items.push({ ...rest, fds });
      }
      return new KernelClients(session, items, lost);
    } catch (error) {
      for (const { fds } of items) for (const fd of fds) closeFd(fd);
      // Not closed: that would finish the session, and discard what somebody may still make sense of.
      throw LiveUpdateError.from(error, {
        operation: 'take from the previous kernel',
        session: session.name,
      });
    }
  }

  /** luod's store has everything: the kernel's session ends. @throws {LiveUpdateError} EBUSY. */
  finish(): void {
    try {
      this.#session.finish();
    } finally {
      this.#session.close();
    }
  }
}

/** @returns the descriptor, or nothing for a listener that cannot be made again. */
function open(session: LiveupdateSession, descriptor: Crossing, lost: string[]): number[] {
  if ('memfd' in descriptor) return [session.retrieve(BigInt(descriptor.memfd))];
  const { listener } = descriptor;
  try {
    return [openListeningSocket(listener, BACKLOG)];
  } catch (error) {
    const where = 'path' in listener ? listener.path : `${listener.host} port ${listener.port}`;
    lost.push(`${where}: ${LiveUpdateError.from(error).message}`);
    return [];
  }
}
