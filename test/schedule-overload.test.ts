// The parts of overload control that are arithmetic, one by one: what batches take, how many rows may be in
// hand, what a standing queue is, who takes too much, and who can still be answered.
import { describe, expect, test } from 'vitest';
import { Admission } from '../src/schedule/admission.ts';
import { Batcher, type Queue, type Schedulable } from '../src/schedule/batcher.ts';
import { Codel } from '../src/schedule/codel.ts';
import { bucketOf, KeyShares } from '../src/schedule/key-shares.ts';
import { Latest } from '../src/schedule/latest.ts';
import { Limiter } from '../src/schedule/limiter.ts';
import { RESULT } from '../src/schedule/slab.ts';
import { BatchTimes } from '../src/schedule/timing.ts';
import { TIME } from '../src/schedule/values.ts';
import { fillBatch } from './support/batches.ts';
import { Random } from './support/random.ts';
import { newBatch } from './support/settle.ts';

const PROFILE = [
  { rows: 1, p50Ms: 2, p99Ms: 3 },
  { rows: 4, p50Ms: 5, p99Ms: 9 },
  { rows: 8, p50Ms: 9, p99Ms: 12 },
];

function repeat(times: number, run: (i: number) => void): void {
  for (let i = 0; i < times; i += 1) run(i);
}

describe('what batches take', () => {
  test('between two sizes a straight line, beyond the largest in proportion', () => {
    const times = new BatchTimes(PROFILE);
    const means = [1, 2, 3, 4, 6, 8, 16].map((rows) => times.meanMs(rows));
    expect(means).toEqual([2, 3, 4, 5, 7, 9, 18]);
    expect([1, 4, 6, 8, 16].map((rows) => times.p99Ms(rows))).toEqual([3, 9, 10.5, 12, 24]);
    // Nothing smaller was measured.
    expect(new BatchTimes([{ rows: 4, p50Ms: 5, p99Ms: 6 }]).meanMs(1)).toBe(5);
  });

  test('without a profile there is a guess, until the first batch', () => {
    const times = new BatchTimes();
    expect([times.meanMs(1), times.meanMs(3), times.p99Ms(1)]).toEqual([1, 3, 2]);
    times.observe(10, 40);
    expect([times.meanMs(1), times.p99Ms(1)]).toEqual([4, 5]);
  });

  test('every batch teaches something about all sizes; ten of them two thirds of a change', () => {
    const times = new BatchTimes(PROFILE);
    repeat(500, () => times.observe(4, 5));
    repeat(10, () => times.observe(8, 27));
    expect(times.meanMs(1)).toBeCloseTo(2 * (1 + 2 * (1 - 0.9 ** 10)), 6);
    // What makes one late is the machine: it adds the same.
    expect(times.p99Ms(4) - times.meanMs(4)).toBeCloseTo(9 - 5, 6);
    repeat(100, () => times.observe(1, 1));
    expect(times.meanMs(4)).toBeCloseTo(2.5, 2);
    expect(times.p99Ms(4)).toBeCloseTo(2.5 + 4, 2);
  });

  test('an outlier is forgotten after some batches, and never believed beyond a hundredfold', () => {
    const [times, bounded] = [new BatchTimes(PROFILE), new BatchTimes(PROFILE)];
    for (const one of [times, bounded]) repeat(500, () => one.observe(1, 2));
    times.observe(1, 2 * 100);
    bounded.observe(1, 2 * 1_000_000);
    expect(bounded.meanMs(1)).toBe(times.meanMs(1));
    expect(times.meanMs(1)).toBeCloseTo(2 * (1 + 0.1 * 99), 6);
    repeat(50, () => times.observe(1, 2));
    expect(times.meanMs(1)).toBeLessThan(2 * 1.06);
  });
});

