/**
 * A service manager as far as a service sees it: the notify socket and the descriptor store, by sd_notify(3), sd_listen_fds(3) and
 * systemd.service(5). It takes an open file once, and only from the service's main process while that lives, as systemd does.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { closeFd, setNonBlocking } from '../../src/linux/fd.js';
import { compareOpenFiles } from '../../src/linux/kcmp.js';
import { libc } from '../../src/linux/libc.js';
import { type FdWatch, watchFd } from '../../src/linux/poll.js';
import { recvFds } from '../../src/linux/scm-rights.js';
import { cli } from './luod-process.js';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;

interface Stored {
  readonly name: string;
  readonly fd: number;
}

export class TestManager {
  readonly folder = mkdtempSync(join(tmpdir(), 'liveupdate-manager-'));
  readonly socket = join(this.folder, 'run', 'luod.sock');
  /** What was said, but for the store's. */
  readonly said: Record<string, string>[] = [];
  /** In the order in which it came. */
  stored: Stored[] = [];
  /** Descriptors of a socket unit. */
  units: Stored[] = [];
  stderr = '';
  readonly #notify = join(this.folder, 'notify');
  readonly #fd: number;
  readonly #watch: FdWatch;
  readonly #storeMax: number;
  #killIn: number | undefined;
  #child: ChildProcess | undefined;
  #exited: Promise<number | null> = Promise.resolve(0);
  #wake: (() => void)[] = [];

  constructor(storeMax: number) {
    this.#storeMax = storeMax;
    this.#fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const address = Buffer.alloc(110);
    address.writeUInt16LE(AF_UNIX);
    address.write(this.#notify, 2);
    if (libc.bind(this.#fd, address, 2 + Buffer.byteLength(this.#notify) + 1) !== 0) throw new Error('bind');
    setNonBlocking(this.#fd, true);
    this.#watch = watchFd(this.#fd, { readable: true }, () => this.#receive());
  }

  #receive(): void {
    for (;;) {
      const received = recvFds(this.#fd, { maxBytes: 65_536, maxFds: 253 });
      if (received === undefined) break;
      const text = Buffer.from(received.bytes).toString('utf8');
      const words = Object.fromEntries(
        text.split('\n').map((line) => line.split(/=(.*)/s).slice(0, 2)),
      ) as Record<string, string>;
      this.#take(words, received.fds);
    }
    for (const wake of this.#wake.splice(0)) wake();
  }

  #take(words: Record<string, string>, fds: number[]): void {
    if (this.#killIn !== undefined && --this.#killIn <= 0) {
      this.#killIn = undefined;
      this.#child?.kill('SIGKILL');
    }
    if (words.FDSTORE === '1') {
      for (const fd of fds) {
        const isKnown = this.stored.some((one) => compareOpenFiles(one.fd, fd) === 0);
        if (isKnown || this.stored.length >= this.#storeMax || words.FDNAME === undefined) closeFd(fd);
        else this.stored.push({ name: words.FDNAME, fd });
      }
      return;
    }
    for (const fd of fds) closeFd(fd);
    if (words.FDSTOREREMOVE === '1') {
      for (const { fd, name } of this.stored) if (name === words.FDNAME) closeFd(fd);
      this.stored = this.stored.filter(({ name }) => name !== words.FDNAME);
    } else if (words.BARRIER === undefined) this.said.push(words);
  }

  /** Waits until something that was said has these words. */
  async hears(words: Record<string, string | RegExp>): Promise<void> {
    const matches = (one: Record<string, string>) =>
      Object.entries(words).every(([key, value]) =>
        value instanceof RegExp ? value.test(one[key] ?? '') : one[key] === value,
      );
    while (!this.said.some(matches)) await new Promise<void>((resolve) => this.#wake.push(resolve));
  }

  /** Kills the service at the n-th word from now on, before it is dealt with. */
  killAt(word: number | undefined): void {
    this.#killIn = word;
  }

  get pid(): number {
    return this.#child?.pid as number;
  }

  /** The service's process. */
  get child(): ChildProcess {
    return this.#child as ChildProcess;
  }

  /** Starts luod with what is in the store, and waits for READY. */
  async start(flags: readonly string[] = [], environment: NodeJS.ProcessEnv = {}): Promise<void> {
    await this.launch([...cli('luod'), 'serve', '--socket', this.socket, ...flags], environment);
  }

  /** As `start`, of another command, whose stdin and stdout are the caller's. */
  async launch(command: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<void> {
    const given = [...this.units, ...this.stored];
    this.said.splice(0);
    // LISTEN_PID is the service's own pid, which only the shell that becomes it knows.
    const child = spawn('sh', ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', ...command], {
      stdio: ['pipe', 'pipe', 'pipe', ...given.map(({ fd }) => fd)],
      env: {
        ...process.env,
        NOTIFY_SOCKET: this.#notify,
        FDSTORE: String(this.#storeMax),
        LISTEN_FDS: String(given.length),
        LISTEN_FDNAMES: given.map(({ name }) => name).join(':'),
        ...environment,
      },
    });
    this.#child = child;
    // It may be dead when it is told something.
    child.stdin?.on('error', () => undefined);
    child.stdout?.resume();
    this.#exited = once(child, 'exit').then(([code]) => code as number | null);
    createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (line) => {
      this.stderr += `${line}\n`;
    });
    const ended = this.#exited.then((code) =>
      Promise.reject(new Error(`luod ended with ${code}: ${this.stderr}`)),
    );
    ended.catch(() => undefined);
    await Promise.race([this.hears({ READY: '1' }), ended]);
  }

  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  async stop(): Promise<number | null> {
    this.#child?.kill('SIGTERM');
    return await this.#exited;
  }

  close(): void {
    this.#watch.close();
    closeFd(this.#fd);
    for (const { fd } of this.stored) closeFd(fd);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
