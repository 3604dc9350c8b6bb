// What the benchmark makes of what it measured: does an engine keep up, how fast is it against the others,
// does it grow; and how that is drawn.
import { describe, expect, test } from 'vitest';
import { medianOf, type Round, ratiosOf } from '../bench/e2e/drain.ts';
import { drainSections } from '../bench/e2e/drain-text.ts';
import { highest, type Sample, whyNotFlat } from '../bench/e2e/flat.ts';
import { ratiosOf as latencyRatiosOf } from '../bench/e2e/latency-text.ts';
import { growthOf } from '../bench/e2e/memory.ts';
import { missing } from '../bench/peers/python.ts';
import { gcBetween, type ProbeReport, runCpuUsBetween } from '../bench/probe.ts';
import { linePlot, logTicks, percentilePlace, roundTicks } from '../src/plot.ts';
import { seededRandom } from '../src/random.ts';

describe('a backlog', () => {
  const RATE = 10_000;
  const all = { due: 50_000, sent: 50_000 };
  const random = seededRandom(1);
  /** Ten seconds, ten samples each. */
  const course = (of: (seconds: number) => number): Sample[] =>
    Array.from({ length: 100 }, (_, i) => [i / 10, of(i / 10) + random() * 200]);

  const judged = (of: (seconds: number) => number, sending = all) => whyNotFlat(course(of), RATE, sending);

  test('that stays where it is is flat, whatever the first seconds were', () => {
    expect(judged(() => 300)).toBeNull();
    expect(judged((seconds) => (seconds < 2 ? 30_000 : 300))).toBeNull();
    expect(judged((seconds) => (seconds < 2 ? 0 : 2000))).toBeNull();
  });

  test('that grows is not, even slowly', () => {
    expect(judged((seconds) => seconds * 0.025 * RATE)).toMatch(/grew by 2\.\d %/);
    expect(judged((seconds) => seconds * 0.005 * RATE)).toBeNull();
  });

  test('that stays high is not', () => {
    expect(judged(() => 6000)).toBe('0.61 s of events were waiting at the end');
  });

  test('tells nothing when events could not be sent, or nobody looked', () => {
    const held = { due: 50_000, sent: 49_000 };
    expect(judged(() => 0, held)).toBe('only 49000 of 50000 events could be sent in time');
    expect(whyNotFlat([[1, 0]], RATE, all)).toBe('too few samples');
  });
});

describe('the highest rate', () => {
  const search = async (limit: number) => {
    const asked: number[] = [];
    const found = await highest(30, 95, 5, async (rate) => {
      asked.push(rate);
      return rate <= limit;
    });
    return { asked, found };
  };

  test('is found by halving, from below', async () => {
    const { asked, found } = await search(80);
    expect(asked).toEqual([62.5, 78.75, 86.875, 82.8125, 80.78125]);
    expect(found).toBe(78.75);
  });

  test('is the lowest where no probe holds, and none where that does not hold either', async () => {
    expect((await search(31)).found).toBe(30);
    expect((await search(29)).found).toBeNull();
    expect((await search(29)).asked).toHaveLength(6);
  });
});

