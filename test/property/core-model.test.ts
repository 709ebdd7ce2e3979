/**
 * src/core against the model, over random lives of an orchestrator: every operation, callbacks that fail at any moment,
 * synchronous and asynchronous ones mixed, image after image. After each step the answer, the trace of callbacks, all
 * counts and all listings are the same.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Device,
  type FileHandler,
  type Flb,
  type Image,
  LiveUpdate,
  type LiveUpdateError,
  type Session,
} from '../../src/core/index.js';
import {
  type FlbSpec,
  type HandlerSpec,
  KNOWN,
  Model,
  type ModelFile,
  type ModelImage,
  type ModelSession,
} from './model.js';

const HANDLERS: HandlerSpec[] = [
  { name: 'h0', compatible: 'H0', kind: 0, freezes: true, unfreezes: true, asks: true, identifies: false },
  { name: 'h1', compatible: 'H1', kind: 1, freezes: true, unfreezes: false, asks: false, identifies: true },
  { name: 'h2', compatible: 'H2', kind: 2, freezes: false, unfreezes: true, asks: true, identifies: false },
  { name: 'h3', compatible: 'H0', kind: 1, freezes: true, unfreezes: true, asks: true, identifies: false },
];
const FLBS: FlbSpec[] = [
  { name: 'f0', compatible: 'F0', data: 100n },
  { name: 'f1', compatible: 'F1', data: 101n },
  { name: 'f2', compatible: 'F2', data: 102n },
  { name: 'f3', compatible: 'F0', data: 103n },
];
const ASYNC = new Set(['h1', 'f1']);
const NAMES = ['s0', 's1', 's2', ''];
const POOL: ModelFile[] = Array.from({ length: 9 }, (_, i) => ({
  name: `p${i}`,
  kind: i % 4,
  number: BigInt(i),
}));

const KINDS = {
  register: 2,
  unregister: 1,
  registerFlb: 3,
  unregisterFlb: 1,
  create: 3,
  retrieveSession: 6,
  preserve: 12,
  unpreserve: 2,
  close: 3,
  retrieve: 9,
  finish: 4,
  getName: 1,
  getIncoming: 2,
  putIncoming: 2,
  getOutgoing: 2,
  putOutgoing: 2,
  reboot: 3,
  cancelReboot: 1,
  boot: 4,
  open: 1,
  closeDevice: 1,
} as const;
type Kind = keyof typeof KINDS;

const step = fc.record({
  kind: fc.oneof(
    ...(Object.entries(KINDS) as [Kind, number][]).map(([kind, weight]) => ({
      arbitrary: fc.constant(kind),
      weight,
    })),
  ),
  a: fc.nat(11),
  b: fc.nat(11),
  c: fc.nat(4),
  fails: fc.oneof(
    { arbitrary: fc.constant<number[]>([]), weight: 3 },
    { arbitrary: fc.array(fc.nat(9), { maxLength: 3 }), weight: 1 },
  ),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** The implementation with callbacks that write the same trace as the model's. */
class Real {
  trace: string[] = [];
  fails: (n: number) => boolean = () => false;
  calls = 0;
  liveupdate = new LiveUpdate();
  device: Device | undefined;
  readonly handlers: FileHandler<ModelFile>[];
  readonly flbs: Flb<string>[];

  constructor() {
    this.handlers = HANDLERS.map((spec) => this.#handler(spec));
    this.flbs = FLBS.map((spec) => this.#flb(spec));
    this.boot(undefined);
  }

  boot(image: Image | undefined): void {
    this.device = undefined;
    this.liveupdate = new LiveUpdate({
      incoming: () => (this.calls % 2 === 0 ? image : Promise.resolve(image)),
      onError: () => {
        this.trace.push('fault');
      },
    });
  }

  #fate(line: string): Error | undefined {
    this.trace.push(line);
    const n = this.calls++;
    if (!this.fails(n)) return undefined;
    return n % 2 === 1 ? Object.assign(new Error('full'), { code: 'ENOMEM' }) : new Error('broken');
  }

  /** A callback of `who`: its fate is sealed when it is called; asynchronous ones tell it later. */
  #act(who: string, line: string, effect: () => void = () => undefined): Promise<void> | undefined {
    const error = this.#fate(`${who}.${line}`);
    const end = () => {
      if (error !== undefined) throw error;
      effect();
    };
    if (ASYNC.has(who)) return Promise.resolve().then(end);
    end();
    return undefined;
  }

