/** luod's services through the replacement of the machine's kernel: what crosses, and what calls it off. */
import { expect, test } from 'vitest';
import { guest } from './guest.js';

test('a cache with 64 MiB, a state and a listener survives two kexecs in a row', async () => {
  const marks = await guest('survive.mjs');
  const boots = [1, 2, 3].map((stage) => marks.get(`${stage} boot`)?.bootId);
  expect(new Set(boots).size).toBe(3);

  expect(marks.get('1 answer')?.answer).toMatchObject({ origin: 'fresh', generation: 1, puts: 0 });
  // With a connection open and no leave to drop it, nothing stops and it is said what is in the way.
  const refused = marks.get('1 refused');
  expect(refused?.code).toBe(1);
  expect(refused?.reply).toMatchObject({
    ok: false,
    left: [{ service: 'cache', session: 'listener:cache', what: expect.stringContaining('1 connections') }],
    error: {
      code: 'EOPNOTSUPP',
      phase: 'preserve',
      message: expect.stringContaining('--drop-unpreservable'),
    },
  });
  expect(refused?.still).toMatchObject({ origin: 'fresh', generation: 1, puts: 1, wrong: 0 });
  const sessions = ['memory:cache', 'state:counts', 'listener:cache'];
  for (const stage of [1, 2]) {
    expect(marks.get(`${stage} dry`)).toMatchObject({
      code: 0,
      reply: {
        ok: true,
        dryRun: true,
        left: [],
        services: [{ service: 'cache', generation: stage, memfds: 1, sessions }],
      },
    });
  }
  expect(marks.get('2 answer')?.answer).toEqual({
    origin: 'kexec',
    generation: 2,
    puts: 1,
    history: [[1, 41]],
    wrong: 0,
  });
  expect(marks.get('3 answer')?.answer).toEqual({
    origin: 'kexec',
    generation: 3,
    puts: 2,
    history: [
      [1, 41],
      [2, 42],
    ],
    wrong: 0,
  });
  // Claimed and finished, the kernel keeps nothing; luod has them again, as before.
  for (const stage of [2, 3]) {
    const held = marks.get(`${stage} sessions`)?.sessions as { session: string; holder: string }[];
    expect(held.map(({ session, holder }) => `${holder} ${session}`).sort()).toEqual([
      'luod listener:cache',
      'luod memory:cache',
    ]);
  }
  const ms = (from: string, to: string) => Math.round((marks.get(to)?.at ?? 0) - (marks.get(from)?.at ?? 0));
  console.log(
    `from luoctl kexec to the next kernel's first program ${ms('1 kexec', '2 boot')} ms, to the first answer ${ms('1 kexec', '2 answer')} ms`,
  );
});

test('a freeze that fails calls the kexec off: everything serves on, and nothing is left behind', async () => {
  const marks = await guest('called-off.mjs');
  expect(marks.get('1 called off')).toMatchObject({
    code: 1,
    reply: { ok: false, error: { phase: 'freeze', message: expect.stringContaining('not now') } },
    // The same connection, in the same process.
    answer: { origin: 'fresh', generation: 1, puts: 1, wrong: 0 },
  });
  const left = marks.get('1 called off')?.reply.left as { session: string; what: string }[];
  expect(left.map(({ session }) => session).sort()).toEqual([
    'keep:peer',
    'listener:cache',
    'listener:local',
  ]);
  expect(left.find(({ session }) => session === 'keep:peer')?.what).toMatch(/^socket:\[\d+\]/);
  expect(marks.get('1 status')?.reply.services[0]).toMatchObject({
    state: 'serving',
    generation: 1,
    restarts: 0,
  });
  expect(marks.get('1 unloaded')).toMatchObject({
    code: 1,
    reply: { error: { code: 'EINVAL', message: expect.stringContaining('no kernel is loaded') } },
  });
  // The connection was given up, and nothing else.
  expect(marks.get('2 answer')?.answer).toMatchObject({ origin: 'kexec', generation: 2, puts: 2, wrong: 0 });
  // A listener that cannot be made again is told, and the program makes it as in its first life.
  const local = marks.get('2 local');
  expect(local?.lost).toEqual([expect.stringContaining('/run/cache/socket: ENOENT')]);
  expect(local?.answer).toMatchObject({ origin: 'kexec', puts: 2 });
});
