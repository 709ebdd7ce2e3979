/** dist/, as it is published: every entry, each class once, and nothing loaded that waits to be needed. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const DIST = join(ROOT, 'dist');
const { exports, bin, dependencies, peerDependencies, version } = JSON.parse(
  readFileSync(join(ROOT, 'package.json'), 'utf8'),
);

const IMPORT = /(?:^|[;}\s])(?:import|export)\b[^"';(]*?["']([^"']+)["']/gm;

/** What a file of dist/ imports as it is loaded. */
function importsOf(path: string): string[] {
  return [...readFileSync(path, 'utf8').matchAll(IMPORT)].map(([, name]) => name as string);
}

/** Packages and files that an entry loads before its first statement, by name. */
function loadedBy(entry: string): { files: string[]; packages: string[] } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (path: string) => {
    if (files.has(path)) return;
    files.add(path);
    for (const name of importsOf(path)) {
      if (name.startsWith('.')) visit(join(dirname(path), name));
      else if (!builtinModules.includes(name.replace(/^node:/, ''))) packages.add(name);
    }
  };
  visit(join(DIST, entry));
  return { files: [...files], packages: [...packages].sort() };
}

function node(code: string) {
  return spawnSync(process.execPath, ['--input-type=module', '-e', code], { cwd: ROOT, encoding: 'utf8' });
}

describe('the published files', () => {
  it('have every entry, with its types', () => {
    for (const entry of Object.values<string | { types: string; default: string }>(exports)) {
      const paths = typeof entry === 'string' ? [entry] : [entry.types, entry.default];
      for (const path of paths) expect(existsSync(join(ROOT, path)), path).toBe(true);
    }
    for (const path of Object.values<string>(bin)) {
      const { stdout } = spawnSync(join(ROOT, path), ['--version'], { encoding: 'utf8' });
      expect(stdout).toBe(`${version}\n`);
    }
  });

  it('start the keeper, by its path', () => {
    const { stderr, status } = spawnSync(process.execPath, [join(DIST, 'daemon', 'keeper-process.js')], {
      encoding: 'utf8',
    });
    expect([status, stderr]).toEqual([
      2,
      'usage: keeper-process.js SOCKET PATIENCE_MS [INODE LISTENER QUEUE...]\n',
    ]);
  });

  it('share their classes', () => {
    const { stdout, stderr } = node(`
      import * as all from 'liveupdate';
      import * as core from 'liveupdate/core';
      import { closeFd } from 'liveupdate/linux';
      let thrown;
      try { closeFd(-1); } catch (error) { thrown = error; }
      const same = Object.keys(core).filter((name) => core[name] === all[name]).length === Object.keys(core).length;
      process.stdout.write(JSON.stringify([same, thrown instanceof core.LiveUpdateError, thrown instanceof all.LiveUpdateError]));`);
    expect([stderr, stdout]).toEqual(['', '[true,true,true]']);
  });

  it('import only what is installed with them', () => {
    const known = Object.keys({ ...dependencies, ...peerDependencies });
    const files = readdirSync(DIST, { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.js'),
    );
    expect(files.length).toBeGreaterThan(5);
    const packages = files.flatMap((name) => loadedBy(name).packages);
    expect(packages.filter((name) => !known.includes(name))).toEqual([]);
  });

  it('have what luod needs of zod, in a file that needs nothing else, with its license', () => {
    const text = readFileSync(join(DIST, 'daemon', 'zod-parts.cjs'), 'utf8');
    expect(text).not.toMatch(/\b(?:require|import)\(/);
    // All languages of all messages, say, are twice as much.
    expect(text.length).toBeLessThan(200_000);
    expect(readFileSync(join(DIST, 'daemon', 'zod-parts.LICENSE'), 'utf8')).toContain('Copyright');
  });

  it('load of packages what is used at once, and nothing else', () => {
    expect(loadedBy('index.js').packages).toEqual(['koffi']);
    expect(loadedBy('core/index.js').packages).toEqual([]);
    expect(loadedBy('linux/index.js').packages).toEqual(['koffi']);
    expect(loadedBy('daemon/keeper-process.js').packages).toEqual(['koffi']);
    expect(loadedBy('chunks/luod-command.js').packages).toEqual(['commander', 'koffi']);
    // No libc, for a command that only asks.
    expect(loadedBy('chunks/luoctl-command.js').packages).toEqual(['commander']);
    // Before the cache of compiled code is there.
    expect(loadedBy('cli/luod.js').packages).toEqual([]);
    expect(loadedBy('cli/luoctl.js').packages).toEqual([]);
  });

  it('load of Node what most programs need', () => {
    const builtins = loadedBy('index.js').files.flatMap(importsOf);
    expect(builtins).toContain('node:http');
    for (const dear of ['node:tls', 'node:https', 'node:http2', 'node:zlib'])
      expect(builtins).not.toContain(dear);
  });

  it('are few', () => {
    for (const entry of ['index.js', 'core/index.js', 'chunks/luod-command.js', 'chunks/luoctl-command.js']) {
      expect(loadedBy(entry).files.length, entry).toBeLessThanOrEqual(8);
    }
    expect(loadedBy('daemon/keeper-process.js').files.length).toBeLessThanOrEqual(4);
  });
});
