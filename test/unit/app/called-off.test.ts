import { Server, Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, expect, it, vi } from 'vitest';
import { LuodLink } from '../../../src/app/luod-link.js';
import { Program } from '../../../src/app/program.js';
import { createCommitWord } from '../../../src/handover/commit-word.js';
import type { LuodToImage } from '../../../src/handover/protocol.js';
import { Wire, type WireMessage } from '../../../src/handover/wire.js';
import { closeFd } from '../../../src/linux/fd.js';
import { socketPair } from '../../../src/linux/socketpair.js';

const undo: (() => void)[] = [];
afterEach(() => {
  for (const each of undo.splice(0).reverse()) each();
});

/** The other end of a conversation; descriptors that come are closed. */
function listenTo(fd: number, message: (message: WireMessage, wire: Wire) => void): Wire {
  const wire = new Wire(fd, {
    message: (said, fds) => {
      for (const each of fds) closeFd(each);
      message(said, wire);
    },
    closed: () => undefined,
  });
  undo.push(() => wire.close());
  return wire;
}

it('an update that is called off between two parts of a set leaves nothing to the next', async () => {
  const [ours, theirs] = socketPair();
  const said: WireMessage[] = [];
  const luod = listenTo(ours, (message) => said.push(message));
  const message = { type: 'welcome', role: 'fresh', service: 'chat', generation: 1 } as const;
  const image = await Program.onStage(LuodLink.over(theirs), { message, fds: [] });
  undo.push(() => image.leaveStage());
  const server = new Server();
  await image.listen('first', server, {});
  await image.state('second', () => ({ count: 1 }));
  await image.ready();
  for (let i = 0; i < 20; i++) {
    const [accepted, peer] = socketPair();
    undo.push(() => closeFd(peer));
    server.emit('connection', new Socket({ fd: accepted }));
  }
  const begin = () => {
    const [direct, theirDirect] = socketPair();
    const word = createCommitWord();
    listenTo(theirDirect, ({ type }, wire) => type === 'precopy' && wire.send({ type: 'ack' }));
    luod.send({ type: 'preserve', carrier: 'luod' } satisfies LuodToImage, [direct, word]);
    for (const fd of [direct, word]) closeFd(fd);
  };
  const comes = async (...types: string[]) => {
    while (!said.some(({ type }) => types.includes(type))) await nextTurn();
    return said.splice(0).find(({ type }) => types.includes(type));
  };

  // Each look at the clock is a millisecond later than the one before: a connection takes a turn of the loop.
  const real = performance.now.bind(performance);
  let later = 0;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => real() + later++);
  begin();
  for (let turn = 0; turn < 8; turn++) await nextTurn();
  luod.send({ type: 'unfreeze', reason: { code: 'ETIMEDOUT', message: 'late' } } satisfies LuodToImage);
  await comes('unfrozen');
  clock.mockRestore();

  begin();
  expect(await comes('preserved', 'failed')).toMatchObject({ type: 'preserved' });
});
