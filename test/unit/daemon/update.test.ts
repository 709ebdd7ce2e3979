/** What luod says to the two images of an update, and when. Both are played. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { withResolvers } from '../../../src/core/resolvers.js';
import { Hold } from '../../../src/daemon/hold.js';
import type { Exit, ImageProcess } from '../../../src/daemon/image-process.js';
import { Update, type UpdateOptions } from '../../../src/daemon/update.js';
import type { ImageToLuod } from '../../../src/handover/protocol.js';

const CUT = { frozenAt: '1000000', sentAt: '2000000', retrievedAt: '3000000', resumedAt: '4000000' };
const FINISHED = {
  type: 'finished',
  ...CUT,
  files: 1,
  connections: 2,
  bytes: 30,
  dropped: [],
  unfinished: [],
};

type Answers = Readonly<Record<string, object | undefined>>;

/** Says what is in `answers` to each of luod's words. */
class PlayedImage {
  readonly heard: string[] = [];
  readonly isConnected = true;
  readonly generation = 1;
  readonly pid = 1;
  exit: Exit | undefined;
  answer: (message: object) => void = () => undefined;
  readonly #gone = withResolvers<Exit>();
  readonly gone = this.#gone.promise;
  readonly #answers: Answers;

  constructor(answers: Answers) {
    this.#answers = answers;
  }

  send({ type }: { type: string }): void {
    this.heard.push(type);
    const answer = this.#answers[type];
    if (answer !== undefined) this.answer(answer);
  }

  kill(): void {
    this.leave();
  }

  leave(): void {
    this.exit = { code: 0, signal: null, error: undefined };
    this.#gone.resolve(this.exit);
  }
}

const KNOWS = { warms: true };

interface Played {
  readonly update: Update;
  readonly old: PlayedImage;
  readonly next: PlayedImage;
  readonly running: ReturnType<Update['run']>;
}

/** @param says What the images say besides what all of them do. */
function begin(
  options: Partial<UpdateOptions>,
  says: { old?: Answers; next?: Answers; preserved?: object; ready?: object; finished?: null } = {},
): Played {
  const old = new PlayedImage({
    preserve: { type: 'preserved', bytes: 100, ...KNOWS, ...says.preserved },
    warmUp: { type: 'warm', bytes: 7 },
    roll: { type: 'rolled', connections: 5 },
    unfreeze: { type: 'unfrozen' },
    ...says.old,
  });
  const next = new PlayedImage({
    welcome: { type: 'ready', ...KNOWS, ...says.ready },
    warmUp: { type: 'warm', bytes: 0 },
    ...says.next,
  });
  const update = Update.begin({
    service: 'chat',
    old: old as unknown as ImageProcess,
    successor: next as unknown as ImageProcess,
    deadlines: { total: 5000 },
    notes: { begun: () => undefined, freezing: () => undefined },
    ...options,
  });
  const from = (image: PlayedImage) => (message: object) =>
    update.message(image as unknown as ImageProcess, message as ImageToLuod);
  next.answer = from(next);
  old.answer = (message) => from(old)(message);
  const send = old.send.bind(old);
  old.send = (message) => {
    send(message);
    // Frozen, it has said everything to the next one, which takes over.
    if (message.type === 'freeze' && says.finished !== null) next.answer(FINISHED);
    if (message.type === 'finish') old.leave();
  };
  const running = update.run();
  update.greet(2);
  return { update, old, next, running };
}

/** A clock that only a test moves. */
let clock = 0;
beforeEach(() => {
  clock = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => clock);
});
afterEach(() => vi.restoreAllMocks());

const after = (ms: number) => async () => {
  clock += ms;
};

