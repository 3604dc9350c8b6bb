/** Entries into a batch by the addon, many at a time. */
import assert from 'node:assert/strict';
import { FILL, type Native, type NativeBatch } from '../native.ts';
import type { Batch } from './batch.ts';
import { type EntryLimits, PRIORITY_MAX } from './entry.ts';
import type { TensorSpec } from './slab.ts';

/** What the addon has to know of a batch's model. */
export interface NativeLane {
  /** What an entry may say in `model`. */
  readonly nameBytes: readonly Uint8Array[];
  readonly inputs: readonly TensorSpec[];
  readonly featuresBytes: number;
}

export type NativeLimits = Omit<EntryLimits, 'keyBytesMax' | 'eventIdBytesMax'> & {
  readonly entryBytesMax: number;
};

/**
 * Takes at most `entriesMax` entries that begin at `start` into the batch; returns how many. `fill` says what
 * they have in common, and where it stopped (FILL.next).
 */
export function takeEntries(
  native: Native,
  batch: Batch,
  fill: Float64Array,
  buffer: Buffer,
  start: number,
  end: number,
  entriesMax: number,
): number {
  const { handle, rows } = batch;
  assert(handle !== null);
  fill[FILL.rows] = rows;
  fill[FILL.arenaUsed] = batch.arenaInUsed;
  fill[FILL.deadlineMs] = batch.deadlineMs;
  fill[FILL.next] = native.takeEntries(handle, buffer, start, end, entriesMax, fill);
  batch.rows = fill[FILL.rows] as number;
  batch.arenaInUsed = fill[FILL.arenaUsed] as number;
  batch.deadlineMs = fill[FILL.deadlineMs] as number;
  return batch.rows - rows;
}

/** A batch of this lane as the addon takes it. */
export function openNative(
  native: Native,
  lane: NativeLane,
  batch: Batch,
  limits: NativeLimits,
): NativeBatch {
  const { layout } = batch;
  assert(layout !== null, 'rejects have no slab');
  return native.openBatch({
    rowsMax: batch.idBytes.length,
    table: batch.table,
    memory: batch.memory,
    ids: batch.ids,
    idBytes: batch.idBytes,
    keys: batch.keys,
    keyBytes: batch.keyBytes,
    keyBytesMax: batch.keyBytesMax,
    events: batch.events,
    eventBytes: batch.eventBytes,
    eventIdBytesMax: batch.eventIdBytesMax,
    arrivedMs: batch.arrivedMs,
    readMs: batch.readMs,
    deadlinesMs: batch.deadlinesMs,
    origin: batch.origin,
    fences: batch.fences,
    names: lane.nameBytes.map((bytes) => Buffer.from(bytes).toString()),
    featuresBytes: lane.featuresBytes,
    inputOffsets: layout.inputOffsets.map((offset) => Math.max(0, offset)),
    inputRowBytes: lane.inputs.map(({ rowBytes }) => rowBytes),
    arenaOffset: layout.arenaInOffset,
    arenaBytes: layout.arenaInBytes,
    entryBytesMax: limits.entryBytesMax,
    payloadBytesMax: limits.payloadBytesMax,
    traceBytesMax: limits.traceBytesMax,
    deadlineMsMax: limits.deadlineMsMax,
    priorityMax: PRIORITY_MAX,
  });
}
