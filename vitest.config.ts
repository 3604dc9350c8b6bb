import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Files run in processes of their own: tests start worker threads, signals and real redis-servers.
    pool: 'forks',
    maxWorkers: 2,
    // Tests that mostly wait, and start several processes each.
    maxConcurrency: 3,
    testTimeout: 20_000,
    hookTimeout: 30_000,
    reporters: ['./test/support/reporter.ts'],
  },
});
