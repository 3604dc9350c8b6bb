// What follows from a latency profile, on profiles made up for the purpose, and how one is measured, on
// simulated time.
import { expect, test } from 'vitest';
import { measureBuckets } from '../src/infer/measure.ts';
import {
  type BatchChoice,
  bucketFor,
  bucketsOf,
  choiceText,
  chooseBatch,
  chooseWorkers,
  rowsPerSecond,
  summarise,
} from '../src/infer/profile.ts';
import type { BucketProfile, ModelProfile } from '../src/infer/protocol.ts';
import { Random } from './support/random.ts';

/** A profile from [rows, p50Ms, p99Ms]. */
function profile(...figures: readonly [rows: number, p50Ms: number, p99Ms: number][]): ModelProfile {
  const buckets = figures.map(([rows, p50Ms, p99Ms]): BucketProfile => ({ rows, runs: 100, p50Ms, p99Ms }));
  return { provider: 'cpu', buckets };
}

const choice = (perSecond: number): BatchChoice => ({
  rows: 1,
  rowsPerSecond: perSecond,
  why: 'fits',
  better: null,
});

test('buckets are the powers of two and the most there may be', () => {
  expect(bucketsOf(1)).toEqual([1]);
  expect(bucketsOf(8)).toEqual([1, 2, 4, 8]);
  expect(bucketsOf(100)).toEqual([1, 2, 4, 8, 16, 32, 64, 100]);
  for (const rowsMax of [1, 7, 8, 100]) {
    for (let rows = 1; rows <= rowsMax; rows++) {
      expect(bucketFor(rows, rowsMax)).toBe(bucketsOf(rowsMax).find((bucket) => bucket >= rows));
    }
  }
});

test('percentiles are times that were measured; of few runs the 99th is the slowest', () => {
  expect(summarise(4, [3])).toEqual({ rows: 4, runs: 1, p50Ms: 3, p99Ms: 3 });
  expect(summarise(4, [5, 1, 9])).toEqual({ rows: 4, runs: 3, p50Ms: 5, p99Ms: 9 });
  const ordered = Array.from({ length: 200 }, (_, i) => 200 - i);
  expect(summarise(4, ordered)).toEqual({ rows: 4, runs: 200, p50Ms: 100, p99Ms: 198 });
});

test('a batch has the most rows whose 99th percentile fits, or fewer that do nearly as much', () => {
  const linear = profile([1, 0.1, 0.2], [16, 1, 2], [64, 3, 3.6], [256, 12, 14]);
  expect(chooseBatch(linear, 3.5, 256)).toMatchObject({ rows: 16, why: 'fits', better: null });
  expect(chooseBatch(linear, 3.6, 256)).toMatchObject({ rows: 64, why: 'fits' });
  expect(chooseBatch(linear, Infinity, 256)).toMatchObject({ rows: 64 });
  const steep = profile([1, 0.9, 1], [2, 1.8, 2], [4, 3.6, 4]);
  expect(chooseBatch(steep, Infinity, 4)).toMatchObject({ rows: 2 });
  expect(chooseBatch(linear, 100, 64)).toMatchObject({ rows: 64 });
});

test('a small size that does not fit is no obstacle to a larger one that does', () => {
  const hiccup = profile([1, 0.1, 9], [16, 1, 12], [64, 2, 3]);
  expect(chooseBatch(hiccup, 3.5, 64)).toMatchObject({ rows: 64, why: 'fits' });
});

test('on a machine that is noisy throughout the medians decide, with room to spare', () => {
  const noisy = profile([1, 0.1, 20], [16, 1.7, 20], [64, 3, 20]);
  expect(chooseBatch(noisy, 3.5, 64)).toMatchObject({ rows: 16, why: 'noisy' });
});

