/** No test may leave a descriptor open: counted before and after each. */
import { afterEach, beforeEach, expect } from 'vitest';
import { countOpenFds } from '../../../src/linux/fd.js';

export function countDescriptors(): void {
  let before = 0;
  beforeEach(() => {
    before = countOpenFds();
  });
  afterEach(() => {
    expect(countOpenFds()).toBe(before);
  });
}
