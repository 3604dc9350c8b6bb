/**
 * The console's live figures (figures.ts): the totals, differenced once a second and kept for two minutes.
 */

import {
  type ModelStats,
  OUTCOMES,
  type Outcome,
  type Percentiles,
  type Series,
  SPANS,
  type Span,
  STAGES,
  type Stats,
} from './figures.ts';
import { LATENCY_BUCKETS, percentilesMs } from './histogram.ts';
import type { ServedModel, Sources, StreamBacklog } from './sources.ts';
import { BATCH_BUCKETS, type ModelWork, type Totals } from './totals.ts';

const POINTS = 120;
/**
 * The table of percentiles and the batch sizes look back so far: long enough to be steady, short enough to be
 * live.
 */
const WINDOW_POINTS = 10;
const TICK_MS = 1000;
const PERCENTS = [50, 90, 99, 100] as const;

export interface StatsOptions {
  readonly totals: Totals;
  readonly sources: Sources;
  readonly targetMs: number;
  /** Unix milliseconds. */
  readonly now: () => number;
  /**
   * Calls back every `ms` until the returned function is called; a timer unless a test brings its own clock.
   */
  readonly every?: (ms: number, fn: () => void) => () => void;
}

export interface StatsFeed {
  snapshot(): Stats;
  /** `fn` is asked at each snapshot; its answer goes under `sections[name]`. */
  addSection(name: string, fn: () => unknown): void;
  stop(): void;
}

function everyTimer(ms: number, fn: () => void): () => void {
  const timer = setInterval(fn, ms).unref();
  return () => clearInterval(timer);
}

/** The last ten seconds of one cumulative array of counts: what each second added, and their sum. */
class Window {
  readonly sum: Float64Array;
  readonly last: Float64Array;
  readonly #before: Float64Array;
  readonly #ring: Float64Array[];
  #at = 0;

  constructor(length: number) {
    this.sum = new Float64Array(length);
    this.last = new Float64Array(length);
    this.#before = new Float64Array(length);
    this.#ring = Array.from({ length: WINDOW_POINTS }, () => new Float64Array(length));
  }

  tick(counts: Float64Array): void {
    const oldest = this.#ring[this.#at]!;
    for (let i = 0; i < counts.length; i++) {
      const added = counts[i]! - this.#before[i]!;
      this.last[i] = added;
      this.sum[i] = this.sum[i]! + added - oldest[i]!;
      oldest[i] = added;
      this.#before[i] = counts[i]!;
    }
    this.#at = (this.#at + 1) % WINDOW_POINTS;
  }
}

/** The last points of a column, oldest first; NaN becomes null, as in JSON. */
class Ring {
  readonly #values = new Float64Array(POINTS);
  #length = 0;

  push(value: number): void {
    this.#values[this.#length++ % POINTS] = value;
  }

  toArray(): (number | null)[] {
    const from = Math.max(0, this.#length - POINTS);
    return Array.from({ length: this.#length - from }, (_, i) => {
      const value = this.#values[(from + i) % POINTS]!;
      return Number.isNaN(value) ? null : Math.round(value * 1000) / 1000;
    });
  }
}

/** What somebody else had settled is no event of this second. */
const SETTLED = OUTCOMES.filter(
  (outcome): outcome is Exclude<Outcome, 'duplicate'> => outcome !== 'duplicate',
);
const RATES = ['in', ...SETTLED, 'pushed'] as const;
const STATES = ['unread', 'pending', 'inflight', 'busy'] as const;
const COLUMNS = ['time', ...RATES, 'p50', 'p90', 'p99', ...STAGES, ...STATES] as const;
type ColumnName = (typeof COLUMNS)[number];

/** NaN when any one stream's figure is not known. */
function sumBacklog(streams: readonly StreamBacklog[], part: 'unread' | 'pending'): number {
  return streams.reduce((sum, stream) => sum + (stream[part] ?? Number.NaN), 0);
}

const round = (value: number) => Math.round(value * 1000) / 1000;

export function createStats(options: StatsOptions): StatsFeed {
  const feed = new Feed(options);
  const stopTicks = (options.every ?? everyTimer)(TICK_MS, () => feed.tick());
  return {
    snapshot: () => feed.snapshot(),
    addSection: (name, fn) => feed.sections.set(name, fn),
    stop: stopTicks,
  };
}

class Feed {
  readonly sections = new Map<string, () => unknown>();
  readonly #options: StatsOptions;
  readonly #startMs: number;
  readonly #rings = Object.fromEntries(COLUMNS.map((name) => [name, new Ring()])) as Record<ColumnName, Ring>;
  readonly #spans = new Map(SPANS.map((span) => [span, new Window(LATENCY_BUCKETS)]));
  readonly #batches = new Window(BATCH_BUCKETS);
  /** Past values of `#counted`, for differences; one per second of the window for the models. */
  #before: Record<(typeof RATES)[number], number>;
  #busyUs: number;
  #models: { readonly atMs: number; readonly work: ReadonlyMap<string, ModelWork> }[];
  #tickMs: number;

