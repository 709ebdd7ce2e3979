/** A program that replaces itself, in a process of its own, and what it says. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { programPath } from './luod-process.js';

/** What the program under test/programs/in-place.mjs says of itself. */
export interface InPlaceReport {
  pid: number;
  port: number;
  generation: number;
  origin: string;
  isManaged: boolean;
  service: string;
  total: { bytes: number; connections: number; generations: number[]; events: string[] };
  /** Bytes by a counter, which is an FLB. */
  counted: number;
  damaged: number;
  live: number;
  bytes: number;
  fds: string[];
  signals: Record<string, string>;
  cwd: string;
  umask: number;
  argv: string[];
  execArgv: string[];
  commandLine: string[];
  title?: string;
  inherited: string[];
  leftOver: string[];
  /** Of descriptors 0 to 2: now, and when the image began. */
  nonBlocking: boolean[];
  nonBlockingAtStart: boolean[];
  /** Descriptors above 2 that a child or the next program would get. */
  leaks: string[];
  error?: { code: string; message: string };
}

export interface InPlaceOptions {
  /** The default is the program under test. */
  readonly command?: readonly string[];
  readonly spawn?: SpawnOptions;
  readonly env?: Record<string, string>;
}

/**
 * Without the settings of this test run, which are variables of the same names; and without certificates, whose file newer Nodes
 * have open for a while after their start.
 */
function ownEnvironment(): NodeJS.ProcessEnv {
  const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('LIVEUPDATE_')));
}

export class InPlaceProgram {
  readonly folder = mkdtempSync(join(tmpdir(), 'liveupdate-exec-'));
  readonly #control = join(this.folder, 'control.sock');
  readonly child: ChildProcess;
  /** Everything that it wrote to stdout and stderr. */
  output = '';
  #wake: (() => void)[] = [];

  private constructor(options: InPlaceOptions) {
    const [file, ...args] = options.command ?? [process.execPath, programPath('in-place.mjs')];
    this.child = spawn(file as string, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...options.spawn,
      env: { ...ownEnvironment(), CONTROL: this.#control, ...options.env },
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => this.#take(text));
    }
    this.child.once('close', () => this.#take(''));
  }

  static async start(options: InPlaceOptions = {}): Promise<InPlaceProgram> {
    const program = new InPlaceProgram(options);
    await program.says(/generation 1 serves/);
    return program;
  }

  #take(text: string): void {
    this.output += text;
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** Waits until what it wrote matches. */
  async says(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.output)) {
      const { exitCode, signalCode } = this.child;
      if (exitCode !== null || signalCode !== null)
        throw new Error(`it ended with ${exitCode ?? signalCode}:\n${this.output}`);
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  report(): Promise<InPlaceReport> {
    return this.#ask({ do: 'report' });
  }

  /** The report of the image that serves afterwards, with the error if that is the old one. */
  update(what: { command?: readonly string[]; umask?: number; title?: string } = {}): Promise<InPlaceReport> {
    return this.#ask({ do: 'update', ...what });
  }

  async #ask(request: object): Promise<InPlaceReport> {
    const socket = createConnection(this.#control).setEncoding('utf8');
    socket.write(`${JSON.stringify(request)}\n`);
    let text = '';
    for await (const chunk of socket) text += chunk;
    if (text === '') throw new Error(`it said nothing:\n${this.output}`);
    return JSON.parse(text) as InPlaceReport;
  }

  async stop(): Promise<void> {
    const { child } = this;
    if (child.exitCode === null && child.signalCode === null) {
      const closed = once(child, 'close');
      child.kill('SIGKILL');
      await closed;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