describe('drains', () => {
  const round = (perS: number, cpuUs: number, run: number | null, more: Partial<Round> = {}): Round => ({
    events: perS * 2,
    perS,
    redisUs: 5,
    cpu: { total: cpuUs, user: cpuUs, sys: 0, threads: { main: cpuUs, workers: 0, others: 0 }, run },
    gc: { count: 4, ms: 20, maxMs: 6 },
    latency: { p50: 1, p99: 2, p999: 3, late: 0.5, bad: 0 },
    native: true,
    ...more,
  });
  const own = medianOf('subito', 'the engine', [
    round(100_000, 5, 1),
    round(120_000, 4, 1),
    round(90_000, 6, 1),
  ]);
  const other = medianOf('naive', 'one by one', [round(5000, 200, null)]);
  const nobody = new Map<string, string>();

  test('are compared by their medians, with the ceiling of Redis in each round', () => {
    expect(own).toMatchObject({ perS: 100_000, ceilingPerS: 200_000, ofCeiling: 0.5 });
    expect(ratiosOf([own, other])).toEqual({
      'of the Redis ceiling': 0.5,
      'events/s against naive': 20,
      'CPU per event against naive': 40,
    });
    expect(ratiosOf([other])).toEqual({});
  });

  test('keep the longest pause, and say where runs were not seen', () => {
    const pauses = [6, 60].map((maxMs) => round(1000, 5, 1, { gc: { count: 1, ms: 1, maxMs } }));
    expect(medianOf('subito', '', pauses).gc?.maxMs).toBe(60);
    const [, cpu, gc] = drainSections([own, other], nobody, 3, 1000);
    expect(cpu?.table?.rows.map((row) => row.slice(-2))).toEqual([
      ['1.00', '4.00'],
      ['-', '-'],
    ]);
    // 20 ms of two seconds.
    expect(gc?.table?.rows[0]).toEqual(['subito', '4', '20.0', '6.0', '1.0 %']);
  });

  test('say so when the addon was not there', () => {
    const without = medianOf('subito', 'the engine', [round(1, 1, 1, { native: false })]);
    const text = (median: typeof own) => drainSections([median], nobody, 1, 1000).at(-1)?.text[0];
    expect(text(without)).toContain('without the native addon');
    expect(text(own)).not.toContain('addon');
  });

  test('of another program than Node show what was seen, and nothing for what was not', () => {
    const cpu = { total: 30, user: 20, sys: 10, threads: null, run: null };
    const python = medianOf('batched-python', 'redis-py', [
      round(20_000, 0, null, { cpu, gc: null, native: null }),
      round(22_000, 0, null, { cpu, gc: null, native: null }),
    ]);
    expect(python).toMatchObject({ perS: 21_000, cpu, gc: null, native: null });
    const [, times, gc, , about] = drainSections([python], nobody, 2, 1000);
    expect(times?.table?.rows).toEqual([
      ['batched-python', '30.00', '20.00', '10.00', '-', '-', '-', '-', '-'],
    ]);
    expect(gc?.table?.rows).toEqual([['batched-python', '-', '-', '-', '-']]);
    expect(about?.text).toEqual(['- **batched-python**: redis-py']);
  });

  test('say who was not there, and why', () => {
    const why = missing({ venv: 'no-such-peer' });
    expect(why).toMatch(/^not installed: run .*setup\.sh no-such-peer$/);
    expect(missing({ venv: null })).toBeNull();
    const sections = drainSections([own], new Map([['batched-python', why!]]), 1, 1000);
    expect(sections.at(-1)?.text).toEqual([
      '- **subito**: the engine',
      `- **batched-python** is not measured: ${why}`,
    ]);
    expect(sections[0]?.table?.rows).toHaveLength(1);
  });
});

test('what threads did is the difference of two reports; the longest pause is of the later one', () => {
  const report = (gcCount: number, gcMaxMs: number, runCount: number): ProbeReport => ({
    threads: [true, false].map((main) => ({
      main,
      tid: 1,
      gcCount,
      gcMs: gcCount * 2,
      gcMaxMs: main ? gcMaxMs : 0,
      runCount,
      runCpuUs: runCount * 70,
      heapUsed: 0,
      heapTotal: 0,
    })),
    addons: [],
  });
  expect(gcBetween(report(1, 50, 0), report(4, 3, 0))).toEqual({ count: 6, ms: 12, maxMs: 3 });
  expect(runCpuUsBetween(report(0, 0, 5), report(0, 0, 15))).toBe(1400);
  expect(runCpuUsBetween(report(0, 0, 5), report(0, 0, 5))).toBeNull();
});

test('latency is compared with the bare loop at each rate', () => {
  const point = (share: number, p50: number) => ({
    ...{ share, ratePerS: share * 1000, p50, p90: 1, p99: 1, p999: 1, max: 1, late: 0 },
    curve: [],
  });
  const [subito, bare] = [
    [point(0.1, 2), point(0.5, 4), point(0.95, 10)],
    [point(0.1, 1), point(0.5, 3), point(0.95, 8)],
  ];
  expect(latencyRatiosOf({ subito, bare })).toEqual({
    'bare p50 against ours at 10 %': 0.5,
    'bare p50 against ours at 50 %': 0.75,
  });
  expect(latencyRatiosOf({ subito })).toEqual({});
});

