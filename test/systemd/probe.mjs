// Under a real systemd: what luod keeps is with its descriptor store when luod is killed, and while it replaces itself. A line of JSON
// for each step.

import { execFileSync } from 'node:child_process';
import { closeSync, readdirSync, readFileSync } from 'node:fs';

const [root] = process.argv.slice(2);
const { LuodClient } = await import(`${root}/dist/index.js`);
const { createMemfd } = await import(`${root}/dist/linux/index.js`);
const SOCKET = '/run/luod/liveupdate.sock';
const FILES = 100n;

function unit() {
  const text = execFileSync('systemctl', ['show', 'luod.service'], { encoding: 'utf8' });
  const value = (name) => new RegExp(`^${name}=(.*)$`, 'm').exec(text)?.[1];
  return {
    pid: Number(value('MainPID')),
    stored: Number(value('NFileDescriptorStore')),
    restarts: Number(value('NRestarts')),
    state: value('ActiveState'),
  };
}

function zombies() {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return /^State:\s+Z/m.test(readFileSync(`/proc/${name}/status`, 'utf8'));
    } catch {
      // It ended while we looked.
      return false;
    }
  }).length;
}

function luoctl(...words) {
  const command = [`${root}/dist/cli/luoctl.js`, words[0], '--json', '--socket', SOCKET, ...words.slice(1)];
  return JSON.parse(execFileSync(process.execPath, command, { encoding: 'utf8' }));
}

const client = await LuodClient.connect(SOCKET);
const session = await client.createSession('kept', { custody: 'hold' });
const started = performance.now();
for (let token = 0n; token < FILES; token++) {
  const memfd = createMemfd('m', 10);
  await session.preserve(memfd, token);
  closeSync(memfd);
}
const msPerFile = (performance.now() - started) / Number(FILES);
const program = luoctl('start', 'sleeper', '--', 'sleep', '1000').pid;
const tell = async (step) => {
  const services = luoctl('services').services.map(({ name, pid }) => `${name} ${pid === program}`);
  console.log(
    JSON.stringify({ step, files: (await session.list()).length, services, zombies: zombies(), ...unit() }),
  );
};
await tell('before');
process.kill(unit().pid, 'SIGKILL');
await tell('killed');
const { pid } = await client.selfUpdate();
await tell('replaced');
process.kill(pid, 'SIGKILL');
await tell('killed again');
execFileSync('systemctl', ['stop', 'luod.service']);
console.log(JSON.stringify({ step: 'stopped', msPerFile, ...unit() }));
process.exit(0);
