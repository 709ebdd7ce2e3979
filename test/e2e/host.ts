/** A real `luod serve` in a folder of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { LuodClient } from '../../src/app/luod-client.js';
import { cli } from './luod-process.js';

export class Host {
  readonly folder: string;
  readonly socket: string;
  readonly #child: ChildProcess;
  readonly exited: Promise<number | null>;
  stderr = '';

  private constructor(folder: string, child: ChildProcess) {
    this.folder = folder;
    this.socket = join(folder, 'run', 'host.sock');
    this.#child = child;
    this.exited = once(child, 'exit').then(([code]) => code as number | null);
  }

  static async start(flags: readonly string[] = []): Promise<Host> {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-host-'));
    const args = [
      'serve',
      '--socket',
      join(folder, 'run', 'host.sock'),
      '--audit',
      join(folder, 'audit'),
      ...flags,
    ];
    const child = spawn(process.execPath, [cli('luod')[1] as string, ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const host = new Host(folder, child);
    const lines = createInterface({ input: child.stderr as NodeJS.ReadableStream });
    const listens = new Promise<void>((resolve, reject) => {
      lines.on('line', (line) => {
        host.stderr += `${line}\n`;
        if (/listens at/.test(line)) resolve();
      });
      child.once('exit', (code) => reject(new Error(`luod ended with ${code}:\n${host.stderr}`)));
    });
    await listens;
    return host;
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  connect(): Promise<LuodClient> {
    return LuodClient.connect(this.socket);
  }

  /** Descriptors that luod has open. */
  get fds(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  /** The audit's lines. */
  audit(): { event: string; session: string; result: string; uid: number; pid: number; kind?: string }[] {
    return readFileSync(join(this.folder, 'audit'), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  async stop(): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGTERM');
    const code = await this.exited;
    rmSync(this.folder, { recursive: true, force: true });
    return code;
  }
}
