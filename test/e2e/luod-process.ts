/** A real luod with a program under it, in a folder of its own; and luoctl to talk to it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LuodStatus } from '../../src/daemon/luod-status.js';
import type { UpdateResult } from '../../src/daemon/update.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export function programPath(name: string): string {
  return join(ROOT, 'test', 'programs', name);
}

/** What the echo program says of itself. */
export interface Report {
  pid: number;
  generation: number;
  origin: string;
  total: { bytes: number; connections: number; generations: number[] };
  damaged: number;
  live: number;
  ids: number;
  bytes: number;
  fds: number;
  events: string[];
}

/** What luoctl printed, and how it ended. */
export type Updated = UpdateResult & { exitCode: number | null };

export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a command to its end. */
export async function run(command: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> {
  const child = spawn(command[0] as string, command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}

export function cli(name: 'luod' | 'luoctl'): string[] {
  return [process.execPath, join(ROOT, 'dist', 'cli', `${name}.js`)];
}

/**
 * A port for a program that is started later. Below those that the kernel gives to clients (ip_local_port_range), of which other tests
 * open a thousand meanwhile.
 */
export async function freePort(): Promise<number> {
  const range = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  const highest = Math.min(Number.parseInt(range, 10), 32_768);
  for (;;) {
    const port = LOWEST_PORT + Math.floor(Math.random() * (highest - LOWEST_PORT));
    const server = createServer().listen(port, '127.0.0.1');
    const isFree = await once(server, 'listening').then(
      () => true,
      () => false,
    );
    server.close();
    if (isFree) return port;
  }
}

/** What luod says when a program that uses liveupdate serves. */
export function servesItself(generation: number): RegExp {
  return new RegExp(`generation ${generation} serves, pid \\d+(:|\n)`);
}

/** Above those of services that a machine may have. */
const LOWEST_PORT = 10_000;

export class LuodProcess {
  readonly folder: string;
  readonly socket: string;
  readonly control: string;
  readonly port: number;
  readonly #start: (command: readonly string[], flags?: readonly string[]) => void;
  readonly #command: readonly string[];
  #child!: ChildProcess;
  exited: Promise<number | null> = Promise.resolve(0);
  stderr = '';
  #lines: (() => void)[] = [];

  private constructor(
    folder: string,
    port: number,
    command: readonly string[],
    flags: readonly string[],
    env: NodeJS.ProcessEnv,
  ) {
    this.folder = folder;
    this.port = port;
    this.socket = join(folder, 'luod.sock');
    this.control = join(folder, 'control.sock');
    this.#command = command;
    this.#start = (words, moreFlags = []) => {
      const args = ['run', '--name', 'echo', '--socket', this.socket, ...flags, ...moreFlags, '--', ...words];
      const child = spawn(process.execPath, [cli('luod')[1] as string, ...args], {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: { ...process.env, PORT: String(port), CONTROL: this.control, ...env },
      });
      this.#child = child;
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        this.stderr += text;
        for (const wake of this.#lines.splice(0)) wake();
      });
      // Not 'close': a program that outlives luod holds its stderr.
      this.exited = once(child, 'exit').then(([code]) => {
        for (const wake of this.#lines.splice(0)) wake();
        return code as number | null;
      });
    };
    this.#start(command);
  }

  /** Starts luod again, after its death, and waits until it has taken over. */
  async again(command: readonly string[] = this.#command, flags: readonly string[] = []): Promise<void> {
    this.stderr = '';
    this.#start(command, flags);
    await this.says(/took over \d+ sessions/);
  }

  /** Starts luod with a program (the echo program) and waits until it serves. */
  static async start(
    options: {
      command?: readonly string[];
      flags?: readonly string[];
      env?: NodeJS.ProcessEnv;
      /** The program does not use liveupdate. */
      isPlain?: boolean;
    } = {},
  ): Promise<LuodProcess> {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-e2e-'));
    const luod = new LuodProcess(
      folder,
      await freePort(),
      options.command ?? [process.execPath, programPath('echo.mjs')],
      options.flags ?? [],
      options.env ?? {},
    );
    // A program that is slow to start is taken for one without liveupdate first.
    await luod.says(options.isPlain ? /generation 1 serves/ : /generation 1 serves, pid \d+$/m);
    return luod;
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Waits until luod's log matches. */
  async says(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.stderr)) {
      if (this.#child.exitCode !== null)
        throw new Error(`luod ended with ${this.#child.exitCode}:\n${this.stderr}`);
      await new Promise<void>((resolve) => this.#lines.push(resolve));
    }
  }

  /** Waits until the program of a generation is ready. On a busy machine luod takes it for a plain one before that, and says so. */
  serves(generation: number): Promise<void> {
    return this.says(new RegExp(`generation ${generation} serves, pid \\d+(:|$)`, 'm'));
  }

  /** Updates by luoctl; `env` is what the successor's environment differs by. */
  update(flags: readonly string[] = [], env?: Record<string, string>): Promise<Updated> {
    const variables = Object.entries(env ?? {}).map(([name, value]) => `${name}=${value}`);
    // The successor gets luod's own environment; what is to differ goes through env(1) as a new command.
    const command = ['env', ...variables, process.execPath, programPath('echo.mjs')];
    return this.updateTo(env === undefined ? [] : command, flags);
  }

  /** Updates to another command. */
  async updateTo(command: readonly string[], flags: readonly string[] = []): Promise<Updated> {
    const behind = command.length === 0 ? [] : ['--', ...command];
    const { code, stdout, stderr } = await run([
      ...cli('luoctl'),
      'update',
      '--json',
      '--socket',
      this.socket,
      ...flags,
      ...behind,
    ]);
    if (stdout === '') throw new Error(`luoctl said nothing: ${stderr}`);
    return { ...(JSON.parse(stdout) as UpdateResult), exitCode: code };
  }

  async status(): Promise<LuodStatus> {
    const { stdout } = await run([...cli('luoctl'), 'status', '--json', '--socket', this.socket]);
    return JSON.parse(stdout) as LuodStatus;
  }

  /** Asks the echo program itself. */
  async report(): Promise<Report> {
    const socket = createConnection(this.control).setEncoding('utf8');
    let text = '';
    for await (const chunk of socket) text += chunk;
    return JSON.parse(text) as Report;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Ends luod in order, checks that nobody is left, and returns its exit code. */
  async stop(): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGTERM');
    const code = await this.exited;
    rmSync(this.folder, { recursive: true, force: true });
    return code;
  }
}

export function fdsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

export function isAlive(pid: number): boolean {
  // A zombie has no files any more but is listed until its parent waits for it.
  return existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}

/** Pids of processes that have `text` in their command line or environment. */
export function processesWith(text: string): number[] {
  const found: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      const about =
        readFileSync(`/proc/${name}/cmdline`, 'utf8') + readFileSync(`/proc/${name}/environ`, 'utf8');
      if (about.includes(text)) found.push(Number(name));
    } catch {
      // It ended between the listing and the look.
    }
  }
  return found;
}
