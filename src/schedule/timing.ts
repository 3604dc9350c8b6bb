/**
 * What a model's batches take, by their size: as the profile of the start says, times how much slower (or
 * faster) they are now. One factor for all sizes, so that every batch teaches something about all of them.
 */

/** As in infer/protocol.ts. */
export interface BucketTimes {
  readonly rows: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** Of what a batch says, so much is believed at once: ten batches make two thirds of a change. */
const WEIGHT = 0.1;
/** Nothing was measured: until the first batch. */
const GUESS_MS = 1;
const GUESS_TAIL = 2;
/** A single batch may have met anything. */
const RATIO_MAX = 100;

export class BatchTimes {
  readonly #buckets: readonly BucketTimes[];
  #factor = 1;
  #batches = 0;

  /** By rows, ascending; may be empty. */
  constructor(buckets: readonly BucketTimes[] = []) {
    this.#buckets =
      buckets.length > 0 ? buckets : [{ rows: 1, p50Ms: GUESS_MS, p99Ms: GUESS_MS * GUESS_TAIL }];
  }

  /** A batch was away for so long, from dispatch to answer. */
  observe(rows: number, ms: number): void {
    const ratio = Math.min(RATIO_MAX, ms / this.#expected(rows, 'p50Ms'));
    this.#batches += 1;
    // The first ones count as much as there are of them: the profile knows nothing of the way there and back.
    this.#factor += (ratio - this.#factor) * Math.max(WEIGHT, 1 / this.#batches);
  }

  /** Milliseconds that a batch of so many rows will be away. */
  meanMs(rows: number): number {
    return this.#expected(rows, 'p50Ms') * this.#factor;
  }

  p99Ms(rows: number): number {
    // What makes the slowest ones slow is the machine: it adds, and is no more when the model takes longer.
    return this.meanMs(rows) + this.#expected(rows, 'p99Ms') - this.#expected(rows, 'p50Ms');
  }

  /** Between two sizes a straight line; beyond the largest, in proportion. */
  #expected(rows: number, column: 'p50Ms' | 'p99Ms'): number {
    const buckets = this.#buckets;
    const last = buckets.at(-1) as BucketTimes;
    if (rows >= last.rows) return (last[column] * rows) / last.rows;
    const at = buckets.findIndex((bucket) => bucket.rows >= rows);
    const above = buckets[at] as BucketTimes;
    const below = buckets[at - 1];
    if (below === undefined) return above[column];
    const share = (rows - below.rows) / (above.rows - below.rows);
    return below[column] + (above[column] - below[column]) * share;
  }
}
