import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ModestStart } from '../../../src/daemon/modest-start.js';

const AUTOGROUP = '/proc/self/autogroup';
// Who is not root is refused when anybody else has said such a word in the last tenth of a second.
const canLower = process.getuid?.() === 0 && existsSync(AUTOGROUP) && readFileSync(AUTOGROUP, 'utf8') !== '';

let child: ChildProcess;
let pid: number;

beforeEach(async () => {
  child = spawn('cat', { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  await once(child, 'spawn');
  pid = child.pid as number;
});
afterEach(async () => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
});

function nice(): string {
  return readFileSync(`/proc/${pid}/autogroup`, 'latin1').trim().split(' ').slice(1).join(' ');
}

describe.skipIf(!canLower)('a modest start', () => {
  it('lowers the group until it ends', () => {
    const start = ModestStart.begin(pid);
    expect(nice()).toBe('nice 10');
    start?.end();
    expect(nice()).toBe('nice 0');
  });

  it('ends once: what is set behind it stays', () => {
    const start = ModestStart.begin(pid);
    start?.end();
    const other = ModestStart.begin(pid);
    start?.end();
    expect(nice()).toBe('nice 10');
    other?.end();
  });

  it('ends by itself', async () => {
    ModestStart.begin(pid);
    await expect.poll(nice, { timeout: 10_000 }).toBe('nice 0');
  });

  it('is taken up by the next luod', () => {
    expect(ModestStart.resume(pid)).toBeUndefined();
    ModestStart.begin(pid)?.gone();
    expect(nice()).toBe('nice 10');
    ModestStart.resume(pid)?.end();
    expect(nice()).toBe('nice 0');
  });
});

it('is no failure for a process that has ended', async () => {
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(ModestStart.begin(pid)).toBeUndefined();
  expect(ModestStart.resume(pid)).toBeUndefined();
});
