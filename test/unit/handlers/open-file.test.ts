import { once } from 'node:events';
import {
  createReadStream,
  createWriteStream,
  mkdtempSync,
  promises,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OpenFile, openFileHandler } from '../../../src/handlers/open-file.js';
import { countDescriptors } from '../linux/descriptors.js';
import { Crossing, restored } from './crossing.js';

countDescriptors();

let folder: string;
let path: string;
let files: OpenFile[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-file-'));
  path = join(folder, 'file');
  files = [];
});
afterEach(() => {
  for (const file of files) file.close();
  rmSync(folder, { recursive: true });
});

function own(file: OpenFile): OpenFile {
  files.push(file);
  return file;
}

describe('an open file', () => {
  it('crosses with its position, its flags and the file behind it, whatever its path is by then', async () => {
    const old = OpenFile.open(path, 'a+');
    old.write('one ');
    const crossing = await Crossing.begin(openFileHandler, old);
    const next = own(crossing.object as OpenFile);
    old.write('two ');
    renameSync(path, `${path}.1`);
    old.position = 4;
    await crossing.freeze();
    await crossing.commit();
    expect([next.path, next.position]).toEqual([path, 4]);
    expect(String(next.read(3))).toBe('two');
    // It still appends.
    next.position = 0;
    next.write('three');
    next.sync();
    expect(readFileSync(`${path}.1`, 'utf8')).toBe('one two three');
    expect(() => old.write('late')).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });

  it('is read on behind the last byte that was consumed, not the last that was read ahead', async () => {
    const lines = Array.from({ length: 20_000 }, (_, i) => `line ${i} ünïcode`);
    writeFileSync(path, lines.join('\n'));
    const old = OpenFile.open(path);
    const stream = old.createReadStream().setEncoding('utf8');
    let text = '';
    await once(stream, 'readable');
    text += stream.read(1001) as string;
    expect(() => old.createReadStream()).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    const crossing = await Crossing.begin(openFileHandler, old);
    const next = own(crossing.object as OpenFile);
    // Asked for before the commit, read behind it.
    const rest = next.createReadStream().setEncoding('utf8');
    const reading = (async () => {
      for await (const chunk of rest) text += chunk as string;
    })();
    text += stream.read(2002) as string;
    await crossing.freeze();
    await crossing.commit();
    await reading;
    expect(text === lines.join('\n')).toBe(true);
    rest.destroy();
  });

  it('has what was written, corked or early, in order', async () => {
    const old = OpenFile.open(path, 'w');
    const stream = old.createWriteStream();
    stream.write('one ');
    stream.cork();
    stream.write('two ');
    const crossing = await Crossing.begin(openFileHandler, old);
    const next = own(crossing.object as OpenFile);
    const early = next.createWriteStream();
    early.write('three ');
    await crossing.freeze();
    await crossing.commit();
    early.end('four');
    await once(early, 'finish');
    expect(readFileSync(path, 'utf8')).toBe('one two three four');
  });

  it('is not the next image’s before the commit, and the old one’s when it is called off', async () => {
    writeFileSync(path, '0123456789');
    const old = own(OpenFile.open(path, 'r+'));
    const stream = old.createReadStream();
    const crossing = await Crossing.begin(openFileHandler, old);
    const next = own(crossing.object as OpenFile);
    for (const touch of [
      () => next.read(1),
      () => next.write('x'),
      () => Object.assign(next, { position: 0 }),
    ]) {
      expect(touch).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    }
    expect(String(next.read(2, 5))).toBe('56');
    await once(stream, 'readable');
    await crossing.freeze();
    next.close();
    await crossing.rollback();
    expect(String(stream.read())).toBe('0123456789');
  });

  it('is read by lines', async () => {
    writeFileSync(path, 'a\nb\nc');
    const found: string[] = [];
    for await (const line of createInterface({ input: own(OpenFile.open(path)).createReadStream() }))
      found.push(line);
    expect(found).toEqual(['a', 'b', 'c']);
  });

  it('closed on the way is closed in the next image; unclaimed, it is given up; a crash leaves it', async () => {
    writeFileSync(path, 'abc');
    const old = OpenFile.open(path);
    const crossing = await Crossing.begin(openFileHandler, old);
    old.close();
    await crossing.freeze();
    await crossing.commit();
    expect((crossing.object as OpenFile).isOpen).toBe(false);
    const other = await Crossing.begin(openFileHandler, OpenFile.open(path));
    await other.freeze();
    await other.drop();
    expect(other.adopted.isOpen).toBe(false);
    const dead = OpenFile.open(path);
    dead.read(1);
    const { file, start } = restored(openFileHandler, dead);
    dead.close();
    start();
    expect(String(own(file).read(9))).toBe('bc');
  });

  it('says what it cannot open, and what of Node’s cannot be kept', async () => {
    expect(() => OpenFile.open(join(folder, 'none'))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    for (const bad of [
      () => OpenFile.open(folder),
      () => OpenFile.open('/dev/null'),
      () => OpenFile.open(path, 'q'),
    ]) {
      expect(bad).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    writeFileSync(path, '');
    const handle = await promises.open(path);
    const streams = [createReadStream(path), createWriteStream(path)];
    await Promise.all(streams.map((stream) => once(stream, 'open')));
    const { toFile } = openFileHandler({} as never);
    for (const value of [handle, ...streams]) {
      expect(() => toFile?.(value)).toThrow(
        expect.objectContaining({ code: 'EOPNOTSUPP', message: expect.stringContaining('OpenFile.open') }),
      );
    }
    await handle.close();
    await Promise.all(streams.map((stream) => once(stream.destroy(), 'close')));
  });
});
