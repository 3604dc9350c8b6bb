/**
 * Everything counted since the start, in plain numbers. The one subscriber of the stages' channels that works
 * per batch; metrics.ts renders it at a scrape, stats.ts takes its difference every second.
 *
 * The life of an event, by the clock of the main thread (Redis's clock for entry ids):
 *
 *   entry id or arrival --wait--> read --queue--> dispatched --infer--> inferred --commit--> settled
 *   \________________________________________ total ____________________________________________/
 *
 *   wait    from its entry id (or its arrival over a socket) until its bytes lie in a slab;
 *   queue   from there until a worker is given the slab;
 *   infer   from there until the worker's answer is on the main thread: two thread hops, decode, run, encode;
 *   commit  from there until Redis has confirmed the settlement, or a direct answer was handed over;
 *   push    from the entry id of a prediction until its frames are handed to the sockets: one per prediction.
 *
 * For every event wait + queue + infer + commit = total. Rows that somebody else had settled count in the
 * times too.
 */
import {
  channels,
  type InferReport,
  type NoticeReport,
  type PushReport,
  type ReadReport,
  type SettleReport,
} from './channels.ts';
import { OUTCOMES, type Outcome, type Stage } from './figures.ts';
import { LatencyHistogram } from './histogram.ts';

/**
 * Batches by size: place i counts batches of at most 2^i rows (and more than 2^(i-1)); the last takes all
 * above.
 */
export const BATCH_BUCKETS = 12;
/** Distinct codes and levels of notices that are counted; more fall together. */
const NOTICES_MAX = 100;

/** Settled events of one (stream, model). */
export interface Outcomes extends Record<Outcome, number> {
  readonly stream: string;
  readonly model: string;
}

export const noOutcomes = (): Record<Outcome, number> => ({
  ok: 0,
  degraded: 0,
  invalid: 0,
  failed: 0,
  expired: 0,
  overloaded: 0,
  superseded: 0,
  cancelled: 0,
  duplicate: 0,
});

/** Work done for one model by all workers. */
export interface ModelWork {
  batches: number;
  rows: number;
  inferUs: number;
  runUs: number;
}

export interface NoticeCount {
  readonly level: NoticeReport['level'];
  readonly code: string;
  count: number;
}

export class Totals {
  readonly stages: Readonly<Record<Stage, LatencyHistogram>> = {
    wait: new LatencyHistogram(),
    queue: new LatencyHistogram(),
    infer: new LatencyHistogram(),
    commit: new LatencyHistogram(),
    push: new LatencyHistogram(),
  };
  readonly total = new LatencyHistogram();
  readonly batches = new Float64Array(BATCH_BUCKETS);
  batchRows = 0;
  batchCount = 0;
  /** Microseconds that workers spent on batches. */
  busyUs = 0;
  /** Events read from each input stream. */
  readonly read = new Map<string, number>();
  readRows = 0;
  readBytes = 0;
  /** Events that came over a socket and were settled. */
  directRows = 0;
  readonly settled = noOutcomes();
  readonly pushed = { sent: 0, held: 0, dropped: 0 };
  readonly models = new Map<string, ModelWork>();
  readonly notices = new Map<string, NoticeCount>();
  readonly #outcomes = new Map<string, Map<string, Outcomes>>();
  readonly #handlers = [
    [channels.read, (report: unknown) => this.#onRead(report as ReadReport)],
    [channels.infer, (report: unknown) => this.#onInfer(report as InferReport)],
    [channels.settle, (report: unknown) => this.#onSettle(report as SettleReport)],
    [channels.push, (report: unknown) => this.#onPush(report as PushReport)],
    [channels.notice, (report: unknown) => this.#onNotice(report as NoticeReport)],
  ] as const;

  constructor() {
    for (const [source, handler] of this.#handlers) source.subscribe(handler);
  }

  stop(): void {
    for (const [source, handler] of this.#handlers) source.unsubscribe(handler);
  }

  *outcomes(): Generator<Outcomes> {
    for (const byModel of this.#outcomes.values()) yield* byModel.values();
  }

  #onRead(report: ReadReport): void {
    this.read.set(report.stream, (this.read.get(report.stream) ?? 0) + report.rows);
    this.readRows += report.rows;
    this.readBytes += report.bytes;
  }

  #onInfer(report: InferReport): void {
    let work = this.models.get(report.model);
    if (work === undefined) {
      work = { batches: 0, rows: 0, inferUs: 0, runUs: 0 };
      this.models.set(report.model, work);
    }
    work.batches += 1;
    work.rows += report.rows;
    work.inferUs += report.inferUs;
    work.runUs += report.runUs;
    this.busyUs += report.inferUs;
    const bucket = Math.min(BATCH_BUCKETS - 1, 32 - Math.clz32(Math.max(report.rows, 1) - 1));
    this.batches[bucket] = this.batches[bucket]! + 1;
    this.batchRows += report.rows;
    this.batchCount += 1;
  }

  #onSettle(report: SettleReport): void {
    const { rows, arrivedMs, readMs } = report;
    const direct = report.stream === 'direct';
    // A direct event is in its slab the moment it arrives.
    if (direct) this.stages.wait.record(0, rows);
    else this.stages.wait.recordBetween(arrivedMs, readMs, rows);
    this.stages.queue.recordUntil(direct ? arrivedMs : readMs, rows, report.dispatchedMs);
    this.stages.infer.record(report.inferredMs - report.dispatchedMs, rows);
    this.stages.commit.record(report.settledMs - report.inferredMs, rows);
    this.total.recordUntil(arrivedMs, rows, report.settledMs);
    if (direct) this.directRows += rows;

    const outcomes = this.#outcomesOf(report.stream, report.model);
    for (const outcome of OUTCOMES) {
      const count = report[outcome];
      if (count === 0) continue;
      outcomes[outcome] += count;
      this.settled[outcome] += count;
    }
  }

  #outcomesOf(stream: string, model: string): Outcomes {
    let byModel = this.#outcomes.get(stream);
    if (byModel === undefined) {
      byModel = new Map();
      this.#outcomes.set(stream, byModel);
    }
    let outcomes = byModel.get(model);
    if (outcomes === undefined) {
      outcomes = { stream, model, ...noOutcomes() };
      byModel.set(model, outcomes);
    }
    return outcomes;
  }

  #onPush(report: PushReport): void {
    this.pushed.sent += report.sent;
    this.pushed.held += report.held;
    this.pushed.dropped += report.dropped;
    this.stages.push.record(report.pushMs, 1);
  }

  #onNotice(report: NoticeReport): void {
    const full = this.notices.size >= NOTICES_MAX;
    const known = this.notices.get(`${report.level} ${report.code}`);
    if (known !== undefined) {
      known.count += 1;
      return;
    }
    const code = full ? 'other' : report.code;
    const name = `${report.level} ${code}`;
    const count = this.notices.get(name) ?? { level: report.level, code, count: 0 };
    count.count += 1;
    this.notices.set(name, count);
  }
}
