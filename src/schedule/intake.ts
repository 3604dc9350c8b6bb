/**
 * Puts events into batches: from the stream reader, straight out of its receive buffer, and from the gateway.
 * What can be judged without decoding the payload is judged here; a malformed event still takes a row, in the
 * lane of rejected events, so that it is settled like any other and cannot pile up.
 */
import { FILL, FILL_CELLS, type Native } from '../native.ts';
import type { EntryColumns, TakenEntries } from '../redis/stream-reply.ts';
import type { Admission } from './admission.ts';
import { type Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from './batch.ts';
import type { Batcher, Lane, Queue } from './batcher.ts';
import type { AnswerCallback, DirectEvent } from './direct.ts';
import { StreamDoor } from './door.ts';
import { FIELD, numberOf, PRIORITY_DEFAULT, PRIORITY_DIRECT, priorityOf, refusalOf } from './entry.ts';
import { isInHand, runningIds } from './in-hand.ts';
import type { Latest } from './latest.ts';
import { takeEntries } from './many.ts';
import { placeData, placeDirectNames, placeFeatures, placeNames, traceOf } from './place.ts';
import { ENCODING, RESULT, ROW, ROW_COLUMNS, type TensorSpec } from './slab.ts';
import { Suspects } from './suspects.ts';
import { equalBytes, idMs, putArrival, TIME } from './values.ts';

const NO_SKEW = { aheadMs: 0 };

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
  /** A newer event of a key takes the place of one that still waits; null: each one is run. */
  readonly latest: Latest | null;
  /** Answers to direct requests are also appended to the predictions stream. */
  readonly record: boolean;
}

export interface IntakeStream {
  readonly index: number;
  readonly lane: ModelLane | null;
  /** 0: the model's, else the engine's default. */
  readonly deadlineMs: number;
  readonly json: boolean;
  /** By how much the engine's clock is ahead of the one that makes the entry ids. Default: not at all. */
  readonly skew?: { readonly aheadMs: number };
}

/** Rows of a batch, and how often each of them had been given out. */
export interface Settled {
  readonly rows: number;
  readonly deliveries: number;
}

export interface IntakeOptions {
  readonly batcher: Batcher<Batch>;
  readonly lanes: readonly ModelLane[];
  readonly rejects: Lane<Batch>;
  readonly admission: Admission<Batch>;
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
  readonly alone: Suspects;
  /** Of what is being taken in now. */
  readonly #times = new Float64Array(4);
  /** By stream. */
  readonly #doors: (StreamDoor | undefined)[] = [];
  readonly #fill = new Float64Array(FILL_CELLS);
  readonly #taken = { entries: 0, next: 0 };

  constructor(options: IntakeOptions) {
    this.#options = options;
    this.alone = new Suspects(options.batcher);
  }

