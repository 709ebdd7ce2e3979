import { serialize } from 'node:v8';
import { describe, expect, it } from 'vitest';
import { LiveUpdate } from '../../../src/core/index.js';
import type { Image } from '../../../src/core/types.js';
import type { CarriedFileHandler } from '../../../src/handlers/carried.js';
import { handleOf } from '../../../src/handlers/carried.js';
import { State, unversionedStateHandler, versionedStateHandler } from '../../../src/handlers/state.js';
import { type StateOptions, stateShape } from '../../../src/handlers/state-shape.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';

type MakeHandler = typeof unversionedStateHandler;

const BOTH: readonly MakeHandler[] = [unversionedStateHandler, versionedStateHandler];

/** One image of a program with a single state. */
function image(makers: readonly MakeHandler[] = BOTH) {
  const handover = { incoming: new IncomingRecords({ exclusive: false }), outgoing: new OutgoingRecords() };
  const orchestrator = new LiveUpdate();
  const handlers = new Map<string, CarriedFileHandler>();
  for (const make of makers) {
    const handler = make(handover) as CarriedFileHandler;
    orchestrator.registerFileHandler(handler);
    handlers.set(handler.compatible, handler);
  }
  return { handover, orchestrator, handlers };
}

type TestImage = ReturnType<typeof image>;

/** The first pass: what the new image can know before the freeze. */
async function precopy(old: TestImage, state: State, next: TestImage): Promise<State> {
  const session = await old.orchestrator.createSession('state:s');
  await session.preserve(state, 0n);
  next.handover.incoming.add(old.handover.outgoing.takeChanged().records, []);
  const { compatible, data } = session.serialized(0n)!;
  const handler = next.handlers.get(compatible);
  if (handler === undefined) throw new Error(`no handler '${compatible}'`);
  return handler.adopt!(handleOf(data)) as State;
}

/** The cut: freeze, what changed, retrieve, finish. */
async function cut(old: TestImage, next: TestImage): Promise<State> {
  const frozen = (await old.orchestrator.reboot()) as Image;
  next.handover.incoming.add(old.handover.outgoing.takeChanged().records, []);
  await next.orchestrator.deserialize(frozen);
  const session = await next.orchestrator.retrieveSession('state:s');
  const state = await session.retrieve<State>(0n);
  await session.finish();
  await session.close();
  return state;
}

const shape = (options: StateOptions) => stateShape('state:s', options);

/** Adds a field for each version that the value has not been through. */
const ladder = {
  version: 3,
  migrate(value: { n: number; two?: number; three?: number }, from: number) {
    if (from < 2) value.two = value.n * 2;
    if (from < 3) value.three = value.n * 3;
    return value;
  },
};

describe('a state of an older version', () => {
  it('is migrated for the preview, and the final value is migrated into the same object', async () => {
    const [old, next] = [image(), image()];
    const value = { n: 1, list: [1] };
    const preview = await precopy(old, State.create<object>(value), next);
    preview.read(shape(ladder));
    const held = preview.value as typeof value;
    const { list } = held;
    expect(held).toEqual({ n: 1, two: 2, three: 3, list: [1] });

    value.n = 5;
    value.list.push(2);
    expect(await cut(old, next)).toBe(preview);
    expect(preview.value).toBe(held);
    expect(held).toEqual({ n: 5, two: 10, three: 15, list: [1, 2] });
    expect(held.list).toBe(list);
    expect(preview.version).toBe(3);
  });

  it('is migrated once when it did not change after the preview', async () => {
    const [old, next] = [image(), image()];
    const from: number[] = [];
    const preview = await precopy(old, State.create<object>({ n: 1 }, 2), next);
    preview.read(
      shape({
        version: 4,
        migrate(value, version) {
          from.push(version);
          return value;
        },
      }),
    );
    await cut(old, next);
    expect(from).toEqual([2]);
  });

  it('becomes what migrate returns, and shares nothing with what migrate keeps', async () => {
    const [old, next] = [image(), image()];
    const defaults = { colour: 'red' };
    const value = { n: 1 };
    const preview = await precopy(old, State.create<object>(value), next);
    preview.read(
      shape({
        version: 2,
        migrate: (was) => new Map<string, object>([...Object.entries(was), ['defaults', defaults]]),
      }),
    );
    value.n = 2;
    await cut(old, next);
    const expected = new Map<string, unknown>([
      ['n', 2],
      ['defaults', { colour: 'red' }],
    ]);
    expect(preview.value).toEqual(expected);
    expect((preview.value as Map<string, unknown>).get('defaults')).not.toBe(defaults);
    expect(defaults).toEqual({ colour: 'red' });
  });

  it('is refused without a migrate: names it, both versions and what to do', async () => {
    const [old, next] = [image(), image()];
    const preview = await precopy(old, State.create<object>({ n: 1 }), next);
    expect(() => preview.read(shape({ version: 2 }))).toThrow(
      expect.objectContaining({
        code: 'EPROTONOSUPPORT',
        session: 'state:s',
        message: expect.stringMatching(
          /saved in version 1, and this program reads version 2.*give state\(\) a migrate/,
        ),
      }),
    );
  });
});

