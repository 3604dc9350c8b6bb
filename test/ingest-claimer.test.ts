// The plan of the sweeps, on a clock that the test winds.
import { expect, test } from 'vitest';
import { Claimer } from '../src/ingest/claimer.ts';
import { Random } from './support/random.ts';

test('nothing is due before the first connect; then everything is, own entries included', () => {
  const claimer = new Claimer({ idleMs: 15_000, random: () => 0 });
  expect([claimer.sweeping, claimer.dueInMs(0)]).toEqual([false, Number.POSITIVE_INFINITY]);
  claimer.connected(0);
  expect([claimer.sweeping, claimer.dueInMs(1e9)]).toEqual([true, 0]);
  expect(claimer.begin(5000)).toEqual({ othersIdleMs: 15_000, ownIdleMs: 0, after: '' });
});

test('a sweep goes on where its last piece ended, and rests at the end', () => {
  const claimer = new Claimer({ idleMs: 15_000, random: () => 0 });
  claimer.connected(0);
  claimer.begin(5000);
  claimer.answered('5-0', 3, 100);
  expect([claimer.dueInMs(100), claimer.begin(5000).after]).toEqual([0, '5-0']);
  claimer.answered('-', 0, 200);
  expect([claimer.sweeping, claimer.dueInMs(200), claimer.dueInMs(449), claimer.dueInMs(450)]).toEqual([
    false,
    250,
    1,
    0,
  ]);
  // The next one begins at the oldest again, and leaves its own alone until they are surely lost.
  expect(claimer.begin(5000)).toEqual({ othersIdleMs: 15_000, ownIdleMs: 60_000, after: '' });
});

test('a piece that found nothing to hand over, because all has to wait, is followed by a short pause', () => {
  const claimer = new Claimer({ idleMs: 15_000, random: () => 0 });
  claimer.connected(0);
  claimer.begin(5000);
  claimer.answered('5-0', 0, 5000);
  expect([claimer.sweeping, claimer.dueInMs(5000), claimer.dueInMs(5003)]).toEqual([true, 3, 0]);
  expect(claimer.begin(5003).after).toBe('5-0');
});

test('others are given a second to come back before anything of theirs is taken over', () => {
  const claimer = new Claimer({ idleMs: 15_000, random: () => 0 });
  claimer.connected(100);
  // But what was left for anybody is.
  expect(claimer.begin(1099)).toMatchObject({ othersIdleMs: 43_200_000, ownIdleMs: 0 });
  claimer.answered('-', 0, 1099);
  expect(claimer.begin(1100)).toMatchObject({ othersIdleMs: 15_000, ownIdleMs: 60_000 });
});

test('a connection lost during a sweep begins it anew, own entries included', () => {
  const claimer = new Claimer({ idleMs: 100, random: () => 0 });
  claimer.connected(0);
  claimer.begin(5000);
  claimer.answered('-', 0, 0);
  claimer.begin(5000);
  claimer.answered('9-9', 1, 0);
  claimer.connected(0);
  expect(claimer.begin(5000)).toEqual({ othersIdleMs: 100, ownIdleMs: 0, after: '' });
});

test('pauses differ, and are never longer than half a second', () => {
  const random = new Random(7);
  const claimer = new Claimer({ idleMs: 100, random: () => random.next() });
  claimer.connected(0);
  const pauses = Array.from({ length: 1000 }, () => {
    claimer.begin(5000);
    claimer.answered('-', 0, 0);
    return claimer.dueInMs(0);
  });
  expect(Math.min(...pauses)).toBeGreaterThanOrEqual(250);
  expect(Math.max(...pauses)).toBeLessThanOrEqual(500);
  expect(new Set(pauses).size).toBeGreaterThan(900);
});

test('where nothing may be taken over, only what was its own is looked for, once per connection', () => {
  const claimer = new Claimer({ idleMs: null, random: () => 0 });
  claimer.connected(0);
  expect(claimer.begin(5000)).toEqual({ othersIdleMs: Number.MAX_SAFE_INTEGER, ownIdleMs: 0, after: '' });
  claimer.answered('-', 0, 0);
  expect(claimer.dueInMs(1e12)).toBe(Number.POSITIVE_INFINITY);
});
