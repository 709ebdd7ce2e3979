/**
 * npm run bench:peers: the same load through an update of ours and of what others use for it, on this machine; two tables, the ratios,
 * a picture. Whatever is missing is fetched; everything listens on loopback only; nothing is left behind.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { endOnSignals } from '../processes.mjs';
import { eventSource } from './event-source.mjs';
import { measure } from './measure.mjs';
import { publish } from './publish.mjs';
import { markdown } from './report.mjs';
import { resultOf, thisMachine } from './result.mjs';
import { Unavailable } from './system-process.mjs';
import { SYSTEMS } from './systems.mjs';

const HELP = `npm run bench:peers -- [options]

  --runs N          runs of every system, each in another order (default 3)
  --only LIST       these systems alone: ${SYSTEMS.map(({ name }) => name).join(', ')}
  --connections N   busy HTTP keep-alive clients (default 100)
  --rate N          their requests a second, all together (default 2000)
  --idle N          HTTP connections that are silent (default 200)
  --tcp N           TCP clients of numbered bytes, ten chunks a second each (default 50)
  --streams N       subscribers of event streams, twenty events a second each (default 50)
  --seconds N       before the update, and from its begin on (default 6)
  --warm-up N       seconds before that (default 3)
  --cache BYTES     of the service's memory (default 67108864)
  --json            the result as one JSON object, instead of the tables
  --write           puts the tables into performance.md, and peers.json and peers.svg beside it
  --docs FOLDER     where these are (default docs/)
  --help
`;

function fail(text) {
  process.stderr.write(`${text}\n\n${HELP}`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      options: {
        runs: { type: 'string', default: '3' },
        only: { type: 'string' },
        connections: { type: 'string', default: '100' },
        rate: { type: 'string', default: '2000' },
        idle: { type: 'string', default: '200' },
        tcp: { type: 'string', default: '50' },
        streams: { type: 'string', default: '50' },
        seconds: { type: 'string', default: '6' },
        'warm-up': { type: 'string', default: '3' },
        cache: { type: 'string', default: '67108864' },
        json: { type: 'boolean', default: false },
        write: { type: 'boolean', default: false },
        docs: { type: 'string', default: fileURLToPath(new URL('../../docs', import.meta.url)) },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error.message);
  }
}

const values = parse();

function whole(name, least) {
  if (!/^\d+$/.test(values[name]) || Number(values[name]) < least)
    fail(`--${name} takes a whole number from ${least}, not '${values[name]}'`);
  return Number(values[name]);
}

function chosen() {
  const names = values.only?.split(',') ?? SYSTEMS.map(({ name }) => name);
  const unknown = names.find((name) => !SYSTEMS.some((system) => system.name === name));
  if (unknown !== undefined) fail(`there is no system '${unknown}'`);
  return SYSTEMS.filter(({ name }) => names.includes(name));
}

const say = (text) => process.stderr.write(`${text}\n`);

/** Why a system, or a kind of client, cannot be measured; empty for one that can. */
async function prepare(all) {
  const reasons = new Map();
  for (const one of all) {
    try {
      await one.prepare();
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      reasons.set(one, error.message);
      say(`${one.title}: not available: ${error.message}`);
    }
  }
  return reasons;
}

const clientsOf = ({ connections, idle, tcp, streams }) => connections + idle + tcp + streams;

async function main() {
  const options = {
    runs: whole('runs', 1),
    connections: whole('connections', 0),
    rate: whole('rate', 1),
    idle: whole('idle', 0),
    tcp: whole('tcp', 0),
    streams: whole('streams', 0),
    windowMs: 1000 * whole('seconds', 1),
    warmupMs: 1000 * whole('warm-up', 0),
    cacheBytes: whole('cache', 8),
  };
  if (clientsOf(options) === 0) fail('no clients: nothing to measure');
  const systems = chosen();
  const reasons = await prepare(options.streams > 0 ? [...systems, eventSource] : systems);
  // Without its client the rest can be measured.
  if (reasons.has(eventSource)) options.streams = 0;
  if (clientsOf(options) === 0) return 1;
  const runs = new Map(systems.map((system) => [system, []]));
  for (let run = 0; run < options.runs; run++) {
    // Each begins once in every place, so that what a run leaves warm favours nobody.
    for (let place = 0; place < systems.length; place++) {
      const system = systems[(place + run) % systems.length];
      if (reasons.has(system)) continue;
      say(`${system.title}, run ${run + 1} of ${options.runs}`);
      try {
        const seen = await measure(system, options);
        runs.get(system).push(seen);
        say(
          `  ${seen.failed} of ${seen.requests} requests failed; alive: idle ${seen.idle.alive}/${seen.idle.count}, TCP ${seen.tcp.alive}/${seen.tcp.count}, streams ${seen.streams.alive}/${seen.streams.count}`,
        );
      } catch (error) {
        // One that cannot be measured must not cost the others their table.
        reasons.set(system, error.message.replaceAll(/\s+/g, ' '));
        say(`  ${error.stack}`);
      }
    }
  }
  const result = resultOf({ machine: thisMachine(), options, systems, runs, reasons });
  const text = markdown(result);
  process.stdout.write(values.json ? `${JSON.stringify(result)}\n` : text);
  if (values.write) publish(result, text, values.docs);
  const ours = systems.filter(({ name }) => name === 'ours' || name === 'exec');
  const lost = ours.some((system) => runs.get(system).some((seen) => hasLost(seen)));
  return lost || systems.some((system) => system.name === 'ours' && reasons.has(system)) ? 1 : 0;
}

/** Whether an update of ours broke its promise. */
function hasLost({ failed, busyClosed, idle, tcp, streams }) {
  const lost = failed + busyClosed + tcp.closed + tcp.lost + tcp.wrong;
  const told = streams.count > 0 ? streams.ended + streams.missed + streams.repeated : 0;
  return lost + told > 0 || idle.alive < idle.count;
}

endOnSignals();
if (values.help) process.stdout.write(HELP);
else process.exitCode = await main();
