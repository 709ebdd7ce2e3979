// Where built things live: outside every checkout, so that a fresh clone finds the kernel of the last one.
//
//   CACHE/kernel/HASH-VERSION/   bzImage, config, make.log and manifest.json, written last: a folder without it is
//                                a build that was cut off, and is not used
//   CACHE/initramfs/HASH.cpio    the guest's first files
//   CACHE/apt/                   the private package lists
//   CACHE/build/                 the source tree while a build runs; gone afterwards
//
// HASH covers the fragment, the fixed build settings and RECIPE, so that a change to any of them asks for a new build.
// Lock: one flock(1) around everything that writes under CACHE/kernel and CACHE/build.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { ToolError } from './command.mjs';

/** Count up when build.mjs changes in a way that makes kernels built before it unfit. */
const RECIPE = 1;

export const fragmentPath = new URL('./fragment.config', import.meta.url);

export function cacheRoot() {
  const { LIVEUPDATE_CACHE, XDG_CACHE_HOME } = process.env;
  return LIVEUPDATE_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'liveupdate');
}

/** A folder of the cache, made when it is missing. */
export function cacheFolder(...names) {
  const path = join(cacheRoot(), ...names);
  mkdirSync(path, { recursive: true });
  return path;
}

export const sha256 = (data) => createHash('sha256').update(data).digest('hex');

/** The part of a kernel's key that does not need the network to be known. */
export function recipeHash() {
  return sha256(`${RECIPE}\n${readFileSync(fragmentPath)}`).slice(0, 12);
}

/** The options that the fragment asks for. */
export function wantedOptions() {
  return [...readFileSync(fragmentPath, 'utf8').matchAll(/^(CONFIG_\w+)=y$/gm)].map((match) => match[1]);
}

/** The wanted options that a .config has not. olddefconfig drops what it cannot have, without a word. */
export function droppedOptions(config) {
  const lines = new Set(config.split('\n'));
  return wantedOptions().filter((option) => !lines.has(`${option}=y`));
}

/** 7.10 after 7.9. */
export const compareVersions = (a, b) => a.localeCompare(b, 'en', { numeric: true });

/**
 * The newest kernel in the cache that this recipe built, checked, or undefined. Damage is an error and not a miss:
 * a kernel that changed on disk is something to tell, not to paper over with a ten-minute build.
 * @param {{ series?: string }} [options] series: only X.Y
 * @returns {{ path: string, folder: string, version: string, seconds: number } | undefined}
 */
export function findKernel({ series } = {}) {
  const root = join(cacheRoot(), 'kernel');
  const prefix = `${recipeHash()}-`;
  for (const name of listed(root)
    .filter((entry) => entry.startsWith(prefix))
    .sort(compareVersions)
    .reverse()) {
    const folder = join(root, name);
    let manifest;
    try {
      manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'));
    } catch {
      continue;
    }
    if (series && !`${manifest.version}.`.startsWith(`${series}.`)) continue;
    checkKernel(folder, manifest);
    return { path: join(folder, 'bzImage'), folder, version: manifest.version, seconds: manifest.seconds };
  }
  return undefined;
}

function checkKernel(folder, manifest) {
  const hint = `Remove ${folder} and build again.`;
  let image;
  let config;
  try {
    image = readFileSync(join(folder, 'bzImage'));
    config = readFileSync(join(folder, 'config'), 'utf8');
  } catch (cause) {
    throw new ToolError(`the cached kernel ${manifest.version} lacks a file: ${cause.message}`, {
      hint,
      cause,
    });
  }
  if (sha256(image) !== manifest.sha256) {
    throw new ToolError(
      `the cached kernel ${manifest.version} is not the one that was built (sha256 differs)`,
      { hint },
    );
  }
  const dropped = droppedOptions(config);
  if (dropped.length > 0)
    throw new ToolError(`the cached kernel ${manifest.version} lacks ${dropped.join(' ')}`, { hint });
}

function listed(folder) {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/**
 * Runs work() while holding the cache's lock. flock(1) in a child holds it: the kernel takes the lock back when this
 * process dies in whatever way (the child reads our end of a pipe), so that no stale lock is ever left to explain.
 */
export async function withLock(work, { onWait } = {}) {
  const file = join(cacheFolder(), 'lock');
  const holder = spawn('flock', ['--exclusive', file, 'sh', '-c', 'echo held; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    // Its own process group: Ctrl-C in a terminal must not take the lock away while we are still cleaning up.
    detached: true,
  });
  const waiting = setTimeout(() => onWait?.(), 500);
  try {
    await new Promise((resolve, reject) => {
      holder.stdout.once('data', resolve);
      holder.once('error', (cause) =>
        reject(new ToolError(`flock: ${cause.message}`, { cause, hint: 'Install util-linux.' })),
      );
      holder.once('exit', (code) =>
        reject(new ToolError(`could not lock ${file} (flock ended with ${code})`)),
      );
    });
  } finally {
    clearTimeout(waiting);
  }
  try {
    return await work();
  } finally {
    const gone = new Promise((resolve) => holder.once('close', resolve));
    holder.stdin.end();
    await gone;
  }
}
