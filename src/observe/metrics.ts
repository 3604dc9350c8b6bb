/**
 * The Prometheus page. Nothing here runs between scrapes: each family renders its values from the totals when
 * asked. prom-client adds its default process metrics (event loop lag, heap, garbage collection).
 */
import { collectDefaultMetrics, Registry } from 'prom-client';
import { type Family, type Labels, lineEnd, lineStart, renderFamily, type Value } from './exposition.ts';
import { OUTCOMES, STAGES } from './figures.ts';
import { cumulativeAt, type LatencyHistogram } from './histogram.ts';
import type { BreakerFigure, ServedModel, Sources } from './sources.ts';
import type { Outcomes, Totals } from './totals.ts';

/** Seconds; each is an exact edge of the latency buckets. 10 ms is the engine's target. */
const LATENCY_LE = [
  0.00015625, 0.0003125, 0.000625, 0.00125, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5,
  1, 2.5, 5, 10,
] as const;
const LATENCY_LE_MS = LATENCY_LE.map((seconds) => seconds * 1000);
/** A busy ratio over less than this is noise; a scrape that follows sooner gets the last one again. */
const BUSY_WINDOW_MS_MIN = 1000;

const BREAKER_STATES: readonly BreakerFigure['state'][] = ['closed', 'open', 'half_open'];

export interface MetricsOptions {
  readonly totals: Totals;
  readonly sources: Sources;
  /** Unix milliseconds. */
  readonly now: () => number;
  /** prom-client's process metrics; left out in tests. */
  readonly process?: boolean;
}

export interface Metrics {
  readonly contentType: string;
  render(): Promise<string>;
}

/** The lines of a histogram with these labels; a function, so that what is always the same is made once. */
function latencyLines(name: string, labels: Labels): (histogram: LatencyHistogram) => string {
  const buckets = [...LATENCY_LE, '+Inf'].map((le) => lineStart(`${name}_bucket`, { le, ...labels }));
  const [sum, count] = [lineStart(`${name}_sum`, labels), lineStart(`${name}_count`, labels)];
  return (histogram) => {
    const below = cumulativeAt(histogram.counts, LATENCY_LE_MS);
    let text = '';
    for (const [at, start] of buckets.entries()) text += start + lineEnd(below[at] ?? histogram.count);
    return text + sum + lineEnd(histogram.sumMs / 1000) + count + lineEnd(histogram.count);
  };
}

/** The same of the outcomes of a stream and model. */
function outcomeLines(name: string): (outcomes: Outcomes) => string {
  const known = new WeakMap<Outcomes, readonly string[]>();
  return (outcomes) => {
    const { stream, model } = outcomes;
    const starts =
      known.get(outcomes) ?? OUTCOMES.map((status) => lineStart(name, { stream, model, status }));
    known.set(outcomes, starts);
    let text = '';
    for (const [at, status] of OUTCOMES.entries()) text += starts[at] + lineEnd(outcomes[status]);
    return text;
  };
}

/** What was measured of a model; it does not change. */
function profileLines(name: string): (model: ServedModel) => string {
  const known = new WeakMap<ServedModel['profile'], string>();
  return ({ name: model, profileProvider: provider, profile }) => {
    let text = known.get(profile) ?? '';
    if (text !== '') return text;
    for (const { rows, p50Ms, p99Ms } of profile) {
      const labels = { model, provider, rows };
      text += lineStart(name, { ...labels, quantile: 0.5 }) + lineEnd(p50Ms / 1000);
      text += lineStart(name, { ...labels, quantile: 0.99 }) + lineEnd(p99Ms / 1000);
    }
    known.set(profile, text);
    return text;
  };
}

function batchValues(name: string, totals: Totals): Value[] {
  const values: Value[] = [];
  let seen = 0;
  for (let at = 0; at < totals.batches.length - 1; at++) {
    seen += totals.batches[at]!;
    values.push({ metricName: `${name}_bucket`, labels: { le: 2 ** at }, value: seen });
  }
  values.push({ metricName: `${name}_bucket`, labels: { le: '+Inf' }, value: totals.batchCount });
  values.push({ metricName: `${name}_sum`, labels: {}, value: totals.batchRows });
  values.push({ metricName: `${name}_count`, labels: {}, value: totals.batchCount });
  return values;
}

