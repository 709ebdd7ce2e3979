/**
 * CRIU: the service is dumped to disk, connections and all, and restored. The same program goes on, so it brings no new version; it is
 * here for what becomes of connections and memory, and for how long the service stands still.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fromDebian } from '../debian.mjs';
import { command, program, SystemProcess, serviceEnvironment, Unavailable } from '../system-process.mjs';

let criuFiles;

export const criu = {
  name: 'criu',
  title: 'CRIU',
  how: 'dump and restore with --tcp-established; no new version',
  loads: { http: true, tcp: true },
  bringsNoVersion: true,

  async prepare() {
    criuFiles = await fromDebian('criu', ['criu']);
    const env = { PATH: process.env.PATH, ...criuFiles.env };
    const said = spawnSync(criuFiles.file, ['--version'], { encoding: 'utf8', env });
    this.version = /Version: (\S+)/.exec(said.stdout)?.[0].replace('Version:', 'CRIU') ?? 'CRIU';
    if (process.getuid() !== 0) throw new Unavailable('needs root');
    const check = spawnSync(criuFiles.file, ['check'], { encoding: 'utf8', env });
    if (check.status !== 0) throw new Unavailable(`criu check: ${reason(check.stderr)}`);
  },

  async start(setting) {
    const service = new SystemProcess(
      setting,
      process.execPath,
      [program('plain.mjs')],
      serviceEnvironment(setting),
    );
    const pid = await service.serves('1');
    const images = join(setting.folder, 'images');
    mkdirSync(images);
    const options = ['-D', images, '--tcp-established', '--shell-job', '--ext-unix-sk', '--file-locks'];
    return {
      async update() {
        try {
          await command(setting, criuFiles.file, ['dump', '-t', String(pid), ...options], criuFiles.env);
          await command(setting, criuFiles.file, ['restore', '-d', ...options], criuFiles.env);
        } catch (error) {
          throw new Unavailable(`criu: ${reason(error.message)}`, { cause: error });
        }
        setting.processes.add(pid);
      },
      async stop() {
        if (setting.processes.live().includes(pid)) process.kill(pid, 'SIGTERM');
        await service.stop();
      },
    };
  },
};

/** The first error that it tells, but that a child of its own has ended. */
function reason(text) {
  const errors = text.split('\n').filter((line) => line.includes('Error'));
  const line = errors.find((error) => !error.includes('exited')) ?? text;
  return line.replace(/^.*Error \([^)]*\): /, '').trim();
}
