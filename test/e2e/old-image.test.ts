import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LuodProcess, programPath } from './luod-process.js';

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

/** Clients that say nothing, so that the next version is told of them in its own time. */
async function connectSilently(): Promise<void> {
  for (let i = 0; i < CONNECTIONS; i++) {
    const socket = connect(luod.port, '127.0.0.1');
    sockets.push(socket);
    await once(socket, 'connect');
  }
}

it('says its last word at the commit, and ends when the next one knows all its connections', async () => {
  const log = join(folder, 'log');
  luod = await LuodProcess.start({
    command: [process.execPath, programPath('told-slowly.mjs')],
    env: { LOG: log },
  });
  await connectSilently();
  expect(await luod.update()).toMatchObject({ ok: true, generation: 2, connections: CONNECTIONS });
  const lines = readFileSync(log, 'utf8').trim().split('\n');
  const told = (line: string) => lines.filter((one) => one === line).length;
  expect([told('connection 1'), told('connection 2')]).toEqual([CONNECTIONS, CONNECTIONS]);
  expect(lines.at(-1)).toBe('exit 1');
  const after = lines.slice(lines.indexOf('finish 1'));
  expect(after.filter((line) => line === 'connection 2').length).toBeGreaterThan(CONNECTIONS / 2);
});

it('does not wait for one that takes too long', async () => {
  const log = join(folder, 'log');
  luod = await LuodProcess.start({
    command: [process.execPath, programPath('told-slowly.mjs')],
    env: { LOG: log, SLOW_MS: '30' },
  });
  await connectSilently();
  expect(await luod.update()).toMatchObject({ ok: true, generation: 2, connections: CONNECTIONS });
  // Of three seconds' telling it has waited one.
  const lines = readFileSync(log, 'utf8').trim().split('\n');
  expect(lines).toContain('exit 1');
  expect(lines.filter((line) => line === 'connection 2').length).toBeLessThan(CONNECTIONS);
});