describe('how many rows may wait', () => {
  test('fewer while they wait for more than a batch or two, down to enough for every worker', () => {
    const limiter = new Limiter(16, 640);
    repeat(100, () => limiter.observe(2.9, false));
    expect(limiter.rows).toBe(640);
    repeat(100, () => limiter.observe(3.1, false));
    expect(limiter.rows).toBeCloseTo(640 * 0.995 ** 100, 6);
    repeat(1000, () => limiter.observe(20, false));
    expect(limiter.rows).toBe(16);
  });

  test('more at once when a worker finds nothing to do, up to all there are', () => {
    const limiter = new Limiter(16, 640);
    repeat(1000, () => limiter.observe(20, false));
    limiter.observe(20, true);
    expect(limiter.rows).toBeCloseTo(16 * 1.4, 6);
    repeat(20, () => limiter.observe(1, true));
    expect(limiter.rows).toBe(640);
  });

  test('it settles where about one batch in a hundred leaves a worker idle', () => {
    // The more rows may wait, the rarer a burst is over before the next one comes.
    const limiter = new Limiter(4, 640);
    const random = new Random(5);
    let [idle, rows] = [0, 0];
    const run = () => {
      const starved = random.chance(Math.min(1, 1 / limiter.rows));
      if (starved) idle += 1;
      rows += limiter.rows;
      limiter.observe(10, starved);
    };
    repeat(2000, run);
    [idle, rows] = [0, 0];
    repeat(20_000, run);
    expect(idle / 20_000).toBeGreaterThan(0.008);
    expect(idle / 20_000).toBeLessThan(0.025);
    expect(rows / 20_000).toBeGreaterThan(40);
    expect(rows / 20_000).toBeLessThan(160);
  });

  test('the least is never above the most', () => {
    const limiter = new Limiter(100, 10);
    limiter.observe(10, false);
    expect(limiter.rows).toBe(10);
  });
});

describe('a standing queue', () => {
  /** Events every 10 ms from `fromMs` to `toMs`; whether it sheds then. */
  const feed = (codel: Codel, fromMs: number, toMs: number, share: (ms: number) => number) => {
    for (let ms = fromMs; ms < toMs; ms += 10) codel.waited(share(ms), 0.2, ms);
    return codel.check(toMs);
  };

  test('a burst is none: some event hardly waited', () => {
    expect(feed(new Codel(), 0, 2000, (ms) => (ms % 90 === 0 ? 0.1 : 5))).toBe(false);
    expect(feed(new Codel(), 0, 90, () => 5)).toBe(false);
  });

  test('one is there once nobody has come in soon for a whole interval', () => {
    const codel = new Codel();
    expect(feed(codel, 0, 100, () => 0.3)).toBe(false);
    expect(feed(codel, 100, 110, () => 0.3)).toBe(true);
    expect(feed(new Codel(), 0, 2000, () => 0.2)).toBe(false);
  });

  test('an interval in which nothing came is no sign of one', () => {
    const codel = new Codel();
    codel.waited(5, 0.2, 0);
    codel.waited(5, 0.2, 250);
    expect(codel.check(250)).toBe(false);
  });

  test('it is over when nothing had to be refused for a while', () => {
    const codel = new Codel();
    feed(codel, 0, 110, () => 1);
    expect(feed(codel, 110, 600, () => 0.1)).toBe(true);
    codel.refused(600);
    expect(feed(codel, 600, 1100, () => 0.1)).toBe(true);
    expect(feed(codel, 1100, 1110, () => 0.1)).toBe(false);
  });
});

describe('shares of keys', () => {
  test('a noisy one is above its share, quiet ones are not', () => {
    const shares = new KeyShares();
    for (let ms = 0; ms < 3000; ms += 1) {
      shares.isAbove(0, ms);
      repeat(9, () => shares.admitted(7));
      shares.admitted(100 + (ms % 20));
    }
    expect(shares.isAbove(7, 3000)).toBe(true);
    for (let bucket = 100; bucket < 120; bucket += 1) expect(shares.isAbove(bucket, 3000)).toBe(false);
    // Who had nothing is below, and who is alone has no share to be above of.
    expect(shares.isAbove(300, 3000)).toBe(false);
  });

  test('who is alone is never above its share, nor is anybody before something is known', () => {
    const shares = new KeyShares();
    expect(shares.isAbove(7, 0)).toBe(false);
    for (let ms = 0; ms < 1000; ms += 10) {
      expect(shares.isAbove(7, ms)).toBe(false);
      shares.admitted(7);
    }
  });

  test('what was given is forgotten with a half-life of a second', () => {
    const shares = new KeyShares();
    shares.isAbove(0, 0);
    repeat(100, () => shares.admitted(1));
    repeat(40, () => shares.admitted(2));
    expect([1, 2].map((bucket) => shares.isAbove(bucket, 1000))).toEqual([true, false]);
    // 50 and 20 are left. As many again for the second make it the larger one: 20 + 40 > 50.
    repeat(40, () => shares.admitted(2));
    expect([1, 2].map((bucket) => shares.isAbove(bucket, 1100))).toEqual([false, true]);
  });

  test('buckets are FNV-1a of the bytes', () => {
    const hash = (text: string) => bucketOf(Buffer.from(`<${text}>`), 1, 1 + Buffer.byteLength(text));
    // The published values of the 32-bit hash: 811c9dc5, e40c292c, bf9cf968.
    expect(['', 'a', 'foobar'].map(hash)).toEqual([0x811c9dc5, 0xe40c292c, 0xbf9cf968].map((n) => n % 512));
    const seen = new Set(Array.from({ length: 5000 }, (_, i) => hash(`user:${i}`)));
    expect(seen.size).toBe(512);
  });
});

