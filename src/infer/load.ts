/**
 * Loads one model in a worker: open, join with the manifest, try, check golden cases, warm every batch size.
 */
import { pathToFileURL } from 'node:url';
import { type InferenceSession, Tensor } from 'onnxruntime-node';
import { messageOf } from '../errors.ts';
import type { Native } from '../native.ts';
import { DTYPE_BYTES, FORM, ROW, ROW_COLUMNS, type TensorSpec } from '../schedule/slab.ts';
import { FieldDecoder } from './decode.ts';
import { OutputEncoder } from './encode.ts';
import { checkGolden, type Golden, readGolden } from './golden.ts';
import type { FieldSpec, Handler, RowCodec } from './handler.ts';
import {
  type Declared,
  declared,
  type JoinedInputs,
  joinInputs,
  joinOutputs,
  servedOutputs,
  type TrialOutput,
} from './metadata.ts';
import { layoutOf, Model } from './model.ts';
import { inNative } from './native.ts';
import type { LoadedModel, ModelSpec } from './protocol.ts';
import { ModelSession, openSession, SlabView } from './session.ts';
import { sliceOf, type TensorData } from './tensors.ts';

/**
 * `native`: the addon that decodes and encodes whole batches; null: TypeScript does. Rejects with an Error
 * that says which file and key is at fault and what to do.
 */
export async function loadModel(
  spec: ModelSpec,
  providers: readonly string[],
  slabArenaBytes: number,
  native: Native | null = null,
): Promise<{ model: Model; notices: string[] }> {
  const { session, provider, notices } = await openSession(spec.onnxPath, providers);
  const joined = joinInputs(declared(session.inputMetadata, 'input'), spec.inputs);
  const served = servedOutputs(declared(session.outputMetadata, 'output'), spec.outputs);
  const decoder = manifestSays(() => new FieldDecoder(joined.inputs, spec.inputs));
  const handler = spec.handlerPath === null ? null : await loadHandler(spec.handlerPath, spec);
  const golden = spec.goldenPath === null ? null : await readGolden(spec.goldenPath);

  const sample = sampleRow(joined, decoder, handler?.codec ?? null, golden, slabArenaBytes);
  const trials = await tryRun(session, joined, served, sample);
  const { outputs, batched } = joinOutputs(served, trials, joined);
  const shape = { inputs: joined.inputs, outputs, leading: joined.leading, batched };
  const encoder = manifestSays(() => new OutputEncoder(outputs, spec.outputs));

  const loaded: LoadedModel = {
    slot: spec.slot,
    inputs: joined.inputs,
    outputs,
    batched,
    fields: handler?.fields ?? decoder.describe(),
    predicts: handler?.predicts ?? encoder.describe(),
    provider,
    warmMs: 0,
  };
  const model = new Model({
    loaded,
    shape,
    session: new ModelSession(session, shape),
    decoder,
    encoder,
    codec: handler?.codec ?? null,
    layout: layoutOf(shape, spec.rowsMax, slabArenaBytes),
    native,
  });
  const slab = model.scratch();
  if (golden !== null) await checkGolden(model, slab, golden);
  const warmMs = await warm(model, slab, sample, spec.rowsMax);
  return { model: new Model({ ...model.parts, loaded: { ...loaded, warmMs } }), notices };
}

function manifestSays<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw new Error(`model.yaml: ${(error as Error).message}`);
  }
}

async function loadHandler(
  path: string,
  spec: ModelSpec,
): Promise<{ codec: RowCodec; fields: Handler['fields']; predicts: Handler['predicts'] }> {
  const file = path.slice(path.lastIndexOf('/') + 1);
  try {
    const { handler } = (await inNative(() => import(pathToFileURL(path).href))) as { handler?: Handler };
    if (typeof handler?.create !== 'function') {
      throw new Error('it must export `handler` with fields, predicts and create');
    }
    const labels = Object.fromEntries(spec.outputs.map((output) => [output.name, output.labels]));
    checkFields(handler, 'fields');
    checkFields(handler, 'predicts');
    const codec = handler.create({ dir: spec.dir, labels }) as Partial<RowCodec> | undefined;
    if (typeof codec?.decode !== 'function' || typeof codec.encode !== 'function') {
      const missing = (['decode', 'encode'] as const).filter((name) => typeof codec?.[name] !== 'function');
      const promised = codec instanceof Promise ? '; it must not be async' : '';
      const detail = `what it returned has no ${missing.join(' and no ')}${promised}`;
      throw new Error(`create() must return an object with the functions decode and encode; ${detail}`);
    }
    return { codec: codec as RowCodec, fields: handler.fields, predicts: handler.predicts };
  } catch (error) {
    throw new Error(`${file}: ${messageOf(error)}`);
  }
}

