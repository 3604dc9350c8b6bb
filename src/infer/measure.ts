/** Measures batches of several sizes within a budget of time. */
import { type BucketProfile, summarise } from './profile.ts';

export interface MeasureOptions {
  /** For all sizes together; each is run once at least, whatever that takes. */
  readonly budgetMs: number;
  /** What a batch may take: a tail beyond it is looked at twice. */
  readonly runMsMax: number;
  /** Milliseconds. */
  readonly now: () => number;
}

/** Enough that a 99th percentile leaves out the two slowest; more would say little more. */
const RUNS_MAX = 200;

/**
 * The sizes take turns: the next run is always of the size that has had the least time so far. So what else
 * the machine does meets all of them, small sizes get many runs, and large ones as much time as those. A size
 * whose median is well within `runMsMax` while its slowest runs are not is measured again once, for it was
 * the machine, as likely as not; the better of the two counts.
 */
export async function measureBuckets(
  buckets: readonly number[],
  run: (rows: number) => Promise<void>,
  { budgetMs, runMsMax, now }: MeasureOptions,
): Promise<BucketProfile[]> {
  const profiles = await measureOnce(buckets, run, budgetMs, now);
  const doubtful = profiles.filter(({ p50Ms, p99Ms }) => p99Ms > runMsMax && p50Ms <= runMsMax / 2);
  if (doubtful.length === 0) return profiles;
  const again = await measureOnce(
    doubtful.map(({ rows }) => rows),
    run,
    budgetMs / 2,
    now,
  );
  return profiles.map((first) => {
    const second = again.find(({ rows }) => rows === first.rows);
    return second !== undefined && second.p99Ms < first.p99Ms ? second : first;
  });
}

async function measureOnce(
  buckets: readonly number[],
  run: (rows: number) => Promise<void>,
  budgetMs: number,
  now: () => number,
): Promise<BucketProfile[]> {
  const samples = buckets.map((): number[] => []);
  const fastestMs = buckets.map(() => Infinity);
  const beganMs = now();
  for (;;) {
    const at = next(samples, fastestMs);
    if (at === -1 || (samples[at]!.length > 0 && now() - beganMs >= budgetMs)) break;
    const startedMs = now();
    await run(buckets[at]!);
    const tookMs = now() - startedMs;
    samples[at]!.push(tookMs);
    fastestMs[at] = Math.min(fastestMs[at]!, tookMs);
  }
  return buckets.map((rows, at) => summarise(rows, samples[at]!));
}

/**
 * One that has not run twice, for the first time may have met a stall of the machine; then the one that has
 * had the least time, stalls not counted; -1 when all have run often enough.
 */
function next(samples: readonly (readonly number[])[], fastestMs: readonly number[]): number {
  for (const runs of [0, 1]) {
    const fresh = samples.findIndex(({ length }) => length === runs);
    if (fresh !== -1) return fresh;
  }
  let least = -1;
  let leastMs = Infinity;
  for (let at = 0; at < samples.length; at++) {
    const runs = samples[at]!.length;
    const spentMs = runs * fastestMs[at]!;
    if (runs >= RUNS_MAX || spentMs >= leastMs) continue;
    least = at;
    leastMs = spentMs;
  }
  return least;
}
