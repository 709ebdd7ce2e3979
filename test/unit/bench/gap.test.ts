import { describe, expect, it } from 'vitest';
import { longestGap } from '../../../bench/peers/gap.mjs';

const answered = (askedAt: number, endedAt: number) => ({ askedAt, endedAt, isAnswered: true });
const failed = (askedAt: number, endedAt: number) => ({ askedAt, endedAt, isAnswered: false });

describe('the longest gap without a reply', () => {
  it('is between two replies, while one is waited for', () => {
    expect(longestGap([answered(1, 2), answered(1.5, 12), answered(11, 13)], 0, 20)).toBe(10);
    // In any order.
    expect(longestGap([answered(11, 13), answered(1.5, 12), answered(1, 2)], 0, 20)).toBe(10);
  });

  it('counts from the next request when nobody waits', () => {
    expect(longestGap([answered(1, 2), answered(15, 16), answered(16, 17)], 0, 20)).toBe(1);
  });

  it('does not end with a request that fails', () => {
    expect(longestGap([answered(1, 2), failed(2.5, 3), failed(6, 7), answered(9, 10)], 0, 20)).toBe(7.5);
    expect(longestGap([answered(1, 2), failed(1.5, 3), failed(6, 7), answered(9, 10)], 0, 20)).toBe(8);
  });

  it('lasts to the end when nobody is answered any more, or ever', () => {
    expect(longestGap([answered(1, 2), failed(3, 4), failed(8, 9)], 0, 20)).toBe(17);
    expect(longestGap([answered(1, 5), failed(3, 6)], 0, 20)).toBe(15);
    expect(longestGap([failed(3, 4), failed(8, 9)], 0, 20)).toBe(17);
    expect(longestGap([answered(1, 2)], 0, 20)).toBe(1);
  });

  it('is none between two replies of one moment', () => {
    expect(longestGap([answered(1, 3), answered(2, 3)], 0, 20)).toBe(2);
  });

  it('begins with the time, for those who waited already', () => {
    expect(longestGap([answered(1, 14), answered(15, 16)], 10, 20)).toBe(4);
    expect(longestGap([failed(1, 14)], 10, 20)).toBe(10);
  });

  it('is of those that were asked in time', () => {
    expect(longestGap([answered(1, 9), answered(10, 12), answered(13, 30)], 10, 20)).toBe(7);
    expect(longestGap([answered(9, 40), ...[10, 11, 12].map((at) => answered(at, at + 1))], 0, 10)).toBe(1);
    expect(longestGap([answered(1, 2)], 10, 20)).toBeUndefined();
    expect(longestGap([], 10, 20)).toBeUndefined();
  });
});
