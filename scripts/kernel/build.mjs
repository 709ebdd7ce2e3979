// npm run kernel:build: builds the small kernel that the tests of the real device boot, once per machine.
//
// In order: a fitting kernel in the cache ends it at once → lock → look again (another build may have ended meanwhile) →
// packages → source from Debian → tinyconfig + fragment + olddefconfig → are all wanted options there? → make → move
// into the cache, manifest last. Whatever fails, the source tree is removed and nothing half-built is left to be found.
//
// Debian's own images cannot be used: they are built without CONFIG_KEXEC_HANDOVER.

import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  cacheFolder,
  droppedOptions,
  findKernel,
  fragmentPath,
  recipeHash,
  sha256,
  withLock,
} from './cache.mjs';
import { logged, output, progress, runMain, ToolError, UsageError } from './command.mjs';
import { BUILD_NEEDS, ensurePackages, findSource, unpackSource } from './debian.mjs';

const HELP = `Usage: npm run kernel:build -- [OPTIONS]

Builds the kernel that the tests of /dev/liveupdate boot: Debian's newest kernel source from 7.0 on, small, with the Live
Update Orchestrator. About six minutes on two processors the first time, under a second when the cache has it.

  npm run --silent kernel:build -- --print-path     the path of the kernel image, built if need be
  npm run kernel:build -- --update                  ask Debian for a newer kernel than the cached one

Options:
  --print-path    print the image's path, and nothing else, on stdout
  --no-build      fail when the cache has no fitting kernel
  --update        look for a newer source even if a kernel is cached
  --series X.Y    this kernel series and no other
  --jobs N        compile with N processes (default: one per processor)
  --keep-source   keep the source tree in the cache and say where
  --quiet         no progress on stderr
  --help          this text

Environment:
  LIVEUPDATE_CACHE  where built things are kept (default: $XDG_CACHE_HOME/liveupdate or ~/.cache/liveupdate)

Exit codes: 0 done, 1 failed, 2 usage.
`;

// The same source and fragment shall give the same image on every machine, with nothing of the machine in it.
const MAKE_ENV = {
  KBUILD_BUILD_TIMESTAMP: '2025-01-01 00:00:00 UTC',
  KBUILD_BUILD_USER: 'liveupdate',
  KBUILD_BUILD_HOST: 'liveupdate',
  KBUILD_BUILD_VERSION: '1',
  LC_ALL: 'C',
};

/**
 * Gives a kernel that fits this checkout's fragment, from the cache or built.
 * @param {{ update?: boolean, noBuild?: boolean, series?: string, jobs?: number, keepSource?: boolean,
 *   say?: (line: string) => void }} [options]
 * @returns {Promise<{ path: string, folder: string, version: string, seconds: number, cached: boolean }>}
 */
export async function ensureKernel(options = {}) {
  const { update = false, noBuild = false, series, say = progress() } = options;
  const cached = findKernel({ series });
  if (cached && !update) return { ...cached, cached: true };
  if (noBuild)
    throw new ToolError('no fitting kernel in the cache', { hint: 'Build one: npm run kernel:build' });
  if (process.arch !== 'x64')
    throw new ToolError(`the test kernel is for x86-64, and this machine is ${process.arch}`);
  return withLock(() => buildUnderLock({ ...options, say }), {
    onWait: () => say('another build holds the lock; waiting for it'),
  });
}

async function buildUnderLock({ update, series, jobs, keepSource, say }) {
  const before = findKernel({ series });
  if (before && !update) return { ...before, cached: true };
  const start = performance.now();
  await ensurePackages(BUILD_NEEDS, say);
  say('look for the newest kernel source');
  const source = await findSource({ series, say });
  const folder = join(cacheFolder('kernel'), `${recipeHash()}-${source.version}`);
  if (existsSync(join(folder, 'manifest.json'))) return { ...findKernel({ series }), cached: true };

  const scratch = join(cacheFolder('build'), 'current');
  // Left by a build that was killed: the lock says that nobody works in it.
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  const log = join(cacheFolder('kernel'), 'make.log');
  rmSync(log, { force: true });
  try {
    const tree = await unpackSource(source, scratch, { log, say });
    say('configure');
    await configure(tree, log);
    const version = output('make', ['-s', 'kernelversion'], { cwd: tree }).trim();
    await compile(tree, { log, jobs, version, say });
    store(tree, folder, { version, source, log, seconds: Math.round((performance.now() - start) / 1000) });
  } finally {
    if (keepSource) say(`source kept in ${scratch}`);
    else rmSync(scratch, { recursive: true, force: true });
  }
  say('done');
  return { ...findKernel({ series }), cached: false };
}

