/** Batches given to a pool by hand, as the engine's main thread would. */
import { pack } from 'msgpackr';
import type { Pool } from '../../src/infer/pool.ts';
import type { InferResult } from '../../src/infer/protocol.ts';
import { FORM, ROW, ROW_COLUMNS, slabLayout } from '../../src/schedule/slab.ts';

/** Bytes of a slab's arenas. */
export const ARENA = 4096;

/** A slab of a model, as the main thread makes it. */
export class HandMadeSlab {
  readonly shared: SharedArrayBuffer;
  readonly #layout;
  readonly #table: Int32Array;
  readonly #slot: number;
  readonly #slab: number;

  constructor(from: Pool, slot: number, rowsMax: number, slab: number) {
    const { inputs, outputs } = from.loaded.find((model) => model.slot === slot)!;
    this.#layout = slabLayout(inputs, outputs, rowsMax, ARENA);
    this.shared = new SharedArrayBuffer(this.#layout.bytes);
    this.#table = new Int32Array(this.shared, 0, rowsMax * ROW_COLUMNS);
    this.#slot = slot;
    this.#slab = slab;
  }

  run(from: Pool, events: readonly object[]): Promise<InferResult> {
    let inOffset = 0;
    events.forEach((event, row) => {
      const bytes = pack(event);
      new Uint8Array(this.shared).set(bytes, this.#layout.arenaInOffset + inOffset);
      const at = row * ROW_COLUMNS;
      this.#table[at + ROW.form] = FORM.data;
      this.#table[at + ROW.inOffset] = inOffset;
      this.#table[at + ROW.inLength] = bytes.length;
      inOffset += bytes.length;
    });
    const { shared } = this;
    return from.run({
      slot: this.#slot,
      slab: this.#slab,
      shared,
      first: 0,
      rows: events.length,
      apart: false,
    });
  }

  results(rows: number): number[] {
    return Array.from({ length: rows }, (_, row) => this.#table[row * ROW_COLUMNS + ROW.result]!);
  }

  /** What became of row `row`, of a run without spill. */
  detail(row: number): string {
    const at = row * ROW_COLUMNS;
    const start = this.#layout.arenaOutOffset + this.#table[at + ROW.outOffset]!;
    return Buffer.from(this.shared, start, this.#table[at + ROW.outLength]).toString();
  }

  output(index: number, count: number): Float32Array {
    return new Float32Array(this.shared, this.#layout.outputOffsets[index]!, count);
  }
}
