import { afterEach, beforeEach, expect, it } from 'vitest';
import { LuodLink } from '../../../src/app/luod-link.js';
import { Predecessor } from '../../../src/app/predecessor.js';
import { LiveUpdate } from '../../../src/core/index.js';
import { createCommitWord } from '../../../src/handover/commit-word.js';
import { type SuccessorToOld, toWire } from '../../../src/handover/protocol.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';
import { Wire } from '../../../src/handover/wire.js';
import { closeFd } from '../../../src/linux/fd.js';
import { socketPair } from '../../../src/linux/socketpair.js';

/** As long as it waits at most. */
const MOST_MS = 1000;

let old: Predecessor;
let successor: Wire;
let close: () => void;

beforeEach(() => {
  const [luod, ofImage] = socketPair();
  const [direct, ofSuccessor] = socketPair();
  const link = LuodLink.over(ofImage);
  old = new Predecessor({
    orchestrator: new LiveUpdate(),
    handover: { incoming: new IncomingRecords({ exclusive: true }), outgoing: new OutgoingRecords() },
    kept: [],
    link,
    carrier: 'luod',
    directFd: direct,
    commitFd: createCommitWord(),
    handler: () => undefined,
    inherited: () => [],
    rehearse: async () => undefined,
    announceFreeze: async () => undefined,
  });
  successor = new Wire(ofSuccessor, { message: () => undefined, closed: () => undefined });
  close = () => {
    old.close();
    successor.close();
    link.close();
    closeFd(luod);
  };
});
afterEach(() => close());

function tell(message: SuccessorToOld): void {
  successor.send(toWire(message));
}

function waited(): number {
  const began = performance.now();
  old.standBy();
  return performance.now() - began;
}

it('stands by until the next program has all its connections', () => {
  tell({ type: 'committed', announces: true });
  tell({ type: 'announced' });
  expect(waited()).toBeLessThan(MOST_MS);
});

it('stands by no longer than a second', () => {
  tell({ type: 'committed', announces: true });
  expect(waited()).toBeGreaterThanOrEqual(MOST_MS - 1);
});

it('does not wait for a version that will not say it', () => {
  tell({ type: 'committed' });
  expect(waited()).toBeLessThan(MOST_MS);
});

it('does not wait for one that is gone', () => {
  tell({ type: 'committed', announces: true });
  successor.close();
  expect(waited()).toBeLessThan(MOST_MS);
});
