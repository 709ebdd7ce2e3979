import { describe, expect, it } from 'vitest';
import { parseImageHello, parseImageMessage } from '../../../src/daemon/image-messages.js';
import type { ImageToLuod } from '../../../src/handover/protocol.js';

const report = { code: 'EIO', message: 'm' };
const cut = {
  frozenAt: '1',
  sentAt: '2',
  retrievedAt: '3',
  resumedAt: '4',
  files: 1,
  connections: 2,
  bytes: 3,
};

/** One of every word, whole. */
const WHOLE: { [Type in Exclude<ImageToLuod['type'], 'hello'>]: Extract<ImageToLuod, { type: Type }> } = {
  hold: { type: 'hold', session: 'state:hits', compatible: 'c', record: '' },
  release: { type: 'release', session: 's' },
  ready: { type: 'ready', warms: true },
  preserved: { type: 'preserved', bytes: 1, left: [{ session: 's', what: 'w' }], rolls: true, warms: true },
  warm: { type: 'warm', bytes: 0 },
  rolled: { type: 'rolled', connections: 0 },
  gaveBack: { type: 'gaveBack' },
  frozen: { type: 'frozen', left: [] },
  finished: { type: 'finished', ...cut, dropped: ['s'], unfinished: [] },
  unfrozen: { type: 'unfrozen', lost: 1 },
  lingering: { type: 'lingering', connections: 3 },
  failed: { type: 'failed', phase: 'freeze', error: report },
  update: { type: 'update', id: 1, command: ['node', 'v2.mjs'] },
  resume: { type: 'resume' },
  updating: { type: 'updating' },
};

const BAD: readonly [string, object][] = [
  ['session', { type: 'hold', session: '', compatible: 'c', record: '' }],
  ['session', { type: 'release', session: 's'.repeat(64) }],
  ['compatible', { type: 'hold', session: 's', compatible: 'c'.repeat(48), record: '' }],
  ['record', { type: 'hold', session: 's', compatible: 'c', record: 'r'.repeat(65_537) }],
  ['bytes', { type: 'preserved', bytes: '1' }],
  ['left', { type: 'preserved', bytes: 1, left: [{ session: 's' }] }],
  ['warms', { type: 'ready', warms: 1 }],
  ['bytes', { type: 'warm', bytes: -1 }],
  ['left', { type: 'frozen', left: {} }],
  ['connections', { type: 'rolled', connections: -1 }],
  ['connections', { type: 'lingering', connections: 1.5 }],
  ['dropped', { ...WHOLE.finished, dropped: [1] }],
  ['frozenAt', { ...WHOLE.finished, frozenAt: 1 }],
  ['phase', { type: 'failed', phase: 'lunch', error: report }],
  ['error', { type: 'failed', phase: 'freeze', error: null }],
  ['command', { type: 'update', id: 1, command: [] }],
];

describe('what an image says', () => {
  it.each(Object.values(WHOLE))('$type is taken whole, and nothing besides', (message) => {
    expect(parseImageMessage(Object.assign({ besides: 1 }, message))).toEqual(message);
  });

  it.each(BAD)('a wrong %s is named', (field, message) => {
    const parse = () => parseImageMessage(message as ImageToLuod);
    expect(parse).toThrow(
      expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining(`'${field}'`) }),
    );
  });

  it.each(['hello', 'status', 'toString', '__proto__'])('%s is no word of a connected image', (type) => {
    expect(() => parseImageMessage({ type })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('says hello with a secret; a hello without one is a client’s', () => {
    const hello = { protocol: 1, image: 'secret', pid: 7 };
    expect(parseImageHello({ type: 'hello', ...hello })).toEqual(hello);
    expect(parseImageHello({ type: 'hello', protocol: [1] } as { type: string })).toBeUndefined();
    for (const wrong of [{ pid: 0 }, { image: 1 }, { image: 'x'.repeat(201) }, { protocol: '1' }]) {
      expect(() => parseImageHello({ type: 'hello', ...hello, ...wrong } as { type: string })).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
    }
  });
});
