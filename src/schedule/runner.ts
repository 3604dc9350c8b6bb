/**
 * Takes a batch through the workers and on to its settlement; the one place where an event's fate is decided,
 * on the main thread. Written in the order in which things happen to a batch:
 *
 *   run (rows that need not be run are put aside) -> answered (its worker is free again; direct rows get
 *   their answers) -> settle -> settled (its rows are free)
 *
 * A worker that dies takes no event with it: its batch runs again, and when a worker dies on it a second time
 * its rows run one at a time, so that only the row that kills is given up.
 */
import { nowMs } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { InferResult, InferTask } from '../infer/protocol.ts';
import { channels, notice, type SettleReport } from '../observe/channels.ts';
import type { Admission } from './admission.ts';
import { type Batch, ORIGIN_DIRECT, resultOf } from './batch.ts';
import type { Batcher, Lane } from './batcher.ts';
import { cull } from './cull.ts';
import type { Answer } from './direct.ts';
import { ANSWERED, type Guard } from './guard.ts';
import type { ModelLane, Settled } from './intake.ts';
import { rungOf } from './ladder.ts';
import { RESULT, ROW, ROW_COLUMNS, RUNG, STATUS } from './slab.ts';

export interface RunnerOptions {
  readonly batcher: Batcher<Batch>;
  /** Rejects when the worker died or hung; the batch's memory is then untouched by anyone. */
  readonly infer: (task: InferTask) => Promise<InferResult>;
  /** Tells Redis; `settled` is called when that is done. */
  readonly settle: (batch: Batch, model: string, record: number | null) => void;
  readonly streamNames: readonly string[];
  readonly admission: Admission<Batch>;
  /** Rows are free again, `ms` after they came back from a worker: read on. */
  readonly onFreeRows: (lane: Lane<Batch>, rows: Settled, ms: number) => void;
  /** Knows which models can be asked now; without it, all can. */
  readonly guard?: Guard;
}

const NO_OUTPUTS = new Uint8Array(0);
const NOT_RUN: InferResult = { inferUs: 0, runUs: 0, spill: null };

export class BatchRunner {
  readonly #options: RunnerOptions;
  /** The lane of each batch, by slab. */
  readonly #lanes: Lane<Batch>[] = [];
  /** Rows of one origin, when a batch mixes several. */
  #arrivedMs = new Float64Array(0);
  #readMs = new Float64Array(0);
  readonly #counts: Counts = { ...NO_COUNTS };
  /** By RESULT. */
  readonly #codes = new Int32Array(STATUS.length);

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  addLane(lane: Lane<Batch>): void {
    for (const batch of lane.free) {
      this.#lanes[batch.slab] = lane;
      if (batch.rowsMax <= this.#arrivedMs.length) continue;
      this.#arrivedMs = new Float64Array(batch.rowsMax);
      this.#readMs = new Float64Array(batch.rowsMax);
    }
  }

  /** The batcher found a worker for this batch, or it needs none. */
  run(lane: Lane<Batch>, batch: Batch): void {
    batch.dispatchedMs = nowMs();
    if (!isModelLane(lane)) {
      batch.inferredMs = batch.dispatchedMs;
      this.#options.settle(batch, lane.name, null);
      return;
    }
    lane.latest?.leaves(batch);
    const { admission } = this.#options;
    cull(batch, lane.inputs, admission.doneMs(lane, batch.rows, batch.dispatchedMs));
    if (batch.live > 0) this.#infer(lane, batch);
    // The batcher is giving work to workers right now, this one among them.
    else this.#done(lane, batch, batch.dispatchedMs);
  }

  #infer(lane: ModelLane, batch: Batch): void {
    this.#runOn(this.#options.guard?.before(lane.slot, batch, batch.live) ?? lane.slot, lane, batch);
  }

