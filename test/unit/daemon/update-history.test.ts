import { describe, expect, it } from 'vitest';
import { parseService } from '../../../src/daemon/service-record.js';
import { type HistoryEntry, UpdateHistory } from '../../../src/daemon/update-history.js';

function entry(number: number, change: Partial<HistoryEntry> = {}): HistoryEntry {
  return {
    at: `2026-01-01T00:00:00.${String(number).padStart(3, '0')}Z`,
    kind: 'update',
    by: 'SIGHUP',
    outcome: 'ok',
    fromGeneration: number,
    toGeneration: number + 1,
    command: ['node', 'x.mjs'],
    blackoutMs: 1,
    carried: true,
    ...change,
  };
}

/** What a luod without a history kept of a service. */
const OLD_RECORD = {
  name: 'chat',
  command: ['node', 'x.mjs'],
  cwd: '/',
  restart: 'on-failure',
  maxRestarts: 10,
  fresh: false,
  state: 'serving',
  generation: 2,
  wasReady: true,
  isOwed: false,
  restarts: 0,
  lastUpdate: null,
};

describe('the history of updates', () => {
  it('keeps the last twenty, the latest first', () => {
    const kept: HistoryEntry[][] = [];
    const history = new UpdateHistory(({ entries }) => kept.push(entries));
    for (let number = 1; number <= 25; number++) history.add(entry(number));
    expect(history.entries.map(({ fromGeneration }) => fromGeneration)).toEqual(
      Array.from({ length: 20 }, (_, index) => 25 - index),
    );
    expect(kept.at(-1)).toEqual([...history.entries].reverse());
  });

  it('has an update once, although two luods tell its end', () => {
    const history = new UpdateHistory(() => undefined);
    history.add(entry(1));
    history.add(entry(1, { outcome: 'failed' }));
    expect(history.entries).toMatchObject([{ outcome: 'failed' }]);
  });

  it('learns later that an update was bad', () => {
    const history = new UpdateHistory(() => undefined);
    for (const number of [1, 2]) history.add(entry(number));
    const error = { code: 'ECHILD', message: 'it died', phase: 'watch' };
    history.amend(entry(1).at, { outcome: 'autoRolledBack', error });
    expect(history.entries).toMatchObject([{ outcome: 'ok' }, { outcome: 'autoRolledBack', error }]);
  });

  it('bounds commands and reasons', () => {
    const history = new UpdateHistory(() => undefined);
    const command = ['node', 'x'.repeat(5000), 'y'];
    history.add(entry(1, { command, error: { code: 'EIO', message: 'z'.repeat(5000), phase: 'health' } }));
    const [one] = history.entries;
    expect(one?.command).toEqual(['node', `${'x'.repeat(1995)}...`]);
    expect(one?.error?.message).toHaveLength(2000);
  });
});

describe('the records of a service', () => {
  const item = (name: string, record: object) => ({ group: 'service chat', item: name, record, fds: [] });

  it('of a luod that knew neither health nor history are understood', () => {
    const { service, history } = parseService([item('service', OLD_RECORD)]);
    expect(service).toEqual(OLD_RECORD);
    expect(history).toEqual([]);
  });

  it('come back as they were kept', () => {
    const health = { check: { url: 'unix:/x.sock:/' }, watch: 5 };
    const policy = { check: { command: ['true'] }, timeoutMs: 1, minUptimeMs: 0, watchMs: 5 };
    const probation = {
      result: { ok: true, generation: 2 },
      until: 1,
      policy,
      back: ['node'],
      total: 1,
      entry: entry(1).at,
    };
    const items = [
      item('service', { ...OLD_RECORD, health, probation }),
      item('history', { entries: [entry(1)] }),
    ];
    const restored = parseService(JSON.parse(JSON.stringify(items)));
    expect(restored.service).toMatchObject({ health, probation });
    expect(restored.history).toEqual([entry(1)]);
  });

  it('are refused when a check is damaged, rather than forgotten', () => {
    const record = { ...OLD_RECORD, health: { check: { url: 'http://10.0.0.1/' } } };
    expect(() => parseService([item('service', record)])).toThrow(/EINVAL/);
  });
});
