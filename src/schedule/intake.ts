/**
 * Puts events into batches: from the stream reader, straight out of its receive buffer, and from the gateway.
 * What can be judged without decoding the payload is judged here; a malformed event still takes a row, in the
 * lane of rejected events, so that it is settled like any other and cannot pile up.
 */
import { copyBytes } from '../redis/resp.ts';
import type { EntryColumns } from '../redis/stream-reply.ts';
import { type Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from './batch.ts';
import type { Batcher, Lane } from './batcher.ts';
import type { AnswerCallback, DirectEvent } from './direct.ts';
import { ENCODING, FORM, ROW, ROW_COLUMNS, type TensorSpec } from './slab.ts';
import { isTraceparent } from './traceparent.ts';
import { equalBytes, idMs, wholeNumber } from './values.ts';

/** The fields of a stream entry, in the order of `EntryColumns.fields`. */
export const ENTRY_FIELDS = [
  'key',
  'model',
  'features',
  'data',
  'deadline_ms',
  'priority',
  'event',
  'trace',
] as const;
const [KEY, MODEL, FEATURES, DATA, DEADLINE, PRIORITY, EVENT, TRACE] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const PRIORITY_MAX = 2;
/** Suspects in one slab: enough that a worker's turn costs less than what it does. */
const SUSPECTS_MAX = 16;

/** A lane of batches with the model that they are for. */
export interface ModelLane extends Lane<Batch> {
  /** `name` and `name@version`, as an event may say it. */
  readonly nameBytes: readonly Uint8Array[];
  readonly inputs: readonly TensorSpec[];
  /** Bytes of `features`; 0: the model has inputs that have no fixed size, so events must use `data`. */
  readonly featuresBytes: number;
  /** 0: the stream's. */
  readonly deadlineMs: number;
  /** Index of the model in the workers. */
  readonly slot: number;
  /** `name@version`. */
  readonly label: string;
  /** Answers to direct requests are also appended to the predictions stream. */
  readonly record: boolean;
}

export interface IntakeStream {
  readonly index: number;
  readonly lane: ModelLane | null;
  /** 0: the model's, else the engine's default. */
  readonly deadlineMs: number;
  readonly json: boolean;
}

export interface IntakeOptions {
  readonly batcher: Batcher<Batch>;
  readonly lanes: readonly ModelLane[];
  readonly rejects: Lane<Batch>;
  readonly payloadBytesMax: number;
  readonly keyBytesMax: number;
  readonly eventIdBytesMax: number;
  readonly deadlineMsDefault: number;
  readonly deadlineMsMax: number;
  readonly modelNameBytesMax: number;
  readonly traceBytesMax: number;
}

export class Intake {
  readonly #options: IntakeOptions;
  /** Why the entry at hand is refused; '' while it is not. */
  #reason = '';
  /** Rows taken and not settled yet. */
  rowsInFlight = 0;
  /**
   * Suspects that have not run yet, each alone in a batch; `exclusive`: those beside which no other suspect
   * may run, because if one of them ends the process, it must not take another one's deliveries with it.
   */
  readonly alone = { suspects: 0, exclusive: 0 };
  /** Unix milliseconds: when what is being taken in now was received. */
  #receivedMs = 0;

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** Bytes came in; the entries that are taken next lay in them. One clock reading serves them all. */
  received(nowMs: number): void {
    this.#receivedMs = nowMs;
  }

  /** Rows that may be read from this stream now. */
  demand(stream: IntakeStream): number {
    const { batcher, lanes, rejects } = this.#options;
    let rows = batcher.freeRows(rejects);
    if (stream.lane !== null) return Math.min(rows, batcher.freeRows(stream.lane));
    for (const lane of lanes) rows = Math.min(rows, batcher.freeRows(lane));
    return rows;
  }

  /** Suspect entries that may be read from this stream now. */
  demandAlone(stream: IntakeStream): number {
    const { batcher, lanes } = this.#options;
    let rows = Number.POSITIVE_INFINITY;
    for (const lane of stream.lane === null ? lanes : [stream.lane]) {
      const rowsMax = Math.min(SUSPECTS_MAX, lane.free[0]?.rowsMax ?? 0);
      rows = Math.min(rows, batcher.freeAlone(lane) * rowsMax);
    }
    return rows;
  }

  /** Whether the entry has a row already: read over an earlier connection, say. Looks at every row. */
  isInHand(stream: IntakeStream, id: string): boolean {
    const wanted = Buffer.from(id, 'latin1');
    const { lanes, rejects } = this.#options;
    for (const lane of [rejects, ...lanes]) {
      for (const { rows, origin, ids, idBytes } of lane.all) {
        for (let row = 0; row < rows; row += 1) {
          if (origin[row] !== stream.index || idBytes[row] !== wanted.length) continue;
          const at = row * ID_BYTES_MAX;
          // Ids differ at their ends.
          let left = wanted.length - 1;
          while (left >= 0 && ids[at + left] === wanted[left]) left -= 1;
          if (left < 0) return true;
        }
      }
    }
    return false;
  }

  /**
   * Takes one stream entry; false when there is no row for it now. `mark`: the fence's mark under which it
   * was asked for, 0 when it had been given out before. One that was given out twice or more gets a batch of
   * its own.
   */
  take(stream: IntakeStream, buffer: Buffer, entry: EntryColumns, mark = 0): boolean {
    this.#reason = '';
    const lane = this.#laneOf(stream, buffer, entry);
    if (this.#reason === '') this.#check(lane as ModelLane, buffer, entry);
    if (this.#reason !== '' || lane === null) {
      return this.reject(stream, buffer.toString('latin1', entry.idStart, entry.idEnd), this.#reason);
    }
    const { fields } = entry;
    const dataStart = fields[2 * DATA] as number;
    const dataBytes = dataStart < 0 ? 0 : (fields[2 * DATA + 1] as number) - dataStart;
    const isSuspect = entry.deliveries > 1;
    const { deliveries } = entry;
    const batch = isSuspect ? this.#apart(lane, dataBytes, deliveries) : this.#room(lane, dataBytes, false);
    if (batch === null) return false;
    const row = batch.rows;
    batch.fences[row] = isSuspect ? 0 : mark;
    if (dataStart >= 0) placeData(batch, row, buffer, dataStart, dataBytes);
    else placeFeatures(batch, row, lane, buffer, fields[2 * FEATURES] as number);
    batch.table[row * ROW_COLUMNS + ROW.encoding] = stream.json ? ENCODING.json : ENCODING.msgpack;
    batch.idBytes[row] = entry.idEnd - entry.idStart;
    copyBytes(buffer, entry.idStart, entry.idEnd, batch.ids, row * ID_BYTES_MAX);
    const keyStart = fields[2 * KEY] as number;
    const keyEnd = fields[2 * KEY + 1] as number;
    batch.keyBytes[row] = keyEnd - keyStart;
    copyBytes(buffer, keyStart, keyEnd, batch.keys, row * batch.keyBytesMax);
    const eventStart = fields[2 * EVENT] as number;
    const eventEnd = fields[2 * EVENT + 1] as number;
    batch.eventBytes[row] = eventEnd - eventStart;
    copyBytes(buffer, eventStart, eventEnd, batch.events, row * batch.eventIdBytesMax);
    const asked = fields[2 * DEADLINE] as number;
    const arrivedMs = idMs(buffer, entry.idStart, entry.idEnd);
    const deadlineMs =
      (asked >= 0 ? wholeNumber(buffer, asked, fields[2 * DEADLINE + 1] as number) : 0) ||
      stream.deadlineMs ||
      lane.deadlineMs ||
      this.#options.deadlineMsDefault;
    if (isSuspect) {
      this.alone.suspects += 1;
      if (isExclusive(deliveries)) this.alone.exclusive += 1;
    }
    this.#added(lane, batch, stream.index, arrivedMs, arrivedMs + deadlineMs);
    return true;
  }

  /**
   * Takes an entry that cannot be served, with the reason: the event is invalid, or running it `failed`.
   * False when there is no row for it now.
   */
  reject(stream: IntakeStream, id: string, reason: string, failed = false): boolean {
    const { batcher, rejects } = this.#options;
    const batch = batcher.open(rejects, false);
    if (batch === null) return false;
    const row = batch.rows;
    batch.idBytes[row] = batch.ids.write(id, row * ID_BYTES_MAX, 'latin1');
    batch.details[row] = reason;
    batch.failed[row] = failed ? 1 : 0;
    this.#added(rejects, batch, stream.index, Number.parseInt(id, 10), 0);
    return true;
  }

  /** Takes an event that waits for its answer; false when there is no row for it now. `data` is copied. */
  takeDirect(lane: ModelLane, event: DirectEvent, nowMs: number, answer: AnswerCallback): boolean {
    this.#receivedMs = nowMs;
    const isRaw = event.raw === true;
    if (isRaw && event.data.length !== lane.featuresBytes) {
      throw new RangeError(
        `a row of ${lane.label} has ${lane.featuresBytes} bytes, got ${event.data.length}`,
      );
    }
    const batch = this.#room(lane, isRaw ? 0 : event.data.length, true);
    if (batch === null) return false;
    const row = batch.rows;
    if (isRaw) placeFeatures(batch, row, lane, event.data, 0);
    else placeData(batch, row, event.data, 0, event.data.length);
    batch.table[row * ROW_COLUMNS + ROW.encoding] = event.json ? ENCODING.json : ENCODING.msgpack;
    batch.idBytes[row] = 0;
    batch.keyBytes[row] = batch.keys.write(event.key, row * batch.keyBytesMax, batch.keyBytesMax, 'utf8');
    batch.eventBytes[row] = batch.events.write(
      event.event,
      row * batch.eventIdBytesMax,
      batch.eventIdBytesMax,
      'utf8',
    );
    batch.answers[row] = answer;
    const deadlineMs = event.deadlineMs || lane.deadlineMs || this.#options.deadlineMsDefault;
    this.#added(lane, batch, ORIGIN_DIRECT, nowMs, nowMs + deadlineMs);
    return true;
  }

  /** The workers have done with a batch, unharmed; its rows had been given out so often. */
  ran(rows: number, deliveries: number): void {
    if (deliveries < 2) return;
    this.alone.suspects -= rows;
    if (isExclusive(deliveries)) this.alone.exclusive -= rows;
  }

  /** Rows were settled. */
  released(rows: number): void {
    this.rowsInFlight -= rows;
  }

  /** Ids of the stream's entries that a worker has. */
  runningIds(stream: number): string[] {
    const found: string[] = [];
    for (const { all } of this.#options.lanes) {
      for (const batch of all) {
        if (!batch.running) continue;
        for (let row = 0; row < batch.rows; row += 1) {
          if (batch.origin[row] === stream) found.push(batch.id(row));
        }
      }
    }
    return found;
  }

  #added(lane: Lane<Batch>, batch: Batch, origin: number, arrivedMs: number, deadlineMs: number): void {
    batch.origin[batch.rows] = origin;
    batch.arrivedMs[batch.rows] = arrivedMs;
    batch.readMs[batch.rows] = this.#receivedMs;
    if (deadlineMs < batch.deadlineMs) batch.deadlineMs = deadlineMs;
    batch.rows += 1;
    this.rowsInFlight += 1;
    if (batch !== lane.suspects) this.#options.batcher.added(lane);
  }

  /**
   * A batch for a row that runs alone: with others of its kind in one slab, each in a run of its own; or, if
   * it was given out more often than twice, by itself.
   */
  #apart(lane: ModelLane, dataBytes: number, deliveries: number): Batch | null {
    const { batcher } = this.#options;
    const { suspects } = lane;
    if (suspects !== null) {
      const fits = suspects.arenaInUsed + dataBytes <= (suspects.layout?.arenaInBytes ?? 0);
      const isFull = suspects.rows === Math.min(SUSPECTS_MAX, suspects.rowsMax);
      if (fits && !isFull && suspects.deliveries === 2 && deliveries === 2) return suspects;
      batcher.closeSuspects(lane);
    }
    const batch = batcher.openSuspects(lane);
    if (batch !== null) batch.deliveries = deliveries;
    return batch;
  }

  /** The open batch, or the next one when this event's bytes do not fit its arena any more. */
  #room(lane: ModelLane, dataBytes: number, direct: boolean): Batch | null {
    const { batcher } = this.#options;
    const batch = batcher.open(lane, direct);
    if (batch === null || batch.arenaInUsed + dataBytes <= (batch.layout?.arenaInBytes ?? 0)) return batch;
    batcher.close(lane);
    return batcher.open(lane, direct);
  }

  #laneOf(stream: IntakeStream, buffer: Buffer, entry: EntryColumns): ModelLane | null {
    if (entry.deleted) {
      this.#reason = 'the entry was deleted from the stream while it was pending';
      return null;
    }
    const start = entry.fields[2 * MODEL] as number;
    if (start < 0) {
      if (stream.lane === null) this.#reason = 'model: missing, and the stream has no default model';
      return stream.lane;
    }
    const end = entry.fields[2 * MODEL + 1] as number;
    for (const lane of this.#options.lanes) {
      for (const name of lane.nameBytes) if (equalBytes(buffer, start, end, name)) return lane;
    }
    const shown = buffer.toString('utf8', start, Math.min(end, start + this.#options.modelNameBytesMax));
    this.#reason = `model: "${shown}" is not served here`;
    return null;
  }

  #check(lane: ModelLane, buffer: Buffer, entry: EntryColumns): void {
    const { fields } = entry;
    const { payloadBytesMax, keyBytesMax, eventIdBytesMax, traceBytesMax, deadlineMsMax } = this.#options;
    const featuresBytes = valueBytes(fields, FEATURES);
    const dataBytes = valueBytes(fields, DATA);
    if (entry.unknownStart >= 0) {
      const name = buffer.toString(
        'utf8',
        entry.unknownStart,
        Math.min(entry.unknownEnd, entry.unknownStart + 64),
      );
      this.#reason = `${name}: unknown field of an entry; known are ${ENTRY_FIELDS.join(', ')}`;
    } else if (featuresBytes < 0 === dataBytes < 0) {
      this.#reason =
        dataBytes < 0 ? 'data: missing; give features or data' : 'features: give features or data, not both';
    } else if (dataBytes > payloadBytesMax) {
      this.#reason = `data: ${dataBytes} bytes; at most ${payloadBytesMax} are taken`;
    } else if (featuresBytes >= 0 && lane.featuresBytes === 0) {
      this.#reason = `features: ${lane.name} has inputs without a fixed size; use data`;
    } else if (featuresBytes >= 0 && featuresBytes !== lane.featuresBytes) {
      this.#reason = `features: ${featuresBytes} bytes; a row of ${lane.name} has ${lane.featuresBytes}`;
    } else if (valueBytes(fields, KEY) > keyBytesMax) {
      this.#reason = `key: ${valueBytes(fields, KEY)} bytes; at most ${keyBytesMax} are taken`;
    } else if (valueBytes(fields, EVENT) > eventIdBytesMax) {
      this.#reason = `event: ${valueBytes(fields, EVENT)} bytes; at most ${eventIdBytesMax} are taken`;
    } else if (valueBytes(fields, TRACE) > traceBytesMax) {
      this.#reason = `trace: ${valueBytes(fields, TRACE)} bytes; a traceparent has ${traceBytesMax}`;
    } else if (!isTraceparent(buffer, fields[2 * TRACE] as number, fields[2 * TRACE + 1] as number)) {
      this.#reason = 'trace: must be a W3C traceparent';
    } else if (!inRange(buffer, fields, DEADLINE, 1, deadlineMsMax)) {
      this.#reason = `deadline_ms: must be a whole number from 1 to ${deadlineMsMax}`;
    } else if (!inRange(buffer, fields, PRIORITY, 0, PRIORITY_MAX)) {
      this.#reason = 'priority: must be 0 (playing), 1 (prefetch) or 2 (analytics)';
    }
  }
}

