/** Packages of npm, in the version that is told in the report, installed into the cache; their scripts do not run. */
import { existsSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { cacheFolder } from '../../scripts/kernel/cache.mjs';
import { logged } from '../../scripts/kernel/command.mjs';
import { environment } from '../processes.mjs';
import { Unavailable } from './system-process.mjs';

const folderOf = (name, version) => cacheFolder('peers', `${name}-${version}`);

/** The package's folder, once it was fetched. */
export function packageFolder(name, version) {
  return join(folderOf(name, version), 'node_modules', name);
}

/** What the package exports. */
export function load(name, version) {
  return createRequire(join(folderOf(name, version), 'index.js'))(name);
}

/** @throws {Unavailable} when npm cannot install it. */
export async function fetchPackage(name, version) {
  if (existsSync(join(packageFolder(name, version), 'package.json'))) return;
  const folder = folderOf(name, version);
  const half = join(folder, 'half');
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  rmSync(half, { recursive: true, force: true });
  try {
    await logged('npm', ['install', '--prefix', half, ...options, `${name}@${version}`], {
      log: join(folder, 'install.log'),
      cwd: folder,
      env: environment,
    });
  } catch (error) {
    throw new Unavailable(`npm cannot install ${name}: ${error.message}`, { cause: error });
  }
  // Into its place when it is complete.
  renameSync(join(half, 'node_modules'), join(folder, 'node_modules'));
  rmSync(half, { recursive: true });
}
