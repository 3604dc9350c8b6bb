/** Runs a model's batches before there are any events: to warm it up, and to measure what they take. */
import { ENCODING, FORM, ROW, ROW_COLUMNS } from '../schedule/slab.ts';
import type { Golden } from './golden.ts';
import { measureBuckets, type WarmedBucket } from './measure.ts';
import type { Model } from './model.ts';
import { bucketsOf } from './profile.ts';
import type { ModelProfile } from './protocol.ts';
import type { SlabView } from './session.ts';
import { sliceOf, type TensorData } from './tensors.ts';
import { repeated } from './trial.ts';

/** A slab full of rows that the model takes, and the sizes that have run. */
export interface Warmed {
  readonly slab: SlabView;
  readonly buckets: readonly WarmedBucket[];
  /** The rows are tensors; else the first golden case's event, decoded anew in each run. */
  readonly placed: boolean;
}

export interface WarmOptions {
  /** One row of each input. */
  readonly sample: readonly TensorData[];
  readonly golden: Golden | null;
  readonly rowsMax: number;
  readonly runMsMax: number;
  /** Batches of so many rows there will be, whatever they take. */
  readonly rowsLeast: number;
}

/**
 * A size that takes so long, and longer than a batch may, once it has run before: larger ones are not tried.
 */
const HOPELESS_MS = 250;

/**
 * Runs each bucket up to `rowsMax` through the path that events take, so that neither ONNX Runtime's arenas,
 * nor a device's search for algorithms, nor V8's compilers meet it for the first time under traffic.
 */
export async function warm(
  model: Model,
  slab: SlabView,
  { sample, golden, rowsMax, runMsMax, rowsLeast }: WarmOptions,
): Promise<Warmed> {
  const placed = !placeEvent(slab, golden, rowsMax);
  if (placed) placeSample(model, slab, sample, rowsMax);
  return await warmMore(model, { slab, buckets: [], placed }, { rowsMax, runMsMax, rowsLeast });
}

/** Goes on with the sizes that have not run: to `rowsLeast` rows, and on while they are not hopeless. */
export async function warmMore(
  model: Model,
  { slab, buckets: before, placed }: Warmed,
  { rowsMax, runMsMax, rowsLeast }: Pick<WarmOptions, 'rowsMax' | 'runMsMax' | 'rowsLeast'>,
): Promise<Warmed> {
  const buckets = [...before];
  const isHopeless = (tookMs: number) => tookMs > Math.max(runMsMax, HOPELESS_MS);
  const run = async (rows: number) => {
    const began = performance.now();
    await model.runSlab(slab, 0, rows, { placed });
    return performance.now() - began;
  };
  for (const rows of bucketsOf(rowsMax).slice(before.length)) {
    const known = buckets.at(-1)?.againMs ?? [];
    if (rows > rowsLeast && known.some(isHopeless)) break;
    // The first run of a shape may have searched for algorithms, or met a stall: the second decides.
    const firstMs = await run(rows);
    buckets.push({ rows, againMs: isHopeless(firstMs) ? [await run(rows)] : [] });
  }
  return { slab, buckets, placed };
}

/** Measures the sizes that were warmed; anew when the model has moved to another provider meanwhile. */
export async function profileOf(
  model: Model,
  { slab, buckets, placed }: Warmed,
  { runMsMax, budgetMs }: { readonly runMsMax: number; readonly budgetMs: number },
): Promise<ModelProfile> {
  const run = async (rows: number) => {
    await model.runSlab(slab, 0, rows, { placed });
  };
  const now = () => performance.now();
  for (;;) {
    const { provider } = model;
    const measured = await measureBuckets(buckets, run, { budgetMs, runMsMax, now });
    if (model.provider === provider) return { provider, buckets: measured };
  }
}

/** The first golden case's event as every row; false: there is none. */
function placeEvent(slab: SlabView, golden: Golden | null, rowsMax: number): boolean {
  const data = golden?.cases[0]?.data;
  if (data === undefined) return false;
  const bytes = Buffer.from(JSON.stringify(data));
  bytes.copy(slab.bytes, slab.layout.arenaInOffset);
  slab.table.fill(0);
  for (let row = 0; row < rowsMax; row++) {
    const at = row * ROW_COLUMNS;
    slab.table[at + ROW.form] = FORM.data;
    slab.table[at + ROW.inLength] = bytes.length;
    slab.table[at + ROW.encoding] = ENCODING.msgpack;
  }
  return true;
}

function placeSample(model: Model, slab: SlabView, sample: readonly TensorData[], rowsMax: number): void {
  model.parts.shape.inputs.forEach((spec, i) => {
    const filled = repeated(sample[i]!, spec.elements, rowsMax);
    const region = slab.inputs[i]!;
    if (Array.isArray(region)) region.splice(0, region.length, ...(filled as string[]));
    else (region as Float32Array).set(sliceOf(filled, 0, region.length) as Float32Array);
  });
  for (let row = 0; row < rowsMax; row++) slab.table[row * ROW_COLUMNS + ROW.form] = FORM.features;
}
