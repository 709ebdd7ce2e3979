/**
 * What a luod keeps beyond its own end, and where: with the service manager's descriptor store, else with a keeper. Opening it finds
 * what the luod before left.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { dial } from '../handover/dial.js';
import { closeFd } from '../linux/fd.js';
import { FD_STORE_GROUP, FdStore } from './fd-store.js';
import { KeeperLink, type KeptItem, type LastingStore } from './keeper-link.js';
import { KeptStore } from './kept-store.js';
import type { ServiceManager } from './service-manager.js';
import { checkSocketPath, keeperPath } from './socket-path.js';

/** How long a keeper may take to see that its luod is dead. */
const KEEPER_MS = 1000;
const KEEPER_RETRY_MS = 20;
/** How long a keeper waits that is only asked whether it is there. */
const NO_PATIENCE_MS = 1000;

export interface LastingStoreOptions {
  readonly socket: string;
  /** How long a keeper waits for the next luod, in milliseconds. */
  readonly patienceMs: number;
  readonly log: (line: string) => void;
}

interface Opened {
  readonly store: LastingStore;
  readonly items: KeptItem[];
}

/**
 * @param manager With a descriptor store, it is used instead of a keeper.
 * @throws {LiveUpdateError} EADDRINUSE when a living luod has the keeper; ECHILD when it does not start; EINVAL for a state of
 *   another version; EINVAL, EACCES, ENOTDIR for the socket's folder.
 */
export async function openLastingStore(
  options: LastingStoreOptions,
  manager: ServiceManager | undefined,
): Promise<Opened> {
  const path = keeperPath(options.socket);
  checkSocketPath(path);
  if (manager !== undefined && manager.storeMax > 0) return await openFdStore(path, options, manager);
  const { patienceMs, log } = options;
  return await patiently(options, () => KeptStore.open({ path, patienceMs, log }));
}

async function openFdStore(
  path: string,
  options: LastingStoreOptions,
  manager: ServiceManager,
): Promise<Opened> {
  // A luod that replaced itself left a keeper, with everything; one whose replacement failed left it as well, for nobody.
  const isThere = await dial(path).then(
    (fd) => {
      closeFd(fd);
      return true;
    },
    (error: unknown) => {
      const { code } = LiveUpdateError.from(error);
      if (code === 'ENOENT' || code === 'ECONNREFUSED') return false;
      throw error;
    },
  );
  if (!isThere) return FdStore.open(manager, path);
  const { link, items } = await patiently(options, () => KeeperLink.open(path, NO_PATIENCE_MS));
  try {
    const opened = takeOver(path, manager, items);
    link.bye();
    return opened;
  } catch (error) {
    // The next luod may understand it, or have the room.
    link.leave();
    throw error;
  }
}

/** @param items What a keeper has; closed when the store has it as well. */
function takeOver(path: string, manager: ServiceManager, items: KeptItem[]): Opened {
  const log = items.find(({ group }) => group === FD_STORE_GROUP);
  if (manager.given.some(({ name }) => name.startsWith('luod-'))) {
    for (const { fds } of items) for (const fd of fds) closeFd(fd);
    return FdStore.open(manager, path);
  }
  if (log !== undefined) {
    return { store: FdStore.inherit(manager, path, log), items: items.filter((item) => item !== log) };
  }
  // The luod before had a keeper and no store; from now on everything stands in the store.
  const { store } = FdStore.open(manager, path);
  try {
    for (const { group, item, record, fds } of items) store.put(group, item, record as object, fds);
  } catch (error) {
    store.bye();
    throw error;
  }
  return { store, items };
}

async function patiently<T>({ socket }: LastingStoreOptions, open: () => Promise<T>): Promise<T> {
  const started = performance.now();
  for (;;) {
    try {
      return await open();
    } catch (error) {
      if (LiveUpdateError.from(error).code !== 'EBUSY') throw error;
      // It may not have heard yet of the death of the last luod.
      if (performance.now() - started > KEEPER_MS) {
        const text = `a luod listens at ${socket} already; choose another path with --socket`;
        throw new LiveUpdateError('EADDRINUSE', text, { cause: error });
      }
      await delay(KEEPER_RETRY_MS);
    }
  }
}
