/**
 * How long an update in place, without luod, holds a service up: from the freeze until the next image serves, and the longest time that a
 * talking client waited for an echo.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { end, endOnSignals, environment, freePort, inTime, machine, median, own } from './processes.mjs';

const PROGRAMS = join(dirname(fileURLToPath(import.meta.url)), 'programs');
const HELP = `npm run bench:exec -- [options]

  --connections LIST   live connections (default 10,1000,9000)
  --memory BYTES       default 65536
  --updates N          updates of each (default 7)
  --help
`;

const { values } = parseArgs({
  options: {
    connections: { type: 'string', default: '10,1000,9000' },
    memory: { type: 'string', default: '65536' },
    updates: { type: 'string', default: '7' },
    help: { type: 'boolean', default: false },
  },
});

// Not by a luod that this may run under.
const { LIVEUPDATE_SOCKET: _, ...alone } = environment;
const message = async (what, child) => (await inTime(what, once(child, 'message')))[0];

async function measure(connections, updates) {
  const port = await freePort();
  const env = { ...alone, PORT: String(port), MEMORY: values.memory };
  const service = own(fork(join(PROGRAMS, 'echo.mjs'), { env }));
  await message('the service', service);
  const talking = Math.max(1, Math.round(connections / 100));
  const clients = own(
    fork(join(PROGRAMS, 'clients.mjs'), [port, connections, talking], { env: environment }),
  );
  try {
    await message('clients to connect', clients);
    const ask = async () => {
      clients.send('report');
      return message('the clients to report', clients);
    };
    const images = [];
    const waits = [];
    let last = { closed: 0, wrong: 0 };
    for (let i = 0; i < updates; i++) {
      await ask();
      const served = message('the next image', service);
      service.kill('SIGHUP');
      images.push(await served);
      // The answers that had to wait.
      await new Promise((resolve) => setTimeout(resolve, 200));
      last = await ask();
      waits.push(last.longest);
    }
    const ms = (number) => number.toFixed(0);
    const blackouts = images.map(({ serves }) => serves);
    return [
      connections,
      `**${ms(median(blackouts))}**`,
      ms(Math.max(...blackouts)),
      ms(median(images.map(({ boot }) => boot))),
      ms(median(waits)),
      ms(Math.max(...waits)),
      last.wrong,
      last.closed,
    ];
  } finally {
    await end(clients);
    await end(service);
  }
}

if (values.help) process.stdout.write(HELP);
else {
  endOnSignals();
  const rows = [];
  for (const connections of values.connections.split(',')) {
    rows.push(await measure(Number(connections), Number(values.updates)));
  }
  process.stdout.write(`${machine()}; times in ms

| connections | blackout, median | max | of it until the next program's first line | client's longest wait, median | max | wrong bytes | closed |
|---|---|---|---|---|---|---|---|
${rows.map((row) => `| ${row.join(' | ')} |`).join('\n')}
`);
}
