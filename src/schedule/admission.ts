/**
 * The door: whether an event can still make its deadline. It would wait for what is ahead of it, in its class
 * and by the shares of the others, for the batch that runs now, and for its own batch; an event that cannot
 * make it is refused at once, when its producer can still do something about it.
 *
 * It also knows what batches cost (timing.ts) and how many rows of a model may wait (limiter.ts).
 */
import { type Batcher, type Lane, type Queue, type Schedulable, WEIGHTS } from './batcher.ts';
import { Limiter } from './limiter.ts';
import { RESULT } from './slab.ts';
import { BatchTimes, type BucketTimes } from './timing.ts';
import { TIME } from './values.ts';

/** Nothing was heard of the model for so long: what is known of it may no longer hold, so it is tried. */
const STALE_MS = 250;
/** Until the first batch is settled. */
const SETTLE_MS_GUESS = 1;
const SETTLE_WEIGHT = 0.05;

interface LaneState {
  readonly times: BatchTimes;
  readonly limiter: Limiter;
  /** Unix milliseconds: when a batch came back. */
  heardMs: number;
}

export interface AdmissionOptions<B extends Schedulable> {
  readonly batcher: Batcher<B>;
  readonly workers: () => number;
}

export class Admission<B extends Schedulable> {
  readonly #options: AdmissionOptions<B>;
  readonly #lanes = new Map<Lane<B>, LaneState>();
  /** From a worker's answer until Redis has confirmed the batch. */
  #settleMs = SETTLE_MS_GUESS;
  readonly #work = WEIGHTS.map(() => 0);

  constructor(options: AdmissionOptions<B>) {
    this.#options = options;
  }

  /** `buckets`: what was measured when the engine started. */
  addLane(lane: Lane<B>, buckets: readonly BucketTimes[]): void {
    const rows = lane.all.reduce((sum, { rowsMax }) => sum + rowsMax, 0);
    const rowsMin = 2 * this.#options.workers() * (lane.all[0]?.rowsMax ?? 1);
    const limiter = new Limiter(rowsMin, rows);
    this.#lanes.set(lane, { times: new BatchTimes(buckets), limiter, heardMs: 0 });
  }

  /** Milliseconds of a worker. */
  costMs(lane: Lane<B>, rows: number): number {
    return this.#of(lane).times.meanMs(rows);
  }

  /**
   * Whether as many rows of this class wait for this model as may, or this share of them, as if every place
   * had as many as this one. Where there are less urgent classes as well, they may be more, for they are run
   * the sooner.
   */
  isFull(queue: Queue<B>, share = 1): boolean {
    const { batcher } = this.#options;
    const { priority } = queue;
    let places = 1;
    let last = priority;
    for (const other of queue.lane.queues) {
      if (!batcher.isQuiet(other)) last = Math.max(last, other.priority);
      if (other !== queue && other.priority === priority && batcher.rowsOf(other) > 0) places += 1;
    }
    const sooner = (WEIGHTS[priority] as number) / (WEIGHTS[last] as number);
    return batcher.rowsOf(queue) >= (this.#of(queue.lane).limiter.rows * share * sooner) / places;
  }

  /** RESULT.ok; or expired, or overloaded: it would come too late. `times`: cells as in values.ts. */
  admit(queue: Queue<B>, times: Float64Array): number {
    const deadlineMs = times[TIME.deadlineMs] as number;
    const nowMs = times[TIME.nowMs] as number;
    if (deadlineMs === Number.POSITIVE_INFINITY) return RESULT.ok;
    if (deadlineMs <= nowMs) return RESULT.expired;
    return deadlineMs < this.readyMs(queue, nowMs) ? RESULT.overloaded : RESULT.ok;
  }

  /** Unix milliseconds by which an event that is taken now would be answered. */
  readyMs(queue: Queue<B>, nowMs: number): number {
    const { times, heardMs } = this.#of(queue.lane);
    if (nowMs - heardMs > STALE_MS) return nowMs;
    const rows = Math.min((queue.open?.rows ?? 0) + 1, queue.lane.all[0]?.rowsMax ?? 1);
    return nowMs + this.#aheadMs(queue) + times.p99Ms(rows) + this.#settleMs;
  }

  /** Unix milliseconds by which a batch that is dispatched now would be settled. */
  doneMs(lane: Lane<B>, rows: number, nowMs: number): number {
    const { times, heardMs } = this.#of(lane);
    return nowMs - heardMs > STALE_MS ? nowMs : nowMs + times.p99Ms(rows) + this.#settleMs;
  }

  /** A batch came back from a worker after `ms`; its oldest row had been taken `inHandMs` ago. */
  ran(lane: Lane<B>, rows: number, ms: number, inHandMs: number, nowMs: number): void {
    const state = this.#of(lane);
    state.times.observe(rows, ms);
    const starved = lane.queues.every((queue) => this.#options.batcher.rowsOf(queue) === 0);
    state.limiter.observe(inHandMs / state.times.meanMs(rows), starved);
    state.heardMs = nowMs;
  }

  /** None of its rows could be settled in time, were it dispatched now. */
  isLate(lane: Lane<B>, batch: B, nowMs: number): boolean {
    return batch.deadlineMs < this.doneMs(lane, batch.rows, nowMs);
  }

  /** A batch's rows are free again, `ms` after it came back from the worker. */
  settled(ms: number): void {
    this.#settleMs += (ms - this.#settleMs) * SETTLE_WEIGHT;
  }

  /** For figures: rows that may wait while more comes than can be served, of each model. */
  limits(): { readonly lane: Lane<B>; readonly rows: number }[] {
    return [...this.#lanes].map(([lane, { limiter }]) => ({ lane, rows: Math.floor(limiter.rows) }));
  }

  /**
   * What the workers do before they come to the end of this queue, were nothing to come any more: its own
   * work, as much of each other place in its class, and of each other class its share for that time.
   */
  #aheadMs(queue: Queue<B>): number {
    const { batcher, workers } = this.#options;
    if (batcher.workersIdle > 0) return 0;
    const work = this.#work.fill(0);
    let own = 0;
    let places = 0;
    for (const other of batcher.queues) {
      const ms = this.#workMs(other);
      if (ms === 0) continue;
      work[other.priority]! += ms;
      if (other.priority !== queue.priority) continue;
      if (other.source === queue.source) own += ms;
      else places += 1;
    }
    let ahead = Math.min(work[queue.priority] as number, own * (places + 1));
    const weight = WEIGHTS[queue.priority] as number;
    const base = ahead;
    for (const [priority, ms] of work.entries()) {
      if (priority === queue.priority) continue;
      ahead += Math.min(ms, (base * (WEIGHTS[priority] as number)) / weight);
    }
    // All workers are busy: one of them will be free after half a batch.
    const { lane } = queue;
    const residual = this.costMs(lane, lane.all[0]?.rowsMax ?? 1) / 2;
    return (ahead + residual) / workers();
  }

  #workMs({ lane, open, ready }: Queue<B>): number {
    const { times } = this.#of(lane);
    let ms = open !== null && open.rows > 0 ? times.meanMs(open.rows) : 0;
    for (const { rows } of ready) ms += times.meanMs(rows);
    return ms;
  }

  #of(lane: Lane<B>): LaneState {
    let state = this.#lanes.get(lane);
    if (state === undefined) {
      this.addLane(lane, []);
      state = this.#lanes.get(lane) as LaneState;
    }
    return state;
  }
}
