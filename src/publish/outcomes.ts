/**
 * Outcomes that are told in the predictions stream although the model was not asked: expired, overloaded,
 * superseded, and degraded ones, which have outputs all the same.
 */
import { ledgerKey } from '../redis/keys.ts';
import { loadScript } from '../redis/scripts.ts';
import { type Batch, ORIGIN_DIRECT, resultOf } from '../schedule/batch.ts';
import { RESULT, ROW, ROW_COLUMNS, RUNG, STATUS } from '../schedule/slab.ts';
import type { Settlement } from './link.ts';

export interface OutcomeStream {
  readonly index: number;
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly predictionsMax: number;
  readonly consumer: string;
}

const ARGUMENTS_PER_ROW = 9;
/** By RUNG, as it is told. */
export const RUNG_NAMES = Object.keys(RUNG);

/** Appends the command for this stream, when the batch has any such rows. `record`: direct ones as well. */
export function writeOutcomes(
  batch: Batch,
  model: string,
  stream: OutcomeStream,
  record: boolean,
  settlements: Settlement[],
): void {
  const { rows, commands } = batch;
  let count = 0;
  for (let row = 0; row < rows; row += 1) if (isOutcome(batch, row, stream.index, record)) count += 1;
  if (count === 0) return;
  const start = commands.length;
  commands.array(9 + ARGUMENTS_PER_ROW * count);
  commands.ascii('EVALSHA');
  commands.ascii(loadScript('outcome').sha);
  commands.ascii('3');
  commands.utf8(stream.name);
  commands.utf8(stream.predictions);
  commands.utf8(ledgerKey(stream.name));
  commands.utf8(stream.group);
  commands.int(stream.predictionsMax);
  commands.utf8(stream.consumer);
  for (let row = 0; row < rows; row += 1) {
    if (isOutcome(batch, row, stream.index, record)) writeRow(batch, row, model);
  }
  const end = commands.length;
  const [epochStart, epochEnd] = [end, end];
  const { index } = stream;
  settlements.push({ batch, stream: index, start, end, epochStart, epochEnd, rows: count, kind: 'outcomes' });
}

function isOutcome(batch: Batch, row: number, stream: number, record: boolean): boolean {
  const isDirect = batch.origin[row] === ORIGIN_DIRECT;
  if (isDirect ? !record : batch.origin[row] !== stream) return false;
  const result = resultOf(batch, row);
  if (result === RESULT.ok) return batch.rungs[row] !== RUNG.none;
  // Who waited on a socket has been told there.
  return result >= RESULT.expired && !isDirect;
}

function writeRow(batch: Batch, row: number, model: string): void {
  const { commands, layout, table, outputs, arrivedMs, dispatchedMs } = batch;
  const rung = batch.rungs[row] as number;
  const at = row * ROW_COLUMNS;
  commands.ascii(batch.id(row));
  commands.utf8(batch.key(row));
  commands.utf8(batch.event(row));
  commands.utf8(layout === null ? (batch.models[row] as string) : model);
  commands.ascii(rung === RUNG.none ? (STATUS[resultOf(batch, row)] as string) : 'degraded');
  commands.int(Math.max(0, Math.round((dispatchedMs - (arrivedMs[row] as number)) * 1000)));
  commands.int(batch.inferUs);
  commands.ascii(rung === RUNG.none ? '' : (RUNG_NAMES[rung] as string));
  if (rung === RUNG.none) commands.ascii('');
  else {
    const from = table[at + ROW.outOffset] as number;
    const bytes = table[at + ROW.outLength] as number;
    const bulk = commands.bulk(bytes);
    outputs.copy(bulk.buffer, bulk.at, from, from + bytes);
  }
}
