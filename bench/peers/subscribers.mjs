/**
 * The subscribers of event streams, in a process of their own: what their library needs of a processor must not be seen as the wait of another
 * client. Answers {connected}, and at 'finish' everything that they saw.
 */
import { eventSource, RECONNECT_MS } from './event-source.mjs';
import { numberNow } from './programs/event-streams.mjs';
import { Subscriber } from './subscriber.mjs';

const { httpPort, streams } = JSON.parse(process.argv[2]);
const CONNECTING_MS = 10_000;
/** Who has lost its stream is waited for at the end, if it comes back at the time that its library says. */
const RETURN_MS = RECONNECT_MS + 2000;

const now = () => Number(process.hrtime.bigint()) / 1e6;

const EventSource = eventSource.load();
const subscribers = Array.from({ length: streams }, () => new Subscriber(EventSource, httpPort, now));

async function finish() {
  const last = numberNow();
  await Promise.all(subscribers.map((subscriber) => subscriber.upTo(last, RETURN_MS)));
  const finishedAt = now();
  for (const subscriber of subscribers) subscriber.close();
  const seen = {
    finishedAt,
    subscribers: subscribers.map(({ at, isFirst, version, ended, refused, missed, repeated }) => ({
      at: Float64Array.from(at),
      isFirst,
      version,
      ended,
      refused,
      missed,
      repeated,
    })),
  };
  process.send({ seen }, () => process.disconnect());
}

process.on('message', (message) => {
  if (message === 'finish') void finish();
});

await Promise.all(subscribers.map((subscriber) => subscriber.upTo(0, CONNECTING_MS)));
if (subscribers.some(({ isWaiting }) => isWaiting)) throw new Error('no event came');
process.send({ connected: true });
