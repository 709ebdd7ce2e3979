/**
 * How long an update in place, without luod, holds a service up: from the freeze until the next image serves, and the longest time that a
 * talking client waited for an echo.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { cpus, release } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const PROGRAMS = join(dirname(fileURLToPath(import.meta.url)), 'programs');
const HELP = `node bench/exec.mjs [options]

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

// 34 ms of each start on Node 20, and nothing to do with what is measured.
const { NODE_EXTRA_CA_CERTS: _, LIVEUPDATE_SOCKET: __, ...environment } = process.env;
const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

async function measure(connections, updates) {
  const port = await freePort();
  const env = { ...environment, PORT: String(port), MEMORY: values.memory };
  const service = fork(join(PROGRAMS, 'echo.mjs'), { env });
  await once(service, 'message');
  const talking = Math.max(1, Math.round(connections / 100));
  const clients = fork(join(PROGRAMS, 'clients.mjs'), [port, connections, talking], { env: environment });
  try {
    await once(clients, 'message');
    const ask = async () => {
      clients.send('report');
      return (await once(clients, 'message'))[0];
    };
    const images = [];
    const waits = [];
    let last = { closed: 0, wrong: 0 };
    for (let i = 0; i < updates; i++) {
      await ask();
      const served = once(service, 'message');
      service.kill('SIGHUP');
      images.push((await served)[0]);
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
    clients.kill();
    service.kill();
  }
}

if (values.help) process.stdout.write(HELP);
else {
  const rows = [];
  for (const connections of values.connections.split(',')) {
    rows.push(await measure(Number(connections), Number(values.updates)));
  }
  process.stdout.write(`${cpus()[0].model}, ${cpus().length} cores, Linux ${release()}, Node ${process.versions.node}; times in ms

| connections | blackout, median | max | of it until the next program's first line | client's longest wait, median | max | wrong bytes | closed |
|---|---|---|---|---|---|---|---|
${rows.map((row) => `| ${row.join(' | ')} |`).join('\n')}
`);
}