/** By the same rule lua/claim.lua hands it out by itself. */
function isExclusive(deliveries: number): boolean {
  return deliveries > 2;
}

/** Bytes of a field's value; -1: the entry has no such field. */
function valueBytes(fields: Int32Array, field: number): number {
  const start = fields[2 * field] as number;
  return start < 0 ? -1 : (fields[2 * field + 1] as number) - start;
}

function placeData(batch: Batch, row: number, bytes: Uint8Array, start: number, length: number): void {
  const { layout, table } = batch;
  if (layout === null) return;
  copyBytes(bytes, start, start + length, batch.memory, layout.arenaInOffset + batch.arenaInUsed);
  table[row * ROW_COLUMNS + ROW.form] = FORM.data;
  table[row * ROW_COLUMNS + ROW.inOffset] = batch.arenaInUsed;
  table[row * ROW_COLUMNS + ROW.inLength] = length;
  batch.arenaInUsed += length;
}

/** The inputs' rows stand one after the other in `features`, each in its own region of the slab. */
function placeFeatures(batch: Batch, row: number, lane: ModelLane, bytes: Uint8Array, start: number): void {
  const { layout } = batch;
  if (layout === null) return;
  batch.table[row * ROW_COLUMNS + ROW.form] = FORM.features;
  let from = start;
  for (let i = 0; i < lane.inputs.length; i += 1) {
    const { rowBytes } = lane.inputs[i] as TensorSpec;
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

/** True also when the entry has no such field. */
function inRange(buffer: Uint8Array, fields: Int32Array, field: number, min: number, max: number): boolean {
  const start = fields[2 * field] as number;
  if (start < 0) return true;
  const value = wholeNumber(buffer, start, fields[2 * field + 1] as number);
  return value >= min && value <= max;
}
