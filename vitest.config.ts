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
    // Real descriptors, real processes and two cores: a file at a time keeps /proc/self/fd counts exact.
    pool: 'forks',
    fileParallelism: false,
    reporters: ['default'],
  },
});