describe('before a freeze', () => {
  it.each([
    ['a gate', { gate: after(3000) as UpdateOptions['gate'] }],
    ['other workers', { meeting: after(3000) }],
  ])('that had to wait for %s, both images warm up, and what crosses then counts', async (_what, waits) => {
    const { old, next, running } = begin(waits);
    const { result } = await running;
    expect(result).toMatchObject({ ok: true, bytes: 100 + 7 + 30 });
    expect(old.heard).toEqual(['preserve', 'warmUp', 'freeze', 'finish']);
    expect(next.heard).toEqual(['welcome', 'warmUp']);
  });

  it('that comes at once, nobody does', async () => {
    const { old, next, running } = begin({ meeting: after(99) });
    await running;
    expect([...old.heard, ...next.heard]).toEqual(['preserve', 'freeze', 'finish', 'welcome']);
  });

  it('an image that does not know how to is not told', async () => {
    const { old, next, running } = begin(
      { meeting: after(3000) },
      { preserved: { warms: undefined }, ready: { warms: undefined } },
    );
    expect((await running).result.ok).toBe(true);
    expect([...old.heard, ...next.heard]).toEqual(['preserve', 'freeze', 'finish', 'welcome']);
  });

  it.each(['old', 'next'] as const)('nothing freezes until the %s image is warm', async (who) => {
    const { old, next, running } = begin({ meeting: after(3000) }, { [who]: { warmUp: undefined } });
    await vi.waitFor(() => expect([...old.heard, ...next.heard]).toContain('warmUp'));
    expect(old.heard).not.toContain('freeze');
    const late = who === 'old' ? old : next;
    late.answer({ type: 'warm', bytes: 0 });
    expect((await running).result.ok).toBe(true);
  });

  it('who is not warm in three seconds is cut cold', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const options = { meeting: after(3000), deadlines: { total: 20_000 } };
      const { old, next, running } = begin(options, { old: { warmUp: undefined } });
      await vi.waitFor(() => expect([...old.heard, ...next.heard]).toContain('warmUp'));
      await vi.advanceTimersByTimeAsync(2500);
      expect(old.heard).not.toContain('freeze');
      await vi.advanceTimersByTimeAsync(500);
      expect((await running).result).toMatchObject({ ok: true, bytes: 100 + 30 });
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  it('an image that cannot warm up has the update called off', async () => {
    const error = { code: 'EINVAL', message: 'a state cannot be cloned' };
    const { old, running } = begin(
      { meeting: after(3000) },
      { old: { warmUp: { type: 'failed', phase: 'preserve', error } } },
    );
    const { outcome, result } = await running;
    expect(outcome.kind).toBe('rolledBack');
    expect(result).toMatchObject({ ok: false, rolledBack: true, error: { ...error, phase: 'preserve' } });
    expect(old.heard).toEqual(['preserve', 'warmUp', 'unfreeze']);
  });
});

describe('a hold', () => {
  const held = (ms = 60_000) => new Hold(ms, () => undefined);

  it('stops behind the gate, and goes on with the cut; its time is its own', async () => {
    const hold = held();
    const gate = vi.fn(after(40));
    const { old, next, running } = begin({ hold, gate: gate as UpdateOptions['gate'] });
    await hold.reached;
    expect(gate).toHaveBeenCalledOnce();
    expect([...old.heard, ...next.heard]).toEqual(['preserve', 'welcome']);
    // Longer than all its deadlines.
    clock += 20_000;
    hold.cut();
    const { result } = await running;
    expect(result).toMatchObject({ ok: true, phases: { preserve: 0, health: 40, held: 20_000 } });
    expect(old.heard).toEqual(['preserve', 'warmUp', 'freeze', 'finish']);
  });

  it('is followed by the whole of the deadline', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const hold = held();
      const { old, next, running } = begin({ hold, meeting: after(4990) }, { finished: null });
      await hold.reached;
      hold.cut();
      await vi.waitFor(() => expect(old.heard).toContain('freeze'));
      await vi.advanceTimersByTimeAsync(4000);
      next.answer(FINISHED);
      expect((await running).result).toMatchObject({ ok: true });
    } finally {
      vi.useRealTimers();
    }
  });

  it('moves the connections of rolling listeners behind it, and not before', async () => {
    const hold = held();
    const { old, running } = begin({ hold }, { preserved: { rolls: true } });
    await hold.reached;
    expect(old.heard).toEqual(['preserve']);
    clock += 1000;
    hold.cut();
    expect((await running).result).toMatchObject({ ok: true, moved: 5 });
    expect(old.heard).toEqual(['preserve', 'warmUp', 'roll', 'freeze', 'finish']);
  });

  it('without one they move before the gate', async () => {
    const gate = vi.fn(after(3000));
    const { old, running } = begin({ gate: gate as UpdateOptions['gate'] }, { preserved: { rolls: true } });
    await running;
    expect(old.heard).toEqual(['preserve', 'roll', 'warmUp', 'freeze', 'finish']);
  });

  it('ends by itself, and the update with it', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const hold = held(1500);
      const { old, next, running } = begin({ hold, meeting: after(500) });
      await hold.reached;
      clock += 1;
      expect(hold.secondsLeft).toBe(2);
      await vi.advanceTimersByTimeAsync(1500);
      const message = 'it was prepared, and nobody let it take over within 1.5 s';
      expect((await running).result).toMatchObject({
        error: { code: 'ETIMEDOUT', message, phase: 'preserve' },
        phases: { preserve: 500, held: 1, freeze: 0 },
      });
      expect(old.heard).toEqual(['preserve', 'unfreeze']);
      expect(next.exit).toBeDefined();
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  it.each([
    ['is called off', ({ update }: Played) => update.cancel('called off by uid 0'), 'ECANCELED'],
    ['has an image that ends', ({ update, next }: Played) => end(update, next), 'ECHILD'],
  ])('that %s leaves no timer', async (_how, stop, code) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const hold = held();
      const played = begin({ hold });
      await hold.reached;
      stop(played);
      expect((await played.running).result).toMatchObject({ ok: false, rolledBack: true, error: { code } });
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });
});

function end(update: Update, image: PlayedImage): void {
  image.leave();
  update.gone(image as unknown as ImageProcess, image.exit as Exit);
}
