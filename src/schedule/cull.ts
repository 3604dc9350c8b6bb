/**
 * Parts a batch, just before a worker is given it, into rows that run and rows that need not: expired,
 * superseded by a newer event of their key, or waited for by nobody any more. Those that run come first, so a
 * worker never sees the others; all are settled together.
 */
import { type Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from './batch.ts';
import { FORM, RESULT, ROW, ROW_COLUMNS, type TensorSpec } from './slab.ts';

/** A row of a column of bytes, while another one takes its place. */
let spare = Buffer.alloc(0);

/**
 * Sets `batch.live`, and the result of each row behind. A row expires when its deadline is before `readyMs`,
 * the time at which the worker will have done with the batch.
 */
export function cull(batch: Batch, inputs: readonly TensorSpec[], readyMs: number): void {
  const { rows } = batch;
  let live = rows;
  // From the back: a row that takes another's place has been looked at.
  for (let row = rows - 1; row >= 0; row -= 1) {
    const verdict = verdictOf(batch, row, readyMs);
    if (verdict === RESULT.ok) continue;
    live -= 1;
    if (row !== live) {
      swapRows(batch, inputs, row, live);
      batch.isReordered = true;
    }
    const at = live * ROW_COLUMNS;
    batch.table[at + ROW.result] = verdict;
    batch.table[at + ROW.outOffset] = 0;
    batch.table[at + ROW.outLength] = 0;
  }
  batch.live = live;
}

function verdictOf(batch: Batch, row: number, readyMs: number): number {
  if (batch.verdicts[row] !== 0) return batch.verdicts[row] as number;
  if (batch.origin[row] === ORIGIN_DIRECT && batch.callers[row]?.gone === true) return RESULT.cancelled;
  return (batch.deadlinesMs[row] as number) < readyMs ? RESULT.expired : RESULT.ok;
}

/** `to` is behind `row`, and runs: its inputs move; those of `row` are not needed any more. */
function swapRows(batch: Batch, inputs: readonly TensorSpec[], row: number, to: number): void {
  const { table, layout, memory } = batch;
  if (table[to * ROW_COLUMNS + ROW.form] === FORM.features && layout !== null) {
    for (const [i, { rowBytes }] of inputs.entries()) {
      const offset = layout.inputOffsets[i] as number;
      if (rowBytes > 0)
        memory.copyWithin(offset + row * rowBytes, offset + to * rowBytes, offset + (to + 1) * rowBytes);
    }
  }
  for (let column = 0; column < ROW_COLUMNS; column += 1)
    swap(table, row * ROW_COLUMNS + column, to * ROW_COLUMNS + column);
  swapBytes(batch.ids, ID_BYTES_MAX, row, to);
  swapBytes(batch.keys, batch.keyBytesMax, row, to);
  swapBytes(batch.events, batch.eventIdBytesMax, row, to);
  for (const column of columnsOf(batch)) swap(column, row, to);
}

function columnsOf(batch: Batch): { [row: number]: unknown }[] {
  const { idBytes, keyBytes, eventBytes, arrivedMs, readMs, deadlinesMs, verdicts } = batch;
  const { origin, fences, answers, callers, traces } = batch;
  return [
    idBytes,
    keyBytes,
    eventBytes,
    arrivedMs,
    readMs,
    deadlinesMs,
    verdicts,
    origin,
    fences,
    answers,
    callers,
    ...(traces === null ? [] : [traces]),
  ];
}

function swap<T>(column: { [row: number]: T }, a: number, b: number): void {
  const spare = column[a] as T;
  column[a] = column[b] as T;
  column[b] = spare;
}

function swapBytes(column: Buffer, stride: number, a: number, b: number): void {
  if (spare.length < stride) spare = Buffer.alloc(stride);
  column.copy(spare, 0, a * stride, (a + 1) * stride);
  column.copyWithin(a * stride, b * stride, (b + 1) * stride);
  spare.copy(column, b * stride, 0, stride);
}