describe('the size of a process', () => {
  const sizes = (of: (seconds: number) => number) =>
    Array.from({ length: 601 }, (_, seconds) => [seconds, of(seconds)] as const);

  test('does not count as growth what happens in the first minute, nor the saw teeth of collections', () => {
    const steady = growthOf(
      sizes((seconds) => (seconds < 55 ? 100 : 300) + (seconds % 20)),
      600,
    );
    expect(steady.settleS).toBe(60);
    expect(Math.abs(steady.bytesPerMinute)).toBeLessThan(0.1);
    expect(steady.endBytes / steady.settledBytes).toBeCloseTo(1, 2);
  });

  test('counts what goes on growing', () => {
    const leaking = growthOf(
      sizes((seconds) => 1000 + seconds * 2),
      600,
    );
    expect(leaking.bytesPerMinute).toBeCloseTo(120);
    // Between the middles of the first and the last tenth: 486 s.
    expect(leaking.endBytes - leaking.settledBytes).toBeCloseTo(972, -1);
    expect(leaking.maxBytes).toBe(2200);
  });
});

describe('plots', () => {
  const axis = { label: 'events/s' };
  const plot = (points: [number, number][], log = false) =>
    linePlot({ title: 'A < B & C', x: axis, y: { label: 'ms', log }, lines: [{ name: 'one', points }] });
  const dots = (svg: string) =>
    [...svg.matchAll(/<circle cx="([\d.-]+)" cy="([\d.-]+)"/g)].map(([, x, y]) => [Number(x), Number(y)]);

  test('have both axes with their units, a title, both colour schemes; texts are escaped', () => {
    const svg = plot([
      [0, 1],
      [10, 2],
    ]);
    for (const text of ['>events/s<', '>ms<', 'A &lt; B &amp; C', 'prefers-color-scheme: dark'])
      expect(svg).toContain(text);
    // Each element that is opened is closed.
    const opened = [...svg.matchAll(/<(\w+)[^>]*?(\/?)>/g)]
      .filter(([, , end]) => end === '')
      .map(([, name]) => name);
    const closed = [...svg.matchAll(/<\/(\w+)>/g)].map(([, name]) => name);
    expect(opened.sort()).toEqual(closed.sort());
  });

  test('put points where they belong, on both kinds of axis', () => {
    const [low, middle, high] = dots(
      plot(
        [
          [0, 1],
          [5, 10],
          [10, 100],
        ],
        true,
      ),
    );
    expect(middle).toEqual([(low![0]! + high![0]!) / 2, (low![1]! + high![1]!) / 2]);
    expect(low![1]).toBeGreaterThan(high![1]!);
  });

  test('leave out what cannot be drawn', () => {
    const points: [number, number][] = [
      [1, 0],
      [2, Number.NaN],
      [3, 5],
      [4, Number.POSITIVE_INFINITY],
    ];
    expect(dots(plot(points, true))).toHaveLength(1);
    expect(plot(points)).not.toMatch(/NaN|Infinity/);
    expect(plot([])).not.toMatch(/NaN|Infinity/);
  });

  test('have round ticks that enclose the points', () => {
    expect(roundTicks(0, 60)).toEqual([0, 20, 40, 60]);
    expect(roundTicks(0, 97)).toEqual([0, 20, 40, 60, 80, 100]);
    expect(roundTicks(7, 7)).toEqual([6, 8]);
    expect(logTicks(0.4, 13)).toEqual([0.2, 0.5, 1, 2, 5, 10, 20]);
    expect(logTicks(1, 100_000)).toEqual([1, 10, 100, 1000, 10_000, 100_000]);
    const places = [0, 90, 99, 99.9].map(percentilePlace);
    for (const [i, place] of places.entries()) expect(place).toBeCloseTo(i);
  });
});
