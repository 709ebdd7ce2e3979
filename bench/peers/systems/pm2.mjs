/** pm2's cluster mode, and `pm2 reload`, with a home of its own. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fetchPackage, packageFolder } from '../npm.mjs';
import { command, program, serviceEnvironment } from '../system-process.mjs';

const VERSION = '7.0.4';

export const pm2 = {
  name: 'pm2',
  title: 'pm2',
  how: '`pm2 reload`, cluster mode, wait_ready',
  loads: { http: true, tcp: true },
  version: `pm2 ${VERSION}`,

  prepare: () => fetchPackage('pm2', VERSION),

  async start(setting) {
    const home = join(setting.folder, 'pm2');
    const env = { ...serviceEnvironment(setting), PM2_HOME: home };
    const run = (...args) =>
      command(setting, process.execPath, [join(packageFolder('pm2', VERSION), 'bin', 'pm2'), ...args], env);
    const workers = String(availableParallelism());
    await run(
      'start',
      program('plain.mjs'),
      '--name',
      'service',
      '-i',
      workers,
      '--wait-ready',
      '--kill-timeout',
      '3500',
    );
    const daemon = Number(readFileSync(join(home, 'pm2.pid'), 'utf8'));
    setting.processes.add(daemon);
    return {
      update: () => run('reload', 'service'),
      async stop() {
        // Its workers end with it.
        await run('delete', 'service');
        if (setting.processes.live().includes(daemon)) process.kill(daemon, 'SIGTERM');
      },
    };
  },
};
