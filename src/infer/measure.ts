/** Measures batches of several sizes within a budget of time. */
import { summarise } from './profile.ts';
import type { BucketProfile } from './protocol.ts';

/** A size that has run, to warm it up. */
export interface WarmedBucket {
  readonly rows: number;
  /**
   * What it took after the first run, milliseconds. Never the first one: that may have searched for
   * algorithms, compiled, or taken memory, and says nothing of the next.
   */
  readonly againMs: readonly number[];
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
 * A size that took so many times what a batch may take, twice, is known well enough; once, if its warm-up was
 * as slow and it alone took longer than all of the measuring should.
 */
const FAR_BEYOND = 4;
const RUNS_FAR_BEYOND = 2;

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
  const again = await measureOnce(
    sizes.map(({ rows }) => ({ rows, againMs: [] })),
    run,
    { ...options, budgetMs: budgetMs / 2 },
  );
  return profiles.map((first) => {
    const second = again.find(({ rows }) => rows === first.rows);
    return second !== undefined && second.p99Ms < first.p99Ms ? second : first;
  });
}

interface Size {
  readonly rows: number;
  /** Fewer runs do not show that it is far beyond. */
  readonly runsLeast: number;
  readonly tookMs: number[];
  fastestMs: number;
}

async function measureOnce(
  warmed: readonly WarmedBucket[],
  run: (rows: number) => Promise<void>,
  { budgetMs, runMsMax, now }: MeasureOptions,
): Promise<BucketProfile[]> {
  const longMs = budgetMs * OVER_BUDGET;
  const sizes = warmed.map(({ rows, againMs }): Size => {
    const runsLeast = againMs.some((tookMs) => tookMs > longMs) ? 1 : RUNS_FAR_BEYOND;
    return { rows, runsLeast, tookMs: [...againMs], fastestMs: Math.min(...againMs) };
  });
  const beganMs = now();
  for (;;) {
    const spentMs = now() - beganMs;
    const size =
      leastRun(sizes, spentMs < longMs ? RUNS_WANTED : 1, runMsMax) ??
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

function isOpen(size: Size, runMsMax: number): boolean {
  return size.tookMs.length < (isFarBeyond(size, runMsMax) ? size.runsLeast : RUNS_MAX);
}

function isFarBeyond({ fastestMs }: Size, runMsMax: number): boolean {
  return fastestMs > FAR_BEYOND * runMsMax;
}

/** Of the sizes with fewer than `wanted` runs, or fewer than they need, the one with the fewest. */
function leastRun(sizes: readonly Size[], wanted: number, runMsMax: number): Size | undefined {
  let least: Size | undefined;
  for (const size of sizes) {
    const needed = isFarBeyond(size, runMsMax) ? size.runsLeast : wanted;
    if (size.tookMs.length >= needed) continue;
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
