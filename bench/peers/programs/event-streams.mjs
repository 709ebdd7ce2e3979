/**
 * Event streams of the service: every EVENT_MS each subscriber is told a number. The number is the time, by the monotonic clock, so that
 * all images and workers number alike, and a subscriber can tell which numbers it never got.
 */
export const EVENTS_PATH = '/events';
export const EVENT_MS = 50;

const now = () => Number(process.hrtime.bigint()) / 1e6;

/** The number that is due now. */
export const numberNow = () => Math.floor(now() / EVENT_MS);

export class EventStreams {
  #version;
  /** By the response: what has to be remembered of it, the number that was told last. */
  #streams = new Map();
  #isTelling = false;

  constructor(version) {
    this.#version = version;
  }

  /** A new one is told what happens from now on; one that has a number already, everything behind that. */
  add(response, state) {
    state.told ??= numberNow();
    this.#streams.set(response, state);
    response.on('close', () => this.#streams.delete(response));
    if (this.#isTelling) return;
    this.#isTelling = true;
    // Those that crossed come together, and may have something due.
    setImmediate(() => this.#tell());
  }

  /** Tells what is due, and again when the next number is, while somebody listens. */
  #tell() {
    this.#isTelling = this.#streams.size > 0;
    if (!this.#isTelling) return;
    const due = numberNow();
    for (const [response, state] of this.#streams) {
      let text = '';
      while (state.told < due) text += `id: ${++state.told}\ndata: ${this.#version}\n\n`;
      if (text !== '') response.write(text);
    }
    setTimeout(() => this.#tell(), Math.ceil(EVENT_MS - (now() % EVENT_MS)));
  }

  /** Ends all, and calls `ended` behind each. */
  end(ended) {
    for (const response of this.#streams.keys()) response.end(ended);
    this.#streams.clear();
  }
}
