/**
 * `luoctl watch`: how things stand, as they change. On a terminal a page that is drawn again at each event; otherwise, and with
 * --json, a line for each event.
 */
import type { Command } from 'commander';
import type { LuodStatus, SessionStatus } from '../daemon/luod-status.js';
import { socketPath } from '../daemon/socket-address.js';
import { Asking, type LuodEvent } from './luod-client.js';
import { sessionsTable, statusTable } from './tables.js';
import { type AskFlags, refuse, withAskFlags } from './tell.js';

/** A page is drawn no more often: events come in swarms. */
const REDRAW_MS = 200;
/** Ages and memory change without an event. */
const RENEW_MS = 2000;

/** xterm's other screen, so that what was there before comes back; cursor hidden. */
const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';
const CLEAR = '\x1b[H\x1b[2J';

export function addWatchCommand(program: Command): void {
  withAskFlags(program.command('watch').description('what happens in luod, as it happens'))
    .addHelpText(
      'after',
      '\nOn a terminal a page that is drawn anew, else a line for each event (--json: an object). Ends with Ctrl-C, or with luod (exit code 1).',
    )
    .action((flags: AskFlags) => watch(flags).catch((error: unknown) => refuse(flags, error)));
}

async function watch(flags: AskFlags): Promise<void> {
  const path = socketPath(flags.socket);
  const isPage = process.stdout.isTTY === true && flags.json !== true;
  const page = isPage ? new Page(path) : undefined;
  const tell = (event: LuodEvent) => {
    const { type: _type, ...rest } = event;
    process.stdout.write(flags.json === true ? `${JSON.stringify(rest)}\n` : `${toLine(rest)}\n`);
  };
  const asking = await Asking.open(path, (event) => (page === undefined ? tell(event) : page.renew()));
  let isInterrupted = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    // For good: a second Ctrl-C would else end the process before the screen is given back.
    process.on(signal, () => {
      isInterrupted = true;
      asking.close();
    });
  }
  // Who reads may leave: `luoctl watch | head`.
  process.stdout.on('error', () => {
    isInterrupted = true;
    asking.close();
  });
  try {
    page?.open();
    await asking.ask({ type: 'subscribe' });
    await asking.ended;
  } catch (error) {
    if (!isInterrupted) throw error;
  } finally {
    page?.close();
  }
}

/** The first thing is what happened; of the rest what is there. */
function toLine(event: Record<string, unknown>): string {
  const { event: what, result, ...rest } = event;
  const words = Object.entries(rest).map(([key, value]) => `${key}=${String(value)}`);
  const how = result === undefined || result === 'ok' ? [] : [String(result)];
  return [new Date().toISOString(), String(what), ...words, ...how].join(' ');
}

class Page {
  readonly #path: string;
  #timer: NodeJS.Timeout | undefined;
  /** The question that is being asked. */
  #asking: Asking | undefined;
  #isOpen = false;
  #isDrawing = false;

  constructor(path: string) {
    this.#path = path;
  }

  open(): void {
    this.#isOpen = true;
    process.stdout.write(ENTER);
    process.stdout.on('resize', () => this.renew());
    this.#draw();
  }

  renew(): void {
    if (!this.#isOpen || this.#isDrawing) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#draw(), REDRAW_MS);
  }

  #draw(): void {
    this.#isDrawing = true;
    this.#text()
      .then((text) => {
        if (this.#isOpen) process.stdout.write(CLEAR + text);
      })
      // That luod is gone is told by the end of the events.
      .catch(() => undefined)
      .finally(() => {
        this.#isDrawing = false;
        if (!this.#isOpen) return;
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#draw(), RENEW_MS);
      });
  }

  /** As many lines as fit. */
  async #text(): Promise<string> {
    const asking = await Asking.open(this.#path, () => undefined);
    this.#asking = asking;
    try {
      if (!this.#isOpen) return '';
      const status = await asking.ask({ type: 'status' });
      const { sessions = [] } = await asking.ask({ type: 'sessions' });
      // Somebody who may not ask for the status sees his sessions.
      const head = status.ok ? `${statusTable(status as unknown as LuodStatus)}\n` : '';
      const lines = `${head}${sessionsTable(sessions as SessionStatus[])}`.trimEnd().split('\n');
      // A terminal that has not been told its size says 0.
      const rows = process.stdout.rows || Number.POSITIVE_INFINITY;
      const shown =
        lines.length < rows
          ? lines
          : [...lines.slice(0, rows - 2), `... ${lines.length - rows + 2} more lines`];
      return shown.join('\n');
    } finally {
      this.#asking = undefined;
      asking.close();
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    clearTimeout(this.#timer);
    // A luod that is stopped does not answer, and Ctrl-C must end this all the same.
    this.#asking?.close();
    process.stdout.write(LEAVE);
  }
}
