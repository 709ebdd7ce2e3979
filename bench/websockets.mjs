/** How long an update holds live WebSockets up: the blackout that luod reports, and the longest wait of a client for an echo. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startProgram } from './ours.mjs';
import { end, endOnSignals, environment, freePort, inTime, machine, median, own } from './processes.mjs';
import { table } from './table.mjs';

const CLIENTS = join(dirname(fileURLToPath(import.meta.url)), 'programs', 'websocket-clients.mjs');
const HELP = `npm run bench:websockets -- [options]

  --sockets LIST       live WebSockets, one in a hundred of which talks (default 100,500,2000)
  --updates N          updates of each (default 6)
  --json               one JSON object
  --help
`;

const { values } = parseArgs({
  options: {
    sockets: { type: 'string', default: '100,500,2000' },
    updates: { type: 'string', default: '6' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function measure(sockets, deflate, updates) {
  const port = await freePort();
  const service = await startProgram('websockets.mjs', { PORT: String(port), DEFLATE: deflate });
  const talking = Math.max(1, Math.round(sockets / 100));
  const clients = own(fork(CLIENTS, [port, sockets, talking], { env: environment }));
  try {
    await inTime('clients to connect', once(clients, 'message'));
    const ask = async () => {
      clients.send('report');
      const [answer] = await inTime('the clients to report', once(clients, 'message'));
      return answer;
    };
    await ask();
    const results = [];
    const waits = [];
    let last;
    for (let i = 0; i < updates; i++) {
      const result = await service.update();
      if (result.connections < sockets)
        throw new Error(`${result.connections} of ${sockets} WebSockets crossed`);
      last = await ask();
      results.push(result);
      waits.push(last.longest);
      process.stderr.write(`${sockets} WebSockets: blackout ${result.blackoutMs.toFixed(1)} ms\n`);
    }
    const blackouts = results.map(({ blackoutMs }) => blackoutMs);
    const phase = (name) => median(results.map(({ phases }) => phases[name]));
    return {
      sockets,
      compression: deflate === 'yes' ? 'windows of 32 KiB' : 'none',
      blackoutMedian: median(blackouts),
      blackoutMax: Math.max(...blackouts),
      freeze: phase('freeze'),
      retrieve: phase('retrieve'),
      finish: phase('finish'),
      clientMedian: median(waits),
      clientMax: Math.max(...waits),
      closed: last.closed,
      wrong: last.wrong,
    };
  } finally {
    await end(clients);
    await service.stop();
  }
}

async function main() {
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  endOnSignals();
  const rows = [];
  for (const sockets of values.sockets.split(',').map(Number)) {
    for (const deflate of ['no', 'yes']) rows.push(await measure(sockets, deflate, Number(values.updates)));
  }
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ machine: machine(), rows })}\n`);
    return;
  }
  const ms = (value) => value.toFixed(1);
  const lines = rows.map((row) => [
    row.sockets,
    row.compression,
    `**${ms(row.blackoutMedian)}**`,
    ...[row.blackoutMax, row.freeze, row.retrieve, row.finish, row.clientMedian, row.clientMax].map(ms),
    row.wrong,
    row.closed,
  ]);
  const head = [
    'WebSockets',
    'compression',
    'blackout, median',
    'max',
    'freeze',
    'retrieve',
    'finish',
    "client's longest wait, median",
    'max',
    'wrong',
    'closed',
  ];
  process.stdout.write(`${machine()}; times in ms\n\n${table(head, lines)}`);
}

await main();