describe('a migrate that does not do its work', () => {
  const cases: {
    what: string;
    migrate: (value: object, from: number) => unknown;
    code: string;
    text: RegExp;
  }[] = [
    {
      what: 'throws',
      migrate: () => {
        throw new Error('no such column');
      },
      code: 'EIO',
      text: /migrate from version 1 to 2 failed: no such column/,
    },
    {
      what: 'throws with an errno',
      migrate: () => {
        throw Object.assign(new Error('no room'), { code: 'ENOSPC' });
      },
      code: 'ENOSPC',
      text: /failed: no room/,
    },
    { what: 'returns nothing', migrate: () => undefined, code: 'EINVAL', text: /not undefined/ },
    { what: 'returns a number', migrate: () => 7, code: 'EINVAL', text: /not number/ },
    { what: 'returns a Date', migrate: () => new Date(), code: 'EINVAL', text: /not Date/ },
    {
      what: 'returns a function in it',
      migrate: () => ({ f: () => 1 }),
      code: 'EINVAL',
      text: /cannot be cloned/,
    },
    {
      what: 'is asynchronous',
      migrate: () => Promise.reject(new Error('unheard')),
      code: 'EINVAL',
      text: /must be synchronous, and returned a promise/,
    },
  ];
  for (const { what, migrate, code, text } of cases) {
    it(`is refused when it ${what}`, async () => {
      const preview = await precopy(image(), State.create<object>({ n: 1 }), image());
      const read = () => preview.read(shape({ version: 2, migrate: migrate as (value: object) => object }));
      expect(read).toThrow(
        expect.objectContaining({ code, session: 'state:s', message: expect.stringMatching(text) }),
      );
    });
  }

  it('leaves the value as it was saved, to be claimed again', async () => {
    const preview = await precopy(image(), State.create<object>({ n: 1 }), image());
    const spoils = (value: { n?: number }): object => {
      delete value.n;
      throw new Error('half-way');
    };
    expect(() => preview.read(shape({ version: 2, migrate: spoils }))).toThrow('half-way');
    preview.read(shape({ version: 2, migrate: (value) => value }));
    expect(preview.value).toEqual({ n: 1 });
  });

  it('fails the retrieve, and nothing else, when it fails in the cut', async () => {
    const [old, next] = [image(), image()];
    const value = { n: 1 };
    const preview = await precopy(old, State.create<object>(value), next);
    const migrate = (was: object) => {
      if ((was as typeof value).n === 2) throw new Error('not this one');
      return was;
    };
    preview.read(shape({ version: 2, migrate }));
    value.n = 2;
    await expect(cut(old, next)).rejects.toMatchObject({
      session: 'state:s',
      message: expect.stringMatching(/migrate from version 1 to 2 failed: not this one/),
    });
    await old.orchestrator.cancelReboot();
    expect(value).toEqual({ n: 2 });
  });

  it('fails the retrieve when it gives another kind of object in the cut', async () => {
    const [old, next] = [image(), image()];
    const value = { n: 1 };
    const preview = await precopy(old, State.create<object>(value), next);
    preview.read(shape({ version: 2, migrate: (was) => ((was as typeof value).n === 1 ? was : [was]) }));
    value.n = 2;
    await expect(cut(old, next)).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringMatching(/another kind of object for the final value than for the preview/),
    });
    expect(preview.value).toEqual({ n: 1 });
  });
});

