/** Ours: `luod run`, and `luoctl update`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { command, program, SystemProcess, serviceEnvironment } from '../system-process.mjs';

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'));
const cli = (name) => fileURLToPath(new URL(`../../../dist/cli/${name}.js`, import.meta.url));

export const luod = {
  name: 'ours',
  title: 'liveupdate, luod',
  how: '`luoctl update`: a successor process',
  version: `liveupdate ${version}`,
  loads: { http: true, tcp: true },
  prepare: () => undefined,

  async start(setting) {
    const socket = join(setting.folder, 'luod.sock');
    const daemon = new SystemProcess(
      setting,
      process.execPath,
      [
        cli('luod'),
        'run',
        '--name',
        'service',
        '--socket',
        socket,
        '--',
        process.execPath,
        program('ours.mjs'),
      ],
      serviceEnvironment(setting),
    );
    await daemon.serves('1');
    return {
      async update(next) {
        const text = await command(setting, process.execPath, [
          cli('luoctl'),
          'update',
          '--json',
          '--socket',
          socket,
        ]);
        const result = JSON.parse(text);
        if (!result.ok) throw new Error(`${result.error.code}: ${result.error.message}`);
        await daemon.serves(next);
        return { blackoutMs: result.blackoutMs };
      },
      stop: () => daemon.stop(),
    };
  },
};
