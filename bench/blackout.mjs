/**
 * How long an update holds a service up: the blackout that luod reports (freeze start to sockets flowing) and the longest
 * time that a talking client waited for an echo, at the cut, in the whole update and without one, for several numbers of live connections and sizes
 * of memory. Beside it, in turns, the same service moved by hand (baseline/echo.mjs): what knowing SCM_RIGHTS alone comes to.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startBaseline } from './baseline/service.mjs';
import { connectClients } from './live-clients.mjs';
import { startOurs } from './ours.mjs';
import { endOnSignals, freePort, machine, median } from './processes.mjs';
import { table } from './table.mjs';

const HELP = `node bench/blackout.mjs [options]

  --connections LIST   live connections (default 10,1000,10000)
  --memory LIST        bytes of memory, each with 1,000 connections (default 65536,1073741824)
  --rolling LIST       live connections that move by a rolling cut (default 10000; 0 for none)
  --prepared LIST      live connections of updates in two steps, prepare and cut, atomic and rolling (default 1000; 0 for none)
  --updates N          updates of each cell and round (default 4)
  --rounds N           rounds: ours, then the baseline, in turns (default 2)
  --no-baseline        ours alone
  --json               one JSON object
  --help
`;
const SMALL = 65536;
const NAMES = ['connections', 'memory, bytes', 'cut'];
/** Live connections of which at least ten talk: so one of them is always waiting, and a gap is not cut short for want of a question. */
const ENOUGH = 1000;
/** A service that is updated has run for a while: until then V8 compiles what the load runs, in its process and in the clients'. */
const WARM_MS = 3000;
/** What of an update is still under way when it was reported: the old image's end. */
const BEHIND_MS = 250;
/** Between one measurement and the next, lest it has a part of the last one's. */
const CALM_MS = 1000;
const namesOf = ({ connections, memory, cut }) => [connections, memory, cut];

