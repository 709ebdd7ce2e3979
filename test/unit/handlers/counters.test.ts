/** Counters across images that leave everything to a carrier: what a kexec brings, and what luod held for a dead image. */
import { expect, it } from 'vitest';
import { Restored } from '../../../src/app/successor.js';
import { LiveUpdate } from '../../../src/core/index.js';
import type { Image } from '../../../src/core/types.js';
import type { CarriedFileHandler, Handover } from '../../../src/handlers/carried.js';
import { Counters } from '../../../src/handlers/counters.js';
import { State, unversionedStateHandler } from '../../../src/handlers/state.js';
import { encodeHandover } from '../../../src/handover/codec.js';
import { writeImageFile } from '../../../src/handover/image-file.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';
import { dupFd } from '../../../src/linux/fd.js';

function image() {
  const handover: Handover = {
    incoming: new IncomingRecords({ exclusive: true }),
    outgoing: new OutgoingRecords(),
  };
  const orchestrator = new LiveUpdate();
  const handler = unversionedStateHandler(handover) as CarriedFileHandler;
  const counters = new Counters(handover);
  orchestrator.registerFileHandler(handler);
  orchestrator.registerFlb(handler, counters.flb);
  return { handover, orchestrator, handler, counters };
}

/** What an image leaves that keeps a state and has counted. */
async function leave(count: number): Promise<{ image: Image; fds: (without?: 'flbs') => number[] }> {
  const { handover, orchestrator, counters } = image();
  counters.counter('requests').add(count);
  const session = await orchestrator.createSession('state:s');
  await session.preserve(State.create({}, 1), 0n);
  const left = (await orchestrator.reboot()) as Image;
  const { records, fds } = handover.outgoing.takeChanged();
  const encoded = (flbs: Image['flbs']) => encodeHandover({ image: { ...left, flbs }, records });
  return {
    image: left,
    fds: (without) => [
      writeImageFile(encoded(without === 'flbs' ? [] : left.flbs)),
      ...fds.map((fd) => dupFd(fd)),
    ],
  };
}

async function restore(fds: number[], counted: number) {
  const { handover, orchestrator, handler, counters } = image();
  const requests = counters.counter('requests');
  requests.add(counted);
  const prepare = () => counters.prepare(orchestrator);
  const restored = new Restored({ handover, orchestrator, prepare, handler: () => handler }, fds);
  restored.claim('state:s', (file) => file);
  await restored.finish(new Set(), () => []);
  return requests;
}

it('what was counted before a kexec is counted on, with what this image counted before its commit', async () => {
  const { fds } = await leave(5);
  const requests = await restore(fds(), 2);
  expect(requests.value).toBe(7);
  requests.add();
  expect(requests.value).toBe(8);
});

it('what luod held for a dead image has no counters: they begin anew', async () => {
  const { fds } = await leave(5);
  expect((await restore(fds('flbs'), 2)).value).toBe(2);
});