/** What the types of handler.ts promise; nothing checks them before this. */
function checkFields(handler: Handler, list: 'fields' | 'predicts'): void {
  const specs: unknown = handler[list];
  const form = "{ name: 'tempo', dtype: 'float32', shape: [] }";
  if (!Array.isArray(specs)) throw new Error(`${list} must be a list of fields, such as ${form}`);
  specs.forEach((spec: Partial<FieldSpec> | null | undefined, i) => {
    const at = `${list}[${i}]`;
    if (typeof spec !== 'object' || spec === null) throw new Error(`${at} must be a field, such as ${form}`);
    const { name, dtype, shape } = spec;
    if (typeof name !== 'string' || name === '') throw new Error(`${at}.name must be text`);
    if (specs.findIndex((other: Partial<FieldSpec> | null) => other?.name === name) < i)
      throw new Error(`${at}.name: ${name} is given twice`);
    if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) {
      throw new Error(
        `${at}.dtype (${name}) must be one of ${Object.keys(DTYPE_BYTES).join(', ')}, got ${String(dtype)}`,
      );
    }
    const isShape = Array.isArray(shape) && shape.every((dim) => Number.isSafeInteger(dim) && dim >= -1);
    if (!isShape)
      throw new Error(`${at}.shape (${name}) must be a list of sizes: [] for a scalar, -1 if free`);
  });
}

/** One row that the model accepts: the first golden case, or zeros and empty strings. */
function sampleRow(
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

/** Runs one row, and two where the batch dimension is free, to see what the outputs' shapes really are. */
async function tryRun(
  session: InferenceSession,
  joined: JoinedInputs,
  served: readonly Declared[],
  sample: readonly TensorData[],
): Promise<TrialOutput[]> {
  const names = served.map(({ name }) => name);
  const run = async (rows: number) => {
    const feeds: Record<string, Tensor> = {};
    joined.inputs.forEach((spec, i) => {
      const dims = joined.leading ? [rows, ...spec.shape] : spec.shape;
      feeds[spec.name] = new Tensor(spec.dtype, repeated(sample[i]!, spec, rows) as never, dims);
    });
    return await inNative(() => session.run(feeds, names));
  };
  let one: InferenceSession.OnnxValueMapType;
  try {
    one = await run(1);
  } catch (error) {
    throw new Error(
      'model.onnx: a run with the first golden case (zeros without one) failed: ' +
        `${(error as Error).message}; ` +
        'give a case that the model accepts in golden.json',
    );
  }
  let two: InferenceSession.OnnxValueMapType | null = null;
  if (joined.leading) {
    try {
      two = await run(2);
    } catch {
      // A graph that takes one row only although it declares a free dimension: rows run one by one.
    }
  }
  return names.map((name) => ({ one: one[name]!.dims, two: two?.[name]?.dims ?? [] }));
}

/** `rows` copies of a row, in memory of their own. */
function repeated(row: TensorData, spec: TensorSpec, rows: number): TensorData {
  if (Array.isArray(row)) return Array.from({ length: rows }, () => row).flat();
  const copies = new (row.constructor as Float32ArrayConstructor)(rows * spec.elements);
  for (let i = 0; i < rows; i++) copies.set(row as Float32Array, i * spec.elements);
  return copies;
}

/**
 * Runs every power of two up to `rowsMax` through the path that events take, so that neither ONNX Runtime's
 * arenas nor V8's compilers meet them for the first time under traffic. Returns the milliseconds of the
 * largest.
 */
async function warm(
  model: Model,
  slab: SlabView,
  sample: readonly TensorData[],
  rowsMax: number,
): Promise<number> {
  const { inputs } = model.parts.shape;
  inputs.forEach((spec, i) => {
    const filled = repeated(sample[i]!, spec, rowsMax);
    const region = slab.inputs[i]!;
    if (Array.isArray(region)) region.splice(0, region.length, ...(filled as string[]));
    else (region as Float32Array).set(sliceOf(filled, 0, region.length) as Float32Array);
  });
  for (let row = 0; row < rowsMax; row++) slab.table[row * ROW_COLUMNS + ROW.form] = FORM.features;
  const sizes: number[] = [];
  for (let rows = 1; rows < rowsMax; rows *= 2) sizes.push(rows);
  let runUs = 0;
  for (const rows of [...sizes, rowsMax, rowsMax])
    ({ runUs } = await model.runSlab(slab, 0, rows, { placed: true }));
  return runUs / 1000;
}