describe('the newest of a key', () => {
  const batchOf = (...keys: string[]) =>
    fillBatch(
      newBatch(),
      keys.map((key, i) => ({ id: `${i + 1}-0`, key })),
    );

  test('takes the place of the one before it, in whichever batch that waits', () => {
    const [latest, one, two] = [new Latest(), batchOf('a', 'b', 'a', ''), batchOf('b', '')];
    for (let row = 0; row < 4; row += 1) latest.taken(one, row);
    for (let row = 0; row < 2; row += 1) latest.taken(two, row);
    const { ok, superseded } = RESULT;
    expect([...one.verdicts.subarray(0, 4)]).toEqual([superseded, superseded, ok, ok]);
    expect([...two.verdicts.subarray(0, 2)]).toEqual([ok, ok]);
  });

  test('not of one that a worker has', () => {
    const [latest, one, two, three] = [new Latest(), batchOf('a'), batchOf('a'), batchOf('a')];
    latest.taken(one, 0);
    latest.leaves(one);
    latest.taken(two, 0);
    expect(one.verdicts[0]).toBe(0);
    // That an older batch leaves does not make the newer row forgotten.
    latest.taken(three, 0);
    latest.leaves(two);
    expect(two.verdicts[0]).toBe(RESULT.superseded);
    const four = batchOf('a');
    latest.taken(four, 0);
    expect(three.verdicts[0]).toBe(RESULT.superseded);
  });
});

