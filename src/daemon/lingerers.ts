/**
 * Old images of a service that linger: the next image has taken over, and they serve what could not cross to its end. They leave
 * by themselves, at their deadline at the latest; one that does not is killed a little later. They play no part in updates, and
 * several may linger at once.
 */
import type { ImageProcess } from './image-process.js';

/** Beyond the deadline that the image itself keeps. */
const GRACE_MS = 5000;

export interface LingererStatus {
  readonly pid: number | undefined;
  readonly generation: number;
  readonly connections: number;
  readonly ageSeconds: number;
}

interface Lingerer {
  connections: number;
  readonly since: number;
  readonly timer: NodeJS.Timeout;
}

export class Lingerers {
  readonly #images = new Map<ImageProcess, Lingerer>();
  readonly #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  has(image: ImageProcess): boolean {
    return this.#images.has(image);
  }

  [Symbol.iterator](): IterableIterator<ImageProcess> {
    return this.#images.keys();
  }

  add(image: ImageProcess, connections: number, drainMs: number): void {
    const timer = setTimeout(() => image.kill('SIGKILL'), drainMs + GRACE_MS);
    this.#images.set(image, { connections, since: Date.now(), timer });
    this.#changed();
  }

  /** It said how many connections are left. */
  count(image: ImageProcess, connections: number): void {
    const lingerer = this.#images.get(image);
    if (lingerer !== undefined) lingerer.connections = connections;
  }

  /** @returns whether it was one. */
  gone(image: ImageProcess): boolean {
    const lingerer = this.#images.get(image);
    if (lingerer === undefined) return false;
    clearTimeout(lingerer.timer);
    this.#images.delete(image);
    this.#changed();
    return true;
  }

  signal(signal: NodeJS.Signals): void {
    for (const image of this.#images.keys()) image.signal(signal);
  }

  kill(): void {
    for (const image of this.#images.keys()) image.kill('SIGKILL');
  }

  status(): LingererStatus[] {
    return [...this.#images].map(([{ pid, generation }, { connections, since }]) => ({
      pid,
      generation,
      connections,
      ageSeconds: Math.round((Date.now() - since) / 1000),
    }));
  }
}
