import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // npm run test:kernel
    exclude: ['test/kernel/**'],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // Real descriptors, real processes and two cores: a file at a time keeps /proc/self/fd counts exact.
    pool: 'forks',
    fileParallelism: false,
    reporters: ['default'],
  },
});