  #handler(spec: HandlerSpec): FileHandler<ModelFile> {
    const { name } = spec;
    const told = (args: { file: ModelFile | undefined; retrieveStatus: number }) =>
      `${args.file?.name ?? '-'},${args.retrieveStatus}`;
    const ops: FileHandler<ModelFile>['ops'] = {
      canPreserve: (_handler, file) => {
        this.#sync(`${name}.canPreserve(${(file as ModelFile).name})`);
        return (file as ModelFile).kind === spec.kind;
      },
      preserve: (args) =>
        this.#act(name, `preserve(${args.file?.name})`, () => {
          args.serializedData = args.file!.number;
        }),
      unpreserve: (args) => this.#act(name, `unpreserve(${args.file?.name})`),
      retrieve: (args) =>
        this.#act(name, `retrieve(${args.serializedData})`, () => {
          args.file = {
            name: `${name}=${args.serializedData}`,
            kind: spec.kind,
            number: args.serializedData,
          };
        }),
      finish: (args) => this.#act(name, `finish(${told(args)})`),
    };
    if (spec.freezes) {
      ops.freeze = (args) =>
        this.#act(name, `freeze(${args.file?.name})`, () => {
          args.serializedData += 1000n;
        });
    }
    if (spec.unfreezes) ops.unfreeze = (args) => this.#act(name, `unfreeze(${args.file?.name})`);
    if (spec.asks) {
      ops.canFinish = (args) => {
        const n = this.calls;
        const error = this.#fate(`${name}.canFinish(${told(args)})`);
        if (error !== undefined && n % 2 === 1) throw error;
        const answer = error === undefined;
        return n % 3 === 0 ? Promise.resolve(answer) : answer;
      };
    }
    if (spec.identifies) {
      ops.getId = (file) => {
        this.#sync(`${name}.getId(${file.name})`);
        return file.number % 4n;
      };
    }
    return { compatible: spec.compatible, ops };
  }

  #sync(line: string): void {
    const error = this.#fate(line);
    if (error !== undefined) throw error;
  }

  #flb(spec: FlbSpec): Flb<string> {
    const { name } = spec;
    return {
      compatible: spec.compatible,
      ops: {
        preserve: (args) =>
          this.#act(name, 'preserve', () => {
            args.data = spec.data;
            args.obj = `${name}:out`;
          }),
        unpreserve: () => this.#act(name, 'unpreserve'),
        retrieve: (args) =>
          this.#act(name, `retrieve(${args.data})`, () => {
            args.obj = `${name}:in:${args.data}`;
          }),
        finish: () => this.#act(name, 'finish'),
      },
    };
  }
}

interface Handle {
  session: Session;
  model: ModelSession;
}

/** One life: both sides, and the handles and files that both know. */
class Life {
  readonly real = new Real();
  model = new Model();
  handles: Handle[] = [];
  /** Files by their place in both worlds: the pool, then what was retrieved. */
  files: { real: ModelFile; model: ModelFile }[] = POOL.map((file) => ({ real: file, model: file }));
  image: Image | undefined;
  /** What the device is offered in this generation. */
  offered: ModelImage | undefined;

  async begin(): Promise<void> {
    for (let i = 0; i < 3; i++) {
      this.real.liveupdate.registerFileHandler(this.real.handlers[i]!);
      this.model.register(HANDLERS[i]!);
    }
    await this.take({ kind: 'registerFlb', a: 0, b: 0, c: 0, fails: [] });
    await this.take({ kind: 'registerFlb', a: 0, b: 1, c: 0, fails: [] });
    await this.take({ kind: 'registerFlb', a: 1, b: 1, c: 0, fails: [] });
    await this.take({ kind: 'create', a: 0, b: 0, c: 0, fails: [] });
    await this.take({ kind: 'create', a: 1, b: 0, c: 0, fails: [] });
  }

  async take(step: Step): Promise<void> {
    const { real, model } = this;
    const fails = (n: number) => step.fails.includes(n);
    for (const side of [real, model]) {
      side.trace = [];
      side.calls = 0;
      side.fails = fails;
    }
    const [onReal, onModel] = this.#calls(this.#sensible(step));
    const expected = answerOf(onModel);
    let answer: string;
    try {
      answer = `ok ${told(await onReal())}`;
    } catch (error) {
      const code = (error as LiveUpdateError).code;
      if (code === undefined) throw error;
      answer = code;
    }
    expect({ answer, trace: real.trace, ...look(real.liveupdate) }).toEqual({
      answer: expected,
      trace: this.model.trace,
      ...lookAt(this.model),
    });
  }

