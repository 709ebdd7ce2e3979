/** What luod holds for a service that does not claim it, for programs without liveupdate and for clients, through a kexec. */
import { expect, test } from 'vitest';
import { guest, type Mark } from './guest.js';

test('luod killed before its service has claimed anything loses nothing, nor does a version that dies claiming', async () => {
  const marks = await guest('killed.mjs');
  expect(marks.get('1 unclaimed')?.sessions).toMatchObject([
    { session: 'luod:cache', service: 'cache', holder: 'kernel', state: 'unclaimed' },
  ]);
  expect(marks.get('1 answer')).toMatchObject({
    answer: { origin: 'kexec', puts: 1, history: [[1, 99]], wrong: 0 },
    deaths: 1,
  });
  expect(marks.get('1 claimed')?.sessions.map(({ holder }: { holder: string }) => holder)).toEqual([
    'luod',
    'luod',
  ]);
});

test('a program that does not use liveupdate is asked to end, and only with leave', async () => {
  const marks = await guest('plain.mjs');
  expect(marks.get('1 refused')).toMatchObject({
    code: 1,
    asked: false,
    reply: {
      ok: false,
      left: [{ service: 'cache', what: expect.stringContaining('does not use liveupdate') }],
    },
  });
  expect(marks.get('2 after')?.farewell).toBe('in order');
  expect(marks.get('2 busy')?.said[0]).toMatch(/EBUSY: .*another program has the device open/);
});

test('what clients keep with luod serve: memory, listeners and FLBs cross, the rest needs leave', async () => {
  const marks = await guest('clients.mjs');
  const left = [
    { service: 'uid 0', session: 'web', what: expect.stringContaining('/run/a file, kept by a client') },
    {
      service: 'uid 0',
      session: 'short',
      what: expect.stringContaining('1 files that a client keeps for as long as it lives'),
    },
  ];
  expect(marks.get('1 refused')).toMatchObject({
    code: 1,
    reply: {
      ok: false,
      error: { code: 'EOPNOTSUPP', phase: 'preserve' },
      left: expect.arrayContaining(left),
    },
  });
  expect(marks.get('1 dry')).toMatchObject({
    code: 0,
    reply: { ok: true, clients: { sessions: 2, memfds: 3 } },
  });
  const { sessions, flbs } = marks.get('2 sessions') as Mark;
  expect(sessions).toHaveLength(2);
  expect(sessions).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ session: 'web', holder: 'client', state: 'orphaned', uid: 0 }),
      expect.objectContaining({ session: 'orphan', holder: 'client', state: 'orphaned', uid: 0 }),
    ]),
  );
  expect(flbs).toMatchObject([{ flb: 'pool', files: 1, registered: false }]);
  expect(marks.get('2 web')).toMatchObject({
    length: 2,
    memory: 'remembered',
    seals: true,
    answer: 'served',
    pool: 'shared by many',
    orphan: 'left alone',
  });
  expect(marks.get('2 kernel')).toMatchObject({ came: 'ENOENT' });
});
