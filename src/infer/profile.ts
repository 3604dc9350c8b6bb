/**
 * What a model's batches cost, by their size, and what follows from that: how many rows a batch may have, and
 * how many workers are started. Pure; measured by measure.ts when the engine starts.
 *
 * The sizes are buckets: 1, 2, 4 and so on, and the most that the model may have. On a provider other than
 * the CPU a batch is padded to the next one, so that it meets only shapes that it has met at the start.
 */
import type { BucketProfile, ModelProfile } from './protocol.ts';

export interface BatchChoice {
  readonly rows: number;
  /** Of one worker with batches of this size. */
  readonly rowsPerSecond: number;
  /**
   * fits: its 99th percentile does; noisy: no 99th percentile does, but by the medians this size should;
   * slow: not even one row is fast enough; unmeasured: nothing is known, so nothing is limited.
   */
  readonly why: 'fits' | 'noisy' | 'slow' | 'unmeasured';
  /** The size with the best throughput of all that were measured, where that is twice as much. */
  readonly better: { readonly rows: number; readonly p99Ms: number; readonly rowsPerSecond: number } | null;
}

/**
 * What one engine's main thread and its Redis can carry (bench/RESULTS.md): more workers than this asks for
 * would wait, and take processor time from the main thread.
 */
export const ENGINE_ROWS_PER_SECOND = 150_000;
/** Above this share of the time a queue forms in front of a worker. */
const BUSY_SHARE = 0.7;
/**
 * Between two batches a worker waits for so long, milliseconds: what has to be added to make sizes
 * comparable.
 */
const BETWEEN_MS = 0.1;
/** A batch that is smaller and does nearly as much is the better one: who comes next waits less. */
const NEARLY = 0.95;
/** Throughput lost to a small batch that an operator should know of. */
const LOSS_TOLD = 2;

/** 1, 2, 4, ... and `rowsMax` itself. */
export function bucketsOf(rowsMax: number): number[] {
  const buckets: number[] = [];
  for (let rows = 1; rows < rowsMax; rows *= 2) buckets.push(rows);
  buckets.push(rowsMax);
  return buckets;
}

/** The smallest bucket that takes `rows` rows, at most `rowsMax`. */
export function bucketFor(rows: number, rowsMax: number): number {
  return Math.min(rowsMax, 2 ** Math.ceil(Math.log2(rows)));
}

/** Nearest rank, so each percentile is a time that was measured. */
export function summarise(rows: number, samplesMs: readonly number[]): BucketProfile {
  const sorted = samplesMs.toSorted((a, b) => a - b);
  const rank = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { rows, runs: sorted.length, p50Ms: rank(0.5), p99Ms: rank(0.99) };
}

export function rowsPerSecond({ rows, p50Ms }: BucketProfile): number {
  return (rows / Math.max(p50Ms, 1e-6)) * 1000;
}

/** Rows a second of a worker that is given one batch after the other. */
function inARow({ rows, p50Ms }: BucketProfile): number {
  return (rows / (p50Ms + BETWEEN_MS)) * 1000;
}

/**
 * The largest size whose 99th percentile is at most `runMsMax`, or a smaller one with nearly the throughput.
 * A smaller one that does not fit is no obstacle: fewer rows take no longer, so it was the machine. When none
 * fits, it is the largest whose median takes half of that; when there is none either, one row. Never more
 * than `rowsMax`.
 */
export function chooseBatch(profile: ModelProfile, runMsMax: number, rowsMax: number): BatchChoice {
  const buckets = profile.buckets.filter(({ rows }) => rows <= rowsMax);
  const [first] = buckets;
  if (first === undefined) {
    return { rows: rowsMax, rowsPerSecond: Number.NaN, why: 'unmeasured', better: null };
  }
  const fits = buckets.findLast(({ p99Ms }) => p99Ms <= runMsMax);
  const noisy = buckets.findLast(({ p50Ms }) => p50Ms <= runMsMax / 2);
  const largest = fits ?? noisy ?? first;
  const chosen = buckets.find((one) => inARow(one) >= NEARLY * inARow(largest)) as BucketProfile;
  const why = fits !== undefined ? 'fits' : noisy !== undefined ? 'noisy' : 'slow';
  const best = buckets.reduce((a, b) => (rowsPerSecond(b) > rowsPerSecond(a) ? b : a));
  const gain = rowsPerSecond(best) / rowsPerSecond(chosen);
  const better =
    gain < LOSS_TOLD ? null : { rows: best.rows, p99Ms: best.p99Ms, rowsPerSecond: rowsPerSecond(best) };
  return { rows: chosen.rows, rowsPerSecond: rowsPerSecond(chosen), why, better };
}

/**
 * As many workers as the slowest model needs to keep up with all that the engine can carry, and one more, so
 * that a worker that dies, or a slow model's batch, does not hold up everything; from `min` to `max`.
 */
export function chooseWorkers(choices: readonly BatchChoice[], min: number, max: number): number {
  const slowest = choices.reduce((least, choice) => Math.min(least, choice.rowsPerSecond), Infinity);
  // Not known: as before anything was measured.
  if (choices.some(({ why }) => why === 'unmeasured')) return max;
  const wanted = Math.ceil(ENGINE_ROWS_PER_SECOND / (BUSY_SHARE * slowest)) + 1;
  return Math.min(max, Math.max(min, wanted));
}

/** For the operator, '' when there is nothing to say. */
export function choiceText(profile: ModelProfile, choice: BatchChoice, runMsMax: number): string {
  const { rows, why, better } = choice;
  const bucket = profile.buckets.find((one) => one.rows === rows);
  if (bucket === undefined || (why === 'fits' && better === null)) return '';
  const took = `${ms(bucket.p99Ms)} ms (p99 of ${bucket.runs} runs on ${profile.provider})`;
  const may = `the ${ms(runMsMax)} ms that a batch may take`;
  const size = `${rows} ${rows === 1 ? 'row' : 'rows'}`;
  const reason = {
    fits: `batches have ${size}, to stay within ${may}`,
    noisy: `the machine is too noisy to tell: ${size} took ${took}, more than ${may}; batches have ${size}`,
    slow: `one row alone takes ${took}, more than ${may}; batches have ${size}`,
    unmeasured: '',
  }[why];
  const each = `${whole(choice.rowsPerSecond)} rows/s a worker`;
  if (better === null) return `${reason}: ${each}`;
  const rate = `${whole(better.rowsPerSecond)} rows/s`;
  const instead = `${better.rows} rows in ${ms(better.p99Ms)} ms would be ${rate}`;
  return `${reason}: ${each}, where ${instead}; to allow that, set batch.run_ms in its model.yaml`;
}

function ms(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2)));
}

function whole(value: number): string {
  return value >= 10 ? value.toFixed(0) : value.toPrecision(2);
}
