/** A process of clients: says {connected}, and what it saw when it is told to finish. It ends with the benchmark. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { environment, own } from '../processes.mjs';

const WORD_MS = 30_000;

export class ClientProcess {
  #file;
  #child;

  /** @param {string} file A file beside this one. */
  constructor(file, options) {
    this.#file = file;
    this.#child = own(
      fork(fileURLToPath(new URL(file, import.meta.url)), [JSON.stringify(options)], {
        env: environment,
        serialization: 'advanced',
      }),
    );
  }

  async #word() {
    const [message] = await Promise.race([
      once(this.#child, 'message', { signal: AbortSignal.timeout(WORD_MS) }),
      once(this.#child, 'exit').then(() => Promise.reject(new Error(`${this.#file} has ended by itself`))),
    ]);
    return message;
  }

  async connected() {
    await this.#word();
  }

  begin() {
    this.#child.send('begin');
  }

  /** What the clients saw. */
  async finish() {
    this.#child.send('finish');
    const { seen } = await this.#word();
    return seen;
  }

  kill() {
    this.#child.kill();
  }
}
