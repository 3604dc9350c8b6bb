/**
 * Batches padded to a bucket's size, for providers that pay for each new shape (CUDA searches its algorithms
 * anew, WebGPU compiles). Memory of their own: rows behind a batch in its slab may be another batch's. Rows
 * that pad are copies of one that the model is known to take, and what they give is never looked at.
 */
import { Tensor } from 'onnxruntime-node';
import type { TensorSpec } from '../schedule/slab.ts';
import { bucketFor } from './profile.ts';
import type { SessionShape, SlabView } from './session.ts';
import { sliceOf, type TensorData, viewOf } from './tensors.ts';

export interface PaddedBatch {
  readonly feeds: Record<string, Tensor>;
  /** null: ONNX Runtime allocates. */
  readonly fetches: Record<string, Tensor | null>;
}

export class Padding {
  readonly #shape: SessionShape;
  readonly #rowsMax: number;
  /** One row of each input. */
  readonly #sample: readonly TensorData[];
  readonly #inputs: readonly TensorData[];
  /** null: ONNX Runtime allocates. */
  readonly #outputs: readonly (TensorData | null)[];
  readonly #batches = new Map<number, PaddedBatch>();
  /** Rows in front that hold events; the sample is behind them. */
  #used = 0;

  constructor(shape: SessionShape, rowsMax: number, sample: readonly TensorData[]) {
    this.#shape = shape;
    this.#rowsMax = rowsMax;
    this.#sample = sample;
    this.#inputs = shape.inputs.map((spec) => memoryFor(spec, rowsMax));
    this.#outputs = shape.outputs.map((spec) => (spec.rowBytes === 0 ? null : memoryFor(spec, rowsMax)));
    this.#used = rowsMax;
    this.#fill(0);
  }

  /** How many rows a batch of `rows` is run as; `rows` itself: it needs no padding. */
  rowsFor(rows: number): number {
    return rows >= this.#rowsMax ? rows : bucketFor(rows, this.#rowsMax);
  }

  /** A batch of `rowsFor(rows)` rows, the first `rows` of them those of the slab from `first` on. */
  take(slab: SlabView, first: number, rows: number): PaddedBatch {
    this.#shape.inputs.forEach(({ elements }, i) => {
      copy(slab.inputs[i]!, first * elements, this.#inputs[i]!, 0, rows * elements);
    });
    this.#fill(rows);
    return this.#batch(this.rowsFor(rows));
  }

  /** Puts the first `rows` rows of what the run gave into the slab's regions. */
  give(slab: SlabView, first: number, rows: number): void {
    this.#shape.outputs.forEach(({ elements }, i) => {
      const { region } = slab.columns[i]!;
      if (region !== null) copy(this.#outputs[i]!, 0, region, first * elements, rows * elements);
    });
  }

  /** From row `rows` on there is the sample again. */
  #fill(rows: number): void {
    this.#shape.inputs.forEach(({ elements }, i) => {
      for (let row = rows; row < this.#used; row++) {
        copy(this.#sample[i]!, 0, this.#inputs[i]!, row * elements, elements);
      }
    });
    this.#used = rows;
  }

  #batch(rows: number): PaddedBatch {
    const { inputs, outputs } = this.#shape;
    let batch = this.#batches.get(rows);
    if (batch === undefined) {
      batch = {
        feeds: Object.fromEntries(
          inputs.map((spec, i) => [spec.name, tensorOf(spec, this.#inputs[i]!, rows)]),
        ),
        fetches: Object.fromEntries(
          outputs.map((spec, i) => {
            const memory = this.#outputs[i]!;
            return [spec.name, memory === null ? null : tensorOf(spec, memory, rows)];
          }),
        ),
      };
      this.#batches.set(rows, batch);
    }
    inputs.forEach((spec, i) => {
      // A tensor of text holds a copy of the strings.
      if (spec.dtype === 'string') batch.feeds[spec.name] = tensorOf(spec, this.#inputs[i]!, rows);
    });
    return batch;
  }
}

function memoryFor(spec: TensorSpec, rows: number): TensorData {
  const elements = rows * spec.elements;
  if (spec.dtype === 'string') return new Array<string>(elements).fill('');
  return viewOf(spec.dtype, new ArrayBuffer(rows * spec.rowBytes), 0, elements);
}

function tensorOf(spec: TensorSpec, memory: TensorData, rows: number): Tensor {
  return new Tensor(spec.dtype, sliceOf(memory, 0, rows * spec.elements) as never, [rows, ...spec.shape]);
}

function copy(from: TensorData, at: number, to: TensorData, toAt: number, elements: number): void {
  if (Array.isArray(to)) {
    for (let k = 0; k < elements; k++) to[toAt + k] = (from as string[])[at + k]!;
  } else {
    (to as Float32Array).set((from as Float32Array).subarray(at, at + elements), toAt);
  }
}
