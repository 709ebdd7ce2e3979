import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const DIST = fileURLToPath(new URL('../../../dist/linux/index.js', import.meta.url));
const AUTOGROUP = '/proc/self/autogroup';

// In processes of their own, which are lowered for good.
const script = (before: string) => `
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { giveWay } from ${JSON.stringify(DIST)};

${before}
const threads = readdirSync('/proc/self/task');
giveWay();
const group = existsSync('${AUTOGROUP}') ? /nice (-?\\d+)/.exec(readFileSync('${AUTOGROUP}', 'utf8'))?.[1] : undefined;
console.log(JSON.stringify({ many: threads.length > 1, nice: [...new Set(threads.map((thread) => getPriority(Number(thread))))], group }));
process.exit();
`;

interface Seen {
  many: boolean;
  nice: number[];
  group?: string;
}

function lowered(options: { leader: boolean; before?: string }): Seen {
  const node = [process.execPath, '--input-type=module', '-e', script(options.before ?? '')];
  const words = options.leader ? ['setsid', '--wait', ...node] : node;
  const { stdout, stderr } = spawnSync(words[0]!, words.slice(1), { encoding: 'utf8' });
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout);
}

it('lowers all threads', () => {
  expect(lowered({ leader: false })).toMatchObject({ many: true, nice: [19] });
});

it('is no failure where the threads cannot be listed', () => {
  const script = `
import { openSync } from 'node:fs';
import { giveWay } from ${JSON.stringify(DIST)};
const full = () => { for (;;) openSync('/dev/null'); };
try { full(); } catch (error) { if (error.code !== 'EMFILE') throw error; }
giveWay();
process._rawDebug('went on');
process.exit();
`;
  const node = [process.execPath, '--input-type=module', '-e', script];
  const { stderr } = spawnSync('sh', ['-c', 'ulimit -n 64; exec "$@"', 'sh', ...node], { encoding: 'utf8' });
  expect(stderr).toBe('went on\n');
});

const isGrouped = existsSync(AUTOGROUP) && readFileSync(AUTOGROUP, 'utf8') !== '';

it.skipIf(!isGrouped)('lowers the group of a session that is its own alone', () => {
  const child = "spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] });";
  const before = lowered({ leader: false }).group;
  expect(before).not.toBe('19');
  expect(lowered({ leader: true }).group).toBe('19');
  expect(lowered({ leader: true, before: child }).group).toBe('0');
});
