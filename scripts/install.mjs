/** Installs what is missing and builds what is stale, so that a fresh clone needs one command. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** Runs a command with its output shown; ends this process with its exit code if it fails. */
export function run(file, args, options = {}) {
  const { status, signal, error } = spawnSync(file, args, { cwd: ROOT, stdio: 'inherit', ...options });
  if (error) fail(`cannot run ${file}: ${error.message}`);
  if (status !== 0) process.exit(status ?? (signal ? 1 : 0));
}

/** A program of a package that is installed here. */
export function tool(name) {
  return join(ROOT, 'node_modules', '.bin', name);
}

function fail(text) {
  process.stderr.write(`${text}\n`);
  process.exit(1);
}

function mtime(path) {
  return existsSync(path) ? statSync(path).mtimeMs : 0;
}

function newest(folder) {
  let latest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isFile()) latest = Math.max(latest, mtime(join(entry.parentPath ?? entry.path, entry.name)));
  }
  return latest;
}

/** Installs what the lock file says, if something else is installed. */
export function installMissing() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (process.platform !== 'linux') fail('liveupdate needs Linux.');
  if (major < 20 || (major === 20 && minor < 19))
    fail(`liveupdate needs Node 20.19 or newer; this is ${process.versions.node}.`);
  const installed = mtime(join(ROOT, 'node_modules', '.package-lock.json'));
  if (installed >= mtime(join(ROOT, 'package-lock.json')) && existsSync(tool('tsc'))) return;
  process.stderr.write('Installing dependencies...\n');
  // Not `npm ci`: it refuses a lock file that lacks another platform's optional package, which nobody here needs.
  run('npm', ['install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']);
}

/** Builds dist/ and build/, if a source is newer than the last build. */
export function buildStale() {
  const stamp = mtime(join(ROOT, 'dist', 'index.js'));
  const sources = Math.max(
    newest(join(ROOT, 'src')),
    ...['tsconfig.json', 'rolldown.config.mjs'].map((name) => mtime(join(ROOT, name))),
  );
  if (stamp > sources) return;
  process.stderr.write('Building...\n');
  build();
}

/** dist/ is what is published: bundles, and the types of every module. build/ has the modules one by one, for tests of what is private. */
export function build() {
  for (const folder of ['dist', 'build']) rmSync(join(ROOT, folder), { recursive: true, force: true });
  run(tool('tsc'), ['-p', 'tsconfig.json']);
  // What it says on stdout is how large every file is.
  run(tool('rolldown'), ['--config', 'rolldown.config.mjs'], { stdio: ['ignore', 'ignore', 'inherit'] });
  // Programs of the package are started by path, too.
  run('chmod', ['+x', 'dist/cli/luod.js', 'dist/cli/luoctl.js']);
}
