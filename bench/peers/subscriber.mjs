/** A subscriber of an event stream: knows of every number whether it came, and when. Whether to connect again is its library's business. */
import { EVENTS_PATH } from './programs/event-streams.mjs';

export class Subscriber {
  #source;
  #first;
  /** Of the event that came last. */
  #number;
  #onNumber;
  /** Who sent that one. */
  version;
  /** Streams that ended, and attempts to connect that failed. */
  ended = 0;
  refused = 0;
  missed = 0;
  repeated = 0;
  /** When the events came: milliseconds of the monotonic clock. */
  at = [];

  constructor(EventSource, port, now) {
    let isOpen = false;
    this.#source = new EventSource(`http://127.0.0.1:${port}${EVENTS_PATH}`);
    this.#source.addEventListener('open', () => {
      isOpen = true;
    });
    this.#source.addEventListener('error', () => {
      if (isOpen) this.ended++;
      else this.refused++;
      isOpen = false;
    });
    this.#source.addEventListener('message', ({ lastEventId, data }) => {
      this.at.push(now());
      this.version = data;
      this.#take(Number(lastEventId));
    });
  }

  #take(number) {
    this.#first ??= number;
    if (number <= this.#number) this.repeated++;
    else {
      this.missed += number - (this.#number ?? number - 1) - 1;
      this.#number = number;
    }
    this.#onNumber?.();
  }

  /** Nothing came yet. */
  get isWaiting() {
    return this.#number === undefined;
  }

  /** The stream is the one that it first opened. */
  get isFirst() {
    return this.ended === 0;
  }

  /** Resolves when event `number` or a later one has come, or after `ms`; then what did not come up to it is missed. */
  async upTo(number, ms) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#onNumber = () => {
        if (!(this.#number >= number)) return;
        clearTimeout(timer);
        resolve();
      };
      this.#onNumber();
    });
    this.#onNumber = undefined;
    if (this.#number < number) this.missed += number - this.#number;
  }

  close() {
    this.#source.close();
  }
}
