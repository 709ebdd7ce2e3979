/**
 * The cells of the fault matrix: every callback of every built-in handler and FLB, in the image that calls it, with every fault; and
 * what has to become of the update, by rule:
 *
 *   where the fault is                  throw, reject, hang                      the image is killed, or its event loop blocked
 *   old image, before the commit        rolled back                              started again with what luod holds
 *   old image, after it (sever)         committed                                committed
 *   new image, before the commit        rolled back                              rolled back
 *   new image, after it (finish, start) committed, and told as unfinished        started again with what luod holds
 *
 * What undoes (unpreserve, unfreeze) is called when an update is called off, so the new image of these cells refuses, in the cut. Listeners are
 * severed by an image that would linger; so there is a connection that cannot cross, which ends with that image.
 */
import { LiveUpdate } from '../../src/core/index.js';
import type { FileHandler, Flb } from '../../src/core/types.js';
import type { Deadlines } from '../../src/daemon/phases.js';
import { builtInHandlers } from '../../src/handlers/built-in.js';
import type { CarriedFileHandler } from '../../src/handlers/carried.js';
import { Counters } from '../../src/handlers/counters.js';
import { registerTlsListeners } from '../../src/handlers/tls-listener.js';
import { IncomingRecords, OutgoingRecords } from '../../src/handover/records.js';

export type Fault = 'throw' | 'reject' | 'hang' | 'block' | 'kill';
export type Outcome = 'committed' | 'unfinished' | 'rolledBack' | 'startedAgain';

export interface Cell {
  readonly image: 'old' | 'new';
  /** A `compatible`. */
  readonly of: string;
  readonly isFlb: boolean;
  readonly callback: string;
  readonly fault: Fault;
}

/** Callbacks of files, in the image in which an update calls them; each may be asynchronous, except where `BLOCKING` says otherwise. */
const CALLED = {
  old: ['canPreserve', 'preserve', 'freeze', 'unfreeze', 'unpreserve', 'sever'],
  new: ['canPreserve', 'adopt', 'retrieve', 'canFinish', 'finish', 'start'],
} as const;
/** Callbacks of a handler that are there or not; what `ops` may lack, fault-injection.mjs puts there. */
const OF_HANDLER: readonly string[] = ['adopt', 'start', 'sever'];
const FLB_CALLED = { old: ['preserve', 'unpreserve'], new: ['retrieve', 'finish'] } as const;
const SYNCHRONOUS: readonly string[] = ['canPreserve', 'adopt', 'start', 'sever'];
const FAULTS: readonly Fault[] = ['throw', 'reject', 'hang', 'kill'];
const SYNCHRONOUS_FAULTS: readonly Fault[] = ['throw', 'block', 'kill'];
const UNDOES: readonly string[] = ['unfreeze', 'unpreserve'];
const AFTER_COMMIT: readonly string[] = ['sever', 'finish', 'start'];
/** The phase at whose deadline luod calls an update off when a callback hangs; what is not here is not waited for by luod. */
const HANGS_IN: Record<Cell['image'], Record<string, keyof Deadlines>> = {
  old: { canPreserve: 'preserve', preserve: 'preserve', freeze: 'freeze' },
  new: {
    canPreserve: 'preserve',
    adopt: 'preserve',
    retrieve: 'retrieve',
    canFinish: 'retrieve',
    start: 'retrieve',
  },
};

/** What every program registers. */
export function registered(): { handlers: CarriedFileHandler[]; flbs: Flb[] } {
  const handover = { incoming: new IncomingRecords({ exclusive: true }), outgoing: new OutgoingRecords() };
  const handlers: CarriedFileHandler[] = [];
  const flbs: Flb[] = [new Counters(handover).flb as Flb];
  class Listening extends LiveUpdate {
    override registerFlb<File, Private, Obj>(handler: FileHandler<File, Private>, flb: Flb<Obj>): void {
      flbs.push(flb as Flb);
      super.registerFlb(handler, flb);
    }
  }
  const orchestrator = new Listening();
  registerTlsListeners(orchestrator, handover, (handler) => {
    orchestrator.registerFileHandler(handler);
    handlers.push(handler);
  });
  handlers.push(...builtInHandlers(handover));
  return { handlers, flbs };
}

/** All cells. */
export function everyCell(): Cell[] {
  const { handlers, flbs } = registered();
  const cells: Cell[] = [];
  for (const image of ['old', 'new'] as const) {
    for (const handler of handlers) {
      for (const callback of CALLED[image]) {
        if (OF_HANDLER.includes(callback) && !(callback in handler)) continue;
        const faults = SYNCHRONOUS.includes(callback) ? SYNCHRONOUS_FAULTS : FAULTS;
        for (const fault of faults)
          cells.push({ image, of: handler.compatible, isFlb: false, callback, fault });
      }
    }
    for (const { compatible } of flbs)
      for (const callback of FLB_CALLED[image])
        for (const fault of FAULTS) cells.push({ image, of: compatible, isFlb: true, callback, fault });
  }
  return cells;
}

/**
 * A part of them, the same for the same seed: every callback of either image with every fault, and every handler and FLB.
 */
export function sampleOf(cells: readonly Cell[], seed: number): Cell[] {
  const kinds = new Set<string>();
  const owners = new Set<string>();
  return shuffled(cells, seed).filter(({ image, of, isFlb, callback, fault }) => {
    const kind = `${image} ${isFlb} ${callback} ${fault}`;
    if (kinds.has(kind) && owners.has(of)) return false;
    kinds.add(kind);
    owners.add(of);
    return true;
  });
}

function shuffled(cells: readonly Cell[], seed: number): Cell[] {
  const all = [...cells];
  let state = seed;
  for (let at = all.length - 1; at > 0; at--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = state % (at + 1);
    [all[at], all[other]] = [all[other] as Cell, all[at] as Cell];
  }
  return all;
}

/** The image can do nothing any more. */
export function endsImage({ fault }: Cell): boolean {
  return fault === 'kill' || fault === 'block';
}

/** Whether the callback is one that undoes: then the update has to be called off for it to be called. */
export function isUndoing({ callback }: Cell): boolean {
  return UNDOES.includes(callback);
}

/** Whether the callback is one of an image that would linger. */
export function needsLingering({ callback }: Cell): boolean {
  return callback === 'sever';
}

/** What has to become of it. */
export function outcomeOf(cell: Cell): Outcome {
  const isAfter = AFTER_COMMIT.includes(cell.callback);
  if (cell.image === 'old') {
    if (isAfter) return 'committed';
    return endsImage(cell) ? 'startedAgain' : 'rolledBack';
  }
  if (!isAfter) return 'rolledBack';
  return endsImage(cell) ? 'startedAgain' : 'unfinished';
}

/** What hangs is to be found out soon; what does not has all the time that a busy machine needs. */
export function deadlinesOf(cell: Cell): Partial<Deadlines> {
  if (cell.fault !== 'hang' && cell.fault !== 'block') return {};
  const phase = HANGS_IN[cell.image][cell.callback];
  const deadlines = phase === undefined ? {} : { [phase]: phase === 'preserve' ? 2000 : 500 };
  // The old image answers, or leaves, by itself unless it is blocked.
  return cell.fault === 'block' && cell.image === 'old' ? { ...deadlines, finish: 500 } : deadlines;
}

export function titleOf({ image, of, callback, fault }: Cell): string {
  return `${image} image, ${callback} of ${of}: ${fault}`;
}
