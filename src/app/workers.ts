/**
 * Which of several workers this process is, and what that means for where it listens. Workers are images of services of their own
 * (`web/1`, `web/2`, ...), started by luod from one command; each has its successors, its states and its connections, and all listen on the
 * same ports (shared-port.ts).
 *
 * node:cluster is another way to have workers, and does not go with luod: its primary has the listeners, and hands its workers connections
 * that luod knows nothing of. Such a worker is told so, and joins no luod: it would be taken for the program that luod started.
 */
import cluster from 'node:cluster';
import { LiveUpdateError } from '../core/errors.js';
import type { SharedListenOptions } from '../handlers/shared-port.js';
import { ENV_WORKER, ENV_WORKERS } from '../handover/protocol.js';

export interface WorkerPlace {
  /** From 1; 0 for a program that is the only process of its service. */
  readonly worker: number;
  /** How many there are; 0 as well. */
  readonly workers: number;
}

export const NO_WORKER: WorkerPlace = { worker: 0, workers: 0 };

/** What luod says in the environment. */
export function workerPlace(env: NodeJS.ProcessEnv): WorkerPlace {
  const [worker, workers] = [Number(env[ENV_WORKER]), Number(env[ENV_WORKERS])];
  return worker >= 1 && workers >= worker ? { worker, workers } : NO_WORKER;
}

/** Whether this process is a worker of node:cluster, which is then told what to do. */
export function isClusterWorker(): boolean {
  if (!cluster.isWorker) return false;
  process.emitWarning(
    'this is a worker of node:cluster, which no live update reaches: its connections end with it. Have luod run the workers instead: luod run --workers N -- COMMAND',
    'LiveUpdateWarning',
  );
  return true;
}

/**
 * Where this worker listens: a port is shared, and a path has its own number in the place of `%w` (0 in a program without workers).
 * @throws {LiveUpdateError} EINVAL for port 0 when there are several workers.
 */
export function whereWorkerListens(
  options: SharedListenOptions,
  { worker, workers }: WorkerPlace,
): SharedListenOptions {
  const { path } = options;
  if (typeof path === 'string') return { ...options, path: path.replaceAll('%w', String(worker)) };
  if (worker === 0 || !('port' in options)) return options;
  if (workers > 1 && Number(options.port ?? 0) === 0) {
    throw new LiveUpdateError(
      'EINVAL',
      `port 0 would be another port for each of the ${workers} workers: give one that all can share`,
      { operation: 'listen' },
    );
  }
  return { ...options, reusePort: true };
}

/** What a worker is told when the path that it asked for is taken: if all asked for the same, most likely by another worker. */
export function explainTaken(
  error: unknown,
  { path }: SharedListenOptions,
  { worker, workers }: WorkerPlace,
): unknown {
  const isTaken = error instanceof LiveUpdateError && error.code === 'EADDRINUSE';
  if (!isTaken || workers <= 1 || path === undefined || path.includes('%w')) return error;
  return new LiveUpdateError(
    'EADDRINUSE',
    `${path} is taken, and this is worker ${worker} of ${workers}: workers cannot share a unix socket. Put %w into the path for the worker's number, or let one worker listen (lu.worker === 1)`,
    { operation: 'listen', cause: error },
  );
}