type Add = (type: Family['type'], name: string, help: string, values: Family['values']) => void;

/** What happened, from the totals. */
function addEvents(add: Add, totals: Totals): void {
  const linesOf = outcomeLines('subito_events_total');
  add('counter', 'subito_events_total', 'Events settled, by outcome.', () =>
    Array.from(totals.outcomes(), linesOf),
  );
  add('counter', 'subito_read_events_total', 'Events read from the input streams.', () =>
    [...totals.read].map(([stream, value]) => ({ labels: { stream }, value })),
  );
  const whole = latencyLines('subito_event_seconds', {});
  add('histogram', 'subito_event_seconds', 'Entry id or arrival of an event to its settlement.', () => [
    whole(totals.total),
  ]);
  const stages = STAGES.map((stage) => {
    const lines = latencyLines('subito_stage_seconds', { stage });
    return () => lines(totals.stages[stage]);
  });
  add('histogram', 'subito_stage_seconds', 'Time of an event in each stage; push: of a prediction.', () =>
    stages.map((lines) => lines()),
  );
  add('histogram', 'subito_batch_rows', 'Rows of a batch that a worker ran.', (name) =>
    batchValues(name, totals),
  );
  add('counter', 'subito_push_total', 'Frames of predictions: sent, held for lack of credit, dropped.', () =>
    Object.entries(totals.pushed).map(([result, value]) => ({ labels: { result }, value })),
  );
  add('counter', 'subito_notices_total', 'Messages to the operator, by code.', () =>
    [...totals.notices.values()].map(({ level, code, count }) => ({ labels: { level, code }, value: count })),
  );
}

/** What is, from the sources. A figure that is not known is left out, never zero. */
function addStates(add: Add, { sources, now }: MetricsOptions, busyRatio: () => number): void {
  const one = (value: number): Value[] => [{ labels: {}, value }];
  const backlog = (part: 'unread' | 'pending') =>
    sources.backlog().flatMap((entry) => {
      const value = entry[part];
      return value === null ? [] : [{ labels: { stream: entry.stream }, value }];
    });
  add('gauge', 'subito_backlog_events', 'Entries of an input stream that nobody has read.', () =>
    backlog('unread'),
  );
  add('gauge', 'subito_pending_events', 'Entries read and not yet settled, over all consumers.', () =>
    backlog('pending'),
  );
  const age = (part: 'unread' | 'pending', oldest: 'oldestUnreadMs' | 'oldestPendingMs') =>
    sources.backlog().flatMap((entry) => {
      if (entry[part] === null) return [];
      const sinceMs = entry[oldest];
      const value = sinceMs === null ? 0 : Math.max(0, now() - sinceMs) / 1000;
      return [{ labels: { stream: entry.stream }, value }];
    });
  add('gauge', 'subito_oldest_unread_seconds', 'Age of the oldest entry that nobody has read; 0: none.', () =>
    age('unread', 'oldestUnreadMs'),
  );
  add(
    'gauge',
    'subito_oldest_pending_seconds',
    'Age of the oldest entry read and not settled; 0: none.',
    () => age('pending', 'oldestPendingMs'),
  );
  add('gauge', 'subito_inflight_rows', 'Rows in the slabs of this process.', () =>
    one(sources.inflightRows()),
  );
  add('gauge', 'subito_connections', 'Open WebSocket connections.', () => one(sources.connections()));
  add('gauge', 'subito_workers', 'Worker threads that are warm.', () => one(sources.workers()));
  add(
    'gauge',
    'subito_worker_busy_ratio',
    'Share of worker time spent on batches since the last scrape.',
    () => one(busyRatio()),
  );
  add('gauge', 'subito_desired_replicas', 'Replicas that there should be, of all engines together.', () =>
    sources.desiredReplicas === undefined ? [] : one(sources.desiredReplicas()),
  );
  add('gauge', 'subito_model_info', 'Models served; always 1.', () =>
    sources
      .models()
      .map(({ name, version, provider }) => ({ labels: { model: name, version, provider }, value: 1 })),
  );
  addModels(add, sources);
  addLimits(add, sources);
}

