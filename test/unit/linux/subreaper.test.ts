import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const DIST = fileURLToPath(new URL('../../../dist/linux/index.js', import.meta.url));

// In a process of its own, which it changes for good.
const SCRIPT = `
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { adoptOrphans } from ${JSON.stringify(DIST)};

const adopts = adoptOrphans();
const pids = execFileSync('sh', ['-c', 'for i in 1 2 3; do sleep 0.1 > /dev/null & echo $!; done'], { encoding: 'utf8' }).trim().split('\\n');
const parents = pids.map((pid) => Number(/^PPid:\\s+(\\d+)/m.exec(readFileSync('/proc/' + pid + '/status', 'utf8'))[1]));
const codes = [];
while (pids.some((pid) => existsSync('/proc/' + pid))) codes.push((await once(spawn('sh', ['-c', 'exit 5']), 'exit'))[0]);
console.log(JSON.stringify({ adopts, mine: parents.every((pid) => pid === process.pid), codes: [...new Set(codes)], many: codes.length > 5 }));
`;

it('takes in orphans and waits for them, and for nobody else’s children', () => {
  const told = execFileSync(process.execPath, ['--input-type=module', '-e', SCRIPT], { encoding: 'utf8' });
  expect(JSON.parse(told)).toEqual({ adopts: true, mine: true, codes: [5], many: true });
});
