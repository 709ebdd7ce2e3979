import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InflatedWindow } from '../../../src/handlers/inflated-window.js';

const numbered = (from: number, length: number) =>
  Buffer.from(Uint8Array.from({ length }, (_, i) => ((from + i) * 7 + ((from + i) >> 8)) & 255));

describe('the window of an inflate stream', () => {
  for (const bits of [8, 10, 15]) {
    for (const piece of [1, 7, 255, 256, 1000, 40_000]) {
      it(`has the last ${1 << bits} bytes of pieces of ${piece}`, () => {
        const window = new InflatedWindow(bits);
        const all: Buffer[] = [];
        for (let at = 0, n = 0; at < 90_000 && n < 2000; at += piece, n++) {
          const bytes = numbered(at, piece);
          all.push(bytes);
          window.append(bytes);
          if (n % 97 > 2) continue;
          const expected = Buffer.concat(all).subarray(-(1 << bits));
          expect(window.length).toBe(expected.length);
          expect(window.bytes().equals(expected)).toBe(true);
        }
      });
    }
  }

  it('goes on from what another had', () => {
    const before = new InflatedWindow(8);
    before.append(numbered(0, 300));
    const window = new InflatedWindow(8, before.parts());
    window.append(numbered(300, 10));
    expect(window.bytes().equals(numbered(54, 256))).toBe(true);
  });

  it('tells what came behind a mark, as long as that makes the same of another', () => {
    const piece = fc.oneof(fc.constant('clear'), fc.constant('mark'), fc.nat({ max: 700 }));
    fc.assert(
      fc.property(fc.integer({ min: 8, max: 10 }), fc.array(piece, { maxLength: 40 }), (bits, pieces) => {
        const window = new InflatedWindow(bits);
        let at = 0;
        let mark = window.mark;
        let then: Buffer[] = [];
        for (const one of pieces) {
          if (one === 'clear') window.clear();
          else if (one === 'mark') {
            mark = window.mark;
            then = [window.bytes()];
          } else {
            window.append(numbered(at, one as number));
            at += one as number;
          }
          const since = window.since(mark);
          if (since === undefined) continue;
          const other = new InflatedWindow(bits, [...then, ...since]);
          expect(other.bytes().equals(window.bytes())).toBe(true);
        }
      }),
    );
  });

  it('tells what came as long as it keeps it', () => {
    const window = new InflatedWindow(8, [numbered(0, 300)]);
    const { mark } = window;
    expect(window.since(mark)).toEqual([]);
    window.append(numbered(300, 256));
    expect(Buffer.concat(window.since(mark) ?? []).equals(numbered(300, 256))).toBe(true);
    window.append(numbered(556, 1));
    expect(window.since(mark)).toBeUndefined();
  });

  it('is empty when it was cleared', () => {
    const window = new InflatedWindow(8, [numbered(0, 1000)]);
    window.clear();
    expect(window.bytes().length).toBe(0);
    window.append(numbered(5, 9));
    expect(window.bytes().equals(numbered(5, 9))).toBe(true);
  });

  it('takes no empty bytes ill', () => {
    const window = new InflatedWindow(8);
    window.append(Buffer.alloc(0));
    expect(window.bytes().length).toBe(0);
  });
});
