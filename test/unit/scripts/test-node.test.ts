/** `npm run test:node` against a registry of the test's own, whose Nodes are shell scripts. */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';

const SCRIPT = fileURLToPath(new URL('../../../scripts/test-node.mjs', import.meta.url));
const NAME = `node-linux-${process.arch}`;

let folder: string;
let registry: Server;
let url: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-test-node-'));
  const packages = new Map(
    ['99.9.0', '99.10.0', '98.1.0'].map((version) => [version, fakeNode(version, version)]),
  );
  packages.set('97.0.0', fakeNode('97.0.0', '96.0.0'));
  registry = createServer(({ url: path = '' }, response) => {
    if (path === `/${NAME}`) response.end(JSON.stringify(packument(packages)));
    else response.end(packages.get(path.slice(1)));
  });
  registry.listen(0, '127.0.0.1');
  await once(registry, 'listening');
  url = `http://127.0.0.1:${(registry.address() as AddressInfo).port}`;
});

afterEach(() => {
  registry.closeAllConnections();
  registry.close();
  rmSync(folder, { recursive: true, force: true });
});

/** A package whose Node is called `version`, but says that it is `says`, and ends with code 3 for a script. */
function fakeNode(version: string, says: string): Buffer {
  const root = join(folder, 'packages', version);
  const node = join(root, 'package', 'bin', 'node');
  mkdirSync(join(root, 'package', 'bin'), { recursive: true });
  writeFileSync(join(root, 'package', 'package.json'), JSON.stringify({ name: NAME, version }));
  writeFileSync(
    node,
    `#!/bin/sh\nif [ "$1" = --version ]; then echo v${says}; exit; fi\necho "$(command -v node)" "$@"\nexit 3\n`,
  );
  chmodSync(node, 0o755);
  return execFileSync('tar', ['cz', '-C', root, 'package']);
}

function packument(packages: Map<string, Buffer>): object {
  const versions = [...packages].map(([version, tarball]) => {
    const shasum = createHash('sha1').update(tarball).digest('hex');
    return [version, { name: NAME, version, dist: { tarball: `${url}/${version}`, shasum } }];
  });
  return { name: NAME, 'dist-tags': { latest: '99.10.0' }, versions: Object.fromEntries(versions) };
}

async function testNode(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [SCRIPT, ...args], {
    env: {
      ...process.env,
      LIVEUPDATE_CACHE: join(folder, 'cache'),
      npm_config_cache: join(folder, 'npm'),
      npm_config_registry: url,
      npm_config_fetch_retries: '0',
      npm_config_update_notifier: 'false',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  return { code, stdout, stderr };
}

const cached = () => readdirSync(join(folder, 'cache', 'node')).filter((entry) => !entry.endsWith('.log'));

it('runs the test command with the newest Node of a major, and ends with its exit code', async () => {
  const { code, stdout, stderr } = await testNode('99', 'test/unit', '--bail=1');
  const node = join(folder, 'cache', 'node', '99.10.0', 'node_modules', NAME, 'bin', 'node');
  const script = join(SCRIPT, '..', 'test.mjs');
  expect({ code, stdout }, stderr).toEqual({ code: 3, stdout: `${node} ${script} test/unit --bail=1\n` });
  expect(cached()).toEqual(['99.10.0']);
});

it('does without the registry for a version in full that is in the cache, and for no other', async () => {
  expect((await testNode('98.1.0')).stdout).toContain('test.mjs');
  registry.closeAllConnections();
  registry.close();
  expect((await testNode('98.1.0')).stdout).toContain('test.mjs');
  const asked = await testNode('98');
  expect(asked).toMatchObject({ code: 1, stdout: '' });
  expect(asked.stderr).toMatch(/npm cannot ask the registry: .*ECONNREFUSED/);
  expect(await testNode('99.9.0')).toMatchObject({ code: 1, stdout: '' });
});

it('says that there is no such version', async () => {
  const { code, stdout, stderr } = await testNode('95');
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toContain('there is no Node 95: No match found for version 95');
});

it('keeps no Node that is another than its name says', async () => {
  const { code, stdout, stderr } = await testNode('97');
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toContain('is v96.0.0, and not v97.0.0');
  expect(cached()).toEqual([]);
});

it.each([[], ['latest'], ['24 || 26'], ['--version']])('takes no %j for a version', async (...args) => {
  const { code, stderr } = await testNode(...args);
  expect(code).toBe(2);
  expect(stderr).toContain('is no version like 24 or 24.21.0');
});

it('explains itself', async () => {
  expect((await testNode('--help')).stdout).toContain('npm run test:node -- VERSION');
});
