/**
 * A rehearsal of the cut, before it: the same code, on the same connections, with nothing at stake.
 *
 * A process cuts once in its life, so that everything on that path would run cold, its first thousand calls in V8's
 * interpreter, inside the blackout. The rehearsal runs them while the old image still serves; what could not be frozen fails
 * here, before anything stands still.
 */
import { Server } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { IMAGE_COMPATIBLE, LiveUpdate } from '../core/index.js';
import { toSerializedData } from '../handlers/carried.js';
import { Connection } from '../handlers/connection.js';
import {
  CONNECTIONS_COMPATIBLE,
  type ConnectionSet,
  connectionSetHandler,
} from '../handlers/connection-set.js';
import { decodeHandover, encodeHandover } from '../handover/codec.js';
import { readImageFile, writeImageFile } from '../handover/image-file.js';
import { IncomingRecords, OutgoingRecords } from '../handover/records.js';
import { serializeValue } from '../handover/values.js';
import { closeFd } from '../linux/fd.js';
import { socketPair } from '../linux/socketpair.js';

/** V8 has compiled what it will after this many. */
const ENOUGH = 3000;
/** Enough for what runs once in a cut to be compiled at all. */
const ROUNDS = 5;

/**
 * Collects what a freeze would save, and throws it away.
 * @throws {LiveUpdateError} EINVAL when the state of a connection cannot be cloned.
 */
export async function rehearseFreeze(sets: readonly ConnectionSet[]): Promise<void> {
  for (const set of sets) {
    let done = 0;
    for (let round = 0; round < ROUNDS && done < ENOUGH && set.size > 0; round++) {
      serializeValue(set.collect('rehearsal'));
      done += set.size;
      // The program goes on in between.
      await nextTurn();
    }
  }
  collectGarbage('young');
}

/**
 * Takes over an image of one file, several times, and arms a connection that nobody has: what the cut will run is then
 * compiled.
 */
export async function rehearseTakeover(): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) {
    const outgoing = new OutgoingRecords();
    const none = new Uint32Array(0);
    const handle = outgoing.put(serializeValue({ fresh: none, changed: none, states: [], live: none }));
    const file = { compatible: CONNECTIONS_COMPATIBLE, data: toSerializedData(handle), token: 1n };
    const encoded = encodeHandover({
      image: {
        compatible: IMAGE_COMPATIBLE,
        liveupdateNumber: 1n,
        sessions: [{ name: 'rehearsal', files: [file] }],
        flbs: [],
      },
      records: outgoing.takeChanged().records,
    });
    const { image, records } = decodeHandover(readImageFile(writeImageFile(encoded)), { fdCount: 0 });
    const incoming = new IncomingRecords({ exclusive: true });
    incoming.add(records, []);
    const scratch = new LiveUpdate();
    scratch.registerFileHandler(connectionSetHandler({ incoming, outgoing }));
    await scratch.deserialize(image);
    const session = await scratch.retrieveSession('rehearsal');
    await session.retrieve(1n);
    await session.canFinish();
    await session.finish();
    await session.close();
  }
  const [own, peer] = socketPair();
  const connection = Connection.adopt(own);
  connection.arm(new Server());
  connection.socket.destroy();
  closeFd(peer);
}

/**
 * Collects garbage now, and not in the middle of the cut. In an image that does not serve yet, everything: ten thousand adopted
 * sockets are young objects, which V8 would otherwise copy about. In one that serves, only the young ones, which
 * is short however large its heap is.
 */
export function collectGarbage(which: 'all' | 'young'): void {
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  if (typeof gc === 'function') gc(which === 'young' ? { type: 'minor' } : undefined);
}
