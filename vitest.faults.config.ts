// `npm run test:faults`: the long forms of the fault scenarios. `npm test` runs the short ones.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/faults/**/*.test.ts'],
    pool: 'forks',
    // One file at a time: the recovery times are measured.
    maxWorkers: 1,
    env: { SUBITO_TEST_FAULTS: 'long' },
    // Tests that mostly wait, and start several processes each.
    maxConcurrency: 3,
    testTimeout: 240_000,
    hookTimeout: 60_000,
    reporters: ['./test/support/reporter.ts'],
  },
});
