/** A real `luod serve` in a folder of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LuodClient } from '../../src/app/luod-client.js';
import { KeeperLink } from '../../src/daemon/keeper-link.js';
import { cli } from './luod-process.js';

export class Host {
  readonly folder: string;
  readonly socket: string;
  readonly #flags: readonly string[];
  readonly #openFiles: number | undefined;
  #child: ChildProcess | undefined;
  #exited: Promise<number | null> = Promise.resolve(0);
  /** Of every luod's stderr, which the keeper has as well. */
  readonly #closed: Promise<unknown>[] = [];
  stderr = '';
  #waiting: (() => void)[] = [];

  private constructor(flags: readonly string[], openFiles: number | undefined) {
    this.folder = mkdtempSync(join(tmpdir(), 'liveupdate-host-'));
    this.socket = join(this.folder, 'run', 'host.sock');
    this.#flags = flags;
    this.#openFiles = openFiles;
  }

  /** @param options.openFiles RLIMIT_NOFILE of luod and its keeper. */
  static async start(flags: readonly string[] = [], options: { openFiles?: number } = {}): Promise<Host> {
    const host = new Host(flags, options.openFiles);
    await host.spawn();
    return host;
  }

  /** Starts luod; again after its death. */
  async spawn(): Promise<void> {
    const args = ['serve', '--socket', this.socket, '--audit', join(this.folder, 'audit'), ...this.#flags];
    const command = [...cli('luod'), ...args];
    const limited = ['sh', '-c', `ulimit -n ${this.#openFiles} && exec "$0" "$@"`, ...command];
    const [file, ...words] = (this.#openFiles === undefined ? command : limited) as [string, ...string[]];
    const child = spawn(file, words, {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    this.#exited = once(child, 'exit').then(([code]) => code as number | null);
    this.#closed.push(once(child, 'close'));
    const lines = createInterface({ input: child.stderr as NodeJS.ReadableStream });
    await new Promise<void>((resolve, reject) => {
      lines.on('line', (line) => {
        this.stderr += `${line}\n`;
        for (const wake of this.#waiting.splice(0)) wake();
        if (/listens at/.test(line)) resolve();
      });
      child.once('exit', (code) => reject(new Error(`luod ended with ${code}:\n${this.stderr}`)));
    });
  }

  /** Waits until luod's log matches. */
  async says(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.stderr)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** SIGKILL; resolves when it is dead. */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  /** Resolves when the luod that runs now is dead, by whatever hand. */
  async died(): Promise<void> {
    await this.#exited;
  }

  get pid(): number {
    return this.#child?.pid as number;
  }

  /** The keeper's pid: the process that has its socket on its command line. */
  get keeperPid(): number {
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      try {
        const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
        if (words.includes(`${this.socket}.keeper`)) return Number(name);
      } catch {
        // It ended while we looked.
      }
    }
    throw new Error('there is no keeper');
  }

  connect(): Promise<LuodClient> {
    return LuodClient.connect(this.socket);
  }

  /** Descriptors that luod has open. */
  get fds(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  /** For counts of descriptors: those of a keeper that sleeps are others, and luod's, too. */
  async wakeKeeper(): Promise<void> {
    const path = `${this.socket}.keeper`;
    for (const { fds } of await KeeperLink.look(path)) for (const fd of fds) closeSync(fd);
    // Until it has closed its end of this: then its listener alone has the name.
    const ends = () =>
      readFileSync('/proc/net/unix', 'utf8')
        .split('\n')
        .filter((line) => line.endsWith(` ${path}`));
    while (ends().length > 1) await nextTurn();
  }

  /** Descriptors that the keeper has open. */
  get keeperFds(): number {
    return readdirSync(`/proc/${this.keeperPid}/fd`).length;
  }

  /** The audit's lines. */
  audit(): { event: string; session: string; result: string; uid: number; pid: number; kind?: string }[] {
    return readFileSync(join(this.folder, 'audit'), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  async stop(): Promise<number | null> {
    const child = this.#child;
    if (child?.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    const code = await this.#exited;
    await Promise.all(this.#closed);
    rmSync(this.folder, { recursive: true, force: true });
    return code;
  }
}
