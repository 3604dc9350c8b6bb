/**
 * Watches how busy the workers are and how long batches wait for them, and has the pool start and end some.
 */
import { availableParallelism } from 'node:os';
import { messageOf } from '../errors.ts';
import type { Pool } from '../infer/pool.ts';
import { Scaler, type WorkersSeen } from '../infer/scaler.ts';
import { notice } from '../observe/channels.ts';
import type { Totals } from '../observe/totals.ts';
import { type Batch, ORIGIN_DIRECT } from '../schedule/batch.ts';
import type { Batcher } from '../schedule/batcher.ts';

const LOOK_MS = 250;

export interface ScalingOptions {
  readonly pool: Pick<Pool, 'threads' | 'threadsMin' | 'threadsMax' | 'changing' | 'scale' | 'onWorkers'>;
  readonly batcher: Pick<Batcher<Batch>, 'workerAdded' | 'workerRemoved' | 'flush'>;
  /** The batches of all models. */
  readonly lanes: readonly { readonly all: readonly Batch[] }[];
  readonly totals: Pick<Totals, 'busyUs' | 'batchRows'>;
  readonly targetMs: number;
  /** Unix milliseconds, as in the batches. */
  readonly now: () => number;
  /** The number is left as it is while events are not being served. */
  readonly isServing: () => boolean;
}

/** Returns what ends it. A change that is under way is the pool's, and ends with it. */
export function scaleWorkers(options: ScalingOptions): () => void {
  const { pool, batcher, lanes, totals, targetMs, now, isServing } = options;
  const { threadsMin: min, threadsMax: max } = pool;
  tellProcessors(max, availableParallelism());
  if (min === max) return () => {};
  const scaler = new Scaler({ min, max, targetMs });
  pool.onWorkers = (change) => {
    if (change === -1) batcher.workerRemoved();
    else {
      batcher.workerAdded();
      // It has nothing to do yet.
      batcher.flush();
    }
  };
  let stopped = false;
  const change = async (to: number, why: string) => {
    const before = pool.threads;
    const began = performance.now();
    try {
      await pool.scale(to);
      const took = `${((performance.now() - began) / 1000).toFixed(1)} s`;
      notice('info', 'WORKERS', `${to} instead of ${before}, after ${took}: ${why}`);
    } catch (error) {
      if (stopped) return;
      const waitMs = scaler.failed(performance.now());
      const text = `${before} as before, ${to} could not be: ${messageOf(error)}`;
      notice('warn', 'WORKERS', `${text}; tried again after ${(waitMs / 1000).toFixed(0)} s at the earliest`);
    }
  };
  const look = () => {
    if (!isServing()) return;
    const { threads: workers, changing } = pool;
    const work = workOf(lanes, totals, now());
    const { workers: to, why } = scaler.look({ atMs: performance.now(), workers, changing, ...work });
    if (to !== workers) void change(to, why);
  };
  const timer = setInterval(look, LOOK_MS);
  return () => {
    stopped = true;
    clearInterval(timer);
  };
}

/**
 * What is done is known when it is done, so what is being done counts for as long as it has been. All of it
 * is read here, from what is noted of each batch anyway.
 */
export function workOf(
  lanes: ScalingOptions['lanes'],
  { busyUs, batchRows }: ScalingOptions['totals'],
  nowMs: number,
): Pick<WorkersSeen, 'busyMs' | 'rows' | 'oldestMs'> {
  let busyMs = busyUs / 1000;
  let oldestMs = 0;
  for (const { all } of lanes) {
    for (const batch of all) {
      if (batch.running) busyMs += Math.max(0, nowMs - batch.dispatchedMs);
      else if (batch.rows > 0 && batch.dispatchedMs === 0) {
        oldestMs = Math.max(oldestMs, nowMs - takenMs(batch));
      }
    }
  }
  return { busyMs, rows: batchRows, oldestMs };
}

/** When its first row was put into it. */
function takenMs({ origin, arrivedMs, readMs }: Batch): number {
  return origin[0] === ORIGIN_DIRECT ? arrivedMs[0]! : readMs[0]!;
}

/** Workers beyond the processors take time from one another, and from the main thread. */
export function tellProcessors(max: number, processors: number): void {
  if (max <= processors) return;
  const count = `${processors} ${processors === 1 ? 'processor' : 'processors'}`;
  notice(
    'warn',
    'WORKERS_MANY',
    `workers.max is ${max}, and there are ${count}: more workers do no more work`,
  );
}