  /** Bytes came in; the entries that are taken next lay in them. One clock reading serves them all. */
  received(nowMs: number): void {
    this.#times[TIME.nowMs] = nowMs;
    for (const door of this.#doors) door?.received(nowMs);
  }

  /** Rows that may be read from this stream now. */
  demand(stream: IntakeStream): number {
    const { batcher, lanes, rejects } = this.#options;
    const refusals = batcher.freeRows(batcher.queue(rejects, stream.index, 0));
    const door = this.#door(stream);
    // Reading goes on: what there is no room for is refused.
    if (door.codel.check(this.#times[TIME.nowMs] as number)) return refusals;
    let rows = refusals;
    for (const lane of stream.lane === null ? lanes : [stream.lane]) {
      const queue = batcher.queue(lane, stream.index, door.priority);
      rows = Math.min(rows, batcher.freeRows(queue));
    }
    return rows;
  }

  /** Suspect entries that may be read from this stream now. */
  demandAlone(stream: IntakeStream): number {
    return this.alone.demand(stream.lane === null ? this.#options.lanes : [stream.lane]);
  }

  /** Whether the entry has a row already: read over an earlier connection, say. Looks at every row. */
  isInHand(stream: IntakeStream, id: string): boolean {
    const { lanes, rejects } = this.#options;
    return isInHand([rejects, ...lanes], stream.index, id);
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
    const { native = null, batcher } = this.#options;
    const door = this.#door(stream);
    const lane = door.lane ?? stream.lane;
    // Where something has to be looked up for each of them, they are taken one by one.
    if (native === null || lane === null || lane.latest !== null || door.codel.shedding) return taken;
    const queue = batcher.queue(lane, stream.index, door.priority);
    // No slab for a lane that only may be the next one's.
    if (lane !== stream.lane && queue.open === null) return taken;
    const batch = batcher.open(queue);
    if (batch === null || batch.handle === null) return taken;
    this.#tellFill(stream, lane, queue, mark);
    const countMax = Math.min(entriesMax, batch.rowsMax - batch.rows);
    taken.entries = takeEntries(native, batch, this.#fill, buffer, start, end, countMax);
    taken.next = this.#fill[FILL.next] as number;
    if (taken.entries === 0) {
      batcher.closeEmpty(queue);
      return taken;
    }
    const last = batch.rows - 1;
    this.#times[TIME.arrivedMs] = batch.arrivedMs[last] as number;
    this.#times[TIME.deadlineMs] = batch.deadlinesMs[last] as number;
    door.waited(this.#times);
    this.rowsInFlight += taken.entries;
    batcher.added(queue);
    return taken;
  }

  #tellFill(stream: IntakeStream, lane: ModelLane, queue: Queue<Batch>, mark: number): void {
    const fill = this.#fill;
    const statedMs = stream.deadlineMs || lane.deadlineMs;
    fill[FILL.origin] = stream.index;
    fill[FILL.mark] = mark;
    fill[FILL.encoding] = stream.json ? ENCODING.json : ENCODING.msgpack;
    fill[FILL.receivedMs] = this.#times[TIME.nowMs] as number;
    fill[FILL.deadlineMsStated] = statedMs;
    fill[FILL.deadlineMsDefault] = this.#options.deadlineMsDefault;
    fill[FILL.deadlineMsLeast] = this.#options.admission.readyMs(queue, this.#times[TIME.nowMs] as number);
    fill[FILL.modelNeeded] = lane === stream.lane ? 0 : 1;
    fill[FILL.priority] = queue.priority;
    fill[FILL.priorityDefault] = PRIORITY_DEFAULT;
    fill[FILL.skewMs] = (stream.skew ?? NO_SKEW).aheadMs;
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
    const { fields, deliveries } = entry;
    const isSuspect = deliveries > 1;
    const door = this.#door(stream);
    door.lane = lane;
    door.priority = priorityOf(buffer, fields);
    const queue = this.#options.batcher.queue(lane, stream.index, door.priority);
    this.#setTimes(stream, lane, buffer, entry);
    if (!isSuspect) {
      door.waited(this.#times);
      const verdict = door.verdict(queue, buffer, entry, this.#times);
      if (verdict !== RESULT.ok) return this.#refuse(stream, lane, buffer, entry, verdict);
    }
    const dataStart = fields[2 * FIELD.data] as number;
    const dataBytes = dataStart < 0 ? 0 : (fields[2 * FIELD.data + 1] as number) - dataStart;
    const batch = isSuspect ? this.alone.room(lane, dataBytes, deliveries) : this.#room(queue, dataBytes);
    if (batch === null) {
      if (isSuspect || !door.codel.shedding) return false;
      return this.#refuse(stream, lane, buffer, entry, RESULT.overloaded);
    }
    const row = batch.rows;
    batch.fences[row] = isSuspect ? 0 : mark;
    if (dataStart >= 0) placeData(batch, row, buffer, dataStart, dataBytes);
    else placeFeatures(batch, row, lane.inputs, buffer, fields[2 * FIELD.features] as number);
    batch.table[row * ROW_COLUMNS + ROW.encoding] = stream.json ? ENCODING.json : ENCODING.msgpack;
    placeNames(batch, row, buffer, entry);
    if (isSuspect) this.alone.taken(deliveries);
    else lane.latest?.taken(batch, row);
    this.#added(isSuspect ? null : queue, batch, stream.index);
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
    const queue = this.#options.batcher.queue(this.#options.rejects, stream.index, 0);
    const batch = this.#options.batcher.open(queue);
    if (batch === null) return false;
    const row = batch.rows;
    batch.idBytes[row] = batch.ids.write(id, row * ID_BYTES_MAX, 'latin1');
    batch.details[row] = reason;
    batch.results[row] = failed ? RESULT.failed : RESULT.invalid;
    batch.keepTrace(row, trace);
    this.#rejected(queue, batch, stream.index, Number.parseInt(id, 10));
    return true;
  }

  /** Settles an entry without a row in its lane. False when there is no room for that either. */
  #refuse(
    stream: IntakeStream,
    lane: ModelLane,
    buffer: Buffer,
    entry: EntryColumns,
    verdict: number,
  ): boolean {
    const queue = this.#options.batcher.queue(this.#options.rejects, stream.index, 0);
    const batch = this.#options.batcher.open(queue);
    if (batch === null) return false;
    const row = batch.rows;
    placeNames(batch, row, buffer, entry);
    batch.results[row] = verdict;
    batch.models[row] = lane.label;
    this.#door(stream).codel.refused(this.#times[TIME.nowMs] as number);
    this.#rejected(queue, batch, stream.index, idMs(buffer, entry.idStart, entry.idEnd));
    return true;
  }

  #rejected(queue: Queue<Batch>, batch: Batch, origin: number, arrivedMs: number): void {
    this.#times[TIME.arrivedMs] = arrivedMs;
    this.#times[TIME.deadlineMs] = Number.POSITIVE_INFINITY;
    this.#times[TIME.urgentMs] = 0;
    this.#added(queue, batch, origin);
  }

  /**
   * Takes an event that waits for its answer; else says why not: RESULT.expired or overloaded. `data` is
   * copied.
   */
  takeDirect(lane: ModelLane, event: DirectEvent, nowMs: number, answer: AnswerCallback): number {
    this.#times[TIME.nowMs] = nowMs;
    const { raw = false, data } = event;
    if (raw && data.length !== lane.featuresBytes) {
      throw new RangeError(`a row of ${lane.label} has ${lane.featuresBytes} bytes, got ${data.length}`);
    }
    const { batcher, admission, deadlineMsDefault } = this.#options;
    const queue = batcher.queue(lane, ORIGIN_DIRECT, event.priority ?? PRIORITY_DIRECT);
    const statedMs = event.deadlineMs || lane.deadlineMs;
    const times = this.#times;
    times[TIME.arrivedMs] = nowMs;
    times[TIME.deadlineMs] = statedMs > 0 ? nowMs + statedMs : Number.POSITIVE_INFINITY;
    times[TIME.urgentMs] = nowMs + (statedMs || deadlineMsDefault);
    const verdict = admission.admit(queue, times);
    if (verdict !== RESULT.ok) return verdict;
    const batch = this.#room(queue, raw ? 0 : data.length);
    if (batch === null) return RESULT.overloaded;
    const row = batch.rows;
    if (raw) placeFeatures(batch, row, lane.inputs, data, 0);
    else placeData(batch, row, data, 0, data.length);
    batch.table[row * ROW_COLUMNS + ROW.encoding] = event.json ? ENCODING.json : ENCODING.msgpack;
    placeDirectNames(batch, row, event);
    batch.answers[row] = answer;
    batch.callers[row] = event.caller ?? null;
    lane.latest?.taken(batch, row);
    this.#added(queue, batch, ORIGIN_DIRECT);
    return RESULT.ok;
  }

  /** Milliseconds after which a refused request may find room. */
  retryMs(lane: ModelLane, nowMs: number): number {
    const queue = this.#options.batcher.queue(lane, ORIGIN_DIRECT, PRIORITY_DIRECT);
    return Math.max(1, Math.ceil(this.#options.admission.readyMs(queue, nowMs) - nowMs));
  }

  /** Rows were settled, `ms` after they came back from a worker. */
  released(lane: Lane<Batch>, { rows, deliveries }: Settled, ms: number): void {
    this.rowsInFlight -= rows;
    if (lane.needsWorker) this.#options.admission.settled(ms);
    this.alone.settled(rows, deliveries);
  }

  /** More comes than can be served in time: what there is no room for is refused. */
  get shedding(): boolean {
    return this.#doors.some((door) => door?.codel.shedding);
  }

  /** Ids of the stream's entries that a worker has. */
  runningIds(stream: number): string[] {
    return runningIds(this.#options.lanes, stream);
  }

  /** `queue`: null for a row that runs alone. */
  #added(queue: Queue<Batch> | null, batch: Batch, origin: number): void {
    const { rows } = batch;
    const times = this.#times;
    batch.origin[rows] = origin;
    batch.arrivedMs[rows] = times[TIME.arrivedMs] as number;
    batch.deadlinesMs[rows] = times[TIME.deadlineMs] as number;
    batch.readMs[rows] = times[TIME.nowMs] as number;
    if ((times[TIME.urgentMs] as number) < batch.deadlineMs)
      batch.deadlineMs = times[TIME.urgentMs] as number;
    batch.rows += 1;
    this.rowsInFlight += 1;
    if (queue !== null) this.#options.batcher.added(queue);
  }

  #setTimes(stream: IntakeStream, lane: ModelLane, buffer: Buffer, entry: EntryColumns): void {
    const { fields } = entry;
    const times = this.#times;
    putArrival(times, buffer, entry, stream.skew ?? NO_SKEW);
    const arrivedMs = times[TIME.arrivedMs] as number;
    const statedMs = numberOf(buffer, fields, FIELD.deadlineMs) || stream.deadlineMs || lane.deadlineMs;
    times[TIME.deadlineMs] = statedMs > 0 ? arrivedMs + statedMs : Number.POSITIVE_INFINITY;
    times[TIME.urgentMs] = arrivedMs + (statedMs || this.#options.deadlineMsDefault);
  }

  #door({ index }: IntakeStream): StreamDoor {
    let door = this.#doors[index];
    if (door === undefined) {
      door = new StreamDoor(this.#options);
      this.#doors[index] = door;
    }
    return door;
  }

  /** The open batch, or the next one when this event's bytes do not fit its arena any more. */
  #room(queue: Queue<Batch>, dataBytes: number): Batch | null {
    const { batcher } = this.#options;
    const batch = batcher.open(queue);
    if (batch === null || batch.arenaInUsed + dataBytes <= (batch.layout?.arenaInBytes ?? 0)) return batch;
    batcher.close(queue);
    return batcher.open(queue);
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
