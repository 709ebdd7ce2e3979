import { openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { commit, createCommitWord, isCommitted } from '../../../src/handover/commit-word.js';
import { readImageFile, writeImageFile } from '../../../src/handover/image-file.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';
import { deserializeValue, serializeValue } from '../../../src/handover/values.js';
import { closeFd } from '../../../src/linux/fd.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

const bytes = (text: string) => Buffer.from(text);

describe('records', () => {
  it('cross in passes: only what changed, and descriptors once', () => {
    const outgoing = new OutgoingRecords();
    const one = outgoing.put(bytes('one'), [11]);
    const two = outgoing.put(bytes('two'), [12, 13]);
    expect(outgoing.takeChanged()).toEqual({
      records: [
        { handle: one, bytes: bytes('one'), fdStart: 0, fdCount: 1 },
        { handle: two, bytes: bytes('two'), fdStart: 1, fdCount: 2 },
      ],
      fds: [11, 12, 13],
    });
    expect(outgoing.takeChanged()).toEqual({ records: [], fds: [] });
    outgoing.update(two, bytes('2'), [14]);
    outgoing.put(bytes('gone'));
    outgoing.drop(3);
    expect(outgoing.takeChanged()).toEqual({
      records: [{ handle: two, bytes: bytes('2'), fdStart: 0, fdCount: 1 }],
      fds: [14],
    });
    expect(() => outgoing.update(3, bytes(''))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });

  it('own their descriptors in the new image until a handler takes them', () => {
    const incoming = new IncomingRecords({ exclusive: true });
    const fds = [0, 1, 2].map(() => openSync('/dev/null', 'r'));
    incoming.add([{ handle: 1, bytes: bytes('a'), fdStart: 0, fdCount: 2 }], fds);
    incoming.add([{ handle: 1, bytes: bytes('b'), fdStart: 2, fdCount: 1 }], fds);
    expect(incoming.bytes(1)).toEqual(bytes('b'));
    const taken = incoming.takeFd(1);
    expect(taken).toBe(fds[0]);
    closeFd(taken);
    incoming.drop(1);
    expect(() => incoming.bytes(1)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => incoming.takeFd(1)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('close what nobody took', () => {
    const incoming = new IncomingRecords({ exclusive: true });
    incoming.add([{ handle: 5, bytes: bytes(''), fdStart: 0, fdCount: 1 }], [openSync('/dev/null', 'r')]);
    incoming.clear();
  });

  it('build a file once', () => {
    const incoming = new IncomingRecords({ exclusive: false });
    incoming.add([{ handle: 1, bytes: bytes(''), fdStart: 0, fdCount: 0 }], []);
    const first = incoming.adopt(1, () => ({}));
    expect(incoming.adopt(1, () => ({}))).toBe(first);
    expect(incoming.adopted(1)).toBe(first);
    expect(() => incoming.takeFd(1)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

describe('values', () => {
  it('are structured clones, and refuse what cannot be cloned', () => {
    const value = {
      map: new Map([[1n, new Set(['a'])]]),
      date: new Date(5),
      bytes: new Uint8Array([1]),
      nested: [{ a: [1, undefined] }],
    };
    expect(deserializeValue(serializeValue(value))).toEqual(value);
    expect(() => serializeValue({ f: () => 1 })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => deserializeValue(bytes('nonsense'))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

describe('image file', () => {
  it('gives back a private copy and closes the descriptor', () => {
    const image = Buffer.alloc(100_000, 7);
    expect(readImageFile(writeImageFile(image))).toEqual(image);
    expect(() => readImageFile(openSync('/dev/null', 'r'))).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
  });
});

describe('commit word', () => {
  it('is unset until it is set', () => {
    const fd = createCommitWord();
    expect(isCommitted(fd)).toBe(false);
    commit(fd);
    expect(isCommitted(fd)).toBe(true);
    closeFd(fd);
  });
});
