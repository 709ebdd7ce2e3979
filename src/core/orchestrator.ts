/**
 * The orchestrator's state: everything that the public faces (LiveUpdate, Device, Session) share, in one place.
 *
 * One owner of the state: outgoing and incoming sessions by name (apart: both may have a session of the same name),
 * the registries of handlers and FLBs, the identities of preserved files, the gate, and what became of the image
 * that came in. The faces hold no state of their own but which session, or whether the device is open.
 *
 * What becomes of an incoming image (`Arrival`):
 *
 *     pending ──open() or deserialize()──► restoring ──► restored
 *        ▲                                     │  └────► failed     for ever; the device gives EIO
 *        └──── a reboot shut the gate ─────────┘
 */
import { type ErrorContext, LiveUpdateError } from './errors.js';
import { FaultReporter, inContext } from './faults.js';
import { FileSet, type Shared } from './file.js';
import { FlbRegistry } from './flb.js';
import { HandlerRegistry } from './handler.js';
import { Identities } from './identities.js';
import { Gate, Mutex } from './lock.js';
import { isSessionName, SESSION_NAME_BYTES } from './names.js';
import { Runner } from './sequence.js';
import { admit, type SessionInfo, type SessionState } from './states.js';

/** `struct luo_session`. Its handle, the file descriptor's counterpart, is the Session. */
export interface SessionRecord {
  readonly name: string;
  readonly direction: 'incoming' | 'outgoing';
  readonly files: FileSet;
  readonly lock: Mutex;
  state: SessionState;
}

export type Arrival = 'pending' | 'restoring' | 'restored' | 'failed';

export class Orchestrator {
  /** Whether the program switched live update on. */
  readonly wanted: boolean;
  readonly runner = new Runner();
  readonly gate = new Gate(this.runner);
  readonly faults: FaultReporter;
  readonly flbs: FlbRegistry;
  readonly handlers: HandlerRegistry;
  readonly outgoing = new Map<string, SessionRecord>();
  readonly incoming = new Map<string, SessionRecord>();
  readonly #shared: Shared;

  arrival: Arrival = 'pending';
  /** Why the arrival failed. */
  failure: LiveUpdateError | undefined;
  /** The image is of an unknown form: live update is off from now on. */
  unknownImage = false;
  liveupdateNumber = 0n;
  deviceOpen = false;

  constructor(wanted: boolean, onError: ((error: LiveUpdateError) => void) | undefined) {
    this.wanted = wanted;
    this.faults = new FaultReporter(onError);
    this.flbs = new FlbRegistry(this.runner, this.faults);
    this.handlers = new HandlerRegistry(this.flbs);
    this.#shared = {
      handlers: this.handlers,
      flbs: this.flbs,
      faults: this.faults,
      identities: new Identities(),
    };
  }

  get enabled(): boolean {
    return this.wanted && !this.unknownImage;
  }

  /** @throws EOPNOTSUPP when live update is off. */
  requireEnabled(operation: string): void {
    if (!this.enabled) throw new LiveUpdateError('EOPNOTSUPP', 'live update is off', { operation });
  }

  /** @throws EIO when the image that came in could not be deserialized. */
  requireArrival(context: ErrorContext): void {
    if (this.arrival !== 'failed') return;
    throw new LiveUpdateError('EIO', 'the incoming image could not be deserialized', {
      ...context,
      cause: this.failure,
    });
  }

  /** For what cannot wait. @throws EBUSY while a reboot is running or has succeeded. */
  requireOpenGate(operation: string): void {
    if (this.gate.state === 'open') return;
    throw new LiveUpdateError('EBUSY', 'a reboot is running or has succeeded', { operation });
  }

  /** Enters the gate. @throws EBUSY, also as the promise's rejection. */
  enter(context: ErrorContext): Promise<void> | undefined {
    try {
      const passage = this.gate.enter(this.runner.current);
      return passage?.catch((error: unknown) => {
        throw inContext(error, context);
      });
    } catch (error) {
      throw inContext(error, context);
    }
  }

  // ---- sessions; the caller is inside the gate ----------------------------------------------------------------

  /** @throws EINVAL, EEXIST. */
  createSession(name: string): SessionRecord {
    const context = { operation: 'createSession', session: String(name) };
    if (!isSessionName(name)) {
      const text = `a session's name is 1 to ${SESSION_NAME_BYTES} bytes without NUL`;
      throw new LiveUpdateError('EINVAL', text, context);
    }
    if (this.outgoing.has(name)) {
      throw new LiveUpdateError('EEXIST', 'an outgoing session has this name', context);
    }
    const record = this.#record(name, 'outgoing');
    this.outgoing.set(name, record);
    return record;
  }

  /** @throws ENOENT, EINVAL. */
  retrieveSession(name: string): SessionRecord {
    const record = this.incoming.get(name);
    if (record === undefined) {
      const context = { operation: 'retrieveSession', session: String(name) };
      throw new LiveUpdateError('ENOENT', 'no incoming session has this name', context);
    }
    admit(record.state, 'retrieveSession', name);
    record.state = 'retrieved';
    return record;
  }

  /** A session that came with the image; its name is good. @throws EINVAL. */
  restoreSession(name: string): SessionRecord {
    if (this.incoming.has(name)) {
      throw new LiveUpdateError('EINVAL', 'the session came twice', {
        operation: 'deserialize',
        session: name,
      });
    }
    const record = this.#record(name, 'incoming');
    this.incoming.set(name, record);
    return record;
  }

  #record(name: string, direction: 'incoming' | 'outgoing'): SessionRecord {
    const files = new FileSet(name, this.#shared);
    return { name, direction, files, lock: new Mutex(this.runner), state: direction };
  }

  /** Its handle is closed and nothing is left of it. */
  removeSession(record: SessionRecord): void {
    record.state = 'closed';
    this[record.direction].delete(record.name);
  }

  /** Incoming sessions as they came, then outgoing ones as they were created. */
  list(): SessionInfo[] {
    return [...this.incoming.values(), ...this.outgoing.values()].map(({ name, direction, state, files }) => {
      return { name, direction, state, files: files.list() };
    });
  }
}
