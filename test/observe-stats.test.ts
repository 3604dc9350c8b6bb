import { afterEach, expect, test } from 'vitest';
import { channels } from '../src/observe/channels.ts';
import type { Sources, StreamBacklog } from '../src/observe/sources.ts';
import { createStats, type StatsFeed } from '../src/observe/stats.ts';
import { noOutcomes, Totals } from '../src/observe/totals.ts';

/** A clock that a test moves: the feed's ticks run when `advance` passes them. */
function simulate(backlog: readonly StreamBacklog[] = []) {
  const sources: Sources = {
    state: () => ({ state: 'running', reasons: [] }),
    backlog: () => backlog,
    inflightRows: () => 5,
    connections: () => 2,
    workers: () => 2,
    models: () => [
      {
        name: 'genre',
        version: 1,
        provider: 'cpu',
        description: 'Genre',
        rowsMax: 64,
        batchRows: 32,
        runMsMax: 3.5,
        profile: [],
        profileProvider: 'cpu',
      },
    ],
    sessions: () => [],
    fallbacks: () => [],
  };
  let nowMs = 1_000_000;
  let tick = () => {};
  const totals = new Totals();
  const every = (_: number, fn: () => void) => {
    tick = fn;
    return () => {};
  };
  const feed: StatsFeed = createStats({ totals, sources, targetMs: 25, now: () => nowMs, every });
  const advance = (ms: number) => {
    nowMs += ms;
    tick();
  };
  return { feed, advance, totals, now: () => nowMs };
}

let running: ReturnType<typeof simulate> | undefined;
afterEach(() => {
  running?.feed.stop();
  running?.totals.stop();
});

/** One batch, all of whose rows arrived `ms` before they were settled; half of that in the worker. */
function settle(nowMs: number, rows: number, ms: number, model = 'genre@1'): void {
  channels.read.publish({ stream: 'events', rows, bytes: rows * 100 });
  channels.infer.publish({ model, rows, roundTripUs: 500, inferUs: 250_000, runUs: rows * 4 });
  channels.settle.publish({
    model,
    stream: 'events',
    ...noOutcomes(),
    ok: rows - 1,
    invalid: 1,
    rows,
    arrivedMs: new Float64Array(rows).fill(nowMs - ms),
    readMs: new Float64Array(rows).fill(nowMs - ms),
    dispatchedMs: nowMs - ms,
    inferredMs: nowMs - ms / 2,
    settledMs: nowMs,
  });
}

test('before the first second everything is empty, and nothing is zero that is not known', () => {
  running = simulate();
  const stats = running.feed.snapshot();
  expect(stats.series.time).toEqual([]);
  expect(stats.latency.total).toBeNull();
  expect(stats.models[0]).toMatchObject({ eventsPerSecond: 0, batchRowsMean: null, runUsPerRow: null });
  expect(stats.sections).toEqual({});
});

test('one second: rates, percentiles of the bucket edges, batch sizes, busy workers', () => {
  running = simulate([
    { stream: 'a', unread: 10, pending: 1, oldestUnreadMs: 1, oldestPendingMs: 1 },
    { stream: 'b', unread: 5, pending: null, oldestUnreadMs: 1, oldestPendingMs: null },
  ]);
  settle(running.now(), 99, 2.5);
  settle(running.now(), 1, 10);
  channels.push.publish({ sent: 7, held: 0, dropped: 0, pushMs: 1 });
  running.advance(1000);
  const { series, latency, batches, models, ...stats } = running.feed.snapshot();
  expect(series).toMatchObject({
    time: [1001],
    in: [100],
    ok: [98],
    invalid: [2],
    failed: [0],
    pushed: [7],
    p50: [2.5],
    p90: [2.5],
    p99: [2.5],
    wait: [0.001],
    infer: [1.25],
    commit: [1.25],
    unread: [15],
    pending: [null],
    inflight: [5],
    // 250 ms twice, of two workers for one second.
    busy: [0.25],
  });
  expect(latency.total).toEqual({ count: 100, p50: 2.5, p90: 2.5, p99: 2.5, max: 10 });
  expect(latency.push?.count).toBe(1);
  expect(batches.counts.slice(0, 8)).toEqual([1, 0, 0, 0, 0, 0, 0, 1]);
  expect(batches.rows[7]).toBe(128);
  expect(models[0]).toMatchObject({ eventsPerSecond: 100, batchRowsMean: 50, runUsPerRow: 4 });
  expect(stats.totals).toMatchObject({ in: 100, ok: 98, invalid: 2, pushed: 7 });
  expect(stats.uptimeMs).toBe(1000);
  expect(stats.targetMs).toBe(25);
});

