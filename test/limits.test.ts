import { expect, test } from 'vitest';
import { limitProblems, limitsDefault } from '../src/limits.ts';

test('the defaults hold their own relations', () => {
  expect(limitProblems(limitsDefault)).toEqual([]);
});

test('a broken relation names both limits and both values', () => {
  const limits = { ...limitsDefault, slabArenaBytes: 1000, payloadBytesMax: 2000 };
  expect(limitProblems(limits)).toEqual([
    expect.stringMatching(/limits\.slab_arena_bytes \(1000\).*limits\.payload_bytes_max \(2000\)/),
  ]);
});

test('a limit with an upper bound says the bound and the reason', () => {
  expect(limitProblems({ ...limitsDefault, batchRowsMax: 4096 })).toEqual([]);
  expect(limitProblems({ ...limitsDefault, batchRowsMax: 4097 })).toEqual([
    expect.stringMatching(/^limits\.batch_rows_max is 4097: it must be at most 4096, for Redis acknowledges/),
  ]);
});

test('an entry must hold the sum of its parts, not just the largest', () => {
  const limits = { ...limitsDefault, entryBytesMax: limitsDefault.payloadBytesMax };
  expect(limitProblems(limits)).toHaveLength(1);
});

test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('%s is no limit', (value) => {
  const problems = limitProblems({ ...limitsDefault, subscriptionsMax: value });
  expect(problems).toEqual([expect.stringContaining(`limits.subscriptions_max is ${value}`)]);
});
