/**
 * A slab together with what only the main thread needs to know of its rows: entry ids, keys, times, where
 * each row came from. Columns of typed arrays, allocated once; the path of a stream event makes no object.
 */
import type { NativeBatch } from '../native.ts';
import { CommandWriter } from '../redis/resp.ts';
import type { AnswerCallback, Caller } from './direct.ts';
import { ROW, ROW_COLUMNS, type SlabLayout } from './slab.ts';

/** Two 64-bit numbers and a dash. */
export const ID_BYTES_MAX = 41;
/** `origin` of a row that is answered by a callback instead of a commit. */
export const ORIGIN_DIRECT = -1;

export interface BatchOptions {
  readonly rowsMax: number;
  /** Null: rows that never reach a worker (rejected events); the batch then has no shared memory. */
  readonly layout: SlabLayout | null;
  /** Traceparents of rows are kept, for somebody makes spans of them. */
  readonly tracing?: boolean;
  /** Index of the slab among all of this engine. */
  readonly slab: number;
  readonly keyBytesMax: number;
  readonly eventIdBytesMax: number;
}

export class Batch {
  #rowsMax: number;
  #rowsLimit: number;
  readonly layout: SlabLayout | null;
  readonly slab: number;
  readonly shared: SharedArrayBuffer | null;
  /** The whole slab as bytes, and its row table. */
  readonly memory: Buffer;
  readonly table: Int32Array;

  /** The addon's view of it; null: there is no addon, or it has no slab. */
  handle: NativeBatch | null = null;
  rows = 0;
  /** Of them, those that a worker is given: the first ones. The others are settled without (cull.ts). */
  live = 0;
  /** Rows were moved: they are no longer oldest first. */
  isReordered = false;
  arenaInUsed = 0;
  /** The earliest of the rows' deadlines, Unix milliseconds; of one that has none, by when it is urgent. */
  deadlineMs = Number.POSITIVE_INFINITY;
  /** How often its rows were given out; above 1 each of them runs alone. */
  deliveries = 1;
  /** A worker has it, or has died on it. */
  running = false;
  /** Times a worker died on this batch. */
  crashes = 0;
  /** Rows that somebody else had settled before: of the predicted ones, and of the others. */
  duplicatesOk = 0;
  duplicatesDead = 0;
  duplicatesUnrun = 0;

  readonly ids: Buffer;
  readonly idBytes: Uint8Array;
  readonly keys: Buffer;
  readonly keyBytes: Uint16Array;
  readonly keyBytesMax: number;
  readonly events: Buffer;
  readonly eventBytes: Uint16Array;
  readonly eventIdBytesMax: number;
  /** Unix milliseconds of the entry id, or of arrival over a socket. */
  readonly arrivedMs: Float64Array;
  /** Unix milliseconds of the moment when the engine had the row. */
  readonly readMs: Float64Array;
  /** Unix milliseconds by which the prediction is of use; Infinity: whenever it comes. */
  readonly deadlinesMs: Float64Array;
  /** RESULT of rows that are not to be run after all; 0 while there is none. */
  readonly verdicts: Uint8Array;
  /** Index of the input stream, or ORIGIN_DIRECT. */
  readonly origin: Int16Array;
  /**
   * Mark of the stream's fence under which the row was read for the first time; 0: it had been given out
   * before.
   */
  readonly fences: Int32Array;
  /** Rows with ORIGIN_DIRECT: who waits for the answer. */
  readonly answers: (AnswerCallback | null)[];
  readonly callers: (Caller | null)[];
  /** Rejected rows: RESULT, why in words, and the model that they were for, '' when it is not known. */
  readonly results: Uint8Array;
  readonly details: string[];
  readonly models: string[];
  /** RUNG of each row. */
  readonly rungs: Uint8Array;
  /** Of the rows that are traced: the sampled traceparent; null altogether while nobody traces. */
  readonly traces: (string | null)[] | null;
  /** Rows that are traced. */
  traced = 0;

  /** When a worker was given it; 0: none has been. */
  dispatchedMs = 0;
  inferredMs = 0;
  inferUs = 0;
  runUs = 0;
  /** Where the rows' outputs lie: the slab's output arena, or beside it when they did not fit. */
  outputs: Buffer;
  /** Settlement commands of this batch: kept until Redis has answered, so that they can be sent again. */
  readonly commands: CommandWriter;
  /** Commands that Redis has not answered yet. */
  unsettled = 0;

