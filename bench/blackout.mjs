/**
 * How long an update holds a service up: the blackout that luod reports (freeze start to sockets flowing) and the longest
 * time that a talking client waited for an echo, with and without updates, for several numbers of live connections and sizes
 * of memory.
 */
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const HERE = dirname(fileURLToPath(import.meta.url));
const CLI = join(HERE, '..', 'dist', 'cli');
/** Clients of one process: two descriptors tables of their own keep far below any limit. */
const CLIENTS = 5000;
const HELP = `node bench/blackout.mjs [options]

  --connections LIST   live connections (default 10,1000,10000)
  --memory LIST        bytes of memory, each with 1,000 connections (default 65536,1073741824)
  --updates N          updates of each cell (default 7)
  --json               one JSON object
  --help
`;

const { values } = parseArgs({
  options: {
    connections: { type: 'string', default: '10,1000,10000' },
    memory: { type: 'string', default: '65536,1073741824' },
    updates: { type: 'string', default: '7' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

// 34 ms of each start on Node 20, and nothing to do with what is measured.
const { NODE_EXTRA_CA_CERTS: _, ...environment } = process.env;
const running = new Set();

function start(child) {
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

async function luoctl(socket, ...args) {
  const child = start(
    spawn(process.execPath, [join(CLI, 'luoctl.js'), ...args, '--json', '--socket', socket], {
      env: environment,
      stdio: ['ignore', 'pipe', 'inherit'],
    }),
  );
  let out = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) out += chunk;
  return JSON.parse(out);
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

async function measure({ connections, memory, updates }) {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-bench-'));
  const socket = join(folder, 'luod.sock');
  const port = await freePort();
  const luod = start(
    spawn(
      process.execPath,
      [
        join(CLI, 'luod.js'),
        'run',
        '--name',
        'echo',
        '--socket',
        socket,
        '--',
        process.execPath,
        join(HERE, 'programs', 'echo.mjs'),
      ],
      {
        env: { ...environment, PORT: String(port), MEMORY: String(memory) },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    ),
  );
  const groups = [];
  try {
    await new Promise((resolve, reject) => {
      let said = '';
      luod.stderr.setEncoding('utf8').on('data', (text) => {
        said += text;
        if (said.includes('generation 1 serves')) resolve();
      });
      luod.once('exit', () => reject(new Error(said)));
    });
    for (let left = connections; left > 0; left -= CLIENTS) {
      const count = Math.min(left, CLIENTS);
      const talking = Math.max(1, Math.round(count / 100));
      const group = start(
        fork(join(HERE, 'programs', 'clients.mjs'), [port, count, talking], { env: environment }),
      );
      await once(group, 'message');
      groups.push(group);
    }
    const ask = async () => {
      const answers = await Promise.all(
        groups.map(async (group) => {
          group.send('report');
          const [answer] = await once(group, 'message');
          return answer;
        }),
      );
      return {
        longest: Math.max(...answers.map(({ longest }) => longest)),
        closed: answers.reduce((sum, { closed }) => sum + closed, 0),
        wrong: answers.reduce((sum, { wrong }) => sum + wrong, 0),
        answers: answers.reduce((sum, { answers }) => sum + answers, 0),
      };
    };
    // The same time without an update: what the load and the machine do by themselves.
    const quiet = [];
    await ask();
    for (let i = 0; i < updates; i++) {
      await luoctl(socket, 'status');
      await luoctl(socket, 'status');
      quiet.push((await ask()).longest);
    }
    const results = [];
    const longest = [];
    let last = { closed: 0, wrong: 0 };
    for (let i = 0; i < updates; i++) {
      const result = await luoctl(socket, 'update');
      if (!result.ok) throw new Error(`update failed: ${result.error.message}`);
      results.push(result);
      last = await ask();
      longest.push(last.longest);
      process.stderr.write(
        `${connections} connections, ${memory} bytes: blackout ${result.blackoutMs} ms, longest ${last.longest.toFixed(1)} ms\n`,
      );
    }
    const blackouts = results.map(({ blackoutMs }) => blackoutMs);
    return {
      connections,
      memory,
      blackoutMedian: median(blackouts),
      blackoutMax: Math.max(...blackouts),
      freeze: median(results.map(({ phases }) => phases.freeze)),
      retrieve: median(results.map(({ phases }) => phases.retrieve)),
      finish: median(results.map(({ phases }) => phases.finish)),
      preserve: median(results.map(({ phases }) => phases.preserve)),
      clientMedian: median(longest),
      clientMax: Math.max(...longest),
      quietMax: Math.max(...quiet),
      closed: last.closed,
      wrong: last.wrong,
    };
  } finally {
    for (const group of groups) group.kill();
    luod.kill('SIGTERM');
    if (luod.exitCode === null) await once(luod, 'exit');
    rmSync(folder, { recursive: true, force: true });
  }
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

function numbers(text, name) {
  const list = text.split(',').map(Number);
  if (list.some((number) => !Number.isSafeInteger(number) || number <= 0)) {
    process.stderr.write(`--${name} takes whole numbers above zero, separated by commas\n\n${HELP}`);
    process.exit(2);
  }
  return list;
}

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    for (const child of running) child.kill('SIGTERM');
    process.exit(1);
  });
}

if (values.help) {
  process.stdout.write(HELP);
} else {
  const [updates] = numbers(values.updates, 'updates');
  const memories = numbers(values.memory, 'memory');
  const cells = [
    ...numbers(values.connections, 'connections').map((connections) => ({
      connections,
      memory: 65536,
      updates,
    })),
    ...memories
      .filter((memory) => memory !== 65536)
      .map((memory) => ({ connections: 1000, memory, updates })),
  ];
  const rows = [];
  for (const cell of cells) rows.push(await measure(cell));
  const machine = `${cpus()[0].model}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.versions.node}`;
  if (values.json) process.stdout.write(`${JSON.stringify({ machine, rows }, undefined, 2)}\n`);
  else process.stdout.write(table(machine, rows));
  if (rows.some(({ closed, wrong }) => closed + wrong > 0)) process.exitCode = 1;
}

function table(machine, rows) {
  const ms = (number) => number.toFixed(1);
  const lines = rows.map((row) =>
    [
      row.connections,
      row.memory,
      `**${ms(row.blackoutMedian)}**`,
      ms(row.blackoutMax),
      ms(row.freeze),
      ms(row.retrieve),
      ms(row.finish),
      ms(row.clientMedian),
      ms(row.clientMax),
      ms(row.quietMax),
      row.wrong,
      row.closed,
    ].join(' | '),
  );
  return `${machine}; times in ms\n
| connections | memory, bytes | blackout, median | max | freeze | retrieve | finish | client's longest wait, median | max | max without update | wrong bytes | closed |
|---|---|---|---|---|---|---|---|---|---|---|---|
${lines.map((line) => `| ${line} |`).join('\n')}
`;
}
