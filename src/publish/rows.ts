/**
 * The predicted rows of a batch as lua/commit.lua takes them: five MessagePack arrays one after the other, in
 * one argument: entry ids, keys, event ids, microseconds of waiting (in digits), outputs.
 */
import type { Native } from '../native.ts';
import { type CommandWriter, copyBytes, digitsOf } from '../redis/resp.ts';
import { type Batch, ID_BYTES_MAX } from '../schedule/batch.ts';
import { ROW, ROW_COLUMNS } from '../schedule/slab.ts';

/** Appends rows `picked[0]` to `picked[count - 1]` of a batch as one argument. */
export type WriteRows = (batch: Batch, picked: Uint16Array, count: number, commands: CommandWriter) => void;

const ARRAY_16 = 0xdc;
const ARRAY_HEAD_BYTES = 3;
const COLUMNS = 5;
const FIXSTR = 0xa0;
const STR_8 = 0xd9;
const STR_16 = 0xda;
const STR_32 = 0xdb;
const FIXSTR_BYTES_MAX = 31;
const WAIT_US_MAX = 0x7fff_ffff;

/** Of the batch at hand: what each row has waited. */
let waitsUs = new Int32Array(0);

export const writeRows: WriteRows = (batch, picked, count, commands) => {
  if (waitsUs.length < count) waitsUs = new Int32Array(Math.max(count, batch.rowsMax));
  const bytes = measure(batch, picked, count);
  const { buffer, at } = commands.bulk(bytes);
  let to = at;
  to = putColumn(buffer, to, batch.ids, ID_BYTES_MAX, batch.idBytes, picked, count);
  to = putColumn(buffer, to, batch.keys, batch.keyBytesMax, batch.keyBytes, picked, count);
  to = putColumn(buffer, to, batch.events, batch.eventIdBytesMax, batch.eventBytes, picked, count);
  to = putWaits(buffer, to, count);
  putOutputs(buffer, to, batch, picked, count);
};

/** The same by the addon. */
export function nativeWriteRows(native: Native): WriteRows {
  return (batch, picked, count, commands) => {
    const { handle, outputs, dispatchedMs } = batch;
    if (handle === null) writeRows(batch, picked, count, commands);
    else {
      commands.append((buffer, at) =>
        native.writeRows(handle, picked, count, outputs, dispatchedMs, buffer, at),
      );
    }
  };
}

/** Bytes that the rows will take; notes how long each has waited. */
function measure(batch: Batch, picked: Uint16Array, count: number): number {
  const { table, idBytes, keyBytes, eventBytes, arrivedMs, dispatchedMs } = batch;
  let bytes = COLUMNS * ARRAY_HEAD_BYTES;
  for (let i = 0; i < count; i += 1) {
    const row = picked[i] as number;
    const us = waitUs(dispatchedMs, arrivedMs[row] as number);
    waitsUs[i] = us;
    bytes += stringBytes(idBytes[row] as number) + stringBytes(keyBytes[row] as number);
    bytes += stringBytes(eventBytes[row] as number) + 1 + digitsOf(us);
    bytes += stringBytes(table[row * ROW_COLUMNS + ROW.outLength] as number);
  }
  return bytes;
}

function putColumn(
  target: Buffer,
  at: number,
  source: Buffer,
  stride: number,
  lengths: Uint8Array | Uint16Array,
  picked: Uint16Array,
  count: number,
): number {
  let to = putArrayHead(target, at, count);
  for (let i = 0; i < count; i += 1) {
    const row = picked[i] as number;
    const length = lengths[row] as number;
    const start = row * stride;
    to = putStringHead(target, to, length);
    copyBytes(source, start, start + length, target, to);
    to += length;
  }
  return to;
}

function putWaits(target: Buffer, at: number, count: number): number {
  let to = putArrayHead(target, at, count);
  for (let i = 0; i < count; i += 1) {
    let rest = waitsUs[i] as number;
    const digits = digitsOf(rest);
    target[to] = FIXSTR | digits;
    for (let place = to + digits; place > to; place -= 1) {
      target[place] = 48 + (rest % 10);
      rest = (rest / 10) | 0;
    }
    to += 1 + digits;
  }
  return to;
}

function putOutputs(target: Buffer, at: number, batch: Batch, picked: Uint16Array, count: number): void {
  const { table, outputs } = batch;
  let to = putArrayHead(target, at, count);
  for (let i = 0; i < count; i += 1) {
    const column = (picked[i] as number) * ROW_COLUMNS;
    const start = table[column + ROW.outOffset] as number;
    const length = table[column + ROW.outLength] as number;
    to = putStringHead(target, to, length);
    copyBytes(outputs, start, start + length, target, to);
    to += length;
  }
}

function putArrayHead(target: Buffer, at: number, items: number): number {
  target[at] = ARRAY_16;
  target[at + 1] = items >> 8;
  target[at + 2] = items & 0xff;
  return at + ARRAY_HEAD_BYTES;
}

function putStringHead(target: Buffer, at: number, length: number): number {
  if (length <= FIXSTR_BYTES_MAX) {
    target[at] = FIXSTR | length;
    return at + 1;
  }
  if (length <= 0xff) {
    target[at] = STR_8;
    target[at + 1] = length;
    return at + 2;
  }
  if (length <= 0xffff) {
    target[at] = STR_16;
    target[at + 1] = length >> 8;
    target[at + 2] = length & 0xff;
    return at + 3;
  }
  target[at] = STR_32;
  return target.writeUInt32BE(length, at + 1);
}

/** A string with its head. */
function stringBytes(length: number): number {
  if (length <= FIXSTR_BYTES_MAX) return 1 + length;
  if (length <= 0xff) return 2 + length;
  return (length <= 0xffff ? 3 : 5) + length;
}

/**
 * Entry id, or arrival, to the moment a worker took the row. Clocks of two machines may disagree: never
 * negative.
 */
function waitUs(dispatchedMs: number, arrivedMs: number): number {
  const us = Math.round((dispatchedMs - arrivedMs) * 1000);
  return Math.max(0, Math.min(us, WAIT_US_MAX));
}
