/**
 * The JSON of `GET /stats`, as the console's page reads it (in a browser: nothing of Node may be imported
 * here). A place with nothing to show is null, never zero.
 */
import type { EngineState, ServedModel, StreamBacklog } from './sources.ts';

/** The stages of an event; totals.ts says where each begins and ends. */
export const STAGES = ['wait', 'queue', 'infer', 'commit', 'push'] as const;
export type Stage = (typeof STAGES)[number];
export const SPANS = ['total', ...STAGES] as const;
export type Span = (typeof SPANS)[number];

/**
 * What may become of an event. `ok` and `degraded` are predictions; `invalid` and `failed` are dead letters;
 * `expired`, `overloaded`, `superseded` and `cancelled` were never run; `duplicate`: somebody else had
 * settled it before.
 */
export const OUTCOMES = [
  'ok',
  'degraded',
  'invalid',
  'failed',
  'expired',
  'overloaded',
  'superseded',
  'cancelled',
  'duplicate',
] as const;
export type Outcome = (typeof OUTCOMES)[number];
export type OutcomeCounts = Readonly<Record<Outcome, number>>;

export interface Percentiles {
  /** Events (push: predictions) in the window. */
  readonly count: number;
  /** Milliseconds, at most 1.6 % too high. */
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

type Column = readonly (number | null)[];

/** One value a second, oldest first, at most 120; all columns have the same length. Rates are per second. */
export interface Series extends Readonly<Record<Exclude<Outcome, 'duplicate'>, Column>> {
  /** Unix seconds at the end of the second. */
  readonly time: readonly number[];
  /** Events read from streams, plus those received over sockets. */
  readonly in: Column;
  /** Frames sent to subscribers. */
  readonly pushed: Column;
  /** Milliseconds from entry id or arrival to settlement, of the events settled in that second. */
  readonly p50: Column;
  readonly p90: Column;
  readonly p99: Column;
  /** 99th percentile of each stage. */
  readonly wait: Column;
  readonly queue: Column;
  readonly infer: Column;
  readonly commit: Column;
  readonly push: Column;
  /** Entries nobody has read, over all streams; null while not known of any one. */
  readonly unread: Column;
  readonly pending: Column;
  readonly inflight: Column;
  /** Share of worker time, 0 to 1. */
  readonly busy: Column;
}

export interface ModelStats extends ServedModel {
  /** Over the last ten seconds. */
  readonly eventsPerSecond: number;
  /** Null when it ran nothing in that time. */
  readonly batchRowsMean: number | null;
  readonly runUsPerRow: number | null;
}

export interface Stats {
  /** Unix milliseconds. */
  readonly now: number;
  readonly uptimeMs: number;
  /** What the 99th percentile of latency.total should stay below. */
  readonly targetMs: number;
  readonly state: EngineState;
  readonly reasons: readonly string[];
  readonly workers: number;
  readonly connections: number;
  readonly inflightRows: number;
  /** Since the start. */
  readonly totals: OutcomeCounts & {
    readonly in: number;
    readonly pushed: number;
    readonly held: number;
    readonly dropped: number;
  };
  readonly series: Series;
  /** Seconds that `latency` and `batches` look back. */
  readonly windowSeconds: number;
  readonly latency: Readonly<Record<Span, Percentiles | null>>;
  /**
   * Batches by size: `counts[i]` of at most `rows[i]` rows and more than `rows[i - 1]`; the last also takes
   * larger ones.
   */
  readonly batches: { readonly rows: readonly number[]; readonly counts: readonly number[] };
  readonly streams: readonly StreamBacklog[];
  readonly models: readonly ModelStats[];
  readonly notices: readonly { readonly level: string; readonly code: string; readonly count: number }[];
  /** What others added, such as `demo`. */
  readonly sections: Readonly<Record<string, unknown>>;
}