  /** `slot`: the guard's answer. */
  #runOn(slot: number, lane: ModelLane, batch: Batch): void {
    if (slot === ANSWERED) {
      // Not at once: the batcher is in the middle of giving out batches.
      queueMicrotask(() => this.#answered(lane, batch, NOT_RUN));
      return;
    }
    const shared = batch.shared as SharedArrayBuffer;
    batch.running = true;
    const apart = batch.deliveries > 1;
    this.#options.infer({ slot, slab: batch.slab, shared, first: 0, rows: batch.live, apart }).then(
      (result) => this.#ran(lane, batch, slot, result, batch.live),
      (error: unknown) => this.#crashed(lane, batch, error),
    );
  }

  /** `asked`: the slot. `ran`: rows from there on did not run after all. */
  #ran(lane: ModelLane, batch: Batch, asked: number, result: InferResult, ran: number): void {
    const { spill } = result;
    if (spill !== null) batch.outputs = Buffer.from(spill.buffer, spill.byteOffset, spill.byteLength);
    // What an event that kills or runs alone takes says nothing about others.
    if (asked === lane.slot && batch.crashes === 0 && batch.deliveries === 1) {
      const backMs = nowMs();
      const inHandMs = backMs - (batch.readMs[0] as number);
      this.#options.admission.ran(lane, ran, backMs - batch.dispatchedMs, inHandMs, backMs);
    }
    const slot = this.#options.guard?.after(batch, batch.live, ran, result.inferUs) ?? ANSWERED;
    if (slot === ANSWERED) this.#answered(lane, batch, result);
    else this.#runOn(slot, lane, batch);
  }

  #answered(lane: ModelLane, batch: Batch, result: InferResult): void {
    const inferredMs = nowMs();
    const roundTripMs = inferredMs - batch.dispatchedMs;
    batch.inferUs = Math.round(result.inferUs);
    batch.runUs = result.runUs;
    const { live } = batch;
    if (result !== NOT_RUN && channels.infer.hasSubscribers) {
      const { inferUs, runUs } = result;
      channels.infer.publish({
        model: lane.label,
        rows: live,
        roundTripUs: roundTripMs * 1000,
        inferUs,
        runUs,
      });
    }
    this.#done(lane, batch, inferredMs);
    this.#options.batcher.flush();
  }

  /** Whatever was to be run has been; all rows are answered or settled now. */
  #done(lane: ModelLane, batch: Batch, inferredMs: number): void {
    this.#options.batcher.workerFreed();
    batch.running = false;
    batch.inferredMs = inferredMs;
    this.#answerDirect(lane, batch);
    this.#options.settle(batch, lane.label, lane.record ? 0 : null);
  }

  #crashed(lane: ModelLane, batch: Batch, error: unknown): void {
    notice('error', 'WORKER_DIED', `${lane.label}: ${messageOf(error)}`);
    batch.crashes += 1;
    const slot = this.#options.guard?.crashed(batch, batch.live) ?? null;
    if (slot !== null || batch.crashes === 1) this.#runOn(slot ?? lane.slot, lane, batch);
    else void this.#runAlone(lane, batch);
  }

  /** Runs the rows one at a time; the ones on which the worker dies again are failed. */
  async #runAlone(lane: ModelLane, batch: Batch): Promise<void> {
    const { slot } = lane;
    const shared = batch.shared as SharedArrayBuffer;
    const { table } = batch;
    const { guard } = this.#options;
    const parts: Buffer[] = [];
    let bytes = 0;
    let inferUs = 0;
    let runUs = 0;
    let first = 0;
    for (; first < batch.live && guard?.mayRunAlone(batch) !== false; first += 1) {
      const at = first * ROW_COLUMNS;
      let part: Buffer;
      try {
        const result = await this.#options.infer({
          slot,
          slab: batch.slab,
          shared,
          first,
          rows: 1,
          apart: true,
        });
        const source = result.spill === null ? batch.arenaOut : Buffer.from(result.spill);
        const from = table[at + ROW.outOffset] as number;
        part = Buffer.from(source.subarray(from, from + (table[at + ROW.outLength] as number)));
        inferUs += result.inferUs;
        runUs += result.runUs;
      } catch (error) {
        table[at + ROW.result] = RESULT.failed;
        part = Buffer.from(`the worker died on this event: ${messageOf(error)}`);
      }
      table[at + ROW.outOffset] = bytes;
      table[at + ROW.outLength] = part.length;
      bytes += part.length;
      parts.push(part);
      guard?.ranAlone(batch, first);
    }
    this.#ran(lane, batch, slot, { inferUs, runUs, spill: Buffer.concat(parts) }, first);
  }

  #answerDirect(lane: ModelLane, batch: Batch): void {
    const { rows, origin, answers, table, outputs } = batch;
    const retryMs = this.#options.guard?.retryMs(batch) ?? 0;
    const failed = retryMs > 0 ? 'unavailable' : 'failed';
    for (let row = 0; row < rows; row += 1) {
      if (origin[row] !== ORIGIN_DIRECT) continue;
      const at = row * ROW_COLUMNS;
      const start = table[at + ROW.outOffset] as number;
      const bytes = outputs.subarray(start, start + (table[at + ROW.outLength] as number));
      const rung = rungOf(batch, row);
      const result = STATUS[table[at + ROW.result] as number] ?? 'failed';
      const ok = result === 'ok';
      const answer: Answer = {
        status: rung !== '' ? 'degraded' : result === 'failed' ? failed : result,
        rung,
        model: lane.label,
        outputs: ok ? bytes : NO_OUTPUTS,
        detail: ok ? '' : bytes.toString('utf8'),
        retryMs: ok ? 0 : retryMs,
        waitUs: Math.max(0, Math.round((batch.dispatchedMs - (batch.arrivedMs[row] as number)) * 1000)),
        inferUs: batch.inferUs,
      };
      const callback = answers[row];
      answers[row] = null;
      try {
        callback?.(answer);
      } catch (error) {
        // One caller's trouble; the batch has other rows to settle.
        notice('error', 'ANSWER_FAILED', String(error));
      }
    }
  }

  /** Redis has confirmed the batch: report it, and its rows are free again. */
  settled(batch: Batch): void {
    const lane = this.#lanes[batch.slab] as Lane<Batch>;
    if (channels.settle.hasSubscribers) this.#report(lane, batch);
    const { rows, deliveries } = batch;
    const settleMs = nowMs() - batch.inferredMs;
    batch.reset();
    this.#options.batcher.release(lane, batch);
    this.#options.onFreeRows(lane, { rows, deliveries }, settleMs);
  }

  #report(lane: Lane<Batch>, batch: Batch): void {
    const settledMs = nowMs();
    const { streamNames } = this.#options;
    const model = isModelLane(lane) ? lane.label : lane.name;
    for (let origin = ORIGIN_DIRECT; origin < streamNames.length; origin += 1) {
      const counts = this.#count(batch, origin);
      const { rows, ok, invalid, failed } = counts;
      if (rows === 0) continue;
      // Which rows they were is not known: a batch that mixes streams reports them under its first one.
      const own = origin === batch.origin[0];
      const duplicateOk = own ? Math.min(batch.duplicatesOk, ok) : 0;
      const duplicateInvalid = own ? Math.min(batch.duplicatesDead, invalid) : 0;
      const duplicateFailed = own ? Math.min(batch.duplicatesDead - duplicateInvalid, failed) : 0;
      channels.settle.publish({
        model,
        stream: origin === ORIGIN_DIRECT ? 'direct' : (streamNames[origin] as string),
        rows,
        degraded: counts.degraded,
        expired: counts.expired,
        overloaded: counts.overloaded,
        superseded: counts.superseded,
        cancelled: counts.cancelled,
        ok: ok - duplicateOk,
        invalid: invalid - duplicateInvalid,
        failed: failed - duplicateFailed,
        duplicate: duplicateOk + duplicateInvalid + duplicateFailed,
        arrivedMs: this.#arrivedMs,
        readMs: this.#readMs,
        dispatchedMs: batch.dispatchedMs,
        inferredMs: batch.inferredMs,
        settledMs,
      } satisfies SettleReport);
    }
  }

  #count(batch: Batch, origin: number): Counts {
    const codes = this.#codes.fill(0);
    let rows = 0;
    let degraded = 0;
    for (let row = 0; row < batch.rows; row += 1) {
      if (batch.origin[row] !== origin) continue;
      this.#arrivedMs[rows] = batch.arrivedMs[row] as number;
      this.#readMs[rows] = batch.readMs[row] as number;
      rows += 1;
      if (batch.rungs[row] === RUNG.none) codes[resultOf(batch, row)]! += 1;
      else degraded += 1;
    }
    const counts = this.#counts;
    counts.rows = rows;
    counts.degraded = degraded;
    for (const [code, status] of STATUS.entries()) counts[status] = codes[code] as number;
    return counts;
  }
}

type Counts = Record<'rows' | 'degraded' | (typeof STATUS)[number], number>;

const NO_COUNTS: Counts = {
  rows: 0,
  ok: 0,
  degraded: 0,
  invalid: 0,
  failed: 0,
  expired: 0,
  overloaded: 0,
  superseded: 0,
  cancelled: 0,
};

function isModelLane(lane: Lane<Batch>): lane is ModelLane {
  return lane.needsWorker;
}
