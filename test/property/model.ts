/**
 * The contract again, as simply as it can be said: no promises, no locks, no speed. Written from luo-semantics,
 * sections 2 and 3, to be compared with src/core step by step.
 *
 * A callback is a line in the trace. Whether it fails is decided from outside by its number within the step.
 */
export class Refused extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

function refuse(code: string): never {
  throw new Refused(code);
}

/** A live file: its kind says which handlers take it. */
export interface ModelFile {
  readonly name: string;
  readonly kind: number;
  readonly number: bigint;
}

export interface HandlerSpec {
  readonly name: string;
  readonly compatible: string;
  readonly kind: number;
  readonly freezes: boolean;
  readonly unfreezes: boolean;
  readonly asks: boolean;
  readonly identifies: boolean;
}

export interface FlbSpec {
  readonly name: string;
  readonly compatible: string;
  readonly data: bigint;
}

export interface ModelImage {
  compatible: string;
  liveupdateNumber: bigint;
  sessions: { name: string; files: { compatible: string; data: bigint; token: bigint }[] }[];
  flbs: { compatible: string; data: bigint; count: number }[];
}

interface Entry {
  token: bigint;
  handler: HandlerSpec;
  flbs: FlbSpec[];
  file: ModelFile | undefined;
  data: bigint;
  status: number;
  error: string;
  identity: unknown;
  state: string;
}

export interface ModelSession {
  name: string;
  incoming: boolean;
  state: string;
  files: Entry[];
}

const ERRNOS: Record<string, number> = { EIO: -5, ENOMEM: -12 };
export const KNOWN = 'liveupdate-v1';

export class Model {
  trace: string[] = [];
  /** Whether callback number n of this step fails. */
  fails: (n: number) => boolean = () => false;
  calls = 0;

  off = false;
  failed = false;
  rebooted = false;
  deviceOpen = false;
  arrived = false;
  number = 0n;
  handlers: { spec: HandlerSpec; flbs: FlbSpec[] }[] = [];
  flbs: FlbSpec[] = [];
  sessions: ModelSession[] = [];
  held = new Map<unknown, Entry>();
  out = new Map<FlbSpec, { count: number; references: number; live: boolean }>();
  came:
    | Map<
        string,
        { data: bigint; count: number; references: number; by?: FlbSpec; error?: string; finished: boolean }
      >
    | undefined;

  // ---- callbacks ----

  call(line: string): void {
    this.trace.push(line);
    const n = this.calls++;
    if (this.fails(n)) refuse(n % 2 === 1 ? 'ENOMEM' : 'EIO');
  }

  callSafely(line: string): void {
    try {
      this.call(line);
    } catch {
      this.trace.push('fault');
    }
  }

  // ---- registration ----

  on(): void {
    if (this.off) refuse('EOPNOTSUPP');
  }

  unlocked(): void {
    if (this.rebooted) refuse('EBUSY');
  }

  registered(spec: HandlerSpec) {
    return this.handlers.find((handler) => handler.spec === spec);
  }

  users(flb: FlbSpec): number {
    return this.handlers.filter((handler) => handler.flbs.includes(flb)).length;
  }

  register(spec: HandlerSpec): void {
    this.on();
    this.unlocked();
    if (this.handlers.some((handler) => handler.spec.compatible === spec.compatible)) refuse('EEXIST');
    this.handlers.push({ spec, flbs: [] });
  }

  unregister(spec: HandlerSpec): void {
    this.on();
    this.unlocked();
    const handler = this.registered(spec) ?? refuse('ENOENT');
    if (handler.flbs.length > 0) refuse('EBUSY');
    if (this.sessions.some((session) => session.files.some((file) => file.handler === spec))) refuse('EBUSY');
    this.handlers = this.handlers.filter((other) => other !== handler);
  }

  registerFlb(spec: HandlerSpec, flb: FlbSpec): void {
    this.on();
    const handler = this.registered(spec) ?? refuse('EINVAL');
    this.unlocked();
    if (handler.flbs.includes(flb)) refuse('EEXIST');
    if (this.users(flb) === 0) {
      if (this.flbs.some((other) => other.compatible === flb.compatible)) refuse('EEXIST');
      this.flbs.push(flb);
    }
    handler.flbs.push(flb);
  }

