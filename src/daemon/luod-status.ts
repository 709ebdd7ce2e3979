/** How things stand in a luod, for those who ask. */
import type { CustodyKind, HostedFile } from './host-session.js';
import type { HostSessions } from './host-sessions.js';
import { kernelSessions } from './kernel-index.js';
import type { ServiceStatus } from './service.js';
import type { Services } from './services.js';

export interface LuodStatus {
  readonly pid: number;
  readonly version: string;
  readonly socket: string;
  readonly uptimeSeconds: number;
  readonly memoryBytes: number;
  readonly heldFds: number;
  readonly services: ServiceStatus[];
}

/** A named thing that outlives a program, and in whose hands it is. */
export interface SessionStatus {
  readonly session: string;
  readonly service: string;
  readonly holder: 'luod' | 'kernel' | 'client';
  /**
   * held: for the running program · unclaimed, claimed: left by the previous kernel, and asked for or not · owned, orphaned,
   * claimed: a client's, that it made, left, or took from the one before it.
   */
  readonly state: 'held' | 'unclaimed' | 'claimed' | 'owned' | 'orphaned' | 'over';
  readonly ageSeconds: number;
  /** Of a client's. */
  readonly uid?: number;
  readonly pid?: number;
  readonly custody?: CustodyKind;
  readonly orphanedSeconds?: number;
  readonly files?: HostedFile[];
}

/** @param uid Only what is this user's: of luod's services nothing. */
export function sessionsOf(services: Services, hosted: HostSessions, uid?: number): SessionStatus[] {
  const ofClients = hosted
    .status(uid)
    .map((status): SessionStatus => ({ service: `uid ${status.uid}`, holder: 'client', ...status }));
  if (uid !== undefined) return ofClients;
  const now = Date.now();
  const held = [...services].flatMap(({ name: service, custody }) =>
    [...custody.entries()].map(
      ([session, { since }]): SessionStatus => ({
        session,
        service,
        holder: 'luod',
        state: 'held',
        ageSeconds: Math.round((now - since) / 1000),
      }),
    ),
  );
  const kept = kernelSessions().map(
    ({ session, service, state, savedAt }): SessionStatus => ({
      session,
      service,
      holder: 'kernel',
      state,
      ageSeconds: Math.round((now - savedAt) / 1000),
    }),
  );
  return [...held, ...kept, ...ofClients];
}
