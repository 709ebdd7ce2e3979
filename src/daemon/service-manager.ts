/**
 * systemd, or another service manager that speaks its protocol: sd_notify(3), sd_listen_fds(3), and the descriptor store of
 * systemd.service(5).
 *
 * What it says in the environment is for this process alone, and is taken out of it, so that no service of luod's speaks for luod; a
 * luod that replaces itself gives it to the next one (`environment`).
 */
import { LiveUpdateError } from '../core/errors.js';
import { setCloseOnExec } from '../linux/fd.js';
import { NotifySocket } from '../linux/notify.js';

/** SD_LISTEN_FDS_START. */
const FIRST_FD = 3;
/** How long the manager may take to read what it is told. */
const TIMEOUT_MS = 5000;
/** A status is renewed no more often. */
const STATUS_MS = 1000;

const VARIABLES = [
  'NOTIFY_SOCKET',
  'WATCHDOG_USEC',
  'WATCHDOG_PID',
  'FDSTORE',
  'LISTEN_PID',
  'LISTEN_FDS',
  'LISTEN_FDNAMES',
  'LISTEN_PIDFDID',
] as const;

/** A descriptor that the manager gave: a socket of a socket unit, or one from the store. */
export interface GivenFd {
  readonly name: string;
  /** The receiver's, close-on-exec. */
  readonly fd: number;
}

export class ServiceManager {
  /** What was given, until it is taken. */
  readonly given: GivenFd[];
  /** How many descriptors the store takes; 0 when there is none. */
  readonly storeMax: number;
  /** For a luod that takes this one's place, in the same process. */
  readonly environment: Readonly<Record<string, string>>;
  readonly #socket: NotifySocket;
  readonly #log: (line: string) => void;
  readonly #watchdogMs: number;
  #watchdog: NodeJS.Timeout | undefined;
  #status: { said: string; due: NodeJS.Timeout | undefined } = { said: '', due: undefined };

  private constructor(
    environment: Readonly<Record<string, string>>,
    socket: NotifySocket,
    log: (line: string) => void,
  ) {
    const { LISTEN_PID: _pid, LISTEN_FDS: _fds, LISTEN_FDNAMES: _names, ...lasting } = environment;
    const { WATCHDOG_USEC, WATCHDOG_PID, FDSTORE } = environment;
    // What was given is given once.
    this.environment = lasting;
    this.#log = log;
    this.#socket = socket;
    this.given = takeGiven(environment);
    this.storeMax = wholeNumber('FDSTORE', FDSTORE);
    const isOurs = WATCHDOG_PID === undefined || Number(WATCHDOG_PID) === process.pid;
    this.#watchdogMs = isOurs ? wholeNumber('WATCHDOG_USEC', WATCHDOG_USEC) / 1000 : 0;
  }

  /**
   * Takes the manager's words out of the environment.
   * @param log Told when the manager cannot be told something.
   * @returns undefined when there is no NOTIFY_SOCKET.
   * @throws {LiveUpdateError} EINVAL for words that are not understood; ENOENT, ECONNREFUSED when nobody listens there.
   */
  static fromEnvironment(log: (line: string) => void): ServiceManager | undefined {
    const environment: Record<string, string> = {};
    for (const name of VARIABLES) {
      const value = process.env[name];
      if (value !== undefined && value !== '') environment[name] = value;
      delete process.env[name];
    }
    const { NOTIFY_SOCKET } = environment;
    if (NOTIFY_SOCKET === undefined) return undefined;
    return new ServiceManager(environment, new NotifySocket(NOTIFY_SOCKET, TIMEOUT_MS), log);
  }

  /** Says what nobody waits for. A manager that does not hear it is told of in the log, and luod goes on. */
  #say(assignments: Readonly<Record<string, string | number>>): void {
    try {
      this.#socket.send(assignments);
    } catch (error) {
      this.#log(`the service manager: ${LiveUpdateError.from(error).message}`);
    }
  }

  /** luod serves: READY, and a sign of life at half the watchdog's time from now on. */
  ready(status: string): void {
    this.#say({ READY: 1, MAINPID: process.pid, STATUS: status });
    if (this.#watchdogMs <= 0 || this.#watchdog !== undefined) return;
    this.#watchdog = setInterval(() => this.#say({ WATCHDOG: 1 }), this.#watchdogMs / 2);
    this.#watchdog.unref();
  }

  /** Says how things stand, soon: what `tell` returns then. */
  status(tell: () => string): void {
    if (this.#status.due !== undefined) return;
    this.#status.due = setTimeout(() => {
      this.#status.due = undefined;
      const text = tell();
      if (text === this.#status.said) return;
      this.#status.said = text;
      this.#say({ STATUS: text });
    }, STATUS_MS);
    this.#status.due.unref();
  }

  /** luod takes its own place: READY comes from the next one. */
  reloading(): void {
    const microseconds = process.hrtime.bigint() / 1000n;
    this.#say({ RELOADING: 1, MONOTONIC_USEC: String(microseconds), STATUS: 'replaces itself' });
  }

  /** Nothing came of it. */
  goesOn(status: string): void {
    this.#say({ READY: 1, STATUS: status });
  }

  stopping(): void {
    clearTimeout(this.#status.due);
    clearInterval(this.#watchdog);
    this.#say({ STOPPING: 1 });
  }

  /** Puts a descriptor into the store; it is there when `barrier` returns. */
  store(name: string, fd: number): void {
    // Without FDPOLL=0 the manager would drop what its peer has closed before anybody looked.
    this.#socket.send({ FDSTORE: 1, FDNAME: name, FDPOLL: 0 }, [fd]);
  }

  /** Drops every descriptor of that name from the store; what stays there by a failure is dropped by the next luod. */
  unstore(name: string): void {
    this.#say({ FDSTOREREMOVE: 1, FDNAME: name });
  }

  /** Waits until the manager has done what it was told. @throws {LiveUpdateError} ETIMEDOUT. */
  barrier(): void {
    this.#socket.barrier();
  }
}

function wholeNumber(name: string, text: string | undefined): number {
  if (text === undefined) return 0;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new LiveUpdateError('EINVAL', `${name} in the environment is no number: ${text}`);
}

function takeGiven({
  LISTEN_PID,
  LISTEN_FDS,
  LISTEN_FDNAMES = '',
}: Readonly<Record<string, string>>): GivenFd[] {
  if (LISTEN_PID === undefined || Number(LISTEN_PID) !== process.pid) return [];
  const names = LISTEN_FDNAMES.split(':');
  return Array.from({ length: wholeNumber('LISTEN_FDS', LISTEN_FDS) }, (_, index) => {
    const fd = FIRST_FD + index;
    setCloseOnExec(fd, true);
    return { fd, name: names[index] ?? '' };
  });
}
