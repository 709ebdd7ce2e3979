// What clients keep with `luod serve`, through a kexec: memory, a listener and an FLB cross, the rest is told.

import { spawn } from 'node:child_process';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { LuodClient } from '../../../dist/index.js';
import {
  createMemfd,
  F_SEAL_GROW,
  LiveupdateDevice,
  memfdSeals,
  sealMemfd,
} from '../../../dist/linux/index.js';
import { client, kexec, luoctl, mark, stage } from './machine.mjs';

const PORT = 7710;
const SOCKET = '/run/luod/liveupdate.sock';

const luod = spawn(
  process.execPath,
  [fileURLToPath(new URL('../../../dist/cli/luod.js', import.meta.url)), 'serve'],
  { stdio: ['ignore', 'ignore', 'pipe'] },
);
const lines = [];
const listens = new Promise((resolve) => {
  createInterface({ input: luod.stderr }).on('line', (line) => {
    process.stdout.write(`  ${line}\n`);
    lines.push(line);
    if (/listens at/.test(line)) resolve();
  });
});
await listens;
const own = await LuodClient.connect(SOCKET);

function text(fd, length) {
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, 0);
  return bytes.toString();
}

if (stage === 1) {
  const shared = createMemfd('shared', 100);
  writeSync(shared, 'shared by many', 0);
  await own.registerFlb('pool', shared);
  const session = await own.createSession('web', { custody: 'hold' });
  const memory = createMemfd('memory', 1 << 20, { crossesKernel: true });
  writeSync(memory, 'remembered', 0);
  sealMemfd(memory, F_SEAL_GROW);
  await session.preserve(memory, 1n, { flbs: ['pool'] });
  const server = createServer().listen(PORT, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  await session.preserve(server._handle.fd, 2n);
  const file = openSync('/run/a file', 'w');
  await session.preserve(file, 3n);
  const short = await own.createSession('short');
  const scratch = createMemfd('scratch', 1);
  await short.preserve(scratch, 1n);
  const orphan = await own.createSession('orphan', { custody: 'hold' });
  const left = createMemfd('left', 10);
  writeSync(left, 'left alone', 0);
  await orphan.preserve(left, 1n);
  orphan.close();

  const refused = kexec();
  mark('refused', { code: refused.code, reply: refused.reply });
  // Everything goes on: in what was to cross, too.
  await session.unpreserve(3n);
  await session.preserve(file, 3n);
  // Memory that came after the kernel had the first would come with the freeze; a dry run has it all the same.
  const dry = kexec('--dry-run', '--drop-unpreservable');
  mark('dry', { code: dry.code, reply: dry.reply });
  for (const fd of [file, left, shared]) closeSync(fd);
  mark('kexec');
  const last = kexec('--drop-unpreservable');
  mark('still here', { code: last.code, objects: last.objects });
  process.exitCode = 1;
} else {
  mark('sessions', { sessions: luoctl('sessions').reply.sessions, flbs: luoctl('flbs').reply.flbs });
  const web = await own.retrieveSession('web');
  const memory = await web.retrieve(1n);
  const { length } = await web.list();
  const server = createServer((socket) => socket.end('"served"\n'));
  server.listen({ fd: await web.retrieve(2n) });
  const peer = await client({ host: '127.0.0.1', port: PORT });
  const answer = await peer.ask('hello');
  const pool = await own.retrieveFlb('pool');
  const orphan = await own.retrieveSession('orphan');
  mark('web', {
    length,
    memory: text(memory, 10),
    seals: memfdSeals(memory) === F_SEAL_GROW,
    answer,
    pool: text(pool, 14),
    orphan: text(await orphan.retrieve(1n), 10),
  });
  await web.finish();
  await orphan.finish();
  // Finished: the kernel has nothing any more, and the memory can be preserved by anybody.
  const device = LiveupdateDevice.open();
  const session = device.createSession('probe');
  session.preserve(memory, 1n);
  session.close();
  let came = 'nothing';
  try {
    device.retrieveSession('luod:(clients)');
  } catch (error) {
    came = error.code;
  }
  device.close();
  mark('kernel', { came, lines });
  own.close();
  server.close();
  luod.kill('SIGTERM');
  await new Promise((resolve) => luod.once('exit', resolve));
}
process.exit();
