import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { LateArrivals } from '../../../src/app/late-arrivals.js';
import { type IncomingOptions, Restored, Successor } from '../../../src/app/successor.js';
import type { LiveUpdateError } from '../../../src/core/errors.js';
import { IMAGE_COMPATIBLE, LiveUpdate } from '../../../src/core/index.js';
import type { CarriedFileHandler, Handover } from '../../../src/handlers/carried.js';
import { type State, unversionedStateHandler, versionedStateHandler } from '../../../src/handlers/state.js';
import { UNVERSIONED, VERSIONED } from '../../../src/handlers/state-record.js';
import { type StateOptions, stateShape } from '../../../src/handlers/state-shape.js';
import { checksum, encodeHandover } from '../../../src/handover/codec.js';
import { createCommitWord } from '../../../src/handover/commit-word.js';
import { writeImageFile } from '../../../src/handover/image-file.js';
import type { Phase } from '../../../src/handover/protocol.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';
import { Wire } from '../../../src/handover/wire.js';
import { closeFd } from '../../../src/linux/fd.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

type MakeHandler = typeof unversionedStateHandler;

function optionsOf(makers: readonly MakeHandler[]): IncomingOptions {
  const handover: Handover = {
    incoming: new IncomingRecords({ exclusive: true }),
    outgoing: new OutgoingRecords(),
  };
  const orchestrator = new LiveUpdate();
  const handlers = new Map<string, CarriedFileHandler>();
  for (const make of makers) {
    const handler = make(handover) as CarriedFileHandler;
    orchestrator.registerFileHandler(handler);
    handlers.set(handler.compatible, handler);
  }
  return {
    orchestrator,
    handover,
    handler: (compatible) => handlers.get(compatible),
    prepare: () => Promise.resolve(() => undefined),
  };
}

/** A handover of one state, 'state:s'. */
function handoverOf(value: object, version: number): Buffer {
  const form = version === 1 ? UNVERSIONED : VERSIONED;
  return encodeHandover({
    image: {
      compatible: IMAGE_COMPATIBLE,
      liveupdateNumber: 1n,
      sessions: [{ name: 'state:s', files: [{ compatible: form.compatible, data: 1n, token: 0n }] }],
      flbs: [],
    },
    records: [{ handle: 1, bytes: form.encode(value, version), fdStart: 0, fdCount: 0 }],
  });
}

const read = (options: StateOptions) => (file: unknown) => {
  (file as State).read(stateShape('state:s', options));
  return file as State;
};

const BOTH = [unversionedStateHandler, versionedStateHandler];

describe('what a kernel or a dead image left', () => {
  it('is migrated once, at the claim', async () => {
    const restored = new Restored(optionsOf(BOTH), [writeImageFile(handoverOf({ n: 1 }, 2))]);
    let runs = 0;
    const state = restored.claim(
      'state:s',
      read({
        version: 3,
        migrate(value) {
          runs++;
          return { ...value, three: true };
        },
      }),
    );
    const held = state?.value;
    restored.requireHandlers();
    await restored.finish(new Set(), () => []);
    expect([state?.value, runs]).toEqual([{ n: 1, three: true }, 1]);
    expect(state?.value).toBe(held);
  });

  it('is not claimed by a claim that refuses it', () => {
    const restored = new Restored(optionsOf(BOTH), [writeImageFile(handoverOf({ n: 1 }, 2))]);
    expect(() => restored.claim('state:s', read({ version: 1 }))).toThrow(
      expect.objectContaining({ code: 'EPROTONOSUPPORT', session: 'state:s' }),
    );
    expect(restored.unclaimed()).toEqual(['state:s']);
    expect(restored.claim('state:s', read({ version: 2 }))?.value).toEqual({ n: 1 });
    expect(restored.unclaimed()).toEqual([]);
  });
});

