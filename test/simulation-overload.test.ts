// More than the workers can do, or workers that become slower, on simulated time: what can be answered in
// time is answered, and everything else is told so, once. Each scene is held for a few seeds.
import { describe, expect, test } from 'vitest';
import { CAPACITY, type Figures, figuresOf, OverloadWorld, type Shape } from './simulation/overload.ts';
import type { Random } from './support/random.ts';
import { seeds } from './support/random.ts';

const DEADLINE_MS = 500;
/** Until rates and batches have settled. */
const WARM_MS = 1000;

interface Scene extends OverloadWorld {
  readonly of: (fromMs: number, toMs: number, wanted?: Parameters<typeof figuresOf>[4]) => Figures;
}

/** Runs a scene; whatever it is, each event is settled once and run at most once. */
async function play(shape: Omit<Shape, 'deadlineMs'> & { deadlineMs?: number }): Promise<Scene> {
  const { deadlineMs = DEADLINE_MS } = shape;
  const world = new OverloadWorld({ ...shape, deadlineMs });
  expect(await world.run(), 'all is settled in the end').toBe(true);
  expect(world.events.filter(({ settled }) => settled !== 1)).toEqual([]);
  expect(world.events.filter(({ ran, status }) => ran !== (status === 'ok' ? 1 : 0))).toEqual([]);
  expect(world.intake.rowsInFlight).toBe(0);
  return Object.assign(world, {
    of: (fromMs: number, toMs: number, wanted?: Parameters<typeof figuresOf>[4]) =>
      figuresOf(world.events, deadlineMs, fromMs, toMs, wanted),
  });
}

function expectServed(figures: Figures, capacity: number, deadlineMs = DEADLINE_MS): void {
  expect(figures.goodput).toBeGreaterThan(0.9 * capacity);
  expect(figures.p99Ms).toBeLessThan(deadlineMs);
}

const constant = (share: number) => () => CAPACITY * share;
/** Half a second each of little and much, `share` of the capacity on average. */
const inWaves = (share: number) => (ms: number) => CAPACITY * share * (ms % 1000 < 500 ? 0.5 : 1.5);

describe('the workers have as much to do as they can, and more', () => {
  const loads = [1, 1.5, 2, 4].flatMap((share) => seeds(1).map((seed) => [share, seed] as const));
  test.each(loads)('%d times what can be served, seed %d', async (share, seed) => {
    const scene = await play({ seed, ms: 4000, sources: [{ perSecond: constant(share) }] });
    const figures = scene.of(WARM_MS, 4000);
    expectServed(figures, CAPACITY);
    // What can be served is: nothing is refused for safety's sake.
    if (share === 1) expect(figures.lost).toBeLessThan(0.02);
    // Nor is anybody kept until it is nearly too late.
    expect(figures.p99Ms).toBeLessThan(DEADLINE_MS / 2);
  });

  test('a burst is worked off, not refused', async () => {
    const perSecond = (ms: number) => CAPACITY * (ms % 1000 < 50 ? 4 : 0.5);
    const scene = await play({ seed: 1, ms: 4000, sources: [{ perSecond }] });
    expect(scene.of(0, Number.POSITIVE_INFINITY).byStatus).toEqual({ ok: scene.events.length });
  });

  test('waves of twice the capacity on average', async () => {
    const scene = await play({ seed: 1, ms: 5000, sources: [{ perSecond: inWaves(2) }] });
    expectServed(scene.of(WARM_MS, 5000), CAPACITY);
  });

  test('without a deadline nothing is refused, however long it takes', async () => {
    const scene = await play({ seed: 1, ms: 1000, deadlineMs: 0, sources: [{ perSecond: constant(3) }] });
    const { byStatus } = scene.of(0, Number.POSITIVE_INFINITY);
    expect(byStatus).toEqual({ ok: scene.events.length });
  });

  test('where only the newest of a key counts, the others are not run', async () => {
    const key = (random: Random) => `k${random.int(1, 100)}`;
    const source = { perSecond: constant(2), key };
    const scene = await play({ seed: 1, ms: 3000, latestOnly: true, sources: [source] });
    const { byStatus, lost, p99Ms } = scene.of(WARM_MS, 3000);
    expect(Object.keys(byStatus).sort()).toEqual(['ok', 'superseded']);
    expect(p99Ms).toBeLessThan(100);
    expect(lost).toBeGreaterThan(0.5);
  });
});

