/**
 * A rehearsal of the cut, before it: the same code, on the same connections, with nothing at stake.
 *
 * A process cuts once in its life, so that everything on that path would run cold, its first thousand calls in V8's
 * interpreter, inside the blackout. The rehearsal runs them while the old image still serves; what could not be frozen fails
 * here, before anything stands still.
 */
import { Server, Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { IMAGE_COMPATIBLE, LiveUpdate, type Session } from '../core/index.js';
import type { Image, SerializedFile } from '../core/types.js';
import { builtInHandlers } from '../handlers/built-in.js';
import { type Handover, handleOf } from '../handlers/carried.js';
import { Connection } from '../handlers/connection.js';
import { ConnectionSet } from '../handlers/connection-set.js';
import { Listener } from '../handlers/listener.js';
import { Memory } from '../handlers/memory.js';
import { State } from '../handlers/state.js';
import { encodeHandover } from '../handover/codec.js';
import { commit, createCommitWord } from '../handover/commit-word.js';
import { writeImageFile } from '../handover/image-file.js';
import { readHandover } from '../handover/received.js';
import { IncomingRecords, OutgoingRecords } from '../handover/records.js';
import { Wire } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { openUnreachableListener } from '../linux/listen-socket.js';
import { socketPair } from '../linux/socketpair.js';

/** V8 has compiled what it will after this many. */
const ENOUGH = 20_000;
const FREEZE_ROUNDS = 20;
/** Connections between two turns of a program that serves: less than a millisecond's work. */
const FREEZE_PART = 1000;
/** Enough for what runs once in a cut to be compiled at all. */
const ROUNDS = 5;

/**
 * Collects what a freeze would save, and throws it away.
 * @throws {LiveUpdateError} EINVAL when the state of a connection cannot be cloned.
 */
export async function rehearseFreeze(sets: readonly ConnectionSet[]): Promise<void> {
  await rehearseCut();
  for (const set of sets) {
    let done = 0;
    for (let round = 0; round < FREEZE_ROUNDS && done < ENOUGH; round++) {
      for (const count of set.rehearse(FREEZE_PART)) {
        done += count;
        await nextTurn();
      }
    }
  }
  collectGarbage('young');
}

/**
 * A whole cut between two scratch orchestrators in this process: every built-in kind of file that a cut is about is preserved, sent
 * over a wire, frozen, retrieved, committed, finished and armed, several times. Everything is given back.
 */
export async function rehearseCut(): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) await rehearseOnce();
}

async function rehearseOnce(): Promise<void> {
  const scene = new Scene();
  try {
    const old: Handover = {
      incoming: new IncomingRecords({ exclusive: true }),
      outgoing: new OutgoingRecords(),
    };
    const next: Handover = {
      incoming: new IncomingRecords({ exclusive: false }),
      outgoing: new OutgoingRecords(),
    };
    const before = orchestratorOf(old);
    const after = orchestratorOf(next);
    let came: Image | undefined;
    const [sender, receiver] = scene.wires((fds) => {
      const { image, records } = readHandover(fds);
      next.incoming.add(records, fds);
      came = image;
    });
    const pass = (image: Image) => {
      const { records, fds } = old.outgoing.takeChanged();
      const file = writeImageFile(encodeHandover({ image, records }));
      sender.send({ type: 'precopy' }, [file, ...fds]);
      closeFd(file);
      receiver.receiveNow();
    };
    const set = scene.connections();
    for (const file of [State.create({ rehearsal: true }), scene.memory(), scene.listener(), set]) {
      const session = await before.createSession(`rehearsal ${before.sessions().length}`);
      await session.preserve(file, 0n);
      const saved = session.serialized(0n);
      if (file === set && saved !== undefined) {
        const { ids, fds } = set.takeWaiting(1);
        old.outgoing.update(handleOf(saved.data), set.passRecord(ids), fds);
      }
      const files = saved === undefined ? [] : [saved];
      pass({ ...NOTHING, sessions: [{ name: session.name, files }] });
      if (saved !== undefined) after.build(saved);
      // A program that serves has its turn.
      await nextTurn();
    }
    const image = await before.orchestrator.reboot();
    if (image !== undefined) pass(image);
    if (came === undefined) return;
    await after.orchestrator.deserialize(came);
    const sessions: Session[] = [];
    for (const { name } of came.sessions) {
      const session = await after.orchestrator.retrieveSession(name);
      sessions.push(session);
      scene.own(await session.retrieve(0n));
      await session.canFinish();
    }
    commit(scene.commitFd);
    for (const session of sessions) {
      await session.finish();
      await session.close();
    }
    next.incoming.clear();
    await nextTurn();
    await scene.arm();
  } finally {
    scene.close();
  }
}

const NOTHING: Image = { compatible: IMAGE_COMPATIBLE, liveupdateNumber: 0n, sessions: [], flbs: [] };

function orchestratorOf(handover: Handover) {
  const orchestrator = new LiveUpdate();
  const handlers = builtInHandlers(handover);
  for (const handler of handlers) orchestrator.registerFileHandler(handler);
  return {
    orchestrator,
    createSession: (name: string) => orchestrator.createSession(name),
    sessions: () => orchestrator.sessions(),
    build: ({ compatible, data }: SerializedFile) =>
      handlers.find((handler) => handler.compatible === compatible)?.adopt?.(handleOf(data)),
  };
}

/** What a rehearsal makes, and gives back. */
class Scene {
  readonly commitFd = createCommitWord();
  readonly #undo: (() => void)[] = [() => closeFd(this.commitFd)];
  readonly #server = new Server();
  #sets: ConnectionSet[] = [];

  wires(take: (fds: number[]) => void): [Wire, Wire] {
    const [one, other] = socketPair();
    const sender = new Wire(one, { message: () => undefined, closed: () => undefined });
    const receiver = new Wire(other, { message: (_message, fds) => take(fds), closed: () => undefined });
    this.#undo.push(
      () => sender.close(),
      () => receiver.close(),
    );
    return [sender, receiver];
  }

  memory(): Memory {
    return this.#owned(Memory.create('rehearsal', 4096));
  }

  listener(): Listener {
    return this.#owned(Listener.adopt(openUnreachableListener(), RECORD));
  }

  connections(): ConnectionSet {
    const [own, peer] = socketPair();
    const set = new ConnectionSet();
    set.preserve(() => undefined);
    set.add(Connection.of(new Socket({ fd: own })));
    this.#undo.push(() => closeFd(peer));
    return this.#owned(set);
  }

  /** Something that was retrieved. */
  own(file: unknown): void {
    if (file instanceof Memory || file instanceof Listener || file instanceof ConnectionSet)
      this.#owned(file);
    // Before it is finished, which begins to accept.
    if (file instanceof Listener) file.bind(this.#server);
    if (file instanceof ConnectionSet) this.#sets.push(file);
  }

  #owned<T extends Memory | Listener | ConnectionSet>(file: T): T {
    this.#undo.push(() => {
      if (file instanceof ConnectionSet) for (const { socket } of [...file]) socket.destroy();
      else file.close();
    });
    return file;
  }

  async arm(): Promise<void> {
    for (const set of this.#sets) {
      set.arm(this.#server, () => undefined);
      await set.announce(1);
    }
  }

  close(): void {
    this.#server.close();
    for (const undo of this.#undo.splice(0).reverse()) undo();
  }
}

/** Of a listener to which nobody can connect. */
const RECORD = Buffer.from(JSON.stringify({ address: '\0rehearsal' }));

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