test('a model that is too slow has batches of one, and whoever runs it is told what that costs', () => {
  const gpu = profile([1, 6, 7], [64, 7, 8], [256, 8, 9]);
  const chosen = chooseBatch(gpu, 3.5, 256);
  expect(chosen).toMatchObject({ rows: 1, why: 'slow', better: { rows: 256, p99Ms: 9 } });
  const text = choiceText(gpu, chosen, 3.5);
  expect(text).toBe(
    'one row alone takes 7 ms (p99 of 100 runs on cpu), more than the 3.5 ms that a batch may take; ' +
      'batches have 1 row: 167 rows/s a worker, where 256 rows in 9 ms would be 32000 rows/s; ' +
      'to allow that, set batch.run_ms in its model.yaml',
  );
  const slow = profile([1, 6, 7], [64, 380, 400]);
  expect(choiceText(slow, chooseBatch(slow, 3.5, 64), 3.5)).toMatch(
    /batches have 1 row: 167 rows\/s a worker$/,
  );
});

test('a size that fits and costs throughput is told, one that costs little is not', () => {
  const steep = profile([1, 1, 1], [8, 3, 3], [64, 4, 4]);
  const chosen = chooseBatch(steep, 3.5, 64);
  expect(chosen).toMatchObject({ rows: 8, why: 'fits', better: { rows: 64 } });
  expect(choiceText(steep, chosen, 3.5)).toContain('batches have 8 rows, to stay within the 3.5 ms');
  const flat = profile([1, 0.05, 0.1], [8, 0.4, 0.5], [64, 3.2, 4]);
  expect(choiceText(flat, chooseBatch(flat, 3.5, 64), 3.5)).toBe('');
});

test('what was not measured limits nothing', () => {
  const chosen = chooseBatch(profile(), 3.5, 64);
  expect(chosen).toMatchObject({ rows: 64, why: 'unmeasured' });
  expect(choiceText(profile(), chosen, 3.5)).toBe('');
  expect(chooseWorkers([chosen, choice(1e9)], 1, 5)).toBe(5);
});

test('workers: enough for the slowest model and one more, between the bounds', () => {
  expect(chooseWorkers([choice(2_000_000)], 1, 8)).toBe(2);
  expect(chooseWorkers([choice(2_000_000), choice(60_000)], 1, 8)).toBe(5);
  expect(chooseWorkers([choice(100)], 1, 8)).toBe(8);
  expect(chooseWorkers([choice(2_000_000)], 4, 8)).toBe(4);
  expect(chooseWorkers([choice(2_000_000)], 1, 1)).toBe(1);
});

test('made-up profiles: a size that was measured, and does nearly what the largest that fits does', () => {
  const random = new Random(11);
  for (let round = 0; round < 2000; round++) {
    const rowsMax = random.int(1, 300);
    let p50Ms = 0.01 + random.next();
    const made = profile(
      ...bucketsOf(rowsMax).map((rows): [number, number, number] => {
        p50Ms *= 1 + random.next();
        return [rows, p50Ms, p50Ms * (1 + 5 * random.next())];
      }),
    );
    const given = random.next() * 20;
    const less = chooseBatch(made, given, rowsMax);
    const bucket = made.buckets.find(({ rows }) => rows === less.rows);
    expect(less.rowsPerSecond, `round ${round}`).toBe(rowsPerSecond(bucket!));
    if (less.why === 'fits') expect(made.buckets.some(({ p99Ms }) => p99Ms <= given)).toBe(true);
    if (less.why === 'slow') expect(less.rows).toBe(1);
    const largest = made.buckets.findLast(({ p99Ms }) => p99Ms <= given);
    if (less.why !== 'fits' || largest === undefined) continue;
    // Nearly as much as the largest that fits, when a worker waits for a tenth of a millisecond in between.
    const inARow = ({ rows, p50Ms: ms }: BucketProfile) => rows / (ms + 0.1);
    expect(inARow(bucket!)).toBeGreaterThanOrEqual(0.949 * inARow(largest));
    expect(less.rows).toBeLessThanOrEqual(largest.rows);
  }
});

/** A machine on which `rows` rows take `rows * rowMs`, and now and then `stallMs` more. */
function machine(rowMs: number, stalls: (run: number) => number = () => 0) {
  let clock = 1000;
  const ran: number[] = [];
  return {
    ran,
    warmed: (...sizes: readonly number[]) => sizes.map((rows) => ({ rows, againMs: [] as number[] })),
    now: () => clock,
    run: async (rows: number) => {
      clock += rows * rowMs + stalls(ran.length);
      ran.push(rows);
    },
  };
}