  /** Mostly something that can work: lives that only meet refusals do not get far. */
  #sensible(step: Step): Step {
    const { kind, a, b, c } = step;
    if (this.model.rebooted && c < 3 && kind !== 'boot')
      return { ...step, kind: a < 8 ? 'boot' : 'cancelReboot' };
    if (!this.model.rebooted && kind === 'boot' && b < 9) return { ...step, kind: 'reboot' };
    const sessions = this.model.sessions;
    if (a < 6 && sessions.some(({ state }) => state === 'incoming'))
      return { ...step, kind: 'retrieveSession' };
    const retrieved = sessions.some(({ state, files }) => state === 'retrieved' && files.length > 0);
    if (a > 8 && b < 6 && retrieved) return { ...step, kind: 'retrieve' };
    return step;
  }

  /** The handle for an operation: mostly one on which it is allowed. */
  #pick(kind: Kind, a: number): Handle | undefined {
    const wanted = kind === 'preserve' || kind === 'unpreserve' ? 'outgoing' : 'retrieved';
    const fitting = this.handles.filter(({ model }) => model.state === wanted || kind === 'close');
    const from = a === 11 || fitting.length === 0 ? this.handles : fitting;
    return from[a % Math.max(1, from.length)];
  }

  /** The same step for both sides. */
  #calls({ kind, a, b, c }: Step): [() => unknown, () => unknown] {
    const { real, model } = this;
    const { liveupdate } = real;
    const [h, f] = [a % HANDLERS.length, b % FLBS.length];
    const [handler, flb] = [real.handlers[h]!, real.flbs[f]!];
    const [handlerSpec, flbSpec] = [HANDLERS[h]!, FLBS[f]!];
    const handle = this.#pick(kind, a);
    const known = handle?.model.files ?? [];
    // Random tokens hardly ever meet the few that crossed.
    const token =
      kind === 'retrieve' && b < 9 && known.length > 0
        ? known[a % known.length]!.token
        : BigInt(c) - (b === 11 ? 5n : 0n);
    const reserved = b === 11 ? 1 : 0;
    const file = this.files[(this.files.length - 1 - b + 12 * 12) % this.files.length];
    switch (kind) {
      case 'register':
        return [() => liveupdate.registerFileHandler(handler), () => model.register(handlerSpec)];
      case 'unregister':
        return [() => liveupdate.unregisterFileHandler(handler), () => model.unregister(handlerSpec)];
      case 'registerFlb':
        return [() => liveupdate.registerFlb(handler, flb), () => model.registerFlb(handlerSpec, flbSpec)];
      case 'unregisterFlb':
        return [
          () => liveupdate.unregisterFlb(handler, flb),
          () => model.unregisterFlb(handlerSpec, flbSpec),
        ];
      case 'create':
      case 'retrieveSession': {
        const waiting = model.sessions.filter(({ state }) => state === 'incoming');
        const name =
          kind === 'retrieveSession' && b < 9 && waiting.length > 0
            ? waiting[0]!.name
            : NAMES[a % NAMES.length]!;
        let made: ModelSession | undefined;
        return [
          async () => {
            const call = kind === 'create' ? 'createSession' : 'retrieveSession';
            const session = await (real.device ?? liveupdate)[call](name);
            if (made !== undefined) this.handles.push({ session, model: made });
          },
          () => {
            made = kind === 'create' ? model.create(name) : model.retrieveSession(name);
          },
        ];
      }
      case 'getIncoming':
        return [() => liveupdate.getIncoming(flb), () => model.getIncoming(flbSpec)];
      case 'putIncoming':
        return [() => liveupdate.putIncoming(flb), () => model.putIncoming(flbSpec)];
      case 'getOutgoing':
        return [() => liveupdate.getOutgoing(flb), () => model.getOutgoing(flbSpec)];
      case 'putOutgoing':
        return [() => liveupdate.putOutgoing(flb), () => model.putOutgoing(flbSpec)];
      case 'reboot': {
        return [
          async () => {
            this.image = (await liveupdate.reboot()) ?? this.image;
            return this.image;
          },
          () => model.reboot() ?? this.image,
        ];
      }
      case 'cancelReboot':
        return [() => liveupdate.cancelReboot(), () => model.cancelReboot()];
      case 'boot':
        return this.#boot(a, b, c);
      case 'open':
        return [
          async () => {
            real.device = await liveupdate.open();
          },
          () => model.open(this.offered),
        ];
      case 'closeDevice': {
        const { device } = real;
        if (device === undefined) return [() => undefined, () => undefined];
        return [
          () => {
            device.close();
            real.device = undefined;
          },
          () => model.closeDevice(),
        ];
      }
      default:
    }
    if (handle === undefined) return [() => undefined, () => undefined];
    const { session } = handle;
    switch (kind) {
      case 'preserve':
        return [
          () => session.preserve(c === 4 && b === 0 ? undefined : file!.real, token),
          () => model.preserve(handle.model, c === 4 && b === 0 ? undefined : file!.model, token),
        ];
      case 'unpreserve':
        return [() => session.unpreserve(token), () => model.unpreserve(handle.model, token)];
      case 'retrieve': {
        let got: ModelFile | undefined;
        return [
          async () => {
            const back = await session.retrieve<ModelFile>(token);
            if (got === undefined) throw new Error('the model has no file');
            const known = this.files.find(({ real }) => real === back);
            if (known === undefined) this.files.push({ real: back, model: got });
            else expect(known.model).toBe(got);
            return back.name;
          },
          () => {
            got = model.retrieve(handle.model, token);
            return got.name;
          },
        ];
      }
      case 'finish':
        return [() => session.finish({ reserved }), () => model.finish(handle.model, reserved)];
      case 'getName':
        return [() => session.getName({ reserved }), () => model.getName(handle.model, reserved)];
      default:
        return [() => session.close(), () => model.close(handle.model)];
    }
  }

  /** The next image: other handlers may be missing, the image may be damaged. The old one is forgotten. */
  #boot(a: number, b: number, c: number): [() => unknown, () => unknown] {
    const image = structuredClone(this.image) as ModelImage | undefined;
    if (image !== undefined && b === 9) image.compatible = `${KNOWN}?`;
    if (image !== undefined && b === 10 && image.sessions.length > 0) image.sessions.push(image.sessions[0]!);
    if (image !== undefined && b === 11) for (const flb of image.flbs) flb.count += 100;
    this.offered = image;
    this.handles = [];
    this.files = POOL.map((file) => ({ real: file, model: file }));
    const { real } = this;
    const before = this.model;
    this.model = new Model();
    this.model.fails = before.fails;
    const { model } = this;
    real.boot(image);
    const missing = c === 4 ? a % 3 : -1;
    for (let i = 0; i < 3; i++) {
      if (i === missing) continue;
      real.liveupdate.registerFileHandler(real.handlers[i]!);
      model.register(HANDLERS[i]!);
      for (let f = 0; f < 3; f++) {
        if ((i + f + (a % 3)) % 2 === 0) continue;
        real.liveupdate.registerFlb(real.handlers[i]!, real.flbs[f]!);
        model.registerFlb(HANDLERS[i]!, FLBS[f]!);
      }
    }
    return [
      async () => {
        real.device = await real.liveupdate.open();
      },
      () => model.open(image),
    ];
  }
}

