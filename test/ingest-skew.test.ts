// How far our clock is ahead of a server's, from questions whose way there and back take what they take.
import { expect, test } from 'vitest';
import { ClockSkew } from '../src/ingest/skew.ts';
import { forSeeds } from './support/random.ts';

function repeat(times: number, run: (i: number) => void): void {
  for (let i = 0; i < times; i += 1) run(i);
}

test('never wrong by more than half of the shortest way', () => {
  forSeeds(300, (random) => {
    const skew = new ClockSkew();
    const trueMs = (random.next() - 0.5) * 10 ** random.int(1, 6);
    let nowMs = 1_700_000_000_000;
    let shortestMs = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 15; i += 1) {
      const [thereMs, backMs] = [random.next() * 40, random.next() * 40];
      skew.observe(nowMs, nowMs + thereMs - trueMs, nowMs + thereMs + backMs);
      shortestMs = Math.min(shortestMs, thereMs + backMs);
      nowMs += 1000;
      // What is less than can be seen is called none; a millisecond is the rounding of ids.
      const slackMs = skew.aheadMs === 0 ? shortestMs + 1 : shortestMs / 2;
      expect(Math.abs(skew.aheadMs - trueMs)).toBeLessThanOrEqual(slackMs + 1e-3);
    }
  });
});

test('no difference is exactly 0', () => {
  const skew = new ClockSkew();
  for (const wayMs of [0.2, 3, 50]) {
    skew.observe(1000, 1000, 1000 + wayMs);
    skew.observe(1000, 1000 + wayMs, 1000 + wayMs);
    expect(skew.aheadMs).toBe(0);
  }
});

test('a clock that is set is believed at once, whatever was seen before', () => {
  const skew = new ClockSkew();
  repeat(16, (i) => skew.observe(i * 1000, i * 1000 + 0.5, i * 1000 + 1));
  expect(skew.aheadMs).toBe(0);
  skew.observe(20_000, 15_005, 20_010);
  expect(skew.aheadMs).toBe(5000);
  skew.observe(21_000, 21_001, 21_002);
  expect(skew.aheadMs).toBe(0);
});

test('another server is another clock; an answer from before its question says nothing', () => {
  const skew = new ClockSkew();
  skew.observe(1000, 500, 1002);
  expect(skew.aheadMs).toBe(501);
  skew.observe(1000, 100, 900);
  expect(skew.aheadMs).toBe(501);
  skew.reset();
  expect(skew.aheadMs).toBe(0);
});
