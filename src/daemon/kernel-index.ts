/**
 * Which sessions of the previous kernel's luod have not found their owner yet. The kernel can be asked for a session by
 * name, but not which ones it has; so the index that came across (kernel-map.ts) is kept in a file of this boot.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { LiveUpdateError } from '../core/errors.js';
import type { LiveupdateDevice } from '../linux/liveupdate.js';
import { type KernelIndex, takeKernelIndex } from './kernel-map.js';
import { rootRunFolder } from './socket-address.js';

export interface KernelSessionStatus {
  readonly session: string;
  readonly service: string;
  readonly generation: number;
  readonly memfds: number;
  /** Milliseconds of the wall clock, when the previous kernel was left. */
  readonly savedAt: number;
  /** Nobody has asked for it; a service has it and is not ready yet. */
  readonly state: 'unclaimed' | 'claimed';
}

interface IndexFile {
  /** A file of another boot says nothing about this one. */
  readonly bootId: string;
  readonly sessions: readonly KernelSessionStatus[];
}

const path = (): string => join(rootRunFolder, 'kernel-sessions.json');

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** The sessions that are not finished, by this boot's file. */
export function kernelSessions(): readonly KernelSessionStatus[] {
  let text: string;
  try {
    text = readFileSync(path(), 'utf8');
  } catch (error) {
    const { code } = LiveUpdateError.from(error);
    // No kexec brought us here, or somebody else's luod wrote it.
    if (code === 'ENOENT' || code === 'EACCES') return [];
    throw LiveUpdateError.from(error, { operation: 'read the index' });
  }
  const file = JSON.parse(text) as IndexFile;
  return file.bootId === bootId() ? file.sessions : [];
}

function write(sessions: readonly KernelSessionStatus[]): void {
  const file: IndexFile = { bootId: bootId(), sessions };
  mkdirSync(dirname(path()), { recursive: true, mode: 0o700 });
  const draft = `${path()}.${process.pid}`;
  writeFileSync(draft, `${JSON.stringify(file)}\n`, { mode: 0o600 });
  renameSync(draft, path());
}

/** Takes the index from the kernel into the file, if one came. @throws {LiveUpdateError} EINVAL when it is damaged. */
export function recoverKernelIndex(device: LiveupdateDevice): KernelIndex | undefined {
  const index = takeKernelIndex(device);
  if (index === undefined) return undefined;
  write(
    index.services.map(({ command: _command, ...service }) => ({
      ...service,
      savedAt: index.savedAt,
      state: 'unclaimed',
    })),
  );
  return index;
}

/** A service asked for its session, or (undefined) has everything. */
export function markKernelSession(session: string, state: 'claimed' | undefined): void {
  const sessions = kernelSessions();
  const one = sessions.find((status) => status.session === session);
  if (one === undefined) return;
  const others = sessions.filter((status) => status !== one);
  write(state === undefined ? others : [...others, { ...one, state }]);
}
