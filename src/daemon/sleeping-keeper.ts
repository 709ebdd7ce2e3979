/**
 * A keeper that sleeps: while there is little to keep, luod writes it into a socket that nobody reads, whose other end a shell holds. The
 * kernel keeps a descriptor on its way like any other. The shell waits until luod's end of a third socket, the bell, is closed,
 * and is then replaced, by exec, by the keeper (keeper.ts), which reads what came. So a luod with little to keep has a shell beside it,
 * of some hundred KiB, where it would have a second Node.
 *
 * What was dropped stays in the socket as what it is, an open descriptor: a port is taken, a peer sees no end. So whatever took a
 * descriptor back is followed, in the next turn of the loop, by everything anew in the second socket, and the first is emptied. At each moment
 * one of both has everything, from `{"type":"begin","epoch":n}` to `{"type":"whole"}`; the keeper takes the one that is whole, the newer of two.
 *
 *     asleep → awake    luod died; or it wakes the keeper: somebody knocks at the keeper's socket, luod is to be replaced, there is too much
 *     awake → asleep    never: what woke up stays awake, also for the next luod
 *
 * To wake up it needs luod's files, and memory for a Node. While a part is away, as in an installation, it tries again each second, as
 * long as it waits for a luod at all.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { LiveUpdateError } from '../core/errors.js';
import type { WireMessage } from '../handover/wire.js';
import { closeFd, dupFds } from '../linux/fd.js';
import { type FdWatch, watchFd } from '../linux/poll.js';
import { discardArrived } from '../linux/scm-rights.js';
import { socketPair } from '../linux/socketpair.js';
import { KEEPER_PROCESS, type KeeperHandle, KeeperLink } from './keeper-link.js';
import { type KeeperSocket, openKeeperSocket, removeKeeperSocket } from './keeper-socket.js';
import { KeptItems } from './kept-items.js';
import { claimSocketPath } from './socket-path.js';

/** sh(1), as POSIX has it. */
const SHELL = '/bin/sh';
/** The descriptors of the shell, and of what it becomes. */
const BELL = 3;
const SOCKET = 4;
const QUEUES = [5, 6] as const;
/**
 * $1 is how many seconds it may take, $2 Node, $3 the keeper's file. A terminal's signals are not for it. Nothing is read before Node has
 * shown that it can start with all that the keeper imports: from the exec on there is no way back.
 */
const SCRIPT = [
  "trap '' INT HUP QUIT",
  `read -r _ <&${BELL} || :`,
  'left=$1; shift',
  'until "$1" "$2" --can-start 2> /dev/null; do left=$((left - 1)); [ "$left" -gt 0 ] || exit 1; sleep 1 || exit 1; done',
  `exec "$@" ${BELL}<&-`,
].join('; ');
/** How many items a keeper may have that sleeps: their records stand in a socket's buffer, 200 KiB by default. */
export const MOST_ASLEEP = 48;
/** Words behind which everything is written anew. */
const MOST_WORDS = 32;

/** Pairs, luod's end first. */
interface Ends {
  readonly bell: readonly [number, number];
  readonly queues: readonly (readonly [number, number])[];
}

interface Queue {
  /** luod's end. */
  readonly link: KeeperLink;
  /** The end that the keeper reads. */
  readonly far: number;
}

export class SleepingKeeper implements KeeperHandle {
  readonly #path: string;
  readonly #socket: KeeperSocket;
  readonly #child: ChildProcess;
  readonly #bell: number;
  readonly #queues: readonly Queue[];
  readonly #knock: FdWatch;
  /** What the queue has, to write it anew. */
  readonly #items = new KeptItems();
  #current = 0;
  #epoch = 0;
  #words = 0;
  #tidying: NodeJS.Immediate | undefined;
  /** How to reach it since it is awake. */
  #awake: KeeperLink | undefined;
  #isOpen = true;
  #lost: (() => void) | undefined;