  constructor(options: StatsOptions) {
    this.#options = options;
    this.#startMs = options.now();
    this.#tickMs = this.#startMs;
    this.#before = this.#counted();
    this.#busyUs = options.totals.busyUs;
    this.#models = [{ atMs: this.#startMs, work: new Map() }];
  }

  #counted(): Record<(typeof RATES)[number], number> {
    const { readRows, directRows, settled, pushed } = this.#options.totals;
    return { in: readRows + directRows, ...settled, pushed: pushed.sent };
  }

  /**
   * Closes a second. A late tick (the loop was blocked) makes one point over the whole time, rates still
   * right.
   */
  tick(): void {
    const { totals, sources, now } = this.#options;
    const nowMs = now();
    const seconds = Math.max(nowMs - this.#tickMs, 1) / 1000;
    this.#tickMs = nowMs;
    const rings = this.#rings;
    rings.time.push(nowMs / 1000);

    const counted = this.#counted();
    for (const rate of RATES) rings[rate].push((counted[rate] - this.#before[rate]) / seconds);
    this.#before = counted;

    for (const [span, window] of this.#spans) {
      window.tick(span === 'total' ? totals.total.counts : totals.stages[span].counts);
      const [p50, p90, p99] = percentilesMs(window.last, PERCENTS);
      if (span !== 'total') {
        rings[span].push(p99!);
        continue;
      }
      rings.p50.push(p50!);
      rings.p90.push(p90!);
      rings.p99.push(p99!);
    }
    this.#batches.tick(totals.batches);

    const streams = sources.backlog();
    rings.unread.push(sumBacklog(streams, 'unread'));
    rings.pending.push(sumBacklog(streams, 'pending'));
    rings.inflight.push(sources.inflightRows());
    const workers = sources.workers();
    const busyUs = totals.busyUs - this.#busyUs;
    rings.busy.push(workers === 0 ? Number.NaN : Math.min(1, busyUs / (seconds * 1e6 * workers)));
    this.#busyUs = totals.busyUs;

    const work = new Map([...totals.models].map(([model, figures]) => [model, { ...figures }]));
    this.#models.push({ atMs: nowMs, work });
    if (this.#models.length > WINDOW_POINTS + 1) this.#models.shift();
  }

  snapshot(): Stats {
    const { totals, sources, now } = this.#options;
    const nowMs = now();
    const { readRows, directRows, settled, pushed } = totals;
    const columns = Object.fromEntries(COLUMNS.map((name) => [name, this.#rings[name].toArray()]));
    return {
      now: nowMs,
      uptimeMs: nowMs - this.#startMs,
      targetMs: this.#options.targetMs,
      ...sources.state(),
      workers: sources.workers(),
      connections: sources.connections(),
      inflightRows: sources.inflightRows(),
      totals: {
        in: readRows + directRows,
        ...settled,
        pushed: pushed.sent,
        held: pushed.held,
        dropped: pushed.dropped,
      },
      series: columns as unknown as Series,
      windowSeconds: WINDOW_POINTS,
      latency: Object.fromEntries(SPANS.map((span) => [span, this.#percentiles(span)])) as Stats['latency'],
      batches: {
        rows: Array.from({ length: BATCH_BUCKETS }, (_, i) => 2 ** i),
        counts: [...this.#batches.sum],
      },
      streams: sources.backlog(),
      models: sources.models().map((model) => this.#modelStats(model)),
      notices: [...totals.notices.values()],
      sections: Object.fromEntries([...this.sections].map(([name, fn]) => [name, fn()])),
    };
  }

  #percentiles(span: Span): Percentiles | null {
    const counts = this.#spans.get(span)!.sum;
    const count = counts.reduce((sum, n) => sum + n, 0);
    if (count === 0) return null;
    const [p50, p90, p99, max] = percentilesMs(counts, PERCENTS).map(round);
    return { count, p50: p50!, p90: p90!, p99: p99!, max: max! };
  }

  #modelStats(model: ServedModel): ModelStats {
    const { name, version } = model;
    const id = `${name}@${version}`;
    const first = this.#models[0]!;
    const last = this.#models.at(-1)!;
    const added = (part: keyof ModelWork) =>
      (last.work.get(id)?.[part] ?? 0) - (first.work.get(id)?.[part] ?? 0);
    const seconds = Math.max(last.atMs - first.atMs, 1) / 1000;
    const rows = added('rows');
    return {
      ...model,
      eventsPerSecond: round(rows / seconds),
      batchRowsMean: rows === 0 ? null : round(rows / added('batches')),
      runUsPerRow: rows === 0 ? null : round(added('runUs') / rows),
    };
  }
}