describe('the door', () => {
  const NOW_MS = 1_000_000;
  const ROWS = 8;

  /** A model whose full batch takes 9 ms, its p99 12 ms; a settlement takes 1 ms. */
  function setUp({ workers = 1, idle = 0 } = {}) {
    const batcher = new Batcher<Schedulable>(idle, () => {});
    const admission = new Admission<Schedulable>({ batcher, workers: () => workers });
    const batches = Array.from({ length: 20 }, () => {
      return { rowsMax: ROWS, rows: 0, deadlineMs: Number.POSITIVE_INFINITY };
    });
    const lane = batcher.addLane('m', batches);
    admission.addLane(lane, PROFILE);
    admission.ran(lane, ROWS, 9, 9, NOW_MS);
    const queue = (priority: number, source = 0) => batcher.queue(lane, source, priority);
    const fill = (to: Queue<Schedulable>, full: number) => {
      repeat(full * ROWS, () => {
        const batch = batcher.open(to);
        batch!.rows += 1;
        batcher.added(to);
      });
    };
    const inMs = (to: Queue<Schedulable>) => admission.readyMs(to, NOW_MS) - NOW_MS;
    const admit = (to: Queue<Schedulable>, deadlineMs: number, nowMs = NOW_MS) => {
      const times = new Float64Array(4);
      times[TIME.nowMs] = nowMs;
      times[TIME.deadlineMs] = deadlineMs;
      return admission.admit(to, times);
    };
    return { batcher, admission, lane, queue, fill, inMs, admit };
  }

  /** Half of the batch that runs, the own one at worst (a single row), and the settlement. */
  const ALONE_MS = 9 / 2 + 3 + 1;

  test('who cannot make it is refused; who has missed it is expired; who has all the time is taken', () => {
    const { admit, queue } = setUp();
    const to = queue(1);
    expect(admit(to, NOW_MS + ALONE_MS)).toBe(RESULT.ok);
    expect(admit(to, NOW_MS + ALONE_MS - 0.01)).toBe(RESULT.overloaded);
    expect(admit(to, NOW_MS)).toBe(RESULT.expired);
    expect(admit(to, Number.POSITIVE_INFINITY)).toBe(RESULT.ok);
  });

  test('what waits ahead in its own queue is waited for', () => {
    const { inMs, queue, fill } = setUp();
    const to = queue(1);
    expect(inMs(to)).toBe(ALONE_MS);
    fill(to, 3);
    expect(inMs(to)).toBe(3 * 9 + ALONE_MS);
  });

  test('two workers do it in half of the time', () => {
    const { inMs, queue, fill } = setUp({ workers: 2 });
    const to = queue(1);
    fill(to, 4);
    expect(inMs(to)).toBe((4 * 9 + 4.5) / 2 + 3 + 1);
  });

  test('of another place in its class, as much as it has itself', () => {
    const { inMs, queue, fill } = setUp();
    const [own, other] = [queue(1, 0), queue(1, 1)];
    fill(own, 1);
    fill(other, 5);
    expect(inMs(own)).toBe(2 * 9 + ALONE_MS);
    // Not more than there is.
    expect(inMs(other)).toBe(6 * 9 + ALONE_MS);
  });

  test('of other classes, by their weight', () => {
    const { inMs, queue, fill } = setUp();
    const [urgent, usual, least] = [queue(0), queue(1), queue(2)];
    fill(urgent, 4);
    fill(usual, 2);
    fill(least, 1);
    expect(inMs(urgent)).toBe((4 + 1 + 0.25) * 9 + ALONE_MS);
    expect(inMs(usual)).toBe((2 + 4 + 0.5) * 9 + ALONE_MS);
    expect(inMs(least)).toBe((1 + 4 + 2) * 9 + ALONE_MS);
  });

  test('while a worker is idle nothing is waited for', () => {
    const { inMs, queue, fill } = setUp({ idle: 1 });
    const to = queue(1);
    fill(to, 2);
    expect(inMs(to)).toBe(3 + 1);
  });

  test('its own batch takes as long as the rows that are in it', () => {
    const { batcher, inMs, queue } = setUp({ idle: 1 });
    const to = queue(1);
    batcher.open(to)!.rows = 5;
    batcher.added(to);
    expect(inMs(to)).toBe(10.5 + 1);
  });

  test('of a model of which nothing was heard for a while it is not known, so it is tried', () => {
    const { admission, admit, lane, queue } = setUp();
    const to = queue(1);
    expect(admit(to, NOW_MS + 251, NOW_MS + 250)).toBe(RESULT.overloaded);
    expect(admit(to, NOW_MS + 252, NOW_MS + 251)).toBe(RESULT.ok);
    expect(admission.doneMs(lane, ROWS, NOW_MS + 250)).toBe(NOW_MS + 250 + 12 + 1);
    expect(admission.doneMs(lane, ROWS, NOW_MS + 251)).toBe(NOW_MS + 251);
  });

  test('settlements that take longer are waited for', () => {
    const { admission, inMs, queue } = setUp();
    repeat(200, () => admission.settled(101));
    expect(inMs(queue(1))).toBeCloseTo(ALONE_MS + 100, 1);
  });

  test('a class is full sooner the less urgent it is', () => {
    const { admission, fill, lane, queue } = setUp();
    const [urgent, slow] = [queue(0), queue(2)];
    fill(slow, 1);
    // Something always waits: the limit shrinks to its least, two batches.
    repeat(2000, () => admission.ran(lane, ROWS, 9, 100, NOW_MS));
    expect(admission.limits()).toEqual([{ lane, rows: 2 * ROWS }]);
    expect([admission.isFull(slow), admission.isFull(slow, 0.5)]).toEqual([false, true]);
    fill(urgent, 1);
    fill(slow, 1);
    expect([admission.isFull(slow), admission.isFull(urgent)]).toEqual([true, false]);
    // Sixteen times as many, for it is run as much sooner.
    expect(admission.isFull(urgent, 1 / 32)).toBe(true);
  });

  test('places share what may wait', () => {
    const { admission, fill, lane, queue } = setUp();
    fill(queue(1, 0), 1);
    repeat(2000, () => admission.ran(lane, ROWS, 9, 100, NOW_MS));
    expect(admission.isFull(queue(1, 0))).toBe(false);
    fill(queue(1, 1), 1);
    expect(admission.isFull(queue(1, 0))).toBe(true);
  });
});
