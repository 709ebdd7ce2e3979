/**
 * CRIU: the service is dumped to disk, connections and all, and restored. The same program goes on, so it brings no new version; it is
 * here for what becomes of connections and memory, and for how long the service stands still.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fromDebian, fromNewest } from '../debian.mjs';
import {
  command,
  listens,
  program,
  SystemProcess,
  serviceEnvironment,
  Unavailable,
} from '../system-process.mjs';

/** How it is started, and its environment, once one was found that runs here. */
let start;
let env;

/** What `criu check` has against this machine; undefined when nothing. */
function complaint() {
  const { status, stderr } = run('check');
  return status === 0 ? undefined : reason(stderr);
}

function run(...args) {
  return spawnSync(start[0], [...start.slice(1), ...args], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, ...env },
  });
}

const versionOf = () => /Version: (\S+)/.exec(run('--version').stdout)?.[1];

export const criu = {
  name: 'criu',
  title: 'CRIU',
  how: 'dump and restore with --tcp-established; brings no new version',
  loads: { http: true, tcp: true },
  bringsNoVersion: true,

  async prepare() {
    if (process.getuid() !== 0) throw new Unavailable('needs root');
    const files = await fromDebian('criu', ['criu']);
    start = [files.file];
    env = files.env;
    this.version = `CRIU ${versionOf()}`;
    const against = complaint();
    if (against === undefined) return;
    const failed = `${versionOf()} does not start here: ${against}`;
    try {
      start = await fromNewest('criu');
      env = {};
    } catch (error) {
      throw new Unavailable(`${failed}; ${error.message}`, { cause: error });
    }
    const stillAgainst = complaint();
    if (stillAgainst !== undefined)
      throw new Unavailable(`${failed}, nor does ${versionOf()} (${stillAgainst})`);
    this.version = `CRIU ${versionOf()} (${failed})`;
  },

  async start(setting) {
    // Files for its output: what is at the other end of a pipe is no part of the dump.
    const service = new SystemProcess(
      setting,
      '/bin/sh',
      ['-c', 'exec "$@" > out', 'sh', process.execPath, program('plain.mjs')],
      serviceEnvironment(setting),
    );
    const { pid } = service;
    await listens(setting.httpPort || setting.tcpPort);
    const images = join(setting.folder, 'images');
    mkdirSync(images);
    const options = ['-D', images, '--tcp-established', '--shell-job', '--network-lock', 'nftables'];
    const criuDoes = async (...args) => {
      try {
        await command(setting, start[0], [...start.slice(1), ...args, ...options], env);
      } catch (error) {
        throw new Error(`criu ${args[0]}: ${reason(error.message)}`, { cause: error });
      }
    };
    return {
      async update() {
        await criuDoes('dump', '-t', String(pid));
        await criuDoes('restore', '-d');
        setting.processes.add(pid);
      },
      async stop() {
        if (setting.processes.live().includes(pid)) process.kill(pid, 'SIGKILL');
        await service.exited();
      },
    };
  },
};

/** The first error that it tells, but for those that say only that something else failed. */
function reason(text) {
  const errors = text.split('\n').filter((line) => line.includes('Error'));
  const line = errors.find((error) => !/exited|RLIMIT_NOFILE/.test(error)) ?? text;
  return line.replace(/^.*Error \([^)]*\): /, '').trim();
}
