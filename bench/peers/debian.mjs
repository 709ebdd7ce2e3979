/**
 * nginx, HAProxy and CRIU: the machine's own if it has them; else Debian's packages, fetched by apt (which checks them) and
 * unpacked into the cache. Nothing is installed, and no root is needed.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from '../../scripts/kernel/cache.mjs';
import { logged, output, ToolError, which } from '../../scripts/kernel/command.mjs';
import { machineMirrors, privateApt } from '../../scripts/kernel/debian.mjs';
import { Unavailable } from './system-process.mjs';

const NEWEST = 'sid';

/** A program and what it needs to run. */
export async function fromDebian(name, packages) {
  const own = which(name);
  if (own !== undefined) return { file: own, env: {}, root: '/' };
  const folder = cacheFolder('peers', name);
  const root = join(folder, 'root');
  const file = join(root, 'usr', 'sbin', name);
  if (!existsSync(file)) {
    if (which('apt-get') === undefined)
      throw new Unavailable(
        `no ${name} here, and no apt-get to fetch Debian's; install ${packages.join(' and ')}`,
      );
    try {
      await download(folder, packages).catch(async (error) => {
        // Most often the package lists are old or were never fetched.
        if (process.getuid() !== 0)
          throw new ToolError(error.message, { hint: 'As root: apt-get update', cause: error });
        await logged('apt-get', ['update'], { log: join(folder, 'apt.log') });
        await download(folder, packages);
      });
    } catch (error) {
      throw notFetched(packages, error);
    }
    unpack(folder, root);
  }
  return { file, env: { LD_LIBRARY_PATH: libraries(root).join(':') }, root };
}

/** Debian's folders of a machine type below `root`. */
export function libraries(root) {
  const triplet = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
  return [join(root, 'usr', 'lib', triplet), join(root, 'lib', triplet)];
}

/**
 * The program as the newest suite has it, with that suite's own C library, since this machine's is older.
 * @returns the command that starts it.
 */
export async function fromNewest(name) {
  const folder = cacheFolder('peers', `${name}-${NEWEST}`);
  const root = join(folder, 'root');
  const file = join(root, 'usr', 'sbin', name);
  if (!existsSync(file)) {
    const log = join(folder, 'apt.log');
    let failure = new Error('apt has no Debian archive among its sources');
    for (const mirror of machineMirrors()) {
      const config = privateApt(mirror, NEWEST);
      try {
        await logged('apt-get', ['-c', config, 'update', '-o', 'APT::Update::Error-Mode=any'], { log });
        await download(folder, [name], ['-c', config]);
        failure = undefined;
        break;
      } catch (error) {
        failure = error;
      }
    }
    if (failure !== undefined) throw notFetched([name], failure);
    unpack(folder, root);
  }
  const [libraryFolder] = libraries(root);
  const loader = readdirSync(libraryFolder).find((entry) => entry.startsWith('ld-linux'));
  return [join(libraryFolder, loader), '--library-path', libraryFolder, file];
}

/** Fetches packages, and what they need and this machine has not, into the folder's archives. */
async function download(folder, packages, more = []) {
  const archives = join(folder, 'archives');
  mkdirSync(join(archives, 'partial'), { recursive: true });
  const options = [`Dir::Cache::archives=${archives}`, 'Debug::NoLocking=1', 'APT::Sandbox::User=root'];
  const install = ['install', '--download-only', '-y', '--no-install-recommends'];
  await logged(
    'apt-get',
    [...more, ...install, ...options.flatMap((option) => ['-o', option]), ...packages],
    { log: join(folder, 'apt.log'), env: { DEBIAN_FRONTEND: 'noninteractive' } },
  );
}

/** Into its place when it is complete. */
function unpack(folder, root) {
  const archives = join(folder, 'archives');
  const half = `${root}.half`;
  rmSync(half, { recursive: true, force: true });
  for (const deb of readdirSync(archives)) {
    if (deb.endsWith('.deb')) output('dpkg', ['-x', join(archives, deb), half]);
  }
  renameSync(half, root);
}

function notFetched(packages, error) {
  return new Unavailable(`apt cannot fetch ${packages.join(' ')}: ${error.message} ${error.hint ?? ''}`, {
    cause: error,
  });
}
