/**
 * `npm run bench:idle`: what it costs to run under luod while nothing is updated: requests, and memory.
 *
 *   bare      the program without this library
 *   library   the program with it, started by hand
 *   luod      the same program under `luod run`
 *
 * All three run at the same time and are asked in turns, a short burst each, in an order that changes; so whatever else the machine does
 * meets all of them alike. Two programs of one source differ by a few parts in a hundred from start to start (where V8 and the kernel
 * put things), so that all of them are started anew many times. A request's cost is the processor time of the whole program,
 * from /proc/PID/task/TID/schedstat, over the requests of a burst. Of each round of bursts the ratio is taken, whose median is that start's; what
 * is told is the median of the starts, since a program may fall on its feet or on its nose once in a while, and the interval that has the true one in 95 of
 * 100 cases. It is a failure when all of the interval is above what is allowed.
 *
 * Memory is what would be free again if luod and its keeper were not there: their private pages (Private_Clean + Private_Dirty of
 * smaps_rollup). What they share with every other Node process (its binary) is not theirs.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median } from './micro/measure.mjs';
import { machine, writeBlock } from './micro/report.mjs';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const LUOD = at('../dist/cli/luod.js');
const LUOCTL = at('../dist/cli/luoctl.js');
const PROGRAM = at('programs/hello.mjs');
const PAGE = at('../docs/performance.md');

const CONNECTIONS = 10;
const REQUEST = 'GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n';
/** Of one burst; some hundredths of a second. */
const REQUESTS = 1000;
/** Before the first burst: V8 has compiled what it will. */
const WARM_UP = 20_000;
/** What running under luod may add: requests by one part in a hundred, and memory. */
const MOST_TIME = 1.01;
const MOST_MIB = 15;

// Certificates that are read at each start on Node 20, and kept: nothing to do with what is measured.
const { NODE_EXTRA_CA_CERTS: _, ...environment } = process.env;

/** A program that was started, and connections to it. */
class Contender {
  #child;
  #sockets = [];
  #folder;

