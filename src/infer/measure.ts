/** Measures batches of several sizes within a budget of time. */
import { summarise } from './profile.ts';
import type { BucketProfile } from './protocol.ts';

/** A size that has run once, to warm it up. */
export interface WarmedBucket {
  readonly rows: number;
  readonly tookMs: number;
}

export interface MeasureOptions {
  /** For all sizes together. */
  readonly budgetMs: number;
  /**
   * What a batch may take: a tail beyond it is looked at twice, sizes far beyond it are not looked at again.
   */
  readonly runMsMax: number;
  /** Milliseconds. */
  readonly now: () => number;
}

/** Enough that a 99th percentile leaves out the slowest; more would say little more. */
const RUNS_MAX = 100;
/** Fewer than these are worth going over the budget for: a single run may have met a stall of the machine. */
const RUNS_WANTED = 5;
const OVER_BUDGET = 3;
/**
 * A size that took so many times what a batch may take, twice, is known well enough; once, if that alone was
 * more than the budget.
 */
const FAR_BEYOND = 4;

/**
 * The sizes take turns: the next run is always of the size that has had the least time so far. So what else
 * the machine does meets all of them, small sizes get many runs, and large ones as much time as those. A size
 * whose median is well within `runMsMax` while its slowest runs are not is measured again once, for it was
 * the machine, as likely as not; the better of the two counts.
 */
export async function measureBuckets(
  warmed: readonly WarmedBucket[],
  run: (rows: number) => Promise<void>,
  options: MeasureOptions,
): Promise<BucketProfile[]> {
  const { budgetMs, runMsMax } = options;
  const profiles = await measureOnce(warmed, run, options);
  const doubtful = profiles.filter(({ p50Ms, p99Ms }) => p99Ms > runMsMax && p50Ms <= runMsMax / 2);
  if (doubtful.length === 0) return profiles;
  const sizes = warmed.filter(({ rows }) => doubtful.some((one) => one.rows === rows));
  const again = await measureOnce(sizes, run, { ...options, budgetMs: budgetMs / 2 });
  return profiles.map((first) => {
    const second = again.find(({ rows }) => rows === first.rows);
    return second !== undefined && second.p99Ms < first.p99Ms ? second : first;
  });
}

interface Size {
  readonly rows: number;
  readonly tookMs: number[];
  fastestMs: number;
}

async function measureOnce(
  warmed: readonly WarmedBucket[],
  run: (rows: number) => Promise<void>,
  { budgetMs, runMsMax, now }: MeasureOptions,
): Promise<BucketProfile[]> {
  const sizes = warmed.map(({ rows, tookMs: warmMs }): Size => {
    const isKnown = warmMs > Math.max(budgetMs, FAR_BEYOND * runMsMax);
    return { rows, tookMs: isKnown ? [warmMs] : [], fastestMs: warmMs };
  });
  const beganMs = now();
  for (;;) {
    const spentMs = now() - beganMs;
    const size =
      leastRun(sizes, spentMs < budgetMs * OVER_BUDGET ? RUNS_WANTED : 1, runMsMax) ??
      (spentMs < budgetMs ? leastTimed(sizes, runMsMax) : undefined);
    if (size === undefined) break;
    const startedMs = now();
    await run(size.rows);
    const tookMs = now() - startedMs;
    size.tookMs.push(tookMs);
    size.fastestMs = Math.min(size.fastestMs, tookMs);
  }
  return sizes.map(({ rows, tookMs }) => summarise(rows, tookMs));
}

function isOpen({ tookMs, fastestMs }: Size, runMsMax: number): boolean {
  return tookMs.length === 0 || (tookMs.length < RUNS_MAX && fastestMs <= FAR_BEYOND * runMsMax);
}

/** Of the sizes with fewer than `wanted` runs, the one with the fewest. */
function leastRun(sizes: readonly Size[], wanted: number, runMsMax: number): Size | undefined {
  let least: Size | undefined;
  for (const size of sizes) {
    if (size.tookMs.length >= wanted || !isOpen(size, runMsMax)) continue;
    if (least === undefined || size.tookMs.length < least.tookMs.length) least = size;
  }
  return least;
}

/** The size that has had the least time, stalls of the machine not counted. */
function leastTimed(sizes: readonly Size[], runMsMax: number): Size | undefined {
  const spent = ({ tookMs, fastestMs }: Size) => tookMs.length * fastestMs;
  let least: Size | undefined;
  for (const size of sizes) {
    if (!isOpen(size, runMsMax)) continue;
    if (least === undefined || spent(size) < spent(least)) least = size;
  }
  return least;
}
