/** The same ONNX Runtime session for every peer: one thread, sequential, as Subito's workers run theirs. */
import { InferenceSession, Tensor } from 'onnxruntime-node';

export const ROW_FLOATS = 64;
export const ROW_BYTES = ROW_FLOATS * 4;

export interface Model {
  /**
   * `rows` rows of 64 values at the start of `input`; resolves with one score a row, valid until the next
   * run.
   */
  run(input: Float32Array, rows: number): Promise<Float32Array>;
}

/** Loads and warms the model for batches up to `rowsMax`. */
export async function loadModel(path: string, rowsMax: number): Promise<Model> {
  const session = await InferenceSession.create(path, {
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    interOpNumThreads: 1,
    intraOpNumThreads: 1,
  });
  const input = session.inputNames[0]!;
  const output = session.outputNames[0]!;
  const model: Model = {
    async run(values, rows) {
      const tensor = new Tensor('float32', values.subarray(0, rows * ROW_FLOATS), [rows, ROW_FLOATS]);
      const results = await session.run({ [input]: tensor });
      return results[output]!.data as Float32Array;
    },
  };
  const warm = new Float32Array(rowsMax * ROW_FLOATS);
  for (let i = 0; i < 20; i++) {
    await model.run(warm, 1);
    await model.run(warm, rowsMax);
  }
  return model;
}

/** The value of a field in an entry's flat list of names and values. */
export function fieldOf(fields: readonly Buffer[], name: string): Buffer {
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i]!.length === name.length && fields[i]!.toString('latin1') === name) return fields[i + 1]!;
  }
  throw new Error(`an event without ${name}`);
}
