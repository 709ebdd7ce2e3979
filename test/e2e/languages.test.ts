/** The example clients in other languages, killed and started again under load: no count is lost, none is given twice. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Host } from './host.js';

const EXAMPLES = fileURLToPath(new URL('../../examples/', import.meta.url));
const has = (command: string) => spawnSync(command, ['--version']).error === undefined;

let host: Host;

beforeEach(async () => {
  host = await Host.start();
});

afterEach(() => host.stop());

/** One connection, from connect to end. */
async function count(port: number): Promise<{ value: number; pid: number } | undefined> {
  const socket = connect(port, '127.0.0.1').setEncoding('utf8');
  let text = '';
  try {
    for await (const chunk of socket) text += chunk;
  } catch {
    // The program was killed with this connection accepted: that one is lost, the ones behind it are not.
    return undefined;
  }
  const [value, pid] = text.trim().split(' ').map(Number);
  return value === undefined || pid === undefined || Number.isNaN(pid) ? undefined : { value, pid };
}

/** Starts the counter, kills it, starts it again, five times; clients connect all the while. */
async function survives(command: readonly string[], session: string): Promise<void> {
  const env = { ...process.env, LIVEUPDATE_SOCKET: host.socket };
  const start = async (): Promise<{ child: ChildProcess; port: number }> => {
    const child = spawn(command[0] as string, command.slice(1), {
      env,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(
      createInterface({ input: child.stdout as NodeJS.ReadableStream }),
      'line',
    )) as [string];
    return { child, port: Number(line) };
  };
  let { child, port } = await start();
  const answers: { value: number; pid: number }[] = [];
  const pids = new Set<number>();
  for (let life = 0; life < 5; life++) {
    for (let asked = 0; asked < 20; asked++) {
      const answer = await count(port);
      if (answer !== undefined) answers.push(answer);
    }
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    // In the queue of a listener whose program is dead.
    const waiting = Array.from({ length: 5 }, () => count(port));
    const next = await start();
    expect(next.port).toBe(port);
    ({ child, port } = next);
    for (const answer of await Promise.all(waiting)) if (answer !== undefined) answers.push(answer);
  }
  for (const { pid } of answers) pids.add(pid);
  expect(pids.size).toBe(6);
  const values = answers.map(({ value }) => value);
  expect(new Set(values).size).toBe(values.length);
  expect(answers.length).toBe(125);
  expect(Math.max(...values)).toBe(125);
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
  const client = await host.connect();
  while ((await client.dropSession(session).catch(() => 0)) !== 1)
    await new Promise((resolve) => setImmediate(resolve));
  client.close();
}

describe('a counter that outlives its program', () => {
  it.skipIf(!has('python3'))('in Python', () =>
    survives(['python3', join(EXAMPLES, 'python', 'counter.py')], 'counter'),
  );

  it.skipIf(!has('cc'))('in C', async () => {
    const program = join(host.folder, 'counter');
    const sources = ['counter.c', 'luod.c'].map((name) => join(EXAMPLES, 'c', name));
    const built = spawnSync('cc', ['-std=c11', '-Wall', '-Wextra', '-Werror', '-o', program, ...sources], {
      encoding: 'utf8',
    });
    expect(built.stderr).toBe('');
    await survives([program], 'counter-c');
  });
});