  private constructor(path: string, socket: KeeperSocket, child: ChildProcess, ends: Ends) {
    this.#path = path;
    this.#socket = socket;
    this.#child = child;
    this.#bell = ends.bell[0];
    this.#queues = ends.queues.map(([near, far]) => ({ link: new KeeperLink(near), far }));
    child.once('exit', () => this.#died());
    child.unref();
    this.#knock = watchFd(socket.fd, { readable: true }, () => this.wake());
    this.#writeAll(this.#full);
  }

  /**
   * Starts one, where nobody answers.
   * @param patienceMs How long it shall wait for a next luod when this one is killed.
   * @throws {LiveUpdateError} EADDRINUSE when somebody answers all the same; ENOENT without a shell; EMFILE; what
   *   `claimSocketPath` throws.
   */
  static async start(path: string, patienceMs: number): Promise<SleepingKeeper> {
    await claimSocketPath(path);
    const socket = openKeeperSocket(path);
    let ends: Ends | undefined;
    let child: ChildProcess | undefined;
    try {
      ends = openEnds();
      const far = [ends.bell[1], socket.fd, ...ends.queues.map(([, end]) => end)];
      const seconds = Math.ceil(patienceMs / 1000);
      const node = [process.execPath, KEEPER_PROCESS, path, patienceMs, socket.inode, SOCKET, ...QUEUES];
      // In a session of its own, and with luod's stderr, as the keeper that it may become.
      child = spawn(SHELL, ['-c', SCRIPT, 'luod-keeper', ...[seconds, ...node].map(String)], {
        detached: true,
        stdio: ['ignore', 'ignore', 'inherit', ...far],
        cwd: '/',
        env: { ...process.env, PATH: [process.env.PATH, '/usr/bin', '/bin'].filter(Boolean).join(':') },
      });
      await once(child, 'spawn');
      const keeper = new SleepingKeeper(path, socket, child, ends);
      closeFd(ends.bell[1]);
      return keeper;
    } catch (error) {
      child?.kill();
      for (const fd of ends === undefined ? [] : [...ends.bell, ...ends.queues.flat()]) closeFd(fd);
      closeFd(socket.fd);
      removeKeeperSocket(path, socket.inode);
      throw LiveUpdateError.from(error, { operation: 'keeper' });
    }
  }

  get isOpen(): boolean {
    return this.#awake?.isOpen ?? this.#isOpen;
  }

  get isAsleep(): boolean {
    return this.#isOpen && this.#awake === undefined;
  }

  onLost(lost: () => void): void {
    this.#lost = lost;
  }

  put(group: string, item: string, record: object, fds: readonly number[]): void {
    if (this.#awake !== undefined) {
      this.#awake.put(group, item, record, fds);
      return;
    }
    let own: number[];
    try {
      own = dupFds(fds);
    } catch (error) {
      if (!this.isAsleep) throw error;
      // EMFILE: one that is awake needs none of luod's descriptors.
      this.wake();
      this.put(group, item, record, fds);
      return;
    }
    const { count } = this.#items;
    try {
      this.#write({ type: 'put', group, item, record }, fds);
    } catch (error) {
      for (const fd of own) closeFd(fd);
      throw error;
    }
    // As it was written; not for one that the word woke up.
    if (this.isAsleep) this.#items.put({ group, item }, record, own);
    else for (const fd of own) closeFd(fd);
    // What was there before is in the queue still.
    if (this.#items.count === count) this.#tidySoon();
    if (this.#items.count > MOST_ASLEEP) this.wake();
  }

  amend(group: string, item: string, record: object): void {
    if (this.#awake !== undefined) {
      this.#awake.amend(group, item, record);
      return;
    }
    this.#write({ type: 'put', group, item, record, keep: true }, []);
    if (this.isAsleep) this.#items.amend({ group, item }, record, []);
  }

  drop(group: string, item?: string): void {
    if (this.#awake !== undefined) {
      this.#awake.drop(group, item);
      return;
    }
    this.#write({ type: 'drop', group, item }, []);
    this.#items.drop(group, item);
    this.#tidySoon();
  }

  #write(message: WireMessage, fds: readonly number[]): void {
    if (!this.#isOpen) return;
    const { link } = this.#full;
    if (!link.write(message, fds)) {
      this.wake();
      link.flush();
    } else if (++this.#words > MOST_WORDS) this.#tidySoon();
  }

  /** The queue that has everything. */
  get #full(): Queue {
    return this.#queues[this.#current] as Queue;
  }

  get #empty(): Queue {
    return this.#queues[1 - this.#current] as Queue;
  }

  #tidySoon(): void {
    if (!this.isAsleep) return;
    this.#tidying ??= setImmediate(() => {
      this.#tidying = undefined;
      if (this.isAsleep) this.#tidy();
    });
  }

  #tidy(): void {
    let isWritten = false;
    try {
      isWritten = this.#writeAll(this.#empty);
    } catch {
      // What cannot be written here can stay where it is whole, and the keeper take it from there.
    }
    if (!isWritten) {
      this.wake();
      return;
    }
    discardArrived(this.#full.far);
    this.#current = 1 - this.#current;
    this.#words = 0;
  }

  /** @returns false when there is no room for it. */
  #writeAll({ link }: Queue): boolean {
    if (!link.write({ type: 'begin', epoch: this.#epoch++ })) return false;
    for (const { group, item, record, fds } of this.#items)
      if (!link.write({ type: 'put', group, item, record }, fds)) return false;
    return link.write({ type: 'whole' });
  }

  wake(): void {
    if (!this.isAsleep) return;
    const { link } = this.#full;
    const other = this.#empty.link;
    this.#awake = link;
    link.onLost(() => this.#lost?.());
    // Now it alone has the other ends: when it dies, luod hears of it.
    this.#letGo();
    other.leave();
  }

  #died(): void {
    // Of one that is awake the link tells.
    if (!this.isAsleep) return;
    this.#close();
    this.#lost?.();
  }

  bye(): void {
    this.#lost = undefined;
    removeKeeperSocket(this.#path, this.#socket.inode);
    // Awake or not, and also one that cannot wake up: its descriptors end with it.
    this.#child.kill();
    if (this.isAsleep) this.#close();
    else this.#awake?.leave();
  }

  #close(): void {
    this.#isOpen = false;
    this.#letGo();
    for (const { link } of this.#queues) link.leave();
  }

  /** What luod has of it while it sleeps. Closing the bell is what wakes it. */
  #letGo(): void {
    clearImmediate(this.#tidying);
    this.#knock.close();
    for (const fd of [this.#bell, this.#socket.fd, ...this.#queues.map(({ far }) => far)]) closeFd(fd);
    this.#items.clear();
  }
}

/** @throws {LiveUpdateError} EMFILE, ENFILE, ENOMEM. */
function openEnds(): Ends {
  const pairs: [number, number][] = [];
  try {
    for (let i = 0; i < 1 + QUEUES.length; i++) pairs.push(socketPair());
  } catch (error) {
    for (const fd of pairs.flat()) closeFd(fd);
    throw error;
  }
  const [bell, ...queues] = pairs as [[number, number], ...[number, number][]];
  return { bell, queues };
}
