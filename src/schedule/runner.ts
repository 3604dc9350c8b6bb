/**
 * Takes a batch through the workers and on to its settlement; the one place where an event's fate is decided,
 * on the main thread. Written in the order in which things happen to a batch:
 *
 *   run -> answered (its worker is free again; direct rows get their answers) -> settle -> settled (its rows
 *   are free)
 *
 * A worker that dies takes no event with it: its batch runs again, and when a worker dies on it a second time
 * its rows run one at a time, so that only the row that kills is given up.
 */
import { nowMs } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { InferResult, InferTask } from '../infer/protocol.ts';
import { channels, notice } from '../observe/channels.ts';
import { type Batch, ORIGIN_DIRECT, resultOf } from './batch.ts';
import type { Batcher, Lane } from './batcher.ts';
import type { Answer } from './direct.ts';
import { ANSWERED, type Guard } from './guard.ts';
import type { ModelLane } from './intake.ts';
import { rungOf } from './ladder.ts';
import { RESULT, ROW, ROW_COLUMNS } from './slab.ts';

export interface RunnerOptions {
  readonly batcher: Batcher<Batch>;
  /** Rejects when the worker died or hung; the batch's memory is then untouched by anyone. */
  readonly infer: (task: InferTask) => Promise<InferResult>;
  /** Tells Redis; `settled` is called when that is done. */
  readonly settle: (batch: Batch, model: string, record: number | null) => void;
  readonly streamNames: readonly string[];
  /** The workers have done with a batch whose rows had been given out so often. */
  readonly onRan: (rows: number, deliveries: number) => void;
  /** Rows are free again: read on. */
  readonly onFreeRows: (rows: number) => void;
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
    if (isModelLane(lane)) this.#infer(lane, batch);
    else {
      batch.inferredMs = batch.dispatchedMs;
      this.#options.settle(batch, lane.name, null);
    }
  }

  #infer(lane: ModelLane, batch: Batch): void {
    this.#runOn(this.#options.guard?.before(lane.slot, batch, batch.rows) ?? lane.slot, lane, batch);
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
    this.#options.infer({ slot, slab: batch.slab, shared, first: 0, rows: batch.rows, apart }).then(
      (result) => this.#ran(lane, batch, result, batch.rows),
      (error: unknown) => this.#crashed(lane, batch, error),
    );
  }

  /** `ran`: rows from there on did not run after all. */
  #ran(lane: ModelLane, batch: Batch, result: InferResult, ran: number): void {
    const { spill } = result;
    if (spill !== null) batch.outputs = Buffer.from(spill.buffer, spill.byteOffset, spill.byteLength);
    const slot = this.#options.guard?.after(batch, batch.rows, ran, result.inferUs) ?? ANSWERED;
    if (slot === ANSWERED) this.#answered(lane, batch, result);
    else this.#runOn(slot, lane, batch);
  }

  #answered(lane: ModelLane, batch: Batch, result: InferResult): void {
    this.#options.batcher.workerFreed();
    batch.running = false;
    this.#options.onRan(batch.rows, batch.deliveries);
    batch.inferredMs = nowMs();
    batch.inferUs = Math.round(result.inferUs);
    batch.runUs = result.runUs;
    if (result !== NOT_RUN && channels.infer.hasSubscribers) {
      channels.infer.publish({
        model: lane.label,
        rows: batch.rows,
        roundTripUs: (batch.inferredMs - batch.dispatchedMs) * 1000,
        inferUs: result.inferUs,
        runUs: result.runUs,
      });
    }
    this.#answerDirect(lane, batch);
    this.#options.settle(batch, lane.label, lane.record ? 0 : null);
    this.#options.batcher.flush();
  }

  #crashed(lane: ModelLane, batch: Batch, error: unknown): void {
    notice('error', 'WORKER_DIED', `${lane.label}: ${messageOf(error)}`);
    batch.crashes += 1;
    const slot = this.#options.guard?.crashed(batch, batch.rows) ?? null;
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
    for (; first < batch.rows && guard?.mayRunAlone(batch) !== false; first += 1) {
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
    this.#ran(lane, batch, { inferUs, runUs, spill: Buffer.concat(parts) }, first);
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
      const result = table[at + ROW.result];
      const ok = result === RESULT.ok;
      const rung = rungOf(batch, row);
      const answer: Answer = {
        status: ok ? (rung === '' ? 'ok' : 'degraded') : result === RESULT.invalid ? 'invalid' : failed,
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
    const { rows } = batch;
    batch.reset();
    this.#options.batcher.release(lane, batch);
    this.#options.onFreeRows(rows);
  }

  #report(lane: Lane<Batch>, batch: Batch): void {
    const settledMs = nowMs();
    const { streamNames } = this.#options;
    const model = isModelLane(lane) ? lane.label : lane.name;
    for (let origin = ORIGIN_DIRECT; origin < streamNames.length; origin += 1) {
      const counts = this.#count(batch, origin);
      if (counts.rows === 0) continue;
      // Which rows they were is not known: a batch that mixes streams reports them under its first one.
      const own = origin === batch.origin[0];
      const duplicateOk = own ? Math.min(batch.duplicatesOk, counts.ok) : 0;
      const duplicateInvalid = own ? Math.min(batch.duplicatesDead, counts.invalid) : 0;
      const duplicateFailed = own ? Math.min(batch.duplicatesDead - duplicateInvalid, counts.failed) : 0;
      channels.settle.publish({
        model,
        stream: origin === ORIGIN_DIRECT ? 'direct' : (streamNames[origin] as string),
        rows: counts.rows,
        ok: counts.ok - duplicateOk,
        invalid: counts.invalid - duplicateInvalid,
        failed: counts.failed - duplicateFailed,
        duplicate: duplicateOk + duplicateInvalid + duplicateFailed,
        arrivedMs: this.#arrivedMs,
        readMs: this.#readMs,
        dispatchedMs: batch.dispatchedMs,
        inferredMs: batch.inferredMs,
        settledMs,
      });
    }
  }

  #count(batch: Batch, origin: number): { rows: number; ok: number; invalid: number; failed: number } {
    const counts = { rows: 0, ok: 0, invalid: 0, failed: 0 };
    for (let row = 0; row < batch.rows; row += 1) {
      if (batch.origin[row] !== origin) continue;
      this.#arrivedMs[counts.rows] = batch.arrivedMs[row] as number;
      this.#readMs[counts.rows] = batch.readMs[row] as number;
      counts.rows += 1;
      const result = resultOf(batch, row);
      if (result === RESULT.ok) counts.ok += 1;
      else if (result === RESULT.invalid) counts.invalid += 1;
      else counts.failed += 1;
    }
    return counts;
  }
}

function isModelLane(lane: Lane<Batch>): lane is ModelLane {
  return lane.needsWorker;
}