/** What it is held to, and what holds it back; families of which there is no source are left out. */
function addLimits(add: Add, sources: Sources): void {
  const { breakers, limits, targets } = sources;
  add('gauge', 'subito_ready', '1 while the engine takes events, 0 while it cannot.', () => [
    { labels: {}, value: sources.state().state === 'running' ? 1 : 0 },
  ]);
  if (breakers !== undefined) {
    add('gauge', 'subito_breaker_state', 'Circuit breakers: 1 for the state that each is in.', () =>
      breakers().flatMap(({ model, provider, state: current }) =>
        BREAKER_STATES.map((state) => ({
          labels: { model, provider, state },
          value: state === current ? 1 : 0,
        })),
      ),
    );
  }
  if (limits !== undefined) {
    add('gauge', 'subito_limit_rows', 'Rows that a model may have in flight now.', () =>
      limits().map(({ model, rows }) => ({ labels: { model }, value: rows })),
    );
  }
  if (targets === undefined) return;
  add('gauge', 'subito_latency_target_seconds', 'What the 99th percentile should stay below.', () => [
    { labels: {}, value: targets().latencyMs / 1000 },
  ]);
  add('gauge', 'subito_deadline_seconds', 'Deadline of events that name none.', () =>
    targets().deadlines.map(({ stream, deadlineMs }) => ({ labels: { stream }, value: deadlineMs / 1000 })),
  );
}

/** What the models run on, and what was measured of them. */
function addModels(add: Add, sources: Sources): void {
  add('gauge', 'subito_model_batch_rows', 'Rows that a batch of the model has at most.', () =>
    sources.models().map(({ name, batchRows }) => ({ labels: { model: name }, value: batchRows })),
  );
  const profileOf = profileLines('subito_model_run_seconds');
  add('gauge', 'subito_model_run_seconds', 'What a batch took when it was measured, by its rows.', () =>
    sources.models().map(profileOf),
  );
  add('gauge', 'subito_provider_sessions', 'Workers that run the model on this provider.', () =>
    sources.sessions().map(({ model, provider, count }) => ({ labels: { model, provider }, value: count })),
  );
  add(
    'counter',
    'subito_provider_fallbacks_total',
    'Times that a worker left this provider for the next.',
    () =>
      sources
        .fallbacks()
        .map(({ model, provider, count }) => ({ labels: { model, provider }, value: count })),
  );
}

/** Busy microseconds of all workers over the time since the last call, 0 to 1. */
function busyMeter({ totals, sources, now }: MetricsOptions): () => number {
  let atMs = now();
  let busyUs = totals.busyUs;
  let ratio = 0;
  return () => {
    const elapsedMs = now() - atMs;
    if (elapsedMs >= BUSY_WINDOW_MS_MIN) {
      ratio = Math.min(1, (totals.busyUs - busyUs) / (elapsedMs * 1000 * Math.max(1, sources.workers())));
      atMs += elapsedMs;
      busyUs = totals.busyUs;
    }
    return ratio;
  };
}

export function createMetrics(options: MetricsOptions): Metrics {
  const families: Family[] = [];
  const add: Add = (type, name, help, values) => families.push({ type, name, help, values });
  addEvents(add, options.totals);
  addStates(add, options, busyMeter(options));
  const registry = new Registry();
  if (options.process ?? true) collectDefaultMetrics({ register: registry });
  return {
    contentType: registry.contentType,
    async render() {
      let page = '';
      for (const each of families) page += renderFamily(each);
      return page + (await registry.metrics());
    },
  };
}
