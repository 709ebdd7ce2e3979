/**
 * That memory is not copied: 64 KiB and 1 GiB of it cross real updates, in turn, in the same time; and the pages that nobody has touched
 * are still not there afterwards.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { median } from './measure.mjs';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const LUOD = at('../../dist/cli/luod.js');
const LUOCTL = at('../../dist/cli/luoctl.js');
const PROGRAM = at('../programs/untouched.mjs');
const SMALL = 64 << 10;
const LARGE = 1 << 30;
/** What the median of the large memory's blackouts may be more than that of the small one's. */
const TOLERANCE = 0.05;
/** Pairs of updates, so many that the medians of blackouts of some milliseconds are good to a few parts in a hundred. */
const PAIRS = 80;
const PAGE_BYTES = 4096;
/** Touched: the first and the last. */
const PAGES = 2;

// 34 ms of each start on Node 20, and nothing to do with what is measured.
const { NODE_EXTRA_CA_CERTS: _, ...environment } = process.env;

async function startService(folder, memory) {
  const socket = join(folder, `${memory}.sock`);
  const luod = spawn(
    process.execPath,
    [LUOD, 'run', '--name', 's', '--socket', socket, '--', process.execPath, PROGRAM],
    {
      env: { ...environment, MEMORY: String(memory) },
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  );
  await new Promise((resolve, reject) => {
    let said = '';
    luod.stderr.setEncoding('utf8').on('data', (text) => {
      said += text;
      if (said.includes('generation 1 serves')) resolve();
    });
    luod.once('exit', () => reject(new Error(said)));
  });
  return { luod, socket, memory, blackouts: [], pid: undefined };
}

async function update(service) {
  const child = spawn(process.execPath, [LUOCTL, 'update', '--json', '--socket', service.socket], {
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) out += chunk;
  const result = JSON.parse(out);
  if (!result.ok) throw new Error(`update failed: ${result.error.message}`);
  service.pid = result.toPid;
  return result.blackoutMs;
}

/** Pages of the service's memory: those that exist, by the memfd's blocks, and those that this process has mapped, by smaps. */
function pages({ pid, memory }) {
  let allocated;
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    if (!readlinkSync(path).startsWith('/memfd:')) continue;
    const stat = statSync(path);
    if (stat.size === memory) allocated = (stat.blocks * 512) / PAGE_BYTES;
  }
  let mapped = 0;
  let isMemory = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) {
      isMemory =
        line.includes('/memfd:') && Number.parseInt(range[2], 16) - Number.parseInt(range[1], 16) === memory;
    }
    const resident = isMemory ? /^Rss: +(\d+) kB/.exec(line) : null;
    if (resident !== null) mapped += (Number(resident[1]) * 1024) / PAGE_BYTES;
  }
  if (allocated === undefined) throw new Error(`process ${pid} has no memory of ${memory} bytes`);
  return { allocated, mapped };
}

/** @returns facts, and what of the promise is not kept. */
export async function measureMemory() {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-micro-'));
  const services = [];
  try {
    for (const memory of [SMALL, LARGE]) services.push(await startService(folder, memory));
    const [, large] = services;
    for (const service of services) await update(service);
    for (let i = 0; i < PAIRS; i++) {
      for (const service of i % 2 === 0 ? services : services.toReversed())
        service.blackouts.push(await update(service));
    }
    const [few, many] = services.map(({ blackouts }) => median(blackouts));
    const ratio = many / few;
    const { allocated, mapped } = pages(large);
    const facts = [
      `64 KiB and 1 GiB of memory through ${PAIRS} real updates each, in turn: median blackout ${few.toFixed(2)} and ${many.toFixed(2)} ms, ratio ${ratio.toFixed(3)}`,
      `Of the gigabyte's ${(LARGE / PAGE_BYTES).toLocaleString('en')} pages the first and the last had been touched; after ${PAIRS + 1} updates ${allocated} exist (\`st_blocks\`), and ${mapped} are mapped by the last image (\`smaps\`)`,
    ];
    const faults = [];
    if (ratio > 1 + TOLERANCE) faults.push(`1 GiB takes ${ratio.toFixed(3)} times as long as 64 KiB`);
    if (allocated !== PAGES || mapped > PAGES)
      faults.push(`${allocated} pages exist and ${mapped} are mapped, not ${PAGES}`);
    return { facts, faults };
  } finally {
    for (const { luod } of services) {
      luod.kill('SIGTERM');
      if (luod.exitCode === null) await once(luod, 'exit');
    }
    rmSync(folder, { recursive: true, force: true });
  }
}
