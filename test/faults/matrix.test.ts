/**
 * The fault matrix: a callback of a handler fails in the middle of an update, under clients that count. Whichever it is and however it
 * fails, the update ends as the rule of cells.ts says, nobody loses a byte unless the serving image itself died, luod keeps no
 * descriptor, and the next update goes through. A part of the cells, the same each time; all of them with LIVEUPDATE_FAULT_MATRIX=full.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { fdsOf } from '../e2e/luod-process.js';
import {
  type Cell,
  deadlinesOf,
  everyCell,
  isUndoing,
  needsLingering,
  outcomeOf,
  sampleOf,
  titleOf,
} from './cells.js';
import { type PlannedFault, Stage } from './stage.js';

const SEED = 20_261_125;
/** luod waits longer before each start in a row; after that many another one is quicker. */
const DEATHS = 3;
/** The new image of cells whose callback undoes refuses here. */
const REFUSES: PlannedFault = {
  image: 'new',
  of: 'liveupdate-memory-v1',
  callback: 'retrieve',
  fault: 'throw',
};

const { LIVEUPDATE_FAULT_MATRIX: which = 'sample' } = process.env;
const all = everyCell();
const matching = all.filter((cell) => which !== 'sample' && titleOf(cell).includes(which));
const cells = which === 'full' ? all : which === 'sample' ? sampleOf(all, SEED) : matching;

let open: Stage | undefined;

afterAll(async () => {
  await open?.close();
});

async function stage(): Promise<Stage> {
  if (open !== undefined && open.deaths >= DEATHS) {
    await open.close();
    open = undefined;
  }
  open ??= await Stage.open();
  return open;
}

async function play(cell: Cell): Promise<void> {
  const title = titleOf(cell);
  const expected = outcomeOf(cell);
  const on = await stage();
  const { luod } = on;
  const before = await on.report();
  const fds = fdsOf(luod.pid);
  const staying = needsLingering(cell) ? await on.beginRequest() : undefined;
  on.plan(before.pid, isUndoing(cell) ? [cell, REFUSES] : [cell]);
  const result = await on.update(deadlinesOf(cell));
  const failed = on.cameTrue(0);
  const log = () => `${title}\n${JSON.stringify(result)}\n${luod.stderr}`;
  expect(failed === undefined ? 'nowhere' : failed === before.pid ? 'old' : 'new', log()).toBe(cell.image);
  if (expected === 'startedAgain') {
    expect(result, log()).toMatchObject({ ok: false, rolledBack: false });
    await on.checkStartedAgain(log(), failed as number);
  } else {
    const isCommitted = expected !== 'rolledBack';
    expect(result, log()).toMatchObject({ ok: isCommitted, ...(isCommitted ? {} : { rolledBack: true }) });
    if (isCommitted) expect((result.unfinished ?? []).length > 0, log()).toBe(expected === 'unfinished');
    await on.check(log());
    if (staying !== undefined) await expect.poll(() => staying.isClosed, { message: log() }).toBe(true);
    const { pid } = await on.report();
    expect(pid === before.pid, log()).toBe(!isCommitted);
    if (cell.fault === 'hang') await hangOn(on, pid, failed as number, log);
  }
  on.plan(pid(await on.report()), []);
  const next = await on.update();
  expect(next, `${log()}\nthen ${JSON.stringify(next)}`).toMatchObject({ ok: true, unfinished: [] });
  await on.check(`${log()}\nthen`);
  await expect.poll(() => fdsOf(luod.pid), { message: log() }).toBeLessThanOrEqual(fds);
}

const pid = (report: { pid: number }) => report.pid;

/** While a callback of the serving image hangs, no update goes through, and the image serves; when it comes back, all is well. */
async function hangOn(on: Stage, serving: number, hanging: number, log: () => string): Promise<void> {
  if (serving !== hanging) return;
  const meanwhile = await on.update();
  expect(meanwhile, `${log()}\nmeanwhile ${JSON.stringify(meanwhile)}`).toMatchObject({
    ok: false,
    rolledBack: true,
  });
  await on.check(`${log()}\nmeanwhile`);
  process.kill(hanging, 'SIGUSR2');
}

/** Not a part of any update: luod gets its duplicates when a thing is made. */
it("what luod could not be given to hold is not kept, and in nobody's way", async () => {
  const on = await stage();
  const { pid: serving } = await on.report();
  on.plan(serving, [{ image: 'old', of: 'liveupdate-eventfd-v1', callback: 'custody', fault: 'throw' }]);
  process.kill(serving, 'SIGUSR1');
  await on.luod.says(/extra: EIO/);
  on.plan(serving, []);
  expect(await on.update()).toMatchObject({ ok: true, unfinished: [] });
  await on.check('custody');
});

describe(`the fault matrix: ${cells.length} of ${all.length} cells`, () => {
  for (const cell of cells) {
    it(`${titleOf(cell)} → ${outcomeOf(cell)}`, () => play(cell));
  }
});
