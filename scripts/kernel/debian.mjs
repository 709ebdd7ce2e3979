// Debian as a supplier: packages that are missing on this machine, and a kernel's source from a newer suite than the
// machine's own, without touching the machine's sources, lists or pins.
//
// The private apt reads the machine's own configuration first (proxies, certificates, netrc), then ours on top: its own
// source, lists and cache, no hooks, no pins. The mirror is the machine's own, asked of apt itself: no host name stands here.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder, compareVersions } from './cache.mjs';
import { logged, output, ToolError, which } from './command.mjs';

/** Suites to look in, in order. */
const SUITES = ['trixie-backports', 'sid'];
const OLDEST = '7.0';

// What is needed, how to see whether it is there, and Debian's package for it.
export const BUILD_NEEDS = [
  { command: 'gcc', package: 'gcc' },
  { command: 'make', package: 'make' },
  { command: 'ld', package: 'binutils' },
  { command: 'perl', package: 'perl' },
  { command: 'flex', package: 'flex' },
  { command: 'bison', package: 'bison' },
  { command: 'bc', package: 'bc' },
  { command: 'xz', package: 'xz-utils' },
  { header: 'stdlib.h', package: 'libc6-dev' },
  { header: 'gelf.h', package: 'libelf-dev' },
  { header: 'openssl/opensslv.h', package: 'libssl-dev' },
];

export const RUN_NEEDS = [
  { command: 'qemu-system-x86_64', package: 'qemu-system-x86' },
  { command: 'busybox', package: 'busybox-static' },
  { command: 'cpio', package: 'cpio' },
  { command: 'kexec', package: 'kexec-tools' },
];

const missing = (needs) =>
  needs.filter((need) => !(need.command ? which(need.command) : hasHeader(need.header)));

const hasHeader = (header) =>
  spawnSync('gcc', ['-E', '-x', 'c', '-include', header, '-o', '/dev/null', '/dev/null']).status === 0;

/** Sees to it that everything in `needs` is there: installs it when we are root, says what to install when not. */
export async function ensurePackages(needs, say) {
  const absent = missing(needs);
  if (absent.length === 0) return;
  const packages = absent.map((need) => need.package);
  const install = `apt-get install -y --no-install-recommends ${packages.join(' ')}`;
  const wanting = absent.map((need) => need.command ?? need.header).join(', ');
  if (!which('apt-get')) {
    throw new ToolError(`missing: ${wanting}`, { hint: `Install what Debian calls: ${packages.join(' ')}` });
  }
  if (process.getuid() !== 0) throw new ToolError(`missing: ${wanting}`, { hint: `As root: ${install}` });
  say(`missing: ${wanting}. Running: ${install}`);
  const log = join(cacheFolder(), 'install.log');
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const args = ['-o', 'DPkg::Lock::Timeout=300', ...install.split(' ').slice(1)];
  try {
    await logged('apt-get', args, { log, env });
  } catch {
    // Most often the package lists are old or were never fetched.
    await logged('apt-get', ['update'], { log, env });
    await logged('apt-get', args, { log, env });
  }
  const left = missing(absent);
  if (left.length > 0) {
    throw new ToolError(
      `still missing after the installation: ${left.map((need) => need.command ?? need.header).join(', ')}`,
    );
  }
}

/** The machine's own mirrors of Debian: [{ uri, keyring }], main archives before anything else. */
export function machineMirrors() {
  const format = '$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SOURCESENTRY)';
  const rows = output('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'])
    .split('\n')
    .map((line) => line.split('\t'))
    .filter(([uri, release, component]) => uri && component === 'main' && !release.endsWith('-security'));
  // A plain suite (no -updates and the like) is the archive itself.
  rows.sort((a, b) => Number(a[1].includes('-')) - Number(b[1].includes('-')));
  const mirrors = new Map();
  for (const [uri, , , entry] of rows)
    if (!mirrors.has(uri)) mirrors.set(uri, { uri, keyring: keyringOf(entry) });
  return [...mirrors.values()];
}

/** The keyring that a source names (entry: FILE:LINE), else the one that Debian installs, else none: apt's own trust. */
function keyringOf(entry) {
  const file = entry.replace(/:\d+$/, '');
  const named = existsSync(file) && /signed-by\s*[:=]\s*(\/[^\s\],]+)/i.exec(readFileSync(file, 'utf8'))?.[1];
  return [named, '/usr/share/keyrings/debian-archive-keyring.gpg'].find((path) => path && existsSync(path));
}