async function configure(tree, log) {
  await logged('make', ['tinyconfig'], { cwd: tree, log, env: MAKE_ENV });
  // The last word on an option counts, so appending is merging.
  appendFileSync(join(tree, '.config'), `\n${readFileSync(fragmentPath, 'utf8')}`);
  await logged('make', ['olddefconfig'], { cwd: tree, log, env: MAKE_ENV });
  const dropped = droppedOptions(readFileSync(join(tree, '.config'), 'utf8'));
  if (dropped.length > 0) {
    throw new ToolError(`the kernel's configuration dropped ${dropped.join(' ')}`, {
      hint: 'Renamed, or something it depends on is missing: build with --keep-source and look at the Kconfig files.',
    });
  }
}

async function compile(tree, { log, jobs = availableParallelism(), version, say }) {
  say(`compile Linux ${version} with ${jobs} processes (log: ${log})`);
  const begun = performance.now();
  const pulse = setInterval(() => {
    const steps = readFileSync(log, 'latin1').match(/^ {2}(CC|AS|AR|LD) /gm)?.length ?? 0;
    say(`  compiling for ${Math.round((performance.now() - begun) / 1000)} s, ${steps} files`);
  }, 30_000);
  try {
    // Niced: the machine's owner has other things to do, and on an idle machine it costs nothing.
    await logged('nice', ['-n', '19', 'make', `-j${jobs}`, 'bzImage'], { cwd: tree, log, env: MAKE_ENV });
  } finally {
    clearInterval(pulse);
  }
}

/** Into the cache under its key: everything else first, then the manifest, whose presence means "complete". */
function store(tree, folder, { version, source, log, seconds }) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(tree, 'arch/x86/boot/bzImage'), join(folder, 'bzImage'));
  copyFileSync(join(tree, '.config'), join(folder, 'config'));
  renameSync(log, join(folder, 'make.log'));
  const manifest = {
    version,
    debian: `${source.package} ${source.version} (${source.suite})`,
    sha256: sha256(readFileSync(join(folder, 'bzImage'))),
    seconds,
  };
  writeFileSync(join(folder, 'manifest.json.new'), `${JSON.stringify(manifest, null, 2)}\n`);
  renameSync(join(folder, 'manifest.json.new'), join(folder, 'manifest.json'));
}

async function main(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      'print-path': { type: 'boolean' },
      'no-build': { type: 'boolean' },
      update: { type: 'boolean' },
      series: { type: 'string' },
      jobs: { type: 'string' },
      'keep-source': { type: 'boolean' },
      quiet: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  if (values.series && !/^\d+\.\d+$/.test(values.series))
    throw new UsageError(`--series ${values.series}: not of the form X.Y`);
  if (values.jobs && !/^[1-9]\d*$/.test(values.jobs))
    throw new UsageError(`--jobs ${values.jobs}: not a number`);
  const kernel = await ensureKernel({
    update: values.update,
    noBuild: values['no-build'],
    series: values.series,
    jobs: values.jobs ? Number(values.jobs) : undefined,
    keepSource: values['keep-source'],
    say: progress(values.quiet),
  });
  if (values['print-path']) process.stdout.write(`${kernel.path}\n`);
  else {
    const how = kernel.cached ? 'from the cache' : `built in ${kernel.seconds} s`;
    process.stdout.write(`Linux ${kernel.version} (${how}): ${kernel.path}\n`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await runMain('kernel:build', main);