test.each([0.5, 1.5, 4])('workers ten times slower for a while, at %d times the capacity', async (share) => {
  const [slowMs, wellMs, endMs] = [3000, 6000, 10_000];
  const slower = (ms: number) => (ms >= slowMs && ms < wellMs ? 10 : 1);
  const scene = await play({ seed: 1, ms: endMs, sources: [{ perSecond: constant(share) }], slower });
  const wanted = Math.min(1, share) * CAPACITY;
  expectServed(scene.of(WARM_MS, slowMs), wanted);
  // A second to find out; batches that are on their way by then come too late.
  expectServed(scene.of(slowMs + 1000, wellMs), Math.min(wanted, CAPACITY / 10));
  expectServed(scene.of(wellMs + 1000, endMs), wanted);
  expect(scene.of(0, endMs).p99Ms).toBeLessThan(DEADLINE_MS);
  if (share < 1) expect(scene.of(wellMs + 1000, endMs).lost).toBe(0);
});

test.each([2, 4])('after %d times the capacity all is as before within two seconds', async (share) => {
  const perSecond = (ms: number) => CAPACITY * (ms < 3000 ? share : 0.5);
  const scene = await play({ seed: 1, ms: 7000, sources: [{ perSecond }] });
  const alone = await play({ seed: 1, ms: 3000, sources: [{ perSecond: constant(0.5) }] });
  const [after, before] = [scene.of(5000, 7000), alone.of(WARM_MS, 3000)];
  expect(scene.intake.shedding).toBe(false);
  expect(after.byStatus).toEqual({ ok: after.offered });
  expect(after.p99Ms).toBeLessThan(before.p99Ms * 1.2);
});

describe('three classes with as many events each, at twice the capacity', () => {
  const one = [{ perSecond: constant(2), priority: (random: Random) => random.int(0, 2) }];
  const three = [0, 1, 2].map((priority) => ({ perSecond: constant(2 / 3), priority: () => priority }));
  test.each([
    ['in one stream', one],
    ['in a stream each', three],
  ])('%s: the first loses next to nothing, and each gets on', async (_, sources) => {
    for (const seed of seeds(1)) {
      const scene = await play({ seed, ms: 4000, sources });
      const of = (priority: number) => scene.of(WARM_MS, 4000, (event) => event.priority === priority);
      const [first, second, third] = [of(0), of(1), of(2)];
      expect(first.lost).toBeLessThan(0.01);
      // Urgent batches leave before they are full, and what a batch costs whatever its size is lost.
      expect(scene.of(WARM_MS, 4000).goodput).toBeGreaterThan(0.85 * CAPACITY);
      // 16 : 4 : 1, and what the first leaves goes to the others 4 : 1.
      expect(second.goodput).toBeGreaterThan(0.12 * CAPACITY);
      expect(third.goodput).toBeGreaterThan(0.03 * CAPACITY);
      expect(second.goodput / third.goodput).toBeGreaterThan(2);
    }
  });

  test('at four times the capacity their shares are 16 : 4 : 1', async () => {
    const sources = three.map((source) => ({ ...source, perSecond: constant(4 / 3) }));
    const scene = await play({ seed: 1, ms: 4000, sources });
    const shares = [0, 1, 2].map((c) => scene.of(WARM_MS, 4000, ({ priority }) => priority === c).goodput);
    const all = shares.reduce((sum, share) => sum + share, 0);
    expect(all).toBeGreaterThan(0.85 * CAPACITY);
    for (const [i, weight] of [16, 4, 1].entries()) {
      expect((shares[i] as number) / all, `class ${i}`).toBeCloseTo(weight / 21, 1);
    }
  });
});

test.each([
  [0, 1],
  [1, 0],
])('ten times as much in another stream does not hold a small one up', async (small, big) => {
  const rates = [0, 0];
  rates[small] = 0.2;
  rates[big] = 2;
  const alone = await play({ seed: 1, ms: 3000, sources: [{ perSecond: constant(0.2) }] });
  const sources = rates.map((share) => ({ perSecond: constant(share) }));
  const scene = await play({ seed: 1, ms: 3000, sources });
  const [beside, before] = [
    scene.of(WARM_MS, 3000, ({ source }) => source === small),
    alone.of(WARM_MS, 3000),
  ];
  expect(beside.lost).toBe(0);
  expect(beside.p50Ms).toBeLessThan(before.p50Ms * 2);
  expect(beside.p99Ms).toBeLessThan(before.p99Ms * 2);
});

test.each([1.5, 2, 4])(
  'a noisy key, at %d times the capacity, takes only what the others leave',
  async (share) => {
    const key = (random: Random) => (random.chance(0.8) ? 'noisy' : `k${random.int(1, 100)}`);
    const scene = await play({ seed: 1, ms: 4000, sources: [{ perSecond: constant(share), key }] });
    const quiet = scene.of(WARM_MS, 4000, (event) => event.key !== 'noisy');
    expect(quiet.lost).toBeLessThan(0.02);
    expectServed(scene.of(WARM_MS, 4000), CAPACITY);
  },
);
