/**
 * Strangers' bytes: whatever is sent to luod, on its socket or on a session, it lives, leaks nothing, and everybody else's
 * sessions are as they were.
 */
import { closeSync, fstatSync, openSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LuodClient, LuodSession } from '../../src/app/luod-client.js';
import { dial } from '../../src/handover/dial.js';
import { closeFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { recvFds, sendFds, waitReadable } from '../../src/linux/scm-rights.js';
import { Host } from './host.js';

let host: Host;
let client: LuodClient;
let canary: LuodSession;
let fds: number;

beforeAll(async () => {
  host = await Host.start(['--max-clients', '50', '--message-timeout', '300ms']);
  client = await host.connect();
  canary = await client.createSession('canary', { custody: 'hold' });
  const memfd = createMemfd('canary', 4711);
  await canary.preserve(memfd, 1n);
  closeSync(memfd);
  await client.dropSession('nobody has this').catch(() => undefined);
  fds = host.fds;
});

afterAll(async () => {
  client.close();
  canary.close();
  await host.stop();
});

/** A piece of what is sent at once: bytes, and descriptors with them. */
interface Piece {
  readonly bytes: Uint8Array;
  readonly fds: number;
}

const types = fc.constantFrom(
  'hello',
  'status',
  'sessions',
  'update',
  'kexec',
  'goodbye',
  'create_session',
  'retrieve_session',
  'drop_session',
  'preserve_fd',
  'unpreserve_fd',
  'retrieve_fd',
  'finish',
  'get_name',
  'list',
  'hold',
  'release',
  'ready',
  '',
  '__proto__',
);

const value = fc.oneof(
  fc.integer(),
  fc.double(),
  fc.string({ maxLength: 80 }),
  fc.constantFrom(null, true, [], {}, '1', '18446744073709551616', -1, 1e300, '/no/such'),
  fc.jsonValue({ maxDepth: 3 }),
);

/** Objects that are nearly requests. Never a kexec with a kernel that could be loaded, nor an update of what is not there. */
const request = fc
  .record(
    {
      type: fc.oneof({ weight: 9, arbitrary: types }, { weight: 1, arbitrary: value }),
      id: value,
      name: fc.oneof(fc.constantFrom('canary', 'f', 'x'.repeat(64)), value),
      custody: fc.oneof(fc.constantFrom('hold', 'release'), value),
      token: fc.oneof(fc.constantFrom('0', '1', 7), value),
      uid: fc.oneof(fc.constantFrom(0, 65_534), value),
      reserved: value,
      fds: fc.oneof(fc.constantFrom(0, 1, 2), value),
    },
    { requiredKeys: ['type'] },
  )
  // Dropping the canary is anybody's right who is its user.
  .filter(({ type, name }) => !(type === 'drop_session' && name === 'canary'));

const piece: fc.Arbitrary<Piece> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      bytes: request.map((object) => Buffer.from(`${JSON.stringify(object)}\n`)),
      fds: fc.constantFrom(0, 0, 0, 1, 2),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      bytes: fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fds: fc.constantFrom(0, 1),
    }),
  },
  // Half lines, and whole ones of nothing.
  {
    weight: 1,
    arbitrary: fc.record({
      bytes: fc
        .constantFrom('{"type":"get_na', '\n\n', '[]\n', '{}\n', 'null\n', '{"type":"list"}')
        .map((text) => Buffer.from(text)),
      fds: fc.constantFrom(0, 3),
    }),
  },
  // A line longer than any may be, and a flood of small ones.
  { weight: 1, arbitrary: fc.constant({ bytes: Buffer.alloc(1_200_000, 'x'), fds: 0 }) },
  { weight: 1, arbitrary: fc.constant({ bytes: Buffer.from('{"type":"sessions"}\n'.repeat(2000)), fds: 0 }) },
);

/** Sends all of a piece; stops when luod has closed the connection. @returns whether it is still open. */
function send(socket: number, { bytes, fds: count }: Piece): boolean {
  const own = Array.from({ length: count }, () => openSync('/dev/null', 'r'));
  try {
    for (let at = 0; at < bytes.length; ) {
      const sent = sendFds(socket, bytes.subarray(at, at + 60_000), at === 0 ? own : []);
      if (sent === undefined) {
        if (!drain(socket)) return false;
      } else at += sent;
    }
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: expect.stringMatching(/EPIPE|ECONNRESET/) });
    return false;
  } finally {
    for (const fd of own) closeSync(fd);
  }
}

/** Reads and forgets what luod answered. @returns whether the connection is still open. */
function drain(socket: number): boolean {
  waitReadable([socket], 50);
  try {
    for (;;) {
      const received = recvFds(socket, { maxBytes: 60_000, maxFds: 253 });
      if (received === undefined) return true;
      for (const fd of received.fds) closeSync(fd);
      if (received.eof) return false;
    }
  } catch {
    // Reset: luod had not read all of it when it closed.
    return false;
  }
}

async function unharmed(): Promise<void> {
  expect(await canary.getName()).toBe('canary');
  expect(await canary.list()).toMatchObject([{ token: '1', kind: 'memfd', details: { size: 4711 } }]);
  // What is left of the stranger goes with his connection.
  while (host.fds > fds) await client.dropSession('nobody has this').catch(() => undefined);
  expect(host.fds).toBe(fds);
}

describe('luod and strange bytes', () => {
  it('on its socket', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { minLength: 1, maxLength: 8 }), async (pieces) => {
        const socket = await dial(host.socket);
        for (const one of pieces) if (!send(socket, one)) break;
        closeFd(socket);
        await client.dropSession('f').catch(() => undefined);
        await unharmed();
      }),
      { numRuns: 300, seed: 1 },
    );
  });

  it('on a session', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { minLength: 1, maxLength: 8 }), async (pieces) => {
        const session = await client.createSession('victim');
        for (const one of pieces) if (!send(session.fd, one)) break;
        session.close();
        await unharmed();
      }),
      { numRuns: 300, seed: 2 },
    );
  });

  it('ends a connection that stops in the middle of a message', async () => {
    const socket = await dial(host.socket);
    send(socket, { bytes: Buffer.from('{"type":"sta'), fds: 1 });
    // First it is told why, and then the connection ends; the two may be read one by one.
    do expect(waitReadable([socket], 20_000)).toEqual([socket]);
    while (drain(socket));
    closeFd(socket);
    await unharmed();
  });

  it('did all this to one and the same luod', () => {
    expect(fstatSync(canary.fd).isSocket()).toBe(true);
    expect(host.stderr).not.toMatch(/^\s+at /m);
  });
});
