/**
 * The keeper: a small process beside luod that holds a duplicate of every descriptor luod holds, and a record with each. It
 * knows nothing of sessions; it gives everything back to the next luod that asks. So luod can be killed, or replace itself.
 *
 * Items stand in groups, so that all of one session can be dropped in one word. One luod at a time may change anything;
 * any other process of the user may look (`take`), as a new version does before it is trusted.
 *
 *     luod → keeper   {"type":"open"}                                     answered by items, then {"type":"end"}; this luod is in charge
 *                     {"type":"take"}                                     answered the same; changes nothing
 *                     {"type":"put","group":g,"item":i,"record":{},"fds":n}   in the place of what was there
 *                     {"type":"put",...,"keep":true}                      a new record for the descriptors that are there
 *                     {"type":"drop","group":g[,"item":i]}
 *                     {"type":"bye"}                                      an orderly end: the keeper ends, too
 *     keeper → luod   {"type":"item","group":g,"item":i,"record":{},"fds":n}
 *                     {"type":"refused","error":{}}                       EBUSY: a luod is in charge
 *
 * A luod that leaves without 'bye' is expected back for a while; then the keeper lets go of everything, and with it of the
 * clients, who see their sessions end.
 *
 * It is there all the time and does next to nothing, so what it costs is its memory: it imports little, and of Node's own modules none that
 * has streams.
 */
import { unlinkSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { acceptNow } from '../linux/accept.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { openListeningSocket } from '../linux/listen-socket.js';
import { type FdWatch, watchFd } from '../linux/poll.js';
import { peerCredentials } from '../linux/socket-facts.js';

interface Item {
  record: unknown;
  fds: number[];
}

/** The luod in charge, those that look at what is kept, and none besides. */
const BACKLOG = 511;

export interface KeeperOptions {
  readonly path: string;
  /** Milliseconds to wait for the next luod. */
  readonly patienceMs: number;
  /** Called when there is nothing left to keep. */
  readonly ended: () => void;
}

export class Keeper {
  readonly #options: KeeperOptions;
  readonly #listener: number;
  #spare: number;
  readonly #watch: FdWatch;
  readonly #groups = new Map<string, Map<string, Item>>();
  #inCharge: Wire | undefined;
  #waiting: NodeJS.Timeout | undefined;

  /** @throws {LiveUpdateError} EADDRINUSE, EACCES, ENOENT, EINVAL: as `openListeningSocket`. */
  constructor(options: KeeperOptions) {
    this.#options = options;
    const umask = process.umask(0o177);
    try {
      this.#listener = openListeningSocket({ path: options.path }, BACKLOG);
    } finally {
      process.umask(umask);
    }
    this.#spare = dupFd(this.#listener);
    this.#watch = watchFd(this.#listener, { readable: true }, ({ error }) => {
      if (error !== undefined) throw error;
      for (let fd = this.#next(); fd !== undefined; fd = this.#next()) this.#accept(fd);
    });
    this.#await();
  }

  /** Who knocks next. A keeper that is full turns him away with the descriptor that it has for this, or would be called for ever. */
  #next(): number | undefined {
    try {
      return acceptNow(this.#listener);
    } catch (error) {
      const { code } = LiveUpdateError.from(error);
      if (code !== 'EMFILE' && code !== 'ENFILE') throw error;
      closeFd(this.#spare);
      const turnedAway = acceptNow(this.#listener);
      if (turnedAway !== undefined) closeFd(turnedAway);
      this.#spare = dupFd(this.#listener);
      return undefined;
    }
  }

  #accept(fd: number): void {
    const { uid } = peerCredentials(fd);
    if (uid !== process.getuid?.() && uid !== 0) {
      closeFd(fd);
      return;
    }
    const wire: Wire = new Wire(fd, {
      message: (message, fds) => {
        try {
          this.#take(wire, message, fds);
        } catch (error) {
          for (const one of fds) closeFd(one);
          const { code, message: text } = LiveUpdateError.from(error);
          wire.send({ type: 'refused', error: { code, message: text } });
        }
      },
      closed: () => {
        if (this.#inCharge !== wire) return;
        this.#inCharge = undefined;
        this.#await();
      },
    });
  }

  #take(wire: Wire, message: WireMessage, fds: number[]): void {
    if (message.type === 'take') {
      this.#tell(wire);
      return;
    }
    if (message.type === 'open') {
      if (this.#inCharge !== undefined) throw new LiveUpdateError('EBUSY', 'a luod is in charge');
      this.#inCharge = wire;
      clearTimeout(this.#waiting);
      this.#tell(wire);
      return;
    }
    if (this.#inCharge !== wire) throw new LiveUpdateError('EPERM', 'another luod is in charge');
    const { group, item } = message as { group?: unknown; item?: unknown };
    switch (message.type) {
      case 'put':
        this.#put(String(group), String(item), message, fds);
        break;
      case 'drop':
        this.#drop(String(group), item === undefined ? undefined : String(item));
        break;
      case 'bye':
        this.#end();
        break;
      default:
        throw new LiveUpdateError('EINVAL', `no such word: ${message.type}`);
    }
  }

  #put(group: string, item: string, { record, keep }: WireMessage, fds: number[]): void {
    let items = this.#groups.get(group);
    if (items === undefined) {
      items = new Map();
      this.#groups.set(group, items);
    }
    const known = items.get(item);
    if (keep === true && known !== undefined) {
      known.record = record;
      return;
    }
    for (const fd of known?.fds ?? []) closeFd(fd);
    items.set(item, { record, fds });
  }

  #drop(group: string, item: string | undefined): void {
    const items = this.#groups.get(group);
    if (items === undefined) return;
    for (const [name, { fds }] of items) {
      if (item !== undefined && name !== item) continue;
      for (const fd of fds) closeFd(fd);
      items.delete(name);
    }
    if (items.size === 0) this.#groups.delete(group);
  }

  #tell(wire: Wire): void {
    for (const [group, items] of this.#groups) {
      for (const [item, { record, fds }] of items) {
        wire.send({ type: 'item', group, item, record }, fds);
        // A luod that reads slower than we tell must not make us queue duplicates of everything.
        wire.flushNow(this.#options.patienceMs);
      }
    }
    wire.send({ type: 'end' });
  }

  /** Without a luod: waits for the next one. */
  #await(): void {
    this.#waiting = setTimeout(() => this.#end(), this.#options.patienceMs);
  }

  #end(): void {
    clearTimeout(this.#waiting);
    for (const group of [...this.#groups.keys()]) this.#drop(group, undefined);
    this.#watch.close();
    closeFd(this.#listener);
    closeFd(this.#spare);
    try {
      unlinkSync(this.#options.path);
    } catch {
      // Somebody removed it, or its whole folder; it leads nowhere now in any case, and the end must not wait for it.
    }
    this.#options.ended();
  }
}