  constructor(options: BatchOptions) {
    const { rowsMax, layout } = options;
    this.#rowsMax = rowsMax;
    this.#rowsLimit = rowsMax;
    this.layout = layout;
    this.slab = options.slab;
    this.keyBytesMax = options.keyBytesMax;
    this.eventIdBytesMax = options.eventIdBytesMax;
    this.shared = layout === null ? null : new SharedArrayBuffer(layout.bytes);
    this.memory = this.shared === null ? Buffer.alloc(0) : Buffer.from(this.shared);
    this.table =
      this.shared === null ? new Int32Array(0) : new Int32Array(this.shared, 0, rowsMax * ROW_COLUMNS);
    this.outputs = this.arenaOut;
    this.ids = Buffer.alloc(rowsMax * ID_BYTES_MAX);
    this.idBytes = new Uint8Array(rowsMax);
    this.keys = Buffer.alloc(rowsMax * options.keyBytesMax);
    this.keyBytes = new Uint16Array(rowsMax);
    this.events = Buffer.alloc(rowsMax * options.eventIdBytesMax);
    this.eventBytes = new Uint16Array(rowsMax);
    this.arrivedMs = new Float64Array(rowsMax);
    this.readMs = new Float64Array(rowsMax);
    this.deadlinesMs = new Float64Array(rowsMax);
    this.verdicts = new Uint8Array(rowsMax);
    this.origin = new Int16Array(rowsMax);
    this.fences = new Int32Array(rowsMax);
    this.answers = new Array<AnswerCallback | null>(rowsMax).fill(null);
    this.callers = new Array<Caller | null>(rowsMax).fill(null);
    const rejectsMax = layout === null ? rowsMax : 0;
    this.results = new Uint8Array(rejectsMax);
    this.details = new Array<string>(rejectsMax).fill('');
    this.models = new Array<string>(rejectsMax).fill('');
    this.rungs = new Uint8Array(rowsMax);
    this.traces = options.tracing === true ? new Array<string | null>(rowsMax).fill(null) : null;
    this.commands = new CommandWriter(rowsMax * 512);
  }

  /** Rows that it may have. Does not change while any are in it. */
  get rowsMax(): number {
    return this.#rowsMax;
  }

  /** It may have so many at most, from the next time on that it is empty. Never raised again. */
  limitRows(rowsMax: number): void {
    this.#rowsLimit = Math.min(this.#rowsLimit, rowsMax);
    if (this.rows === 0) this.#rowsMax = this.#rowsLimit;
  }

  get arenaOut(): Buffer {
    const { layout } = this;
    if (layout === null) return this.memory;
    return this.memory.subarray(layout.arenaOutOffset, layout.arenaOutOffset + layout.arenaOutBytes);
  }

  /** Empty again, for the next rows. */
  reset(): void {
    this.rungs.fill(0, 0, this.rows);
    this.verdicts.fill(0, 0, this.rows);
    this.callers.fill(null, 0, this.rows);
    if (this.traced > 0) this.traces?.fill(null, 0, this.rows);
    this.traced = 0;
    this.rows = 0;
    this.live = 0;
    this.isReordered = false;
    this.#rowsMax = this.#rowsLimit;
    this.arenaInUsed = 0;
    this.deadlineMs = Number.POSITIVE_INFINITY;
    this.deliveries = 1;
    this.running = false;
    this.crashes = 0;
    this.duplicatesOk = 0;
    this.duplicatesDead = 0;
    this.duplicatesUnrun = 0;
    this.dispatchedMs = 0;
    this.inferUs = 0;
    this.runUs = 0;
    this.outputs = this.arenaOut;
    this.unsettled = 0;
  }

  /** `trace` null: the row is not traced. Only for batches that keep them. */
  keepTrace(row: number, trace: string | null): void {
    if (this.traces === null || trace === null) return;
    this.traces[row] = trace;
    this.traced += 1;
  }

  key(row: number): string {
    const at = row * this.keyBytesMax;
    return this.keys.toString('utf8', at, at + (this.keyBytes[row] as number));
  }

  event(row: number): string {
    const at = row * this.eventIdBytesMax;
    return this.events.toString('utf8', at, at + (this.eventBytes[row] as number));
  }

  id(row: number): string {
    const at = row * ID_BYTES_MAX;
    return this.ids.toString('latin1', at, at + (this.idBytes[row] as number));
  }
}

/** RESULT of a row of a batch that has run, or of rejected events. */
export function resultOf(batch: Batch, row: number): number {
  if (batch.layout === null) return batch.results[row] as number;
  return batch.table[row * ROW_COLUMNS + ROW.result] as number;
}
