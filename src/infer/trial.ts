/** Runs with a row that the model is known to take. */
import { type InferenceSession, Tensor } from 'onnxruntime-node';
import { messageOf } from '../errors.ts';
import { FieldDecoder } from './decode.ts';
import type { Golden } from './golden.ts';
import type { RowCodec } from './handler.ts';
import type { Declared, JoinedInputs, TrialOutput } from './metadata.ts';
import { layoutOf } from './model.ts';
import { inNative, NativeHalted } from './native.ts';
import { SlabView } from './session.ts';
import type { TensorData } from './tensors.ts';

/** One row that the model accepts: the first golden case, or zeros and empty strings. */
export function sampleRow(
  joined: JoinedInputs,
  decoder: FieldDecoder,
  codec: RowCodec | null,
  golden: Golden | null,
  slabArenaBytes: number,
): TensorData[] {
  const shape = { inputs: joined.inputs, outputs: [], leading: joined.leading, batched: false };
  const layout = layoutOf(shape, 1, slabArenaBytes);
  const slab = new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
  const first = golden?.cases[0];
  try {
    if (first?.inputs !== undefined) {
      new FieldDecoder(joined.inputs, []).decode(first.inputs, slab.inputs, 0);
    } else if (first?.data !== undefined && codec !== null) {
      const views = slab.row(0);
      codec.decode(first.data, views);
      slab.keepText(0, views);
    } else if (first?.data !== undefined) {
      decoder.decode(first.data, slab.inputs, 0);
    }
  } catch (error) {
    throw new Error(`golden.json: cases[0]: ${messageOf(error)}`);
  }
  return [...slab.inputs];
}

/** `rows` times the same row; the outputs by name. */
export async function runSample(
  session: InferenceSession,
  joined: JoinedInputs,
  served: readonly Declared[],
  sample: readonly TensorData[],
  rows: number,
): Promise<InferenceSession.OnnxValueMapType> {
  const feeds: Record<string, Tensor> = {};
  joined.inputs.forEach((spec, i) => {
    const dims = joined.leading ? [rows, ...spec.shape] : spec.shape;
    feeds[spec.name] = new Tensor(spec.dtype, repeated(sample[i]!, spec.elements, rows) as never, dims);
  });
  const names = served.map(({ name }) => name);
  return await inNative(() => session.run(feeds, names));
}

/** Runs one row, and two where the batch dimension is free, to see what the outputs' shapes really are. */
export async function tryRun(
  session: InferenceSession,
  joined: JoinedInputs,
  served: readonly Declared[],
  sample: readonly TensorData[],
): Promise<TrialOutput[]> {
  let one: InferenceSession.OnnxValueMapType;
  try {
    one = await runSample(session, joined, served, sample, 1);
  } catch (error) {
    if (error instanceof NativeHalted) throw error;
    throw new Error(
      'model.onnx: a run with the first golden case (zeros without one) failed: ' +
        `${(error as Error).message}; ` +
        'give a case that the model accepts in golden.json',
    );
  }
  let two: InferenceSession.OnnxValueMapType | null = null;
  if (joined.leading) {
    try {
      two = await runSample(session, joined, served, sample, 2);
    } catch (error) {
      if (error instanceof NativeHalted) throw error;
      // A graph that takes one row only although it declares a free dimension: rows run one by one.
    }
  }
  return served.map(({ name }) => ({ one: one[name]!.dims, two: two?.[name]?.dims ?? [] }));
}

/** `rows` copies of a row, in memory of their own. */
export function repeated(row: TensorData, elements: number, rows: number): TensorData {
  if (Array.isArray(row)) return Array.from({ length: rows }, () => row).flat();
  const copies = new (row.constructor as Float32ArrayConstructor)(rows * elements);
  for (let i = 0; i < rows; i++) copies.set(row as Float32Array, i * elements);
  return copies;
}
