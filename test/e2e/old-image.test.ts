import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { freePort, LuodProcess, programPath } from './luod-process.js';

const CONNECTIONS = 100;

let folder: string;
let luod: LuodProcess;
let sockets: Socket[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-old-image-'));
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets = [];
  await luod?.stop();
  rmSync(folder, { recursive: true });
});

async function start(env: NodeJS.ProcessEnv): Promise<void> {
  luod = await LuodProcess.start({
    command: [process.execPath, programPath('told-slowly.mjs')],
    env: { LOG: join(folder, 'log'), ...env },
  });
}

function logged(): string[] {
  return readFileSync(join(folder, 'log'), 'utf8').trim().split('\n');
}

/** Clients that say nothing, so that the next version is told of them in its own time. */
async function connectSilently(): Promise<void> {
  for (let i = 0; i < CONNECTIONS; i++) {
    const socket = connect(luod.port, '127.0.0.1');
    sockets.push(socket);
    await once(socket, 'connect');
  }
}

it('says its last word at the commit, and ends when the next one knows all its connections', async () => {
  await start({ SLOW_MS: '5' });
  await connectSilently();
  expect(await luod.update()).toMatchObject({ ok: true, generation: 2, connections: CONNECTIONS });
  const lines = logged();
  const told = (line: string) => lines.filter((one) => one === line).length;
  expect([told('connection 1'), told('connection 2')]).toEqual([CONNECTIONS, CONNECTIONS]);
  expect(lines.at(-1)).toBe('exit 1');
  const after = lines.slice(lines.indexOf('finish 1'));
  expect(after.filter((line) => line === 'connection 2').length).toBeGreaterThan(0);
});

it('does not wait for one that takes too long', async () => {
  await start({ SLOW_MS: '30' });
  await connectSilently();
  expect(await luod.update()).toMatchObject({ ok: true, generation: 2, connections: CONNECTIONS });
  // Of three seconds' telling it has waited one.
  const lines = logged();
  expect(lines).toContain('exit 1');
  expect(lines.filter((line) => line === 'connection 2').length).toBeLessThan(CONNECTIONS);
});

it('lets go of connections and listeners meanwhile: what the next one ends has ended', async () => {
  await start({ SLOW_MS: '30', ENDS_FIRST: '1' });
  await connectSilently();
  const ended = once(sockets[0]!.resume(), 'end').then(() => logged());
  await luod.update();
  const lines = await ended;
  expect(lines).toContain('connection 2');
  expect(lines).not.toContain('exit 1');
});

it('has freed the ports of its own when ready() of the next one resolves', async () => {
  const ownPort = await freePort();
  await start({ SLOW_MS: '0', OWN_PORT: String(ownPort) });
  await connectSilently();
  for (const generation of [2, 3]) {
    expect(await luod.update()).toMatchObject({ ok: true, generation });
    const client = connect(ownPort, '127.0.0.1');
    sockets.push(client);
    const [bytes] = await once(client, 'data');
    expect(String(bytes)).toBe(String(generation));
  }
  const lines = logged();
  expect(lines.filter((line) => line.startsWith('listening'))).toEqual([
    'listening 1',
    'listening 2',
    'listening 3',
  ]);
  // It is there still, and stands by.
  expect(lines.indexOf('listening 2')).toBeLessThan(lines.indexOf('exit 1'));
});

it('has time for its last words before it is killed', async () => {
  await start({ SLOW_MS: '30' });
  await connectSilently();
  expect(await luod.updateTo([], ['--finish-timeout', '900ms'])).toMatchObject({ ok: true, generation: 2 });
  expect(logged()).toContain('exit 1');
});

// Who is not root is refused when anybody else has said such a word in the last tenth of a second.
const canLower =
  process.getuid?.() === 0 &&
  existsSync('/proc/self/autogroup') &&
  readFileSync('/proc/self/autogroup', 'utf8') !== '';

it.skipIf(!canLower)('goes before the next one until that is ready', async () => {
  await start({ TELLS_NICE: '1' });
  expect(await luod.update()).toMatchObject({ ok: true, generation: 2 });
  const lines = logged();
  const nice = lines.filter((line) => line.startsWith('nice'));
  expect(nice.toSpliced(2, 1)).toEqual(['nice 0 1', 'nice 0 1', 'nice 0 2']);
  // A start that takes longer is modest no more.
  const [, startedMs] = lines.find((line) => line.startsWith('started'))?.split(' ') ?? [];
  if (Number(startedMs) < 500) expect(nice[2]).toBe('nice 10 2');
});
