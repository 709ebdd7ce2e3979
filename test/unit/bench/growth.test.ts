import { describe, expect, it } from 'vitest';
import { faultsOf } from '../../../bench/micro/report.mjs';

const SIZES = [1000, 10_000, 100_000];

/** What one item takes at each size when all together grow with `exponent`. */
const points = (exponent: number) =>
  SIZES.map((size) => ({ size, median: size ** (exponent - 1), least: 0 }));

const table = (rows: Record<string, number>, controlOf?: Record<string, string>) => ({
  title: 'Files',
  from: 1000,
  controlOf,
  rows: new Map(Object.entries(rows).map(([name, exponent]) => [name, points(exponent)])),
});

describe('growth above linear', () => {
  it('is told, with what is allowed', () => {
    expect(faultsOf([table({ preserve: 1, freeze: 1.09 })])).toEqual([]);
    expect(faultsOf([table({ preserve: 1, freeze: 1.12, finish: 2 })])).toEqual([
      'Files, freeze: grows with exponent 1.120 from 1000 to 100000; 1.1 is allowed',
      'Files, finish: grows with exponent 2.000 from 1000 to 100000; 1.1 is allowed',
    ]);
  });

  it('is what a step has beyond its control, which is not judged itself', () => {
    const controlOf = { preserve: 'Map' };
    expect(faultsOf([table({ preserve: 1.29, Map: 1.2 }, controlOf)])).toEqual([]);
    expect(faultsOf([table({ preserve: 1.32, Map: 1.2 }, controlOf)])).toEqual([
      "Files, preserve: grows with exponent 1.320 from 1000 to 100000; 1.3 is allowed beside 'Map'",
    ]);
  });

  it('is told of a step without a control, and of one that grows with n√n beside any', () => {
    expect(faultsOf([table({ preserve: 1.2, freeze: 1.2, Map: 1.2 }, { preserve: 'Map' })])).toEqual([
      'Files, freeze: grows with exponent 1.200 from 1000 to 100000; 1.1 is allowed',
    ]);
    expect(faultsOf([table({ preserve: 1.5, Map: 1.6 }, { preserve: 'Map' })])).toHaveLength(1);
    expect(() => faultsOf([table({ preserve: 1 }, { preserve: 'Mop' })])).toThrow("no 'Mop'");
  });

  it('is allowed by what a table says of its machine, and not asked of any control', () => {
    const bytes = {
      ...table({ encode: 1.5, copied: 1.7, read: 1.3 }, { encode: 'copied' }),
      controls: ['read'],
    };
    expect(faultsOf([bytes])).toHaveLength(1);
    expect(faultsOf([{ ...bytes, machine: 1 }])).toEqual([]);
  });

  it('is not hidden by a control that grows less than linearly', () => {
    expect(faultsOf([table({ preserve: 1.09, Map: 0.8 }, { preserve: 'Map' })])).toEqual([]);
    expect(faultsOf([table({ preserve: 1.11, Map: 0.8 }, { preserve: 'Map' })])).toHaveLength(1);
  });

  it('is judged with cold caches, where that was measured', () => {
    const measured = { ...table({ preserve: 1.3 }), cold: new Map([['preserve', points(1.05)]]) };
    expect(faultsOf([measured])).toEqual([]);
  });

  it('is not asked of a table without a range', () => {
    expect(faultsOf([{ ...table({ preserve: 2 }), from: undefined }])).toEqual([]);
  });
});
