/**
 * npm run bench:micro: what each part of an update costs by itself, and how it grows. Prints Markdown; exits 1 when something grows
 * faster than linear, or a promise about memory is not kept.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { faultsOf, machine, markdown, rowsOf, writeBlock } from './report.mjs';

const PAGE = fileURLToPath(new URL('../../docs/performance.md', import.meta.url));
const PARTS = ['core', 'handover', 'luod', 'memory'];
const HELP = `node --expose-gc bench/micro/index.mjs [options]

  --parts LIST         of ${PARTS.join(',')} (default: all)
  --repetitions N      samples of each size (default 15)
  --write              put the tables into docs/performance.md
  --json               one JSON object
  --cold               of the core only its growth with cold caches, with whatever young generation this process was started with
  --help
`;

function usage(text) {
  process.stderr.write(`${text}\n\n${HELP}`);
  process.exit(2);
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        parts: { type: 'string', default: PARTS.join(',') },
        repetitions: { type: 'string', default: '15' },
        write: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        cold: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
    return values;
  } catch (error) {
    return usage(error.message);
  }
}

const values = options();
if (values.help) {
  process.stdout.write(HELP);
  process.exit();
}
const parts = values.parts.split(',');
const repetitions = Number(values.repetitions);
if (parts.some((part) => !PARTS.includes(part))) usage(`--parts takes ${PARTS.join(', ')}`);
if (!Number.isSafeInteger(repetitions) || repetitions < 1) usage('--repetitions takes a whole number');
if (globalThis.gc === undefined) usage('run it with node --expose-gc: garbage is collected between samples');

/**
 * Adds to each table the same measured with cold caches, in a process whose young generation is so large that nothing is collected: V8 copies
 * what lives through a collection, and everything that an update makes does.
 */
async function addCold(core) {
  const flags = [...process.execArgv, '--min-semi-space-size=256', '--max-semi-space-size=256'];
  const words = [process.argv[1], '--parts', 'core', '--cold', '--json', '--repetitions', values.repetitions];
  const child = spawn(process.execPath, [...flags, ...words], { stdio: ['ignore', 'pipe', 'ignore'] });
  let out = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) out += chunk;
  const { tables: measured } = JSON.parse(out);
  for (const table of core) {
    const { rows } = measured.find(({ title }) => title === table.title);
    table.cold = new Map(rows.map(({ name, points }) => [name, points]));
  }
}

const tables = [];
const facts = [];
const faults = [];
for (const part of parts) {
  process.stderr.write(`${part} ...\n`);
  if (part === 'core') {
    const core = await (await import('./core.mjs')).measureCore(repetitions, values.cold);
    if (!values.cold) await addCold(core);
    tables.push(...core);
  }
  if (part === 'handover')
    tables.push(...(await (await import('./handover.mjs')).measureHandover(repetitions)));
  if (part === 'luod') {
    const found = await (await import('./luod.mjs')).measureLuod(repetitions);
    tables.push(...found.tables);
    facts.push(...found.facts);
  }
  if (part === 'memory') {
    const found = await (await import('./memory.mjs')).measureMemory();
    facts.push(...found.facts);
    faults.push(...found.faults);
  }
}
faults.push(...faultsOf(tables));
const plain = tables.map(({ rows, from, cold, ...table }) => ({
  ...table,
  rows: rowsOf({ rows, from, cold }),
}));
const text = markdown({ tables, facts });
process.stdout.write(
  values.json
    ? `${JSON.stringify({ machine: machine(), tables: plain, facts, faults }, undefined, 2)}\n`
    : text,
);
if (values.write) writeBlock(PAGE, text);
for (const fault of faults) process.stderr.write(`${fault}\n`);
process.exitCode = faults.length === 0 ? 0 : 1;
