import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // npm run test:kernel
    exclude: ['test/kernel/**'],
    // For what hangs. A test starts up to twenty processes, and the machine may have a hundred others to run.
    testTimeout: 120_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 60_000 } },
    // A process for each file keeps counts of /proc/self/fd exact. Two at a time: most of a test waits for processes to start.
    pool: 'forks',
    maxWorkers: 2,
    reporters: ['default'],
  },
});