  unregisterFlb(spec: HandlerSpec, flb: FlbSpec): void {
    this.on();
    this.unlocked();
    const handler = this.registered(spec);
    if (handler === undefined || !handler.flbs.includes(flb)) refuse('ENOENT');
    handler.flbs = handler.flbs.filter((other) => other !== flb);
    if (this.users(flb) === 0) this.flbs = this.flbs.filter((other) => other !== flb);
  }

  // ---- FLBs ----

  outgoing(flb: FlbSpec) {
    let state = this.out.get(flb);
    if (state === undefined) {
      state = { count: 0, references: 0, live: false };
      this.out.set(flb, state);
    }
    return state;
  }

  flbIn(flb: FlbSpec): void {
    const state = this.outgoing(flb);
    if (!state.live) this.call(`${flb.name}.preserve`);
    state.live = true;
    state.count++;
  }

  flbOut(flb: FlbSpec): void {
    this.outgoing(flb).count--;
    this.flbGone(flb);
  }

  flbGone(flb: FlbSpec): void {
    const state = this.outgoing(flb);
    if (state.count + state.references > 0) return;
    this.callSafely(`${flb.name}.unpreserve`);
    state.live = false;
  }

  getOutgoing(flb: FlbSpec): string {
    this.on();
    if (!this.outgoing(flb).live) refuse('ENOENT');
    this.outgoing(flb).references++;
    return `${flb.name}:out`;
  }

  putOutgoing(flb: FlbSpec): void {
    this.on();
    if (this.outgoing(flb).references === 0) refuse('EINVAL');
    this.outgoing(flb).references--;
    this.flbGone(flb);
  }

  getIncoming(flb: FlbSpec): string {
    this.on();
    if (this.came === undefined) refuse('ENODATA');
    const state = this.came.get(flb.compatible) ?? refuse('ENOENT');
    if (state.finished) refuse('ENODATA');
    this.flbRetrieve(flb);
    state.references++;
    return `${state.by!.name}:in:${state.data}`;
  }

  flbRetrieve(flb: FlbSpec): void {
    const state = this.came!.get(flb.compatible)!;
    if (state.error !== undefined) refuse(state.error);
    if (state.by !== undefined) return;
    try {
      this.call(`${flb.name}.retrieve(${state.data})`);
      state.by = flb;
    } catch (error) {
      state.error = (error as Refused).code;
      throw error;
    }
  }

  putIncoming(flb: FlbSpec): void {
    this.on();
    const state = this.came?.get(flb.compatible) ?? refuse('EINVAL');
    if (state.references === 0) refuse('EINVAL');
    state.references--;
    this.flbDone(flb);
  }

  /** A file was finished, or a reference given back. */
  flbDone(flb: FlbSpec): void {
    const state = this.came!.get(flb.compatible)!;
    if (state.count + state.references > 0 || state.error !== undefined) return;
    try {
      this.flbRetrieve(flb);
    } catch {
      this.trace.push('fault');
      return;
    }
    this.callSafely(`${state.by!.name}.finish`);
    state.finished = true;
  }

  // ---- sessions ----

  find(name: string, incoming: boolean): ModelSession | undefined {
    return this.sessions.find(
      (session) => session.name === name && session.incoming === incoming && session.state !== 'closed',
    );
  }

  arrivedWell(): void {
    if (this.failed) refuse('EIO');
  }

  create(name: string): ModelSession {
    this.on();
    this.unlocked();
    this.arrivedWell();
    if (name === '') refuse('EINVAL');
    if (this.find(name, false) !== undefined) refuse('EEXIST');
    const session = { name, incoming: false, state: 'outgoing', files: [] };
    this.sessions.push(session);
    return session;
  }

  retrieveSession(name: string): ModelSession {
    this.on();
    this.unlocked();
    this.arrivedWell();
    const session = this.find(name, true) ?? refuse('ENOENT');
    if (session.state !== 'incoming') refuse('EINVAL');
    session.state = 'retrieved';
    return session;
  }

  usable(session: ModelSession): void {
    if (session.state === 'closed' || session.state === 'abandoned') refuse('EBADF');
    this.unlocked();
  }