/** Writes a private apt configuration for one mirror and suite; returns its file. */
export function privateApt({ uri, keyring }, suite) {
  const root = cacheFolder('apt', suite);
  for (const folder of ['lists/partial', 'cache/archives/partial'])
    mkdirSync(join(root, folder), { recursive: true });
  const trust = keyring ? `[signed-by=${keyring}] ` : '';
  writeFileSync(join(root, 'source.list'), `deb ${trust}${uri} ${suite} main\n`);
  const config = join(root, 'apt.conf');
  writeFileSync(
    config,
    [
      '#clear APT::Update::Pre-Invoke;',
      '#clear APT::Update::Post-Invoke;',
      '#clear APT::Update::Post-Invoke-Success;',
      'APT::Sandbox::User "root";',
      `Dir::Etc::sourcelist "${join(root, 'source.list')}";`,
      'Dir::Etc::sourceparts "/dev/null";',
      'Dir::Etc::preferences "/dev/null";',
      'Dir::Etc::preferencesparts "/dev/null";',
      `Dir::State "${root}";`,
      `Dir::State::lists "${join(root, 'lists')}";`,
      'Dir::State::status "/dev/null";',
      `Dir::Cache "${join(root, 'cache')}";`,
      '',
    ].join('\n'),
  );
  return config;
}

/**
 * The newest kernel source that Debian has for us.
 * @param {{ series?: string, say: (line: string) => void }} options series: only X.Y
 * @returns {Promise<{ package: string, version: string, suite: string, config: string }>} version: Debian's, as 7.3.4-1~bpo13+1
 */
export async function findSource({ series, say }) {
  if (!which('apt-get')) {
    throw new ToolError('no apt-get: the kernel source comes from Debian', {
      hint: 'Build on a Debian machine.',
    });
  }
  const mirrors = machineMirrors();
  if (mirrors.length === 0) throw new ToolError('apt has no Debian archive among its sources');
  const log = join(cacheFolder('apt'), 'apt.log');
  let failure;
  let isReached = false;
  for (const suite of SUITES) {
    for (const mirror of mirrors) {
      const config = privateApt(mirror, suite);
      try {
        await logged('apt-get', ['-c', config, 'update', '-o', 'APT::Update::Error-Mode=any'], { log });
      } catch (error) {
        failure = error;
        continue;
      }
      isReached = true;
      const found = newestIn(config, series);
      if (found) return { ...found, suite, config };
      say(`no linux-source-${series ?? `X.Y from ${OLDEST}`} in ${suite}`);
    }
  }
  if (!isReached) {
    throw new ToolError("Debian's archive cannot be read: is there a network?", {
      cause: failure,
      tail: failure?.tail,
      hint: `apt's log: ${log}`,
    });
  }
  throw new ToolError(`no linux-source-${series ?? `X.Y from ${OLDEST}`} in ${SUITES.join(' or ')}`, {
    cause: failure,
    tail: failure?.tail,
    hint: `apt's log: ${log}`,
  });
}

function newestIn(config, series) {
  const names = output('apt-cache', ['-c', config, 'search', '--names-only', '^linux-source-[0-9.]+$']);
  const newest = [...names.matchAll(/^linux-source-(\d+\.\d+) /gm)]
    .map((match) => match[1])
    .filter((version) => (series ? version === series : compareVersions(version, OLDEST) >= 0))
    .sort(compareVersions)
    .at(-1);
  if (!newest) return undefined;
  const name = `linux-source-${newest}`;
  const version = /^Version: (.+)$/m.exec(
    output('apt-cache', ['-c', config, 'show', '--no-all-versions', name]),
  )[1];
  return { package: name, version };
}

/** Downloads and unpacks a source package into `folder`; returns the kernel's tree. apt checks signature and hashes. */
export async function unpackSource(source, folder, { log, say }) {
  say(`download ${source.package} ${source.version} from ${source.suite}`);
  await logged('apt-get', ['-c', source.config, 'download', source.package], { log, cwd: folder });
  const deb = readdirSync(folder).find((name) => name.endsWith('.deb'));
  say('unpack');
  await logged('dpkg', ['-x', deb, 'deb'], { log, cwd: folder });
  mkdirSync(join(folder, 'linux'));
  const archive = join('deb', 'usr', 'src', `${source.package}.tar.xz`);
  await logged('tar', ['-xf', archive, '-C', 'linux', '--strip-components=1'], { log, cwd: folder });
  return join(folder, 'linux');
}
