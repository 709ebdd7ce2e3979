/**
 * A program that keeps what is neither a socket nor a process: a timerfd whose every expiry it writes down in a file and adds to an
 * eventfd, and timers: one that it sets at each freeze to be due at once, and one that is due all the time. On SIGUSR2 it tells what it
 * counted, which it does in a state.
 */
import { Eventfd, liveupdate, OpenFile, Timerfd } from 'liveupdate';

const lu = await liveupdate();
const { bigint: now } = process.hrtime;
const total = await lu.state('total', () => ({
  ticks: 0n,
  lines: 0,
  added: 0n,
  counted: 0n,
  once: [],
  often: 0,
  before: 0n,
  after: 0n,
}));
const log = await lu.keep('log', () => OpenFile.open(process.env.LOG, 'a'));
const wake = await lu.keep('wake', () => Eventfd.create());
const tick = await lu.keep('tick', () => {
  const made = Timerfd.create();
  total.before = now();
  made.set(1, { interval: 1 });
  total.after = now();
  return made;
});
const once = await lu.timer('once', 0, () => total.once.push(lu.generation));
await lu.timer('often', 0, () => total.often++, { interval: 1 });
const lines = log.createWriteStream();

tick.on('count', (times) => {
  total.ticks += times;
  lines.write(`${++total.lines}\n`);
  wake.add(times);
  total.added += times;
});
wake.on('count', (count) => {
  total.counted += count;
});
lu.on('freeze', () => once.set(0));
process.on('SIGUSR2', () => {
  const from = now();
  total.ticks += tick.take() ?? 0n;
  const to = now();
  total.counted += wake.take() ?? 0n;
  const told = { ...total, generation: lu.generation, from, to };
  process.stderr.write(
    `told ${JSON.stringify(told, (_key, value) => (typeof value === 'bigint' ? Number(value) : value))}\n`,
  );
});
await lu.ready();