  getName(session: ModelSession, reserved: number): string {
    if (session.state === 'closed' || session.state === 'abandoned') refuse('EBADF');
    if (reserved !== 0) refuse('EINVAL');
    return session.name;
  }

  identify(handler: HandlerSpec, file: ModelFile): unknown {
    if (!handler.identifies) return file;
    this.call(`${handler.name}.getId(${file.name})`);
    return file.number % 4n;
  }

  preserve(session: ModelSession, file: ModelFile | undefined, token: bigint): void {
    this.on();
    this.usable(session);
    if (session.incoming) refuse('EINVAL');
    if (token < 0n) refuse('EINVAL');
    if (session.files.some((other) => other.token === token)) refuse('EEXIST');
    if (file === undefined) refuse('EBADF');
    const handler = this.handlers.find(({ spec }) => {
      this.call(`${spec.name}.canPreserve(${file.name})`);
      return spec.kind === file.kind;
    });
    if (handler === undefined) refuse('ENOENT');
    const { spec } = handler;
    const identity = this.identify(spec, file);
    if (this.held.has(identity)) refuse('EBUSY');
    const entry: Entry = {
      token,
      handler: spec,
      flbs: [],
      file,
      data: file.number,
      status: 0,
      error: '',
      identity,
      state: 'preserved',
    };
    try {
      for (const flb of handler.flbs) {
        this.flbIn(flb);
        entry.flbs.unshift(flb);
      }
      this.call(`${spec.name}.preserve(${file.name})`);
    } catch (error) {
      for (const flb of entry.flbs) this.flbOut(flb);
      throw error;
    }
    this.held.set(identity, entry);
    session.files.push(entry);
  }

  takeOut(session: ModelSession, entry: Entry): void {
    this.callSafely(`${entry.handler.name}.unpreserve(${entry.file!.name})`);
    for (const flb of entry.flbs) this.flbOut(flb);
    this.letGo(session, entry);
  }

  letGo(session: ModelSession, entry: Entry): void {
    if (this.held.get(entry.identity) === entry) this.held.delete(entry.identity);
    session.files = session.files.filter((other) => other !== entry);
  }

  unpreserve(session: ModelSession, token: bigint): void {
    this.usable(session);
    if (session.incoming || token < 0n) refuse('EINVAL');
    this.takeOut(session, session.files.find((entry) => entry.token === token) ?? refuse('ENOENT'));
  }

  close(session: ModelSession): void {
    this.usable(session);
    if (session.incoming) {
      try {
        this.mayFinish(session);
      } catch (error) {
        session.state = 'abandoned';
        if ((error as Refused).code === 'EBUSY') return;
        throw error;
      }
      this.finishFiles(session);
    } else {
      for (const entry of [...session.files].reverse()) this.takeOut(session, entry);
    }
    session.state = 'closed';
    this.sessions = this.sessions.filter((other) => other !== session);
  }

  retrieve(session: ModelSession, token: bigint): ModelFile {
    this.usable(session);
    if (!session.incoming || token < 0n) refuse('EINVAL');
    const entry = session.files.find((other) => other.token === token) ?? refuse('ENOENT');
    const { handler } = entry;
    if (entry.status > 0) return entry.file!;
    if (entry.status < 0) refuse(entry.error);
    try {
      this.call(`${handler.name}.retrieve(${entry.data})`);
      entry.file = { name: `${handler.name}=${entry.data}`, kind: handler.kind, number: entry.data };
      const identity = this.identify(handler, entry.file);
      entry.identity = identity;
      if (!this.held.has(identity)) this.held.set(identity, entry);
    } catch (error) {
      entry.error = (error as Refused).code;
      entry.status = ERRNOS[entry.error]!;
      entry.state = 'failed';
      throw error;
    }
    entry.status = 1;
    entry.state = 'retrieved';
    return entry.file;
  }

  static told(entry: Entry): string {
    return `${entry.file?.name ?? '-'},${entry.status}`;
  }

  mayFinish(session: ModelSession): void {
    for (const entry of session.files) {
      if (!entry.handler.asks) continue;
      this.trace.push(`${entry.handler.name}.canFinish(${Model.told(entry)})`);
      const n = this.calls++;
      // An odd failure throws, an even one says no.
      if (this.fails(n)) refuse(n % 2 === 1 ? 'ENOMEM' : 'EBUSY');
    }
  }

