/**
 * The keeper: a small process beside luod that holds a duplicate of every descriptor luod holds, and a record with each. It
 * knows nothing of sessions; it gives everything back to the next luod that asks. So luod can be killed, or replace itself.
 *
 * Items stand in groups, so that all of one session can be dropped in one word. One luod at a time may change anything;
 * any other process of the user may look (`take`), as a new version does before it is trusted.
 *
 *     luod → keeper   {"type":"open"}                                     answered by items, then {"type":"end","pid":n}; this luod is in charge
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
 * has streams; and while there is little to keep it sleeps, as a shell that has everything in sockets which nobody reads
 * (sleeping-keeper.ts). It wakes up here, with those sockets.
 */
import { LiveUpdateError } from '../core/errors.js';
import { Wire, type WireEvents, type WireMessage } from '../handover/wire.js';
import { acceptNow } from '../linux/accept.js';
import { closeFd, dupFd } from '../linux/fd.js';
import { type FdWatch, watchFd } from '../linux/poll.js';
import { peerCredentials } from '../linux/socket-facts.js';
import { type KeeperSocket, openKeeperSocket, removeKeeperSocket } from './keeper-socket.js';
import { type ItemName, KeptItems } from './kept-items.js';

export interface KeeperOptions {
  readonly path: string;
  /** Milliseconds to wait for the next luod. */
  readonly patienceMs: number;
  /** Called when there is nothing left to keep. */
  readonly ended: () => void;
  /** What it had while it slept, and has to own now. */
  readonly slept?: {
    readonly socket: KeeperSocket;
    /** Where luod wrote, in turn. */
    readonly queues: readonly number[];
  };
}

export class Keeper {
  readonly #options: KeeperOptions;
  readonly #socket: KeeperSocket;
  #spare: number;
  readonly #watch: FdWatch;
  readonly #items = new KeptItems();
  #inCharge: Wire | undefined;
  #waiting: NodeJS.Timeout | undefined;
  #isOver = false;

  /** @throws {LiveUpdateError} EADDRINUSE, EACCES, ENOENT, EINVAL: as `openListeningSocket`. */
  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#socket = options.slept?.socket ?? openKeeperSocket(options.path);
    this.#spare = dupFd(this.#socket.fd);
    this.#watch = watchFd(this.#socket.fd, { readable: true }, ({ error }) => {
      if (error !== undefined) throw error;
      for (let fd = this.#next(); fd !== undefined; fd = this.#next()) this.#accept(fd);
    });
    if (options.slept === undefined) this.#await();
    else this.#wakeUp(options.slept.queues);
  }

  /** Takes in what luod wrote while nobody read, and listens to it on, if it is there. */
  #wakeUp(queues: readonly number[]): void {
    const heard = queues.map((fd) => new Heard(fd));
    // luod writes everything into the other queue before it empties one. Dead in between, it leaves one that is whole and is the older,
    // or two of which the newer is.
    const whole = heard.filter(({ epoch }) => epoch !== undefined);
    const newest = whole.sort((one, other) => (other.epoch as number) - (one.epoch as number))[0];
    for (const one of heard) if (one !== newest) one.forget();
    if (newest === undefined) {
      this.#await();
      return;
    }
    const { wire } = newest;
    this.#inCharge = wire;
    newest.goOn({
      message: (message, fds) => this.#hear(wire, message, fds),
      closed: () => this.#left(wire),
    });
  }

  /** Who knocks next. A keeper that is full turns him away with the descriptor that it has for this, or would be called for ever. */
  #next(): number | undefined {
    try {
      return acceptNow(this.#socket.fd);
    } catch (error) {
      const { code } = LiveUpdateError.from(error);
      if (code !== 'EMFILE' && code !== 'ENFILE') throw error;
      closeFd(this.#spare);
      const turnedAway = acceptNow(this.#socket.fd);
      if (turnedAway !== undefined) closeFd(turnedAway);
      this.#spare = dupFd(this.#socket.fd);
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
      message: (message, fds) => this.#hear(wire, message, fds),
      closed: () => this.#left(wire),
    });
  }

  #hear(wire: Wire, message: WireMessage, fds: number[]): void {
    try {
      this.#take(wire, message, fds);
    } catch (error) {
      for (const one of fds) closeFd(one);
      const { code, message: text } = LiveUpdateError.from(error);
      wire.send({ type: 'refused', error: { code, message: text } });
    }
  }

  #left(wire: Wire): void {
    if (this.#inCharge !== wire || this.#isOver) return;
    this.#inCharge = undefined;
    this.#await();
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
    const group = String(message.group);
    switch (message.type) {
      case 'put':
        this.#put({ group, item: String(message.item) }, message, fds);
        break;
      case 'drop':
        this.#items.drop(group, message.item === undefined ? undefined : String(message.item));
        break;
      case 'bye':
        this.#end();
        break;
      default:
        throw new LiveUpdateError('EINVAL', `no such word: ${message.type}`);
    }
  }

  #put(name: ItemName, { record, keep }: WireMessage, fds: number[]): void {
    if (keep === true) this.#items.amend(name, record, fds);
    else this.#items.put(name, record, fds);
  }

  #tell(wire: Wire): void {
    for (const { group, item, record, fds } of this.#items) {
      wire.send({ type: 'item', group, item, record }, fds);
      // A luod that reads slower than we tell must not make us queue duplicates of everything.
      wire.flushNow(this.#options.patienceMs);
    }
    wire.send({ type: 'end', pid: process.pid });
  }

  /** Without a luod: waits for the next one. */
  #await(): void {
    this.#waiting = setTimeout(() => this.#end(), this.#options.patienceMs);
  }

  #end(): void {
    this.#isOver = true;
    clearTimeout(this.#waiting);
    this.#items.clear();
    this.#watch.close();
    closeFd(this.#socket.fd);
    closeFd(this.#spare);
    removeKeeperSocket(this.#options.path, this.#socket.inode);
    this.#options.ended();
  }
}

/** A queue of luod's, as far as it was written when the keeper woke up. */
class Heard {
  readonly wire: Wire;
  #events: WireEvents;
  readonly #said: { readonly message: WireMessage; readonly fds: number[] }[] = [];
  #end: { readonly error: LiveUpdateError | undefined } | undefined;

  constructor(fd: number) {
    this.#events = {
      message: (message, fds) => this.#said.push({ message, fds }),
      closed: (error) => {
        this.#end = { error };
      },
    };
    this.wire = new Wire(fd, {
      message: (message, fds) => this.#events.message(message, fds),
      closed: (error) => this.#events.closed(error),
    });
    this.wire.receiveNow();
  }

  /** The number of its beginning; undefined when it has not everything. */
  get epoch(): number | undefined {
    const first = this.#said[0]?.message;
    if (first?.type !== 'begin' || typeof first.epoch !== 'number') return undefined;
    return this.#said.some(({ message }) => message.type === 'whole') ? first.epoch : undefined;
  }

  /** Tells what was said, all but where it began and was whole, and then what comes. */
  goOn(events: WireEvents): void {
    this.#events = events;
    for (const { message, fds } of this.#said)
      if (message.type !== 'begin' && message.type !== 'whole') events.message(message, fds);
    if (this.#end !== undefined) events.closed(this.#end.error);
  }

  forget(): void {
    this.wire.close();
    for (const { fds } of this.#said) for (const fd of fds) closeFd(fd);
  }
}