test('measuring keeps to its budget and gives each size about the same time', async () => {
  const { ran, warmed, run, now } = machine(0.01);
  const profiles = await measureBuckets(warmed(1, 4, 16, 64), run, { budgetMs: 40, runMsMax: 3.5, now });
  expect(now() - 1000).toBeGreaterThan(20);
  expect(now() - 1000).toBeLessThan(41);
  const runs = profiles.map((one) => one.runs);
  expect(runs[0]).toBe(100);
  expect(runs[3]).toBeGreaterThan(15);
  expect(profiles[3]).toMatchObject({ rows: 64, p50Ms: expect.closeTo(0.64, 6) });
  // Taking turns: the large size was not left for the end.
  expect(ran.indexOf(64)).toBeLessThan(8);
  expect(ran.lastIndexOf(64)).toBeGreaterThan(ran.length / 2);
});

test('of a model that takes longer than the budget no size has more runs than it needs', async () => {
  const { ran, run, now } = machine(40);
  // The second run of what took longest is part of the warm-up.
  const warmed = [1, 2, 4].map((rows) => ({ rows, againMs: rows === 4 ? [160] : [] }));
  const profiles = await measureBuckets(warmed, run, { budgetMs: 40, runMsMax: 3.5, now });
  expect(profiles).toEqual([
    { rows: 1, runs: 2, p50Ms: 40, p99Ms: 40 },
    { rows: 2, runs: 2, p50Ms: 80, p99Ms: 80 },
    { rows: 4, runs: 1, p50Ms: 160, p99Ms: 160 },
  ]);
  expect(ran.toSorted()).toEqual([1, 1, 2, 2]);
});

test('a size far beyond what a batch may take is run twice, and costs no more', async () => {
  const { ran, warmed, run, now } = machine(1);
  const profiles = await measureBuckets(warmed(1, 2, 4, 16), run, { budgetMs: 40, runMsMax: 2, now });
  expect(ran.filter((rows) => rows === 16)).toHaveLength(2);
  expect(profiles.slice(0, 3).every(({ runs }) => runs >= 5)).toBe(true);
});

test('on a busy machine some more time is taken, so that no size rests on a single run', async () => {
  const { warmed, run, now } = machine(0.05, () => 4);
  const profiles = await measureBuckets(warmed(1, 2, 4, 8), run, { budgetMs: 40, runMsMax: 3.5, now });
  expect(profiles.map(({ runs }) => runs)).toEqual([5, 5, 5, 5]);
  expect(now() - 1000).toBeLessThan(120 + 60);
});

test('a stall of the machine is not taken for the model: what is in doubt is measured twice', async () => {
  // One stall of 30 ms in the first measurement of the large size.
  const once = machine(0.02, (run) => (run === 3 ? 30 : 0));
  const [, , , large] = await measureBuckets(once.warmed(1, 4, 16, 64), once.run, {
    budgetMs: 40,
    runMsMax: 3.5,
    now: once.now,
  });
  expect(large).toMatchObject({ rows: 64, p99Ms: expect.closeTo(1.28, 6) });
  // Nor is a stall in what the warm-up says of it.
  const { run, now, warmed } = machine(0.02);
  const stalled = [...warmed(1, 4, 16), { rows: 64, againMs: [35] }];
  const later = await measureBuckets(stalled, run, { budgetMs: 40, runMsMax: 3.5, now });
  expect(later[3]).toMatchObject({ rows: 64, p99Ms: expect.closeTo(1.28, 6) });
  expect(later[3]!.runs).toBeGreaterThan(1);
  // Nor is one that takes longer than all of the measuring may.
  const long = machine(0.02, (run) => (run === 0 ? 300 : 0));
  const [one, four] = await measureBuckets(long.warmed(1, 4), long.run, {
    budgetMs: 40,
    runMsMax: 3.5,
    now: long.now,
  });
  expect([one!.p99Ms, four!.p99Ms]).toEqual([0.02, 0.08].map((ms) => expect.closeTo(ms, 6)));
  // A model whose own tail is long keeps it.
  const always = machine(0.02, (run) => (run % 4 === 3 ? 30 : 0));
  const tails = await measureBuckets(always.warmed(64), always.run, {
    budgetMs: 400,
    runMsMax: 3.5,
    now: always.now,
  });
  expect(tails[0]!.p99Ms).toBeGreaterThan(30);
});
