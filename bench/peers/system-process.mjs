/**
 * What the adapters of all systems share: starting a part of the system under test, with its lines and its log, and waiting for
 * what it does. An adapter (systems/*.mjs) is
 *
 *   { name, title, how, version?, notes?, loads: { http, tcp }, prepare(), start(setting) }
 *
 * `prepare` installs what is needed or throws Unavailable with the reason; `version` is then what is told of it. `start` resolves,
 * when the system serves, to { update(version), stop(), isOldGone? }: `update` does what an operator does and resolves when
 * that is over. `setting` is { folder, httpPort, tcpPort, cacheBytes, processes }.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { environment } from '../processes.mjs';

/** This machine cannot run the system; the message says why. */
export class Unavailable extends Error {}

const WAIT_MS = 15_000;
const POLL_MS = 10;

/** A program of ./programs. */
export function program(name) {
  return fileURLToPath(new URL(`programs/${name}`, import.meta.url));
}

const versionFile = (folder) => join(folder, 'version');

/** Deploys a version: what programs that start from now on are. */
export function deploy(folder, version) {
  writeFileSync(versionFile(folder), version);
}

/** The service's environment, see programs/application.mjs. */
export function serviceEnvironment({ folder, httpPort, tcpPort, cacheBytes }) {
  return {
    VERSION_FILE: versionFile(folder),
    HTTP_PORT: String(httpPort),
    TCP_PORT: String(tcpPort),
    CACHE_BYTES: String(cacheBytes),
  };
}

/** A process of the system, in a session of its own. */
export class SystemProcess {
  #lines = [];
  #waiting = new Set();
  #log;
  child;

  constructor(setting, file, args, env = {}) {
    this.#log = join(setting.folder, 'log');
    // Without our own variables: an updated service must not find another luod.
    const { LIVEUPDATE_SOCKET: _, ...outer } = environment;
    const log = openSync(this.#log, 'a');
    this.child = spawn(file, args, {
      cwd: setting.folder,
      env: { ...outer, ...env },
      detached: true,
      stdio: ['ignore', 'pipe', log],
    });
    this.child.once('error', (error) => {
      this.error = error;
    });
    if (this.child.pid !== undefined) setting.processes.add(this.child.pid);
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      this.#lines.push(line);
      for (const look of [...this.#waiting]) look();
    });
    this.child.once('close', () => {
      for (const look of [...this.#waiting]) look();
    });
  }

  get pid() {
    return this.child.pid;
  }

  get hasEnded() {
    return this.child.exitCode !== null || this.child.signalCode !== null || this.error !== undefined;
  }

  /** What it and its like wrote on standard error, its end. */
  get said() {
    return readFileSync(this.#log, 'utf8').trimEnd().split('\n').slice(-5).join('\n');
  }

  /**
   * The value that `find(line)` gives for the next line for which it gives any.
   * @throws when it ends, or after a while.
   */
  line(find) {
    return new Promise((resolve, reject) => {
      const done = (act, value) => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        act(value);
      };
      const timer = setTimeout(
        () => done(reject, new Error(`waited ${WAIT_MS} ms for a word: ${this.said}`)),
        WAIT_MS,
      );
      const look = () => {
        while (this.#lines.length > 0) {
          const found = find(this.#lines.shift());
          if (found !== undefined) return done(resolve, found);
        }
        if (this.hasEnded)
          done(
            reject,
            new Error(
              `ended by ${this.child.signalCode ?? this.child.exitCode ?? this.error.message} ${this.said}`,
            ),
          );
      };
      this.#waiting.add(look);
      look();
    });
  }

  /** Until the service says that `version` serves; its pid. */
  serves(version) {
    return this.line((line) => {
      if (!line.startsWith('{')) return undefined;
      const said = JSON.parse(line);
      return said.version === version ? said.pid : undefined;
    });
  }

  async exited() {
    if (this.hasEnded) return;
    await once(this.child, 'exit');
  }

  /** Ends it with `signal`; the tracked processes see to it if it does not end. */
  async stop(signal = 'SIGTERM') {
    if (this.hasEnded) return;
    this.child.kill(signal);
    await Promise.race([this.exited(), sleep(WAIT_MS, undefined, { ref: false })]);
  }
}

/** Runs a command of the system to its end; what it printed. @throws with its output when it fails. */
export async function command(setting, file, args, env = {}) {
  const process = new SystemProcess(setting, file, args, env);
  let out = '';
  process.child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text;
  });
  if (!process.hasEnded) await once(process.child, 'close');
  if (process.child.exitCode !== 0)
    throw new Error(`${file} ${args.join(' ')}: ${out.trim()} ${process.said}`);
  return out;
}

/** Waits until `look()` gives something, for things that tell nobody when they are done. */
export async function until(what, look) {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`waited ${WAIT_MS} ms for ${what}`);
    await sleep(POLL_MS);
  }
}

/** Until somebody listens at `port`. */
export function listens(port) {
  return until(`a listener at ${port}`, async () => {
    const socket = net.connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      // Not yet.
      return false;
    } finally {
      socket.destroy();
    }
  });
}