describe('a state of a newer version', () => {
  it('is refused: names it, both versions and what to do', async () => {
    const preview = await precopy(image(), State.create<object>({ n: 1 }, 3), image());
    expect(() => preview.read(shape(ladder))).not.toThrow();
    const newer = await precopy(image(), State.create<object>({ n: 1 }, 4), image());
    expect(() => newer.read(shape(ladder))).toThrow(
      expect.objectContaining({
        code: 'EPROTONOSUPPORT',
        session: 'state:s',
        message: expect.stringMatching(
          /saved in version 4, and this program reads version 3.*run a program that reads version 4.*ready\(\{ drop: \['state:s'\] \}\)/,
        ),
      }),
    );
  });
});

describe('the record of a state', () => {
  it('of version 1 is a bare structured clone under the first compatible, as it always was', async () => {
    const [old, next] = [image([unversionedStateHandler]), image()];
    const value = { n: 1 };
    const preview = await precopy(old, State.create<object>(value), next);
    preview.read(shape(ladder));
    value.n = 2;
    await cut(old, next);
    expect(preview.value).toEqual({ n: 2, two: 4, three: 6 });

    const bytes = Buffer.from(serialize({ saved: 'before versions' }));
    next.handover.incoming.add([{ handle: 9, bytes, fdStart: 0, fdCount: 0 }], []);
    const state = next.handlers.get('liveupdate-state-v1')!.adopt!(9) as State;
    expect([state.value, state.version]).toEqual([{ saved: 'before versions' }, 1]);
  });

  it('of version 1 is taken over by an image that knows no versions', async () => {
    const [old, next] = [image(), image([unversionedStateHandler])];
    const preview = await precopy(old, State.create<object>({ n: 1 }), next);
    await cut(old, next);
    expect(preview.value).toEqual({ n: 1 });
  });

  it('of a later version is refused by an image that knows no versions', async () => {
    const [old, next] = [image(), image([unversionedStateHandler])];
    await expect(precopy(old, State.create<object>({ n: 1 }, 2), next)).rejects.toThrow(
      "no handler 'liveupdate-state-v2'",
    );
    await expect(cut(old, next)).rejects.toMatchObject({ code: 'ENOENT', handler: 'liveupdate-state-v2' });
    await old.orchestrator.cancelReboot();
  });

  it('keeps its version from image to image', async () => {
    const [first, second, third] = [image(), image(), image()];
    const one = await precopy(first, State.create<object>({ n: 1 }), second);
    one.read(shape(ladder));
    await cut(first, second);
    const two = await precopy(second, one, third);
    expect(two.version).toBe(3);
    two.read(shape({ version: 3 }));
    expect((await cut(second, third)).value).toEqual({ n: 1, two: 2, three: 3 });
  });
});

describe('a claim', () => {
  it('takes versions from 1 to the largest that the record holds, and functions', () => {
    for (const version of [0, -1, 1.5, Number.NaN, 2 ** 32, '2']) {
      expect(() => shape({ version: version as number })).toThrow(
        expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining(`not ${version}`) }),
      );
    }
    expect(shape({ version: 2 ** 32 - 1 }).version).toBe(2 ** 32 - 1);
    expect(() => shape({ migrate: 'up' as unknown as () => object })).toThrow(
      expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining('not string') }),
    );
  });

  it('takes what can be updated in place', () => {
    for (const value of [{}, [], new Map(), new Set(), Object.create(null) as object]) {
      expect(State.create<object>(value).value).toBe(value);
    }
    for (const value of [new Date(), /x/, new Uint8Array(1), new ArrayBuffer(1), Object(1), new Error('x')]) {
      expect(() => State.create<object>(value as object)).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
    }
  });
});
