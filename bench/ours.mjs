/** The service under `luod run`, updated by `luoctl update`. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { end, environment, inTime, output, own } from './processes.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const CLI = join(HERE, '..', 'dist', 'cli');

/** The echo service. */
export function startOurs(port, memory, cut = 'atomic') {
  return startProgram('echo.mjs', { PORT: String(port), MEMORY: String(memory), CUT: cut });
}

/** One of programs/, with variables for its environment. Resolves when it serves. */
export async function startProgram(file, variables) {
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-bench-'));
  const socket = join(folder, 'luod.sock');
  const program = [process.execPath, join(HERE, 'programs', file)];
  const luod = own(
    spawn(
      process.execPath,
      [join(CLI, 'luod.js'), 'run', '--name', 'service', '--socket', socket, '--', ...program],
      {
        env: { ...environment, ...variables },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    ),
  );
  const serves = new Promise((resolve, reject) => {
    let said = '';
    luod.stderr.setEncoding('utf8').on('data', (text) => {
      said += text;
      if (said.includes('generation 1 serves')) resolve();
    });
    luod.once('exit', () => reject(new Error(said)));
  });
  await inTime('the service', serves);
  const luoctl = async (command) =>
    JSON.parse(
      await output(process.execPath, [join(CLI, 'luoctl.js'), command, '--json', '--socket', socket]),
    );
  return {
    /** luod's account of it. @param inTwoSteps Prepared, and cut when that is done. */
    async update(inTwoSteps = false) {
      for (const command of inTwoSteps ? ['prepare', 'cut'] : ['update']) {
        const result = await luoctl(command);
        if (!result.ok) throw new Error(`${command} failed: ${result.error.message}`);
        if (command !== 'prepare') return result;
      }
    },
    async stop() {
      await end(luod);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
