import type { NumericData, TensorSpec } from '../schedule/slab.ts';
import { product, sliceOf, type TensorData } from './tensors.ts';

/**
 * One output of a batch, wherever its rows lie: in the slab's region, side by side in a tensor that ONNX
 * Runtime allocated, or each in a tensor of its own when the rows ran one by one. A cursor: `seek`, then
 * read.
 */
export class OutputColumn {
  readonly spec: TensorSpec;
  /** The slab's region; null when ONNX Runtime allocates (text, free shapes). */
  readonly region: NumericData | null;
  /** Element `base` of `data` is the first of the row sought; `shape` is the row's. */
  data: TensorData = [];
  base = 0;
  elements = 0;
  shape: readonly number[] = [];
  #together: TensorData | null = null;
  #first = 0;
  readonly #alone: (TensorData | undefined)[] = [];
  readonly #shapes: (readonly number[])[] = [];

  constructor(spec: TensorSpec, region: NumericData | null) {
    this.spec = spec;
    this.region = region;
    this.shape = spec.shape;
    this.elements = spec.elements;
    if (region !== null) this.data = region;
  }

  /** The rows of the batch from `first` on lie side by side in `data`. */
  together(data: TensorData, shape: readonly number[], first: number): void {
    this.#together = data;
    this.#first = first;
    this.shape = shape;
    this.elements = product(shape);
  }

  /** Row `row` ran alone. */
  alone(row: number, data: TensorData, shape: readonly number[]): void {
    this.#together = null;
    this.#alone[row] = data;
    this.#shapes[row] = shape;
  }

  seek(row: number): void {
    if (this.region !== null) {
      this.base = row * this.elements;
      return;
    }
    if (this.#together !== null) {
      this.data = this.#together;
      this.base = (row - this.#first) * this.elements;
      return;
    }
    this.data = this.#alone[row]!;
    this.shape = this.#shapes[row]!;
    this.elements = this.data.length;
    this.base = 0;
  }

  /** The row sought, as a handler gets it. */
  row(): TensorData {
    return sliceOf(this.data, this.base, this.base + this.elements);
  }

  /** Lets go of what ONNX Runtime allocated for the last batch. */
  release(): void {
    this.#together = null;
    this.#alone.length = 0;
    this.#shapes.length = 0;
  }
}
