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
const LEAST_MS = 200;

let old: Predecessor;
let successor: Wire;
let heard: string[];
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
    endsProcess: true,
  });
  heard = [];
  successor = new Wire(ofSuccessor, {
    message: ({ type }) => heard.push(type),
    closed: () => undefined,
  });
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

function waited(limitMs = Number.POSITIVE_INFINITY): number {
  const began = performance.now();
  old.standBy(limitMs);
  return performance.now() - began;
}

it('stands by until the next program has all its connections, and has run for a moment', () => {
  tell({ type: 'committed', announces: true });
  tell({ type: 'announced' });
  const ms = waited();
  expect(ms).toBeGreaterThanOrEqual(LEAST_MS - 1);
  expect(ms).toBeLessThan(MOST_MS);
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

it('stands by for no more than half of the time that it has', () => {
  tell({ type: 'committed', announces: true });
  expect(waited(100)).toBeLessThan(MOST_MS);
  tell({ type: 'announced' });
  expect(waited(100)).toBeLessThan(LEAST_MS);
});

it('says that it has left what is its own, also when nobody hears it', () => {
  old.leave(true);
  successor.receiveNow();
  expect(heard).toEqual(['left']);
  successor.close();
  expect(() => old.leave(true)).not.toThrow();
});