const { values } = parseArgs({
  options: {
    connections: { type: 'string', default: '10,1000,10000' },
    memory: { type: 'string', default: `${SMALL},1073741824` },
    rolling: { type: 'string', default: '10000' },
    prepared: { type: 'string', default: '1000' },
    updates: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '2' },
    'no-baseline': { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/**
 * One service with its clients, and `updates` updates of it. `startService(port)` gives { update, stop }. When it is compared, behind each update
 * the same clients are watched for as long without one.
 */
async function measure(name, startService, { connections, updates, prepared }, isCompared) {
  const port = await freePort();
  const service = await startService(port);
  let clients;
  try {
    clients = await connectClients(port, connections);
    await sleep(WARM_MS);
    const seen = { results: [], clients: [], quiet: [] };
    for (let i = 0; i < updates; i++) {
      await clients.ask();
      const began = performance.now();
      const result = await service.update(prepared);
      await sleep(BEHIND_MS);
      const took = performance.now() - began;
      if (result.connections < connections)
        throw new Error(`${name}: ${result.connections} of ${connections} connections crossed`);
      const saw = await clients.askBehindCut();
      const { gap, cutGap } = saw;
      seen.results.push(result);
      seen.clients.push(saw);
      await sleep(CALM_MS);
      if (isCompared) {
        await clients.ask();
        await sleep(took);
        seen.quiet.push(await clients.ask());
      }
      process.stderr.write(
        `${name}, ${connections} connections: blackout ${ms(result.blackoutMs)} ms; clients' gap at the cut ${ms(cutGap)} ms, longest ${ms(gap)} ms\n`,
      );
    }
    // Ever, and so also behind the last update.
    const { closed, wrong } = await clients.ask();
    return { ...seen, closed, wrong };
  } finally {
    await clients?.stop();
    await service.stop();
  }
}

function medianAndMax(values) {
  return { median: median(values), max: Math.max(...values) };
}

/** The rounds of one cell together, as figures: the median of every phase, and what the clients saw. */
function summary(rounds, phasesOf) {
  const results = rounds.flatMap(({ results }) => results);
  const clients = rounds.flatMap(({ clients }) => clients);
  const quiet = rounds.flatMap(({ quiet }) => quiet);
  const phases = {};
  for (const phase of Object.keys(phasesOf(results[0])))
    phases[phase] = median(results.map((result) => phasesOf(result)[phase]));
  const of = (asked, key) => medianAndMax(asked.map((saw) => saw[key]));
  const compared = (key) => (quiet.length === 0 ? {} : { quiet: of(quiet, key) });
  return {
    updates: results.length,
    blackout: medianAndMax(results.map(({ blackoutMs }) => blackoutMs)),
    ...phases,
    gap: { cut: of(clients, 'cutGap'), update: of(clients, 'gap'), ...compared('gap') },
    wait: { cut: of(clients, 'cutLongest'), update: of(clients, 'longest'), ...compared('longest') },
    closed: rounds.reduce((sum, { closed }) => sum + closed, 0),
    wrong: rounds.reduce((sum, { wrong }) => sum + wrong, 0),
  };
}

async function measureCell(cell, rounds) {
  const ours = [];
  const baseline = [];
  for (let round = 0; round < rounds; round++) {
    ours.push(await measure('ours', (port) => startOurs(port, cell.memory, cell.cut), cell, true));
    if (cell.baseline) baseline.push(await measure('by hand', startBaseline, cell, false));
  }
  const row = {
    connections: cell.connections,
    memory: cell.memory,
    cut: `${cell.cut ?? 'atomic'}${cell.prepared ? ', prepared' : ''}`,
    ...summary(ours, ({ phases: { preserve, freeze, retrieve, finish } }) => ({
      preserve,
      freeze,
      retrieve,
      finish,
    })),
  };
  if (cell.baseline) {
    row.baseline = summary(baseline, ({ pauseMs, deltaMs, attachMs }) => ({ pauseMs, deltaMs, attachMs }));
    row.blackoutRatio = row.baseline.blackout.median / row.blackout.median;
  }
  return row;
}

/** Live connections of cells that may be left out. */
function others(name) {
  return values[name] === '0' ? [] : numbers(values[name], name);
}

function numbers(text, name) {
  const list = text.split(',').map(Number);
  if (list.some((number) => !Number.isSafeInteger(number) || number <= 0)) {
    process.stderr.write(`--${name} takes whole numbers above zero, separated by commas\n\n${HELP}`);
    process.exit(2);
  }
  return list;
}

endOnSignals();
if (values.help) {
  process.stdout.write(HELP);
} else {
  const [updates] = numbers(values.updates, 'updates');
  const [rounds] = numbers(values.rounds, 'rounds');
  const memories = numbers(values.memory, 'memory');
  const cells = [
    ...numbers(values.connections, 'connections').map((connections) => ({
      connections,
      memory: SMALL,
      updates,
      baseline: !values['no-baseline'],
    })),
    // By hand there is no memory to move.
    ...memories
      .filter((memory) => memory !== SMALL)
      .map((memory) => ({ connections: 1000, memory, updates, baseline: false })),
    ...others('rolling').map((connections) => ({
      connections,
      memory: SMALL,
      cut: 'rolling',
      updates,
      baseline: false,
    })),
    ...others('prepared').flatMap((connections) =>
      ['atomic', 'rolling'].map((cut) => ({
        connections,
        memory: SMALL,
        cut,
        updates,
        baseline: false,
        prepared: true,
      })),
    ),
  ];
  const rows = [];
  for (const cell of cells) rows.push(await measureCell(cell, rounds));
  const where = machine();
  if (values.json) process.stdout.write(`${JSON.stringify({ machine: where, rows }, undefined, 2)}\n`);
  else process.stdout.write(report(where, rows));
  const lost = ({ closed, wrong }) => closed + wrong > 0;
  if (rows.some((row) => lost(row) || (row.baseline !== undefined && lost(row.baseline))))
    process.exitCode = 1;
}

function ms(number) {
  return number.toFixed(1);
}

/** The clients' gap at the cut, and how much of the blackout that is. */
function gapOf({ connections, cut, gap, blackout }) {
  // The first echo of a rolling cut comes long before its freeze.
  if (cut.startsWith('rolling')) return ['–', '–'];
  const ratio = connections < ENOUGH ? '–' : `${(gap.cut.median / blackout.median).toFixed(1)}x`;
  return [`**${ms(gap.cut.median)}** (${ms(gap.cut.max)})`, ratio];
}

function report(where, rows) {
  const cuts = table(
    [...NAMES, 'blackout, median', 'max', 'freeze', 'retrieve', 'finish', 'wrong bytes', 'closed'],
    rows.map((row) => [
      ...namesOf(row),
      `**${ms(row.blackout.median)}**`,
      ms(row.blackout.max),
      ms(row.freeze),
      ms(row.retrieve),
      ms(row.finish),
      row.wrong,
      row.closed,
    ]),
  );
  const spread = ({ median, max }) => `${ms(median)} (${ms(max)})`;
  const saw = table(
    [
      ...NAMES,
      'blackout',
      "clients' gap at the cut",
      'of the blackout',
      'longest gap of the update',
      'without update',
      "a client's wait at the cut",
      'longest wait of the update',
      'without update',
    ],
    rows.map((row) => [
      ...namesOf(row),
      ms(row.blackout.median),
      ...gapOf(row),
      spread(row.gap.update),
      spread(row.gap.quiet),
      spread(row.wait.cut),
      spread(row.wait.update),
      spread(row.wait.quiet),
    ]),
  );
  const ours = `${where}; times in ms\n\n${cuts}\nWhat clients saw: median (max)\n\n${saw}`;
  const compared = rows.filter(({ baseline }) => baseline !== undefined);
  if (compared.length === 0) return ours;
  const beside = table(
    [
      'connections',
      'blackout, median: ours',
      'by hand',
      'ratio',
      'by hand: max',
      'pause',
      'delta',
      'attach',
      "clients' gap at the cut: ours",
      'by hand',
      'longest wait of the update: ours',
      'by hand',
    ],
    compared.map(({ connections, blackout, gap, wait, baseline, blackoutRatio }) => [
      connections,
      `**${ms(blackout.median)}**`,
      ms(baseline.blackout.median),
      `**${blackoutRatio.toFixed(2)}**`,
      ms(baseline.blackout.max),
      ms(baseline.pauseMs),
      ms(baseline.deltaMs),
      ms(baseline.attachMs),
      spread(gap.cut),
      spread(baseline.gap.cut),
      spread(wait.update),
      spread(baseline.wait.update),
    ]),
  );
  return `${ours}\n${beside}`;
}
