import * as hdr from 'hdr-histogram-js';
import { afterEach, expect, test } from 'vitest';
import { channels, type SettleReport } from '../src/observe/channels.ts';
import { OUTCOMES } from '../src/observe/figures.ts';
import {
  cumulativeAt,
  LATENCY_BUCKETS,
  LatencyHistogram,
  latencyBucket,
  latencyEdgeMs,
  percentilesMs,
} from '../src/observe/histogram.ts';
import { createMetrics } from '../src/observe/metrics.ts';
import type { Sources } from '../src/observe/sources.ts';
import { noOutcomes, Totals } from '../src/observe/totals.ts';

const sources: Sources = {
  state: () => ({ state: 'running', reasons: [] }),
  backlog: () => [
    { stream: 'events', unread: 42, pending: 7, oldestUnreadMs: 5500, oldestPendingMs: 4000 },
    { stream: 'done', unread: 0, pending: 0, oldestUnreadMs: null, oldestPendingMs: null },
    { stream: 'lost', unread: null, pending: null, oldestUnreadMs: null, oldestPendingMs: null },
  ],
  inflightRows: () => 12,
  connections: () => 3,
  workers: () => 2,
  models: () => [
    {
      name: 'genre',
      version: 4,
      provider: 'cpu',
      description: '',
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

/** Three rows that waited 5, 3 and 0 ms, queued 1 ms, ran 2, committed 0.5. */
const settled: SettleReport = {
  model: 'genre@4',
  stream: 'events',
  ...noOutcomes(),
  ok: 2,
  invalid: 1,
  rows: 3,
  arrivedMs: Float64Array.of(1000, 1002, 1005, 0, 0),
  readMs: Float64Array.of(1005, 1005, 1005, 0, 0),
  dispatchedMs: 1006,
  inferredMs: 1008,
  settledMs: 1008.5,
};

let totals: Totals | undefined;
afterEach(() => totals?.stop());

/** `metric{labels}` to value, of the whole page. */
function parse(page: string): Map<string, number> {
  const lines = page.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(' ');
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

test('bucket edges: every bucket holds its own edge, and what is just longer goes to the next', () => {
  for (let bucket = 0; bucket < LATENCY_BUCKETS - 1; bucket++) {
    const edge = latencyEdgeMs(bucket);
    expect(latencyBucket(edge)).toBe(bucket);
    expect(latencyBucket(edge * (1 + 1e-9))).toBe(bucket + 1);
    if (bucket >= 128) expect(latencyEdgeMs(bucket) / latencyEdgeMs(bucket - 1)).toBeLessThan(1.0159);
  }
  expect([-5, 0, Number.NaN].map(latencyBucket)).toEqual([0, 0, 0]);
  expect(latencyBucket(Number.POSITIVE_INFINITY)).toBe(LATENCY_BUCKETS - 1);
});

test('percentiles agree with hdr-histogram-js within a bucket', () => {
  const ours = new LatencyHistogram();
  const theirs = hdr.build({ highestTrackableValue: 1e9, numberOfSignificantValueDigits: 4 });
  let random = 12345;
  for (let i = 0; i < 20_000; i++) {
    random = (random * 1103515245 + 12345) % 2 ** 31;
    const us = Math.round(50 * Math.exp((random / 2 ** 31) * 9));
    ours.record(us / 1000, 1);
    theirs.recordValue(us);
  }
  const percents = [1, 50, 90, 99, 99.9, 100];
  percentilesMs(ours.counts, percents).forEach((ms, at) => {
    const expected = theirs.getValueAtPercentile(percents[at]!) / 1000;
    expect(ms).toBeGreaterThan(expected * 0.999);
    expect(ms).toBeLessThan(expected * 1.02 + 0.002);
  });
  expect(percentilesMs(new LatencyHistogram().counts, [50])).toEqual([Number.NaN]);
});

test('counts at a Prometheus edge are exact: an event of exactly 10 ms is within 10 ms', () => {
  const histogram = new LatencyHistogram();
  for (const ms of [9.999, 10, 10.001, 15, 15.01]) histogram.record(ms, 1);
  expect(cumulativeAt(histogram.counts, [1, 10, 15, 25])).toEqual([0, 2, 4, 5]);
});

test('a settled batch becomes exact series', async () => {
  totals = new Totals();
  let nowMs = 0;
  const metrics = createMetrics({ totals, sources, now: () => nowMs, process: false });
  channels.read.publish({ stream: 'events', rows: 3, bytes: 300 });
  const infer = { model: 'genre@4', rows: 3, roundTripUs: 600, inferUs: 500_000, runUs: 400 };
  channels.infer.publish(infer);
  channels.settle.publish(settled);
  channels.settle.publish({ ...settled, stream: 'direct', ok: 0, invalid: 0, failed: 2, duplicate: 1 });
  channels.push.publish({ sent: 2, held: 1, dropped: 0, pushMs: 0.5 });
  channels.notice.publish({ level: 'warn', code: 'REDIS_UNREACHABLE', message: 'gone' });
  nowMs = 1000;
  const page = parse(await metrics.render());
  const value = (name: string) => page.get(name);

  expect(value('subito_events_total{stream="events",model="genre@4",status="ok"}')).toBe(2);
  expect(value('subito_events_total{stream="events",model="genre@4",status="invalid"}')).toBe(1);
  expect(value('subito_events_total{stream="direct",model="genre@4",status="failed"}')).toBe(2);
  expect(value('subito_events_total{stream="direct",model="genre@4",status="duplicate"}')).toBe(1);
  expect(value('subito_read_events_total{stream="events"}')).toBe(3);
  // Totals 8.5, 6.5 and 3.5 ms, twice: from the stream and direct.
  expect(value('subito_event_seconds_bucket{le="0.0025"}')).toBe(0);
  expect(value('subito_event_seconds_bucket{le="0.005"}')).toBe(2);
  expect(value('subito_event_seconds_bucket{le="0.0075"}')).toBe(4);
  expect(value('subito_event_seconds_bucket{le="0.01"}')).toBe(6);
  expect(value('subito_event_seconds_count')).toBe(6);
  expect(value('subito_event_seconds_sum')).toBeCloseTo(0.037, 12);
  // Stream rows: waited 5 + 3 + 0, queued 1 each. Direct rows: no wait, queued 6 + 4 + 1.
  const sum = (stage: string) => value(`subito_stage_seconds_sum{stage="${stage}"}`);
  expect(sum('wait')).toBeCloseTo(0.008, 12);
  expect(sum('queue')).toBeCloseTo(0.014, 12);
  expect(sum('infer')).toBeCloseTo(0.012, 12);
  expect(sum('commit')).toBeCloseTo(0.003, 12);
  expect(sum('push')).toBeCloseTo(0.0005, 12);
  expect(sum('wait')! + sum('queue')! + sum('infer')! + sum('commit')!).toBeCloseTo(0.037, 12);
  expect(value('subito_batch_rows_bucket{le="2"}')).toBe(0);
  expect(value('subito_batch_rows_bucket{le="4"}')).toBe(1);
  expect(value('subito_batch_rows_sum')).toBe(3);
  expect(value('subito_push_total{result="sent"}')).toBe(2);
  expect(value('subito_push_total{result="held"}')).toBe(1);
  expect(value('subito_notices_total{level="warn",code="REDIS_UNREACHABLE"}')).toBe(1);
});

test('every outcome has its count', async () => {
  totals = new Totals();
  const metrics = createMetrics({ totals, sources, now: () => 0, process: false });
  const counts = Object.fromEntries(OUTCOMES.map((outcome, at) => [outcome, at + 1]));
  for (let i = 0; i < 2; i += 1) channels.settle.publish({ ...settled, ...counts });
  const page = parse(await metrics.render());
  for (const [at, outcome] of OUTCOMES.entries()) {
    const series = `subito_events_total{stream="events",model="genre@4",status="${outcome}"}`;
    expect(page.get(series), outcome).toBe(2 * (at + 1));
  }
  expect(totals.settled).toEqual(Object.fromEntries(OUTCOMES.map((outcome, at) => [outcome, 2 * (at + 1)])));
});

test('what it is held to; breakers and limits only where there are any', async () => {
  totals = new Totals();
  const render = async (more: Partial<Sources>) => {
    const options = { totals: totals as Totals, now: () => 0, process: false };
    return parse(await createMetrics({ ...options, sources: { ...sources, ...more } }).render());
  };
  const without = [...(await render({})).keys()];
  expect(without.filter((name) => /breaker|limit|target|deadline/.test(name))).toEqual([]);
  const page = await render({
    state: () => ({ state: 'reconnecting', reasons: ['gone'] }),
    breakers: () => [{ model: 'genre@4', provider: 'cuda', state: 'half_open' }],
    limits: () => [{ model: 'a"b\\c\nd', rows: 99 }],
    targets: () => ({ latencyMs: 10, deadlines: [{ stream: 'events', deadlineMs: 250 }] }),
  });
  expect(page.get('subito_ready')).toBe(0);
  const state = (name: string) =>
    page.get(`subito_breaker_state{model="genre@4",provider="cuda",state="${name}"}`);
  expect(['closed', 'open', 'half_open'].map(state)).toEqual([0, 0, 1]);
  expect(page.get('subito_limit_rows{model="a\\"b\\\\c\\nd"}')).toBe(99);
  expect(page.get('subito_latency_target_seconds')).toBe(0.01);
  expect(page.get('subito_deadline_seconds{stream="events"}')).toBe(0.25);
});

test('states: an unknown backlog is left out, not zero; busy is since the last scrape', async () => {
  totals = new Totals();
  let nowMs = 5000;
  const metrics = createMetrics({ totals, sources, now: () => nowMs, process: false });
  const render = async () => parse(await metrics.render());
  // Half a second of work by two workers in one second: a quarter.
  channels.infer.publish({ model: 'm@1', rows: 1, roundTripUs: 0, inferUs: 500_000, runUs: 0 });
  nowMs = 6000;
  const page = await render();
  expect(page.get('subito_backlog_events{stream="events"}')).toBe(42);
  expect(page.get('subito_pending_events{stream="events"}')).toBe(7);
  expect([...page.keys()].filter((name) => name.includes('"lost"'))).toEqual([]);
  expect(page.get('subito_oldest_unread_seconds{stream="events"}')).toBe(0.5);
  expect(page.get('subito_oldest_pending_seconds{stream="events"}')).toBe(2);
  expect(page.get('subito_oldest_unread_seconds{stream="done"}')).toBe(0);
  expect(page.get('subito_inflight_rows')).toBe(12);
  expect(page.get('subito_connections')).toBe(3);
  expect(page.get('subito_model_info{model="genre",version="4",provider="cpu"}')).toBe(1);
  expect(page.get('subito_worker_busy_ratio')).toBe(0.25);
  nowMs = 6100;
  expect((await render()).get('subito_worker_busy_ratio')).toBe(0.25);
  nowMs = 8000;
  expect((await render()).get('subito_worker_busy_ratio')).toBe(0);
});

test('codes of notices are bounded', () => {
  totals = new Totals();
  for (let i = 0; i < 500; i++) channels.notice.publish({ level: 'warn', code: `C${i}`, message: '' });
  expect(totals.notices.size).toBe(101);
  expect(totals.notices.get('warn other')?.count).toBe(400);
});
