/**
 * Puts events into batches: from the stream reader, straight out of its receive buffer, and from the gateway.
 * What can be judged without decoding the payload is judged here; a malformed event still takes a row, in the
 * lane of rejected events, so that it is settled like any other and cannot pile up.
 */
import { FILL, FILL_CELLS, type Native } from '../native.ts';
import { copyBytes } from '../redis/resp.ts';
import type { EntryColumns, TakenEntries } from '../redis/stream-reply.ts';
import { type Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from './batch.ts';
import type { Batcher, Lane } from './batcher.ts';
import type { AnswerCallback, DirectEvent } from './direct.ts';
import { FIELD, refusalOf } from './entry.ts';
import { takeEntries } from './many.ts';
import { ENCODING, FORM, ROW, ROW_COLUMNS, type TensorSpec } from './slab.ts';
import { sampledTraceparent } from './traceparent.ts';
import { equalBytes, idMs, wholeNumber } from './values.ts';

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
  /** Takes what is plain to take; without it, each entry is looked at here. */
  readonly native?: Native | null;
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
  /** By stream: the lane that took its last entry. The next ones are probably for it too. */
  readonly #lastLanes: (ModelLane | undefined)[] = [];
  readonly #fill = new Float64Array(FILL_CELLS);
  readonly #taken = { entries: 0, next: 0 };

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
   * Takes at most `entriesMax` entries of a reply, which begin at `start`, as far as there is nothing to say
   * about them and there is room: what `take` would do with each, many at once. `mark` as there.
   */
  takeMany(
    stream: IntakeStream,
    buffer: Buffer,
    start: number,
    end: number,
    entriesMax: number,
    mark: number,
  ): TakenEntries {
    const taken = this.#taken;
    taken.entries = 0;
    taken.next = start;
    const { native = null, batcher, deadlineMsDefault } = this.#options;
    const lane = this.#lastLanes[stream.index] ?? stream.lane;
    if (native === null || lane === null) return taken;
    // No slab for a lane that only may be the next one's.
    if (lane !== stream.lane && lane.open === null) return taken;
    const batch = batcher.open(lane, false);
    if (batch === null || batch.handle === null) return taken;
    const fill = this.#fill;
    fill[FILL.origin] = stream.index;
    fill[FILL.mark] = mark;
    fill[FILL.encoding] = stream.json ? ENCODING.json : ENCODING.msgpack;
    fill[FILL.receivedMs] = this.#receivedMs;
    fill[FILL.deadlineMsDefault] = stream.deadlineMs || lane.deadlineMs || deadlineMsDefault;
    fill[FILL.modelNeeded] = lane === stream.lane ? 0 : 1;
    const countMax = Math.min(entriesMax, batch.rowsMax - batch.rows);
    taken.entries = takeEntries(native, batch, fill, buffer, start, end, countMax);
    taken.next = fill[FILL.next] as number;
    this.rowsInFlight += taken.entries;
    if (taken.entries > 0) batcher.added(lane);
    return taken;
  }

  /**
   * Takes one stream entry; false when there is no row for it now. `mark`: the fence's mark under which it
   * was asked for, 0 when it had been given out before. One that was given out twice or more gets a batch of
   * its own.
   */
  take(stream: IntakeStream, buffer: Buffer, entry: EntryColumns, mark = 0): boolean {
    this.#reason = '';
    const lane = this.#laneOf(stream, buffer, entry);
    if (this.#reason === '') this.#reason = refusalOf(lane as ModelLane, buffer, entry, this.#options);
    if (this.#reason !== '' || lane === null) {
      const id = buffer.toString('latin1', entry.idStart, entry.idEnd);
      return this.reject(stream, id, this.#reason, false, traceOf(buffer, entry));
    }
    const { fields } = entry;
    const dataStart = fields[2 * FIELD.data] as number;
    const dataBytes = dataStart < 0 ? 0 : (fields[2 * FIELD.data + 1] as number) - dataStart;
    const isSuspect = entry.deliveries > 1;
    const { deliveries } = entry;
    const batch = isSuspect ? this.#apart(lane, dataBytes, deliveries) : this.#room(lane, dataBytes, false);
    if (batch === null) return false;
    this.#lastLanes[stream.index] = lane;
    const row = batch.rows;
    batch.fences[row] = isSuspect ? 0 : mark;
    if (dataStart >= 0) placeData(batch, row, buffer, dataStart, dataBytes);
    else placeFeatures(batch, row, lane, buffer, fields[2 * FIELD.features] as number);
    batch.table[row * ROW_COLUMNS + ROW.encoding] = stream.json ? ENCODING.json : ENCODING.msgpack;
    batch.idBytes[row] = entry.idEnd - entry.idStart;
    copyBytes(buffer, entry.idStart, entry.idEnd, batch.ids, row * ID_BYTES_MAX);
    const keyStart = fields[2 * FIELD.key] as number;
    const keyEnd = fields[2 * FIELD.key + 1] as number;
    batch.keyBytes[row] = keyEnd - keyStart;
    copyBytes(buffer, keyStart, keyEnd, batch.keys, row * batch.keyBytesMax);
    const eventStart = fields[2 * FIELD.event] as number;
    const eventEnd = fields[2 * FIELD.event + 1] as number;
    batch.eventBytes[row] = eventEnd - eventStart;
    copyBytes(buffer, eventStart, eventEnd, batch.events, row * batch.eventIdBytesMax);
    if (batch.traces !== null) batch.keepTrace(row, traceOf(buffer, entry));
    const asked = fields[2 * FIELD.deadlineMs] as number;
    const arrivedMs = idMs(buffer, entry.idStart, entry.idEnd);
    const deadlineMs =
      (asked >= 0 ? wholeNumber(buffer, asked, fields[2 * FIELD.deadlineMs + 1] as number) : 0) ||
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
   * False when there is no row for it now. `trace`: its sampled traceparent.
   */
  reject(
    stream: IntakeStream,
    id: string,
    reason: string,
    failed = false,
    trace: string | null = null,
  ): boolean {
    const { batcher, rejects } = this.#options;
    const batch = batcher.open(rejects, false);
    if (batch === null) return false;
    const row = batch.rows;
    batch.idBytes[row] = batch.ids.write(id, row * ID_BYTES_MAX, 'latin1');
    batch.details[row] = reason;
    batch.failed[row] = failed ? 1 : 0;
    batch.keepTrace(row, trace);
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
    if (batch.traces !== null && event.trace) {
      const bytes = Buffer.from(event.trace, 'latin1');
      batch.keepTrace(row, sampledTraceparent(bytes, 0, bytes.length));
    }
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
    const start = entry.fields[2 * FIELD.model] as number;
    if (start < 0) {
      if (stream.lane === null) this.#reason = 'model: missing, and the stream has no default model';
      return stream.lane;
    }
    const end = entry.fields[2 * FIELD.model + 1] as number;
    for (const lane of this.#options.lanes) {
      for (const name of lane.nameBytes) if (equalBytes(buffer, start, end, name)) return lane;
    }
    const shown = buffer.toString('utf8', start, Math.min(end, start + this.#options.modelNameBytesMax));
    this.#reason = `model: "${shown}" is not served here`;
    return null;
  }
}

/** By the same rule lua/claim.lua hands it out by itself. */
function isExclusive(deliveries: number): boolean {
  return deliveries > 2;
}

function traceOf(buffer: Buffer, { fields }: EntryColumns): string | null {
  return sampledTraceparent(buffer, fields[2 * FIELD.trace] as number, fields[2 * FIELD.trace + 1] as number);
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
