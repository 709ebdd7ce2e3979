/**
 * nginx, HAProxy and CRIU: the machine's own if it has them; else Debian's packages, fetched by apt (which checks them) and
 * unpacked into the cache. Nothing is installed, and no root is needed.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from '../../scripts/kernel/cache.mjs';
import { logged, output, ToolError, which } from '../../scripts/kernel/command.mjs';
import { Unavailable } from './system-process.mjs';

/** A program and what it needs to run. */
export async function fromDebian(name, packages) {
  const own = which(name);
  if (own !== undefined) return { file: own, env: {}, root: '/' };
  const folder = cacheFolder('peers', name);
  const root = join(folder, 'root');
  const file = join(root, 'usr', 'sbin', name);
  if (!existsSync(file)) await unpack(folder, root, packages);
  return { file, env: { LD_LIBRARY_PATH: libraries(root).join(':') }, root };
}

/** Debian's folders of a machine type below `root`. */
export function libraries(root) {
  const triplet = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
  return [join(root, 'usr', 'lib', triplet), join(root, 'lib', triplet)];
}

async function unpack(folder, root, packages) {
  if (which('apt-get') === undefined)
    throw new Unavailable(
      `no ${packages[0]} here, and no apt-get to fetch Debian's; install ${packages.join(' and ')}`,
    );
  const archives = join(folder, 'archives');
  mkdirSync(join(archives, 'partial'), { recursive: true });
  const options = [`Dir::Cache::archives=${archives}`, 'Debug::NoLocking=1', 'APT::Sandbox::User=root'];
  const log = join(folder, 'apt.log');
  const fetch = () =>
    logged(
      'apt-get',
      [
        'install',
        '--download-only',
        '-y',
        '--no-install-recommends',
        ...options.flatMap((option) => ['-o', option]),
        ...packages,
      ],
      { log, env: { DEBIAN_FRONTEND: 'noninteractive' } },
    );
  try {
    await fetch().catch(async (error) => {
      // Most often the package lists are old or were never fetched.
      if (process.getuid() !== 0)
        throw new ToolError(error.message, { hint: 'As root: apt-get update', cause: error });
      await logged('apt-get', ['update'], { log });
      await fetch();
    });
  } catch (error) {
    throw new Unavailable(`apt cannot fetch ${packages.join(' ')}: ${error.message} ${error.hint ?? ''}`, {
      cause: error,
    });
  }
  const debs = readdirSync(archives).filter((entry) => entry.endsWith('.deb'));
  for (const deb of debs) output('dpkg', ['-x', join(archives, deb), root]);
}
