import { defineConfig } from 'vitest/config';

/** What needs the test kernel in QEMU: `npm run test:kernel`. */
export default defineConfig({
  test: {
    include: ['test/kernel/**/*.test.ts'],
    // A boot is seconds on an idle machine, and the machine may not be idle.
    testTimeout: 900_000,
    hookTimeout: 900_000,
    pool: 'forks',
    // Two guests of two processors each: a guest waits for much of its time.
    maxWorkers: 2,
    reporters: ['verbose'],
  },
});
