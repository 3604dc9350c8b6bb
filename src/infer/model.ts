/**
 * A model that is loaded and warm in this worker. A batch goes through three steps, row by row in the first
 * and the last: decode, run, encode. Whatever is wrong with a row stays with that row: it gets RESULT.invalid
 * (the event is malformed) or RESULT.failed (the model or its handler could not take it) and a detail, and
 * its neighbours go on.
 */
import { threadId } from 'node:worker_threads';
import { messageOf } from '../errors.ts';
import type { Native, NativeDecode, NativeEncode } from '../native.ts';
import { FORM, RESULT, ROW, ROW_COLUMNS, type SlabLayout, slabLayout } from '../schedule/slab.ts';
import { OutArena } from './arena.ts';
import { type FieldDecoder, parseData } from './decode.ts';
import { encodeValue, type OutputEncoder } from './encode.ts';
import type { RowCodec } from './handler.ts';
import { beginBatch, NativeHalted } from './native.ts';
import { LEFT, nativeDecoder, nativeEncoder } from './native-codec.ts';
import type { InferResult, InferTask, LoadedModel, ProviderName } from './protocol.ts';
import { type ModelSession, type SessionShape, SlabView } from './session.ts';
import { clear } from './tensors.ts';

/** A detail is for a person who reads a dead letter. */
const DETAIL_BYTES_MAX = 500;

export interface ModelParts {
  readonly loaded: LoadedModel;
  readonly shape: SessionShape;
  readonly session: ModelSession;
  readonly decoder: FieldDecoder;
  readonly encoder: OutputEncoder;
  /** The handler's codec takes the place of decoder and encoder for named events. */
  readonly codec: RowCodec | null;
  readonly layout: SlabLayout;
  /** Decodes and encodes whole batches where it can; null: decoder and encoder do all of it. */
  readonly native: Native | null;
}

export class Model {
  readonly parts: ModelParts;
  readonly #out = new OutArena();
  /** By the engine's slab index. */
  readonly #slabs: (SlabView | undefined)[] = [];
  readonly #hasText: boolean;
  readonly #decodeNative: NativeDecode | null;
  readonly #encodeNative: NativeEncode | null;

  constructor(parts: ModelParts) {
    this.parts = parts;
    const { decoder, encoder, layout } = parts;
    const native = parts.codec === null ? parts.native : null;
    this.#decodeNative = native && nativeDecoder(native, decoder, layout);
    this.#encodeNative = native && nativeEncoder(native, encoder, layout);
    this.#hasText = parts.shape.inputs.some((spec) => spec.dtype === 'string');
  }

  /** What it runs on now, which may be another one than it was loaded for. */
  get provider(): ProviderName {
    return this.parts.session.provider;
  }

  /** One batch at a time. Rejects only for a bug: every row's trouble is its own. */
  async infer(task: InferTask): Promise<InferResult> {
    let slab = this.#slabs[task.slab];
    if (slab === undefined) {
      slab = new SlabView(this.parts.shape, this.parts.layout, task.shared);
      this.#slabs[task.slab] = slab;
    }
    beginBatch();
    // Whoever waits for this batch knows from here on which thread has it.
    Atomics.store(slab.table, task.first * ROW_COLUMNS + ROW.thread, threadId);
    return await this.runSlab(slab, task.first, task.rows, { apart: task.apart });
  }

  /**
   * `placed`: the tensor rows are in place already, whatever the row table says of their form. `apart`: each
   * row in a run of its own.
   */
  async runSlab(
    slab: SlabView,
    first: number,
    rows: number,
    { placed = false, apart = false } = {},
  ): Promise<InferResult> {
    const began = performance.now();
    const { layout } = slab;
    this.#out.reset(slab.bytes, slab.view, layout.arenaOutOffset, layout.arenaOutBytes);
    const good = this.#decodeRows(slab, first, rows, placed);
    const decoded = performance.now();
    if (good > 0) await this.#runRows(slab, first, rows, apart);
    const ran = performance.now();
    this.#encodeRows(slab, first, rows);
    for (const column of slab.columns) column.release();
    return {
      inferUs: Math.round((performance.now() - began) * 1000),
      runUs: Math.round((ran - decoded) * 1000),
      spill: this.#out.spill(),
    };
  }

  /** The addon first, then one by one what it left. Returns how many rows may run. */
  #decodeRows(slab: SlabView, first: number, rows: number, placed: boolean): number {
    const native = placed ? null : this.#decodeNative;
    const left = native === null ? rows : native(slab.bytes, first, rows);
    let good = rows - left;
    if (left === 0) return good;
    for (let row = first; row < first + rows; row++) {
      const result = slab.table[row * ROW_COLUMNS + ROW.result];
      if ((native === null || result === LEFT) && this.#decodeRow(slab, row, placed)) good++;
    }
    return good;
  }