  finishFiles(session: ModelSession): void {
    for (const entry of [...session.files].reverse()) {
      this.callSafely(`${entry.handler.name}.finish(${Model.told(entry)})`);
      for (const flb of [...this.registered(entry.handler)!.flbs].reverse()) {
        const state = this.came!.get(flb.compatible);
        if (state === undefined || state.count === 0) continue;
        state.count--;
        this.flbDone(flb);
      }
      this.letGo(session, entry);
    }
  }

  finish(session: ModelSession, reserved: number): void {
    this.usable(session);
    if (!session.incoming || reserved !== 0) refuse('EINVAL');
    this.mayFinish(session);
    this.finishFiles(session);
    session.state = 'finished';
  }

  // ---- reboot ----

  leaving(): ModelSession[] {
    return this.sessions.filter((session) => !session.incoming);
  }

  thaw(entries: Entry[]): void {
    for (const entry of entries) {
      if (entry.handler.unfreezes) this.callSafely(`${entry.handler.name}.unfreeze(${entry.file!.name})`);
      entry.state = 'preserved';
    }
  }

  reboot(): ModelImage | undefined {
    if (this.off) return undefined;
    this.unlocked();
    const done: Entry[][] = [];
    try {
      for (const session of this.leaving()) {
        const frozen: Entry[] = [];
        done.unshift(frozen);
        for (const entry of session.files) {
          if (entry.handler.freezes) {
            this.call(`${entry.handler.name}.freeze(${entry.file!.name})`);
            entry.data += 1000n;
          }
          entry.state = 'frozen';
          frozen.push(entry);
        }
      }
    } catch (error) {
      for (const frozen of done) this.thaw(frozen);
      throw error;
    }
    this.rebooted = true;
    return {
      compatible: KNOWN,
      liveupdateNumber: this.number + 1n,
      sessions: this.leaving().map(({ name, files }) => ({
        name,
        files: files.map(({ handler, data, token }) => ({ compatible: handler.compatible, data, token })),
      })),
      flbs: this.flbs
        .filter((flb) => this.outgoing(flb).count > 0)
        .map((flb) => ({ compatible: flb.compatible, data: flb.data, count: this.outgoing(flb).count })),
    };
  }

  cancelReboot(): void {
    if (!this.rebooted) refuse('EINVAL');
    for (const session of this.leaving().reverse()) this.thaw(session.files);
    this.rebooted = false;
  }

  // ---- device and what comes in ----

  open(image: ModelImage | undefined): void {
    if (this.deviceOpen) refuse('EBUSY');
    if (this.failed) refuse('EIO');
    if (!this.arrived) {
      this.unlocked();
      try {
        if (image !== undefined) this.deserialize(image);
        this.arrived = true;
      } catch {
        this.failed = true;
        refuse('EIO');
      }
    }
    this.deviceOpen = true;
  }

  closeDevice(): void {
    if (!this.deviceOpen) refuse('EBADF');
    this.deviceOpen = false;
  }

  deserialize(image: ModelImage): void {
    if (image.compatible !== KNOWN) {
      this.off = true;
      refuse('EINVAL');
    }
    this.number = image.liveupdateNumber;
    let total = 0;
    for (const { name, files } of image.sessions) {
      if (this.find(name, true) !== undefined) refuse('EINVAL');
      const session: ModelSession = { name, incoming: true, state: 'incoming', files: [] };
      this.sessions.push(session);
      for (const { compatible, data, token } of files) {
        const handler =
          this.handlers.find(({ spec }) => spec.compatible === compatible)?.spec ?? refuse('ENOENT');
        if (session.files.some((entry) => entry.token === token)) refuse('EINVAL');
        session.files.push({
          token,
          handler,
          flbs: [],
          file: undefined,
          data,
          status: 0,
          error: '',
          identity: Symbol('nobody'),
          state: 'incoming',
        });
        total++;
      }
    }
    if (image.flbs.some(({ count }) => count < 1 || count > total)) refuse('EINVAL');
    this.came = new Map(
      image.flbs.map(({ compatible, data, count }) => [
        compatible,
        { data, count, references: 0, finished: false },
      ]),
    );
  }
}