  static async start(name) {
    const contender = new Contender();
    const isManaged = name === 'luod';
    contender.#folder = mkdtempSync(join(tmpdir(), 'liveupdate-idle-'));
    contender.socket = join(contender.#folder, 'luod.sock');
    const words = isManaged
      ? [LUOD, 'run', '--name', 's', '--socket', contender.socket, '--', process.execPath, PROGRAM]
      : [PROGRAM];
    contender.#child = spawn(process.execPath, words, {
      env: { ...environment, LIBRARY: name === 'bare' ? '0' : '1' },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const lines = createInterface({ input: contender.#child.stdout });
    const [line] = await Promise.race([
      once(lines, 'line'),
      once(contender.#child, 'exit').then(() => Promise.reject(new Error(`'${name}' did not start`))),
    ]);
    const { pid, port } = JSON.parse(line);
    contender.pid = pid;
    contender.luodPid = isManaged ? contender.#child.pid : undefined;
    for (let i = 0; i < CONNECTIONS; i++) {
      const socket = createConnection({ host: '127.0.0.1', port, noDelay: true });
      await once(socket, 'connect');
      contender.#sockets.push(socket);
    }
    return contender;
  }

  /** Asks `count` times over all connections, each anew when it was answered. @returns milliseconds that went by. */
  async ask(count) {
    const started = performance.now();
    let asked = 0;
    await Promise.all(
      this.#sockets.map(async (socket) => {
        const answered = deferred();
        const lost = () => answered.reject(new Error('the program closed a connection'));
        const next = () => {
          if (asked++ < count) socket.write(REQUEST);
          else answered.resolve();
        };
        // An answer is one write of the server's, and small enough to come in one piece.
        socket.on('data', next);
        socket.once('close', lost);
        next();
        await answered.promise;
        socket.off('data', next);
        socket.off('close', lost);
      }),
    );
    return performance.now() - started;
  }

  /** What one request of a burst costs: the program's processor time in µs, and how many are answered in a second. */
  async burst() {
    const before = processorTime(this.pid);
    const ms = await this.ask(REQUESTS);
    return { us: (processorTime(this.pid) - before) / REQUESTS / 1000, perSecond: (REQUESTS / ms) * 1000 };
  }

  async stop() {
    for (const socket of this.#sockets) socket.destroy();
    this.#child.kill('SIGTERM');
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit');
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

/** Nanoseconds that all threads of a process have been on a processor. */
function processorTime(pid) {
  const folder = `/proc/${pid}/task`;
  return readdirSync(folder)
    .map((tid) => Number(readFileSync(`${folder}/${tid}/schedstat`, 'utf8').split(' ')[0]))
    .reduce((sum, each) => sum + each, 0);
}

function privateMib(pid) {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = (name) => Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(text)[1]);
  return (kib('Private_Clean') + kib('Private_Dirty')) / 1024;
}

/** luod's keeper: its child that is not the program. */
function keeperOf({ luodPid, pid }) {
  const children = readFileSync(`/proc/${luodPid}/task/${luodPid}/children`, 'utf8').trim().split(' ');
  return children.map(Number).find((child) => child !== pid);
}

function memoryOf(contenders) {
  const { bare, library, luod } = contenders;
  return {
    bare: privateMib(bare.pid),
    library: privateMib(library.pid),
    managed: privateMib(luod.pid),
    luod: privateMib(luod.luodPid),
    keeper: privateMib(keeperOf(luod)),
  };
}

/** What luod has after it was asked something, as it has after every update. */
async function askedLuod({ luod }) {
  const asking = spawn(process.execPath, [LUOCTL, 'status', '--json', '--socket', luod.socket], {
    env: environment,
    stdio: 'ignore',
  });
  await once(asking, 'exit');
  return privateMib(luod.luodPid);
}

async function measureStart(bursts) {
  const names = ['bare', 'library', 'luod'];
  const contenders = {};
  try {
    for (const name of names) contenders[name] = await Contender.start(name);
    // Before the load: the memory of a program that has served is its own affair.
    const memory = memoryOf(contenders);
    for (const name of names) await contenders[name].ask(WARM_UP);
    const samples = { bare: [], library: [], luod: [] };
    for (let round = 0; round < bursts; round++) {
      for (let i = 0; i < names.length; i++) {
        // Each is first, second and last equally often.
        const name = names[(i + round) % names.length];
        samples[name].push(await contenders[name].burst());
      }
    }
    memory.served = privateMib(contenders.luod.luodPid) + privateMib(keeperOf(contenders.luod));
    memory.asked = await askedLuod(contenders);
    const of = (key) =>
      Object.fromEntries(names.map((name) => [name, median(samples[name].map((each) => each[key]))]));
    const ratio = (over, under) =>
      median(samples[over].map(({ us }, round) => us / samples[under][round].us));
    return {
      memory,
      us: of('us'),
      perSecond: of('perSecond'),
      luodOverLibrary: ratio('luod', 'library'),
      libraryOverBare: ratio('library', 'bare'),
    };
  } finally {
    for (const contender of Object.values(contenders)) await contender.stop();
  }
}

/** Standard deviations on each side of a mean that 95 of 100 values lie within. */
const WITHIN = 1.96;
/** That all lie on one side of the true one happens in 3 of 100 cases. */
const FEWEST = 6;

/** The median of a ratio, and its 95 % interval: how many of the starts lie below the true one is a toss of as many coins. */
function ratios(starts, key) {
  const sorted = starts.map((start) => start[key]).sort((a, b) => a - b);
  const outside = Math.max(0, Math.floor((sorted.length - WITHIN * Math.sqrt(sorted.length)) / 2));
  return { median: median(sorted), from: sorted.at(outside), to: sorted.at(-1 - outside) };
}

function report({ starts, load }) {
  const middle = (pick) => median(starts.map(pick));
  const row = (title, name) =>
    `| ${title} | ${middle(({ us }) => us[name]).toFixed(2)} | ${Math.round(middle(({ perSecond }) => perSecond[name])).toLocaleString('en')} |`;
  const ratio = ({ median: m, from, to }) => `**${m.toFixed(3)}** (${from.toFixed(3)} to ${to.toFixed(3)})`;
  const mib = (key) => middle(({ memory }) => memory[key]).toFixed(1);
  return `${machine()}; load average while it ran ${load}

| node:http, keep-alive, ${CONNECTIONS} connections | processor time of a request, µs | requests/s |
|---|---|---|
${row('without this library', 'bare')}
${row('with it, `node app.mjs`', 'library')}
${row('with it, `luod run -- node app.mjs`', 'luod')}

- Under luod over by hand, processor time: ${ratio(ratios(starts, 'luodOverLibrary'))}; the library over none: ${ratio(ratios(starts, 'libraryOverBare'))} (median of ${starts.length} starts, and its 95 % interval)
- Memory that luod adds to the host: **${(Number(mib('luod')) + Number(mib('keeper'))).toFixed(1)} MiB**: luod ${mib('luod')} and its keeper, which sleeps, ${mib('keeper')}. Once luod was asked something it has ${mib('asked')}
- Memory of the program: ${mib('bare')} MiB without this library, ${mib('library')} with it, ${mib('managed')} under luod
`;
}

const HELP = `npm run bench:idle -- [options]

  --starts N   starts of each program (default 20: two minutes)
  --bursts N   bursts of requests of each start (default 20)
  --json       one JSON object
  --write      renews docs/performance.md
  --help
`;
const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    starts: { type: 'string', default: '20' },
    bursts: { type: 'string', default: '20' },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit();
}
if (!(Number(values.starts) >= FEWEST)) {
  process.stderr.write(`--starts takes ${FEWEST} or more: fewer have no 95 % interval\n\n${HELP}`);
  process.exit(2);
}
const starts = [];
for (let i = 0; i < Number(values.starts); i++) starts.push(await measureStart(Number(values.bursts)));
const result = { starts, load: loadavg()[0].toFixed(1) };
const cost = ratios(starts, 'luodOverLibrary');
const added = median(starts.map(({ memory }) => memory.luod + memory.keeper));
const faults = [];
if (cost.from > MOST_TIME)
  faults.push(
    `a request costs ${cost.median.toFixed(3)} times as much under luod, and at least ${cost.from.toFixed(3)}; ${MOST_TIME} is allowed`,
  );
if (added > MOST_MIB)
  faults.push(`luod and its keeper have ${added.toFixed(1)} MiB; ${MOST_MIB} are allowed`);
if (values.json) process.stdout.write(`${JSON.stringify({ ...result, cost, addedMib: added, faults })}\n`);
else process.stdout.write(report(result));
if (values.write) writeBlock(PAGE, report(result), 'bench:idle');
for (const fault of faults) process.stderr.write(`bench:idle: ${fault}\n`);
process.exitCode = faults.length > 0 ? 1 : 0;