describe('past the commit', () => {
  const FILES = 'test-finish-v1';

  /** Sessions a, b, c of one file each, whose finish is `finish`. */
  function restoredOf(finish: (name: string) => Promise<void> | undefined, order: string[]) {
    const options = optionsOf([]);
    const handler: CarriedFileHandler = {
      compatible: FILES,
      adopt: (handle) => 'abc'[handle],
      ops: {
        canPreserve: () => true,
        preserve: () => undefined,
        unpreserve: () => undefined,
        retrieve(args) {
          args.file = 'abc'[Number(args.serializedData)];
        },
        finish({ file }) {
          order.push(`finish ${file}`);
          return finish(String(file));
        },
      },
    };
    options.orchestrator.registerFileHandler(handler);
    const image = {
      compatible: IMAGE_COMPATIBLE,
      liveupdateNumber: 1n,
      sessions: ['a', 'b', 'c'].map((name, i) => ({
        name,
        files: [{ compatible: FILES, data: BigInt(i), token: 0n }],
      })),
      flbs: [],
    };
    const fds = [writeImageFile(encodeHandover({ image, records: [] }))];
    const prepare = () => {
      order.push('prepare');
      return Promise.resolve(() => void order.push('in charge'));
    };
    const handlerOf = (compatible: string) => (compatible === FILES ? handler : undefined);
    const restored = new Restored({ ...options, handler: handlerOf, prepare }, fds);
    for (const name of ['a', 'b', 'c']) restored.claim(name, (file) => file);
    return { restored, orchestrator: options.orchestrator };
  }

  it('what else is needed is got before, and used behind, the point of no return', async () => {
    const order: string[] = [];
    const { restored } = restoredOf(() => undefined, order);
    await restored.finish(new Set(), () => {
      order.push('flows');
      return [];
    });
    expect(order).toEqual(['prepare', 'in charge', 'finish a', 'finish b', 'finish c', 'flows']);
  });

  it('a finish that throws, one that hangs, and a file that will not start keep nothing else from flowing, and are told', async () => {
    const order: string[] = [];
    let resume: () => void = () => undefined;
    const hangs = new Promise<void>((resolve) => {
      resume = resolve;
    });
    const { restored, orchestrator } = restoredOf((name) => {
      if (name === 'a') throw new Error('a does not like it');
      return name === 'b' ? hangs : undefined;
    }, order);
    const warned = once(process, 'warning');
    await restored.finish(new Set(), () => ['c: c does not start']);
    expect(order.slice(2)).toEqual(['finish a', 'finish b', 'finish c']);
    const [{ message }] = (await warned) as [Error];
    expect(message).toMatch(
      /^not finished: a: .*a does not like it.*; b: its finish has not come back within .*; c: c does not start$/,
    );
    const unfinished = () => orchestrator.sessions().filter(({ files }) => files.length > 0);
    expect(unfinished().map(({ name }) => name)).toEqual(['b']);
    resume();
    await expect.poll(unfinished).toEqual([]);
  });
});

/** A successor, and the old image's end of its wire. */
function successorOf(makers: readonly MakeHandler[]) {
  const [old, own] = socketPair();
  const failures: { error: LiveUpdateError; phase: Phase }[] = [];
  const said: string[] = [];
  const commitFd = createCommitWord();
  const successor = new Successor({
    ...optionsOf(makers),
    directFd: own,
    commitFd,
    sendReady: () => said.push('ready'),
    failed: (error, phase) => failures.push({ error, phase }),
    late: new LateArrivals(() => undefined),
    serveAhead: () => undefined,
    rehearse: async () => undefined,
    prepareConnections: async () => undefined,
  });
  const wire = new Wire(old, { message: ({ type }) => said.push(String(type)), closed: () => undefined });
  const send = (type: string, handover?: Buffer) => {
    const fds = handover === undefined ? [] : [writeImageFile(handover)];
    wire.send({ type }, fds);
    for (const fd of fds) closeFd(fd);
  };
  const close = async () => {
    wire.close();
    closeFd(commitFd);
    // The wire's other end has ended, and with it the successor's descriptor.
    await expect.poll(() => failures.at(-1)?.error.code).toMatch(/^(EPIPE|ECONNRESET)$/);
  };
  return { successor, failures, said, send, close };
}

describe('a successor', () => {
  it('without the handler of what came in says so, by name, before the old image may freeze', async () => {
    const { successor, failures, said, send, close } = successorOf([unversionedStateHandler]);
    send('precopy', handoverOf({ n: 1 }, 2));
    send('precopied');
    await successor.precopied;
    const refusal = expect.objectContaining({
      code: 'ENOENT',
      session: 'state:s',
      handler: 'liveupdate-state-v2',
      message: expect.stringMatching(
        /does not register: register it before ready\(\), also to drop the session/,
      ),
    });
    expect(() => successor.claim('state:s', read({}))).toThrow(refusal);
    expect(() => successor.requireHandlers()).toThrow(refusal);
    expect(said).not.toContain('ready');
    expect(failures).toEqual([]);
    await close();
  });

  it('of another layout refuses the first pass, and names both', async () => {
    const { successor, failures, send, close } = successorOf(BOTH);
    const handover = handoverOf({ n: 1 }, 1);
    handover.write('liveupdate-handover-v9', 0);
    const words = new Int32Array(handover.buffer, handover.byteOffset, handover.length / 4);
    words[36] = checksum(words);
    send('precopy', handover);
    await expect(successor.precopied).rejects.toMatchObject({ code: 'EINVAL' });
    expect(failures).toMatchObject([{ phase: 'preserve' }]);
    expect(failures[0]?.error.message).toMatch(
      /the handover is "liveupdate-handover-v9"; this version reads 'liveupdate-handover-v1' only/,
    );
    await close();
  });
});
