/** Counts and latencies of a set of events: of all that are measured, or of one class of priority. */
import type { Histogram } from 'hdr-histogram-js';
import { build } from 'hdr-histogram-js';
import { isGood, type Status, type StatusCounts } from './status.ts';

export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Microseconds, three digits, up to an hour. */
export function histogram(): Histogram {
  return build({
    bitBucketSize: 32,
    lowestDiscernibleValue: 1,
    highestTrackableValue: 3_600_000_000,
    numberOfSignificantValueDigits: 3,
  }) as Histogram;
}

export const record = (into: Histogram, ms: number) =>
  into.recordValue(Math.min(3_600_000_000, Math.max(0, Math.round(ms * 1000))));

export function percentiles(of: Histogram): Percentiles {
  // An empty histogram would report its own bounds.
  if (of.totalCount === 0) return { count: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0 };
  // It answers with the upper edge of a bucket, which may lie above the largest value in it.
  const at = (percentile: number) => Math.min(of.getValueAtPercentile(percentile), of.maxValue) / 1000;
  return {
    count: of.totalCount,
    p50: at(50),
    p90: at(90),
    p99: at(99),
    p999: at(99.9),
    max: of.maxValue / 1000,
  };
}

/** Of one class of priority. */
export interface ClassFigures {
  readonly priority: number;
  readonly sent: number;
  readonly statuses: StatusCounts;
  /** From the time each event was due, of those with a prediction. */
  readonly latencyMs: Percentiles;
}

export class Tally {
  readonly #counts = new Map<Status, number>();
  readonly #latency = histogram();
  sent = 0;

  settle(status: Status, latencyMs: number): void {
    this.#counts.set(status, (this.#counts.get(status) ?? 0) + 1);
    if (isGood(status)) record(this.#latency, latencyMs);
  }

  lose(): void {
    this.#counts.set('lost', (this.#counts.get('lost') ?? 0) + 1);
  }

  get statuses(): StatusCounts {
    return Object.fromEntries(this.#counts);
  }

  get latency(): Percentiles {
    return percentiles(this.#latency);
  }
}
