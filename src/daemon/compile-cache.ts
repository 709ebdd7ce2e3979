/**
 * Where V8's compiled code is kept, so that the next start of the same files need not compile them (Node 22.8 and newer).
 *
 * Who can write such a file decides what runs. So it is kept only in a folder of ours in a run folder that nobody else can write to, and
 * elsewhere there is none: /tmp itself is never used. Node ignores what it cannot read or write.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import module from 'node:module';
import { dirname, join } from 'node:path';
import { socketPath } from './socket-address.js';

/** How Node names it, for a whole process. */
export const ENV_COMPILE_CACHE = 'NODE_COMPILE_CACHE';
const ENV_NO_COMPILE_CACHE = 'NODE_DISABLE_COMPILE_CACHE';

/** A run folder is in memory, and Node never removes what belongs to versions that are gone. */
const MOST_BYTES = 64 * 2 ** 20;
/** Of an empty one, too: when a disk is full, Node leaves those behind at every start. */
const LEAST_BYTES_OF_FILE = 4096;
const OTHERS_MAY_WRITE = 0o022;
const OTHERS_MAY = 0o077;

// Node 20 does not have it.
const { enableCompileCache } = module as { enableCompileCache?: (folder: string) => unknown };

/**
 * Caches what this process compiles from now on, beside the socket that is there when nobody says otherwise; not, when the environment
 * says where, or that it shall not be.
 */
export function cacheOwnCode(): void {
  if (enableCompileCache === undefined || isDecided(process.env)) return;
  const folder = cacheFolder(socketPath(undefined));
  if (folder !== undefined) enableCompileCache(folder);
}

/**
 * For the environment of a program that the luod at `socket` starts: NODE_COMPILE_CACHE, or nothing when `environment` has a word about
 * it already, when this Node has no such cache, or when there is no folder to trust.
 */
export function cacheOfPrograms(socket: string, environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  if (enableCompileCache === undefined || isDecided(environment)) return {};
  const folder = cacheFolder(socket);
  if (folder === undefined) return {};
  emptyWhenFull(folder, MOST_BYTES).catch(() => {
    // Another luod, or a user, removes the same files at the same time; the next start looks again.
  });
  return { [ENV_COMPILE_CACHE]: folder };
}

function isDecided(environment: NodeJS.ProcessEnv): boolean {
  return environment[ENV_COMPILE_CACHE] !== undefined || environment[ENV_NO_COMPILE_CACHE] !== undefined;
}

/** The cache beside `socket`, made if need be; undefined where others could write to it, or nothing can be made. */
export function cacheFolder(socket: string): string | undefined {
  const run = dirname(socket);
  const folder = join(run, 'compile-cache');
  try {
    if (!isOurs(run, OTHERS_MAY_WRITE)) return undefined;
    mkdirSync(folder, { mode: 0o700, recursive: true });
    return isOurs(folder, OTHERS_MAY) ? folder : undefined;
  } catch {
    // No run folder yet, one that is read-only, a full disk: a start without a cache is slower, and nothing else.
    return undefined;
  }
}

function isOurs(folder: string, denied: number): boolean {
  // Not through a symbolic link, which may lead to a folder of somebody else's.
  const entry = lstatSync(folder);
  return entry.isDirectory() && entry.uid === process.getuid?.() && (entry.mode & denied) === 0;
}

/** Removes all of a cache that has grown beyond `mostBytes`. What runs has its code; what starts next compiles it again. */
export async function emptyWhenFull(folder: string, mostBytes: number): Promise<void> {
  let bytes = 0;
  for (const name of await readdir(folder, { recursive: true })) {
    bytes += Math.max(LEAST_BYTES_OF_FILE, (await stat(join(folder, name))).size);
  }
  if (bytes <= mostBytes) return;
  for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true });
}
