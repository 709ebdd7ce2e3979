/**
 * States: what a session and a file can be, and what each operation does then. The tables are the rules; the code asks them.
 *
 * A session:
 *
 *     createSession ─► outgoing ──close──► closed
 *                                          ▲    ▲
 *     an image ─► incoming ─retrieveSession─► retrieved ──finish──► finished ──close──► closed
 *                                               │ close: finish is tried, and done ───► closed
 *                                               └ close: finish is refused ───────────► abandoned
 *
 * An abandoned session has lost its owner and still has files that cannot be finished. It stays with the orchestrator,
 * listed, until this image is gone; nobody can retrieve it again. Its files keep their identity and their handlers.
 *
 * A file:
 *
 *     preserve ─► preserved ◄──freeze / unfreeze──► frozen           an image ─► incoming ──retrieve──► retrieved | failed
 *                    │ unpreserve ─► gone                                          │ finish from any of the three ─► gone
 */
import { type ErrnoCode, LiveUpdateError } from './errors.js';
import type { Token } from './types.js';

export type SessionState = 'outgoing' | 'incoming' | 'retrieved' | 'finished' | 'abandoned' | 'closed';
export type SessionOperation =
  | 'retrieveSession'
  | 'preserve'
  | 'unpreserve'
  | 'retrieve'
  | 'finish'
  | 'getName'
  | 'close';

const OK = undefined;

/** What each operation on a session answers in each state: an errno, or undefined when it may go on. */
export const SESSION_STATES: Readonly<
  Record<SessionState, Readonly<Record<SessionOperation, ErrnoCode | undefined>>>
> = {
  // biome-ignore format: a table is read in columns
  outgoing:  { retrieveSession: 'ENOENT', preserve: OK,       unpreserve: OK,       retrieve: 'EINVAL', finish: 'EINVAL', getName: OK,      close: OK },
  // biome-ignore format: a table is read in columns
  incoming:  { retrieveSession: OK,       preserve: 'EBADF',  unpreserve: 'EBADF',  retrieve: 'EBADF',  finish: 'EBADF',  getName: 'EBADF', close: 'EBADF' },
  // biome-ignore format: a table is read in columns
  retrieved: { retrieveSession: 'EINVAL', preserve: 'EINVAL', unpreserve: 'EINVAL', retrieve: OK,       finish: OK,       getName: OK,      close: OK },
  // A finished session has no files left: retrieve finds none (ENOENT), finish has nothing to do.
  // biome-ignore format: a table is read in columns
  finished:  { retrieveSession: 'EINVAL', preserve: 'EINVAL', unpreserve: 'EINVAL', retrieve: OK,       finish: OK,       getName: OK,      close: OK },
  // biome-ignore format: a table is read in columns
  abandoned: { retrieveSession: 'EINVAL', preserve: 'EBADF',  unpreserve: 'EBADF',  retrieve: 'EBADF',  finish: 'EBADF',  getName: 'EBADF', close: 'EBADF' },
  // biome-ignore format: a table is read in columns
  closed:    { retrieveSession: 'ENOENT', preserve: 'EBADF',  unpreserve: 'EBADF',  retrieve: 'EBADF',  finish: 'EBADF',  getName: 'EBADF', close: 'EBADF' },
};

const REASONS: Readonly<Record<SessionState, string>> = {
  outgoing: 'the session is outgoing: it was not retrieved from an image',
  incoming: 'the session was not retrieved yet',
  retrieved: 'the session was retrieved from an image already',
  finished: 'the session is finished',
  abandoned: 'the session was closed unfinished and stays with the orchestrator',
  closed: 'the session is closed',
};

/** @throws what SESSION_STATES says `operation` answers in `state`, if it may not go on. */
export function admit(state: SessionState, operation: SessionOperation, session: string): void {
  const code = SESSION_STATES[state][operation];
  if (code !== OK) throw new LiveUpdateError(code, REASONS[state], { operation, session });
}

export type FileState = 'preserved' | 'frozen' | 'incoming' | 'retrieved' | 'failed' | 'gone';
export type FileEvent = 'freeze' | 'unfreeze' | 'unpreserve' | 'retrieve' | 'retrieveFailed' | 'finish';

/** What each event makes of a file in each state. An event that is not in the table cannot happen to it. */
export const FILE_STATES: Readonly<Record<FileState, Readonly<Partial<Record<FileEvent, FileState>>>>> = {
  preserved: { freeze: 'frozen', unpreserve: 'gone' },
  frozen: { unfreeze: 'preserved' },
  incoming: { retrieve: 'retrieved', retrieveFailed: 'failed', finish: 'gone' },
  retrieved: { finish: 'gone' },
  failed: { finish: 'gone' },
  gone: {},
};

/** The state that `event` leads to. @throws EINVAL when FILE_STATES has no such transition. */
export function nextState(state: FileState, event: FileEvent): FileState {
  const next = FILE_STATES[state][event];
  if (next === undefined) throw new LiveUpdateError('EINVAL', `a file that is ${state} has no ${event}`);
  return next;
}

/** One file, for listings. */
export interface FileInfo {
  readonly token: Token;
  /** The handler's `compatible`. */
  readonly handler: string;
  readonly state: FileState;
}

/** One session, for listings. */
export interface SessionInfo {
  readonly name: string;
  readonly direction: 'incoming' | 'outgoing';
  readonly state: SessionState;
  readonly files: readonly FileInfo[];
}