function told(value: unknown): string {
  return JSON.stringify(value, (_key, part) => (typeof part === 'bigint' ? `${part}n` : part)) ?? '';
}

function answerOf(call: () => unknown): string {
  try {
    return `ok ${told(call())}`;
  } catch (error) {
    const { code } = error as LiveUpdateError;
    if (code === undefined) throw error;
    return code;
  }
}

function look(liveupdate: LiveUpdate) {
  return {
    enabled: liveupdate.enabled,
    number: liveupdate.liveupdateNumber,
    sessions: liveupdate.sessions(),
    flbs: liveupdate.flbs(),
  };
}

function lookAt(model: Model) {
  const names = new Set([...model.flbs.map(({ compatible }) => compatible), ...(model.came?.keys() ?? [])]);
  const sessions = [...model.sessions.filter(({ incoming }) => incoming), ...model.leaving()];
  return {
    enabled: !model.off,
    number: model.number,
    sessions: sessions.map(({ name, incoming, state, files }) => ({
      name,
      direction: incoming ? 'incoming' : 'outgoing',
      state,
      files: files.map(({ token, handler, state }) => ({ token, handler: handler.compatible, state })),
    })),
    flbs: [...names].map((compatible) => {
      const flb = model.flbs.find((other) => other.compatible === compatible);
      const { count, references } = flb === undefined ? { count: 0, references: 0 } : model.outgoing(flb);
      const came = model.came?.get(compatible);
      return {
        compatible,
        users: flb === undefined ? 0 : model.users(flb),
        outgoing: { count, references },
        incoming: came && { count: came.count, references: came.references, finished: came.finished },
      };
    }),
  };
}

describe('the orchestrator', () => {
  it('does what the model does, whatever happens', { timeout: 120_000 }, async () => {
    const reached = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(
        fc.noBias(fc.array(step, { minLength: 20, maxLength: 60, size: 'max' })),
        async (steps) => {
          const life = new Life();
          await life.begin();
          for (const step of steps) {
            await life.take(step);
            for (const line of life.model.trace) {
              const what = line.replace(/\(.*/, '');
              reached.set(what, (reached.get(what) ?? 0) + 1);
            }
          }
        },
      ),
      { numRuns: 4000 },
    );
    // Random lives that reach nothing prove nothing.
    for (const callback of ['freeze', 'unfreeze', 'retrieve', 'canFinish', 'finish', 'unpreserve']) {
      expect(reached.get(`h0.${callback}`) ?? 0, `h0.${callback}`).toBeGreaterThan(100);
    }
    for (const callback of ['preserve', 'unpreserve', 'retrieve', 'finish']) {
      expect(reached.get(`f1.${callback}`) ?? 0, `f1.${callback}`).toBeGreaterThan(40);
    }
    expect(reached.get('fault') ?? 0).toBeGreaterThan(40);
  });
});
