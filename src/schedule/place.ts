/** Writes an event's parts into a row of a batch. */
import { copyBytes } from '../redis/resp.ts';
import type { EntryColumns } from '../redis/stream-reply.ts';
import { type Batch, ID_BYTES_MAX } from './batch.ts';
import type { DirectEvent } from './direct.ts';
import { FIELD } from './entry.ts';
import { FORM, ROW, ROW_COLUMNS, type TensorSpec } from './slab.ts';
import { sampledTraceparent } from './traceparent.ts';

export function placeData(batch: Batch, row: number, bytes: Uint8Array, start: number, length: number): void {
  const { layout, table } = batch;
  if (layout === null) return;
  copyBytes(bytes, start, start + length, batch.memory, layout.arenaInOffset + batch.arenaInUsed);
  table[row * ROW_COLUMNS + ROW.form] = FORM.data;
  table[row * ROW_COLUMNS + ROW.inOffset] = batch.arenaInUsed;
  table[row * ROW_COLUMNS + ROW.inLength] = length;
  batch.arenaInUsed += length;
}

/** The inputs' rows stand one after the other in `features`, each in its own region of the slab. */
export function placeFeatures(
  batch: Batch,
  row: number,
  inputs: readonly TensorSpec[],
  bytes: Uint8Array,
  start: number,
): void {
  const { layout } = batch;
  if (layout === null) return;
  batch.table[row * ROW_COLUMNS + ROW.form] = FORM.features;
  let from = start;
  for (let i = 0; i < inputs.length; i += 1) {
    const { rowBytes } = inputs[i] as TensorSpec;
    copyBytes(
      bytes,
      from,
      from + rowBytes,
      batch.memory,
      (layout.inputOffsets[i] as number) + row * rowBytes,
    );
    from += rowBytes;
  }
}

/** Entry id, key and event id. */
export function placeNames(batch: Batch, row: number, buffer: Buffer, entry: EntryColumns): void {
  const { fields, idStart, idEnd } = entry;
  batch.idBytes[row] = idEnd - idStart;
  copyBytes(buffer, idStart, idEnd, batch.ids, row * ID_BYTES_MAX);
  const keyStart = fields[2 * FIELD.key] as number;
  const keyEnd = fields[2 * FIELD.key + 1] as number;
  batch.keyBytes[row] = keyEnd - keyStart;
  copyBytes(buffer, keyStart, keyEnd, batch.keys, row * batch.keyBytesMax);
  const eventStart = fields[2 * FIELD.event] as number;
  const eventEnd = fields[2 * FIELD.event + 1] as number;
  batch.eventBytes[row] = eventEnd - eventStart;
  copyBytes(buffer, eventStart, eventEnd, batch.events, row * batch.eventIdBytesMax);
  if (batch.traces !== null) batch.keepTrace(row, traceOf(buffer, entry));
}

export function placeDirectNames(batch: Batch, row: number, { key, event, trace }: DirectEvent): void {
  batch.idBytes[row] = 0;
  batch.keyBytes[row] = batch.keys.write(key, row * batch.keyBytesMax, batch.keyBytesMax, 'utf8');
  const { eventIdBytesMax } = batch;
  batch.eventBytes[row] = batch.events.write(event, row * eventIdBytesMax, eventIdBytesMax, 'utf8');
  if (batch.traces === null || trace === undefined || trace === '') return;
  const bytes = Buffer.from(trace, 'latin1');
  batch.keepTrace(row, sampledTraceparent(bytes, 0, bytes.length));
}

/** The entry's traceparent, if it is sampled. */
export function traceOf(buffer: Buffer, { fields }: EntryColumns): string | null {
  return sampledTraceparent(buffer, fields[2 * FIELD.trace] as number, fields[2 * FIELD.trace + 1] as number);
}
