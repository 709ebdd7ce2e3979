import { fstatSync, ftruncateSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StateLog } from '../../../src/daemon/state-log.js';
import { closeFd, dupFd } from '../../../src/linux/fd.js';
import { createMemfd } from '../../../src/linux/memfd.js';

describe('the log in a memfd', () => {
  it('has, after a death at any byte, everything but the last entry, or that as well', () => {
    const entries = fc.array(fc.record({ n: fc.nat(), text: fc.string() }), { minLength: 1, maxLength: 10 });
    fc.assert(
      fc.property(entries, fc.nat(), (said, cut) => {
        const log = StateLog.create([]);
        for (const entry of said.slice(0, -1)) log.append(entry);
        const before = fstatSync(log.fd).size;
        log.append(said.at(-1) as object);
        const after = fstatSync(log.fd).size;
        const left = before + (cut % (after - before + 1));
        ftruncateSync(log.fd, left);
        const { log: next, entries: read } = StateLog.open(dupFd(log.fd));
        expect(read).toEqual(left === after ? said : said.slice(0, -1));
        // What was torn is overwritten by what comes next.
        next.append({ next: true });
        expect(StateLog.open(dupFd(log.fd)).entries.at(-1)).toEqual({ next: true });
        closeFd(next.fd);
        closeFd(log.fd);
      }),
      { numRuns: 100 },
    );
  });

  it('is worth writing anew when most of it is over', () => {
    const log = StateLog.create([]);
    expect(log.isLong).toBe(false);
    for (let count = 0; count < 1100; count++) log.append({ text: 'x'.repeat(1000) });
    expect(log.isLong).toBe(true);
    closeFd(log.fd);
  });

  it('of another version is refused', () => {
    const fd = createMemfd('m', 0);
    writeSync(fd, '{"luod":"state","version":2}\n');
    expect(() => StateLog.open(fd)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    closeFd(fd);
  });

  it('that is damaged is refused', () => {
    const fd = createMemfd('m', 0);
    writeSync(fd, '{"luod":"state","version":1}\n{"put":\n{}\n');
    expect(() => StateLog.open(fd)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    closeFd(fd);
  });
});