  #encodeRows(slab: SlabView, first: number, rows: number): void {
    const { table } = slab;
    const out = this.#out;
    // Once out of the slab, all of it is: the addon writes nowhere else.
    const native = out.spilled ? null : this.#encodeNative;
    if (native !== null) out.advance(native(slab.bytes, first, rows, out.length));
    for (let row = first; row < first + rows; row++) {
      const at = row * ROW_COLUMNS;
      if (table[at + ROW.result] !== RESULT.ok) continue;
      if (native === null || table[at + ROW.outLength] === LEFT) this.#encodeRow(slab, row);
    }
  }

  /**
   * False: the row is settled as invalid or failed. It stays in the batch, and what it gives is not looked
   * at.
   */
  #decodeRow(slab: SlabView, row: number, placed: boolean): boolean {
    const { table } = slab;
    const at = row * ROW_COLUMNS;
    try {
      if (table[at + ROW.form] === FORM.data && !placed) {
        this.#clearRow(slab, row);
        const start = slab.layout.arenaInOffset + table[at + ROW.inOffset]!;
        this.#decodeData(slab, row, start, start + table[at + ROW.inLength]!);
      } else if (this.#hasText && !placed) {
        this.#settle(slab, row, RESULT.invalid, 'features: text has no raw form; send data');
        return false;
      }
      this.parts.decoder.checkRow(slab.inputs, row);
      table[at + ROW.result] = RESULT.ok;
      return true;
    } catch (error) {
      // Half a row must not run. One that came as tensors stays as it came: should this worker die, the batch
      // runs again, and the row must be found as it was.
      if (table[at + ROW.form] === FORM.data && !placed) this.#clearRow(slab, row);
      // By name: a handler kept elsewhere may have loaded a copy of the class.
      const invalid = error instanceof Error && error.name === 'InvalidEvent';
      this.#settle(slab, row, invalid ? RESULT.invalid : RESULT.failed, messageOf(error));
      return false;
    }
  }

  #decodeData(slab: SlabView, row: number, start: number, end: number): void {
    const { codec, decoder } = this.parts;
    if (codec === null) {
      decoder.decodeBytes(slab.bytes, slab.view, start, end, slab.inputs, row);
      return;
    }
    const data = parseData(slab.bytes, slab.view, start, end);
    const views = slab.row(row);
    if (this.#hasText) for (const view of Object.values(views)) clear(view, 0, view.length);
    codec.decode(data, views);
    if (this.#hasText) slab.keepText(row, views);
  }

  #clearRow(slab: SlabView, row: number): void {
    const { inputs } = this.parts.shape;
    for (let i = 0; i < inputs.length; i++) {
      const { elements } = inputs[i]!;
      clear(slab.inputs[i]!, row * elements, (row + 1) * elements);
    }
  }

  /** The whole batch at once where graph and task allow it; when that throws, or they do not, row by row. */
  async #runRows(slab: SlabView, first: number, rows: number, apart: boolean): Promise<void> {
    const { session, shape } = this.parts;
    if (shape.batched && !(apart && rows > 1)) {
      try {
        await session.run(slab, first, rows);
        return;
      } catch (error) {
        if (error instanceof NativeHalted) throw error;
        // One bad row fails a whole batch. Alone, only that row fails, and with the reason that is its own.
      }
    }
    // All at once: ONNX Runtime starts each in a turn of the event loop, and turns are what a small run
    // mostly costs.
    const runs: Promise<void>[] = [];
    for (let row = first; row < first + rows; row++) {
      if (slab.table[row * ROW_COLUMNS + ROW.result] === RESULT.ok) runs.push(this.#runAlone(slab, row));
    }
    await Promise.all(runs);
  }

  async #runAlone(slab: SlabView, row: number): Promise<void> {
    try {
      await this.parts.session.runAlone(slab, row);
    } catch (error) {
      if (error instanceof NativeHalted) throw error;
      this.#settle(slab, row, RESULT.failed, messageOf(error));
    }
  }

  #encodeRow(slab: SlabView, row: number): void {
    const { table, columns } = slab;
    const { codec, encoder } = this.parts;
    const out = this.#out;
    const at = row * ROW_COLUMNS;
    const encoding = table[at + ROW.encoding]!;
    const start = out.length;
    try {
      for (const column of columns) column.seek(row);
      if (codec === null) encoder.encode(out, columns, encoding);
      else encodeValue(out, codec.encode(this.#outputRows(slab)), encoding);
      table[at + ROW.outOffset] = start;
      table[at + ROW.outLength] = out.length - start;
    } catch (error) {
      out.rewind(start);
      this.#settle(slab, row, RESULT.failed, messageOf(error));
    }
  }

  #outputRows(slab: SlabView): Parameters<RowCodec['encode']>[0] {
    const rows: Parameters<RowCodec['encode']>[0] = {};
    for (const column of slab.columns) rows[column.spec.name] = column.row();
    return rows;
  }

  #settle(slab: SlabView, row: number, result: number, detail: string): void {
    const out = this.#out;
    const start = out.length;
    out.text(shortened(detail));
    const at = row * ROW_COLUMNS;
    slab.table[at + ROW.result] = result;
    slab.table[at + ROW.outOffset] = start;
    slab.table[at + ROW.outLength] = out.length - start;
  }

  /** A slab of this model's own, for warm-up and golden cases. */
  scratch(): SlabView {
    const { layout, shape } = this.parts;
    return new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
  }
}

/** The layout that the main thread computes too. */
export function layoutOf(shape: SessionShape, rowsMax: number, arenaBytes: number): SlabLayout {
  return slabLayout(shape.inputs, shape.outputs, rowsMax, arenaBytes);
}

/** At most DETAIL_BYTES_MAX bytes of UTF-8, cut between characters. */
function shortened(detail: string): string {
  if (detail.length * 3 <= DETAIL_BYTES_MAX) return detail;
  const bytes = Buffer.from(detail);
  if (bytes.length <= DETAIL_BYTES_MAX) return detail;
  let end = DETAIL_BYTES_MAX - 3;
  while ((bytes[end]! & 0xc0) === 0x80) end--;
  return `${bytes.toString('utf8', 0, end)}...`;
}