test('a second without events has rates of zero and no latency', () => {
  running = simulate();
  settle(running.now(), 10, 5);
  running.advance(1000);
  running.advance(1000);
  const { series, latency } = running.feed.snapshot();
  expect(series.in).toEqual([10, 0]);
  expect(series.p99).toEqual([5, null]);
  expect(latency.total?.count).toBe(10);
});

test('the window forgets after ten seconds, the series after two minutes', () => {
  running = simulate();
  settle(running.now(), 10, 5);
  running.advance(1000);
  for (let second = 0; second < 10; second++) running.advance(1000);
  const soon = running.feed.snapshot();
  expect(soon.latency.total).toBeNull();
  expect(soon.batches.counts.every((count) => count === 0)).toBe(true);
  expect(soon.models[0]?.eventsPerSecond).toBe(0);
  for (let second = 0; second < 200; second++) running.advance(1000);
  const later = running.feed.snapshot();
  expect(later.series.time).toHaveLength(120);
  expect(later.series.time.at(-1)).toBe(1000 + 211);
  expect(later.series.in.every((rate) => rate === 0)).toBe(true);
  expect(later.totals.in).toBe(10);
});

test('a late tick still gives rates per second', () => {
  running = simulate();
  settle(running.now(), 30, 5);
  running.advance(3000);
  expect(running.feed.snapshot().series.in).toEqual([10]);
});

test('direct events count as received', () => {
  running = simulate();
  channels.settle.publish({
    model: 'genre@1',
    stream: 'direct',
    ...noOutcomes(),
    ok: 4,
    invalid: 0,
    rows: 4,
    arrivedMs: new Float64Array(4).fill(1000),
    dispatchedMs: 1001,
    inferredMs: 1002,
    settledMs: 1003,
  });
  running.advance(1000);
  expect(running.feed.snapshot().series).toMatchObject({ in: [4], ok: [4] });
});

test('every outcome has its rate; what somebody else had settled has none', () => {
  running = simulate();
  const counts = { ok: 1, degraded: 2, invalid: 3, failed: 4, expired: 5 };
  const more = { overloaded: 6, superseded: 7, cancelled: 8, duplicate: 9 };
  const times = { arrivedMs: new Float64Array(45), readMs: new Float64Array(45) };
  const at = { dispatchedMs: 1, inferredMs: 2, settledMs: 3 };
  channels.settle.publish({
    model: 'genre@1',
    stream: 'events',
    rows: 45,
    ...counts,
    ...more,
    ...times,
    ...at,
  });
  running.advance(1000);
  const { series, totals } = running.feed.snapshot();
  expect(totals).toMatchObject({ ...counts, ...more });
  const { duplicate: _settledElsewhere, ...rates } = { ...counts, ...more };
  for (const [outcome, value] of Object.entries(rates)) {
    expect(series[outcome as keyof typeof rates], outcome).toEqual([value]);
  }
  expect(series).not.toHaveProperty('duplicate');
});

test('sections are asked at each snapshot', () => {
  running = simulate();
  let guesses = 0;
  running.feed.addSection('demo', () => ({ guesses: ++guesses }));
  running.feed.snapshot();
  expect(JSON.parse(JSON.stringify(running.feed.snapshot())).sections).toEqual({ demo: { guesses: 2 } });
});
