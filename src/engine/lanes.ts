/**
 * The memory of the engine: for each served model its slabs, as a lane of the batcher. Allocated once, at
 * start.
 */
import type { ModelInfo } from '../gateway/backend.ts';
import type { Pool } from '../infer/pool.ts';
import type { LoadedModel, ModelSpec } from '../infer/protocol.ts';
import type { Limits } from '../limits.ts';
import type { Native } from '../native.ts';
import type { Admission } from '../schedule/admission.ts';
import { Batch } from '../schedule/batch.ts';
import type { Batcher, Lane } from '../schedule/batcher.ts';
import type { ModelLane } from '../schedule/intake.ts';
import { Latest } from '../schedule/latest.ts';
import { openNative } from '../schedule/many.ts';
import { slabLayout } from '../schedule/slab.ts';

/**
 * Beside the ones that run: one that fills, one kept for requests, and enough that are being settled to keep
 * Redis busy. With 4 in all, two cores drained 94,000 and 124,000 events/s in two runs of three rounds each,
 * with 6 129,000 and 132,000, with 8 156,000 and 145,000, with 16 no more.
 */
const BATCHES_BESIDE_RUNNING = 8;
/**
 * Of a model whose batches are small there are more of them: so many rows find room all the same, for events
 * come in bursts. Memory that is not touched is not taken.
 */
const ROWS_WAITING = 96;
const BATCHES_BESIDE_RUNNING_MAX = 48;
const REJECT_BATCHES = 3;
const REJECT_ROWS = 128;

export interface Lanes {
  readonly models: readonly ModelLane[];
  readonly rejects: Lane<Batch>;
  readonly infos: readonly ModelInfo[];
  /** Batches of the model in this slot have fewer rows from now on. */
  limitRows(slot: number, rowsMax: number): void;
}

export interface LanesOptions {
  readonly batcher: Batcher<Batch>;
  readonly admission: Admission<Batch>;
  readonly specs: readonly ModelSpec[];
  readonly pool: Pick<Pool, 'loaded' | 'plans' | 'threadsMax' | 'running'>;
  /** Those that take traffic; left out: all that the pool has. */
  readonly loaded?: readonly LoadedModel[];
  readonly limits: Limits;
  /** Takes entries into the batches; null: TypeScript does. */
  readonly native?: Native | null;
  /** Traceparents are kept, row by row. */
  readonly tracing?: boolean;
}

export function buildLanes(options: LanesOptions): Lanes {
  const { batcher, admission, specs, pool, limits, native = null, tracing = false } = options;
  const { plans, threadsMax, running } = pool;
  const { loaded = pool.loaded } = options;
  const batchesOf = new Map<number, readonly Batch[]>();
  const models: ModelLane[] = [];
  const infos: ModelInfo[] = [];
  let slab = 0;
  const { slabArenaBytes } = limits;
  const kept = { keyBytesMax: limits.keyBytesMax, eventIdBytesMax: limits.eventIdBytesMax, tracing };
  // The addon knows of no traces: it stops in front of whatever has one.
  const nativeLimits = tracing ? { ...limits, traceBytesMax: 0 } : limits;
  for (const found of loaded) {
    const spec = specs.find(({ slot }) => slot === found.slot) as ModelSpec;
    const layout = slabLayout(found.inputs, found.outputs, spec.rowsMax, slabArenaBytes);
    const plan = plans.find(({ slot }) => slot === found.slot);
    const { rowsMax } = plan ?? spec;
    const batches = Array.from(
      { length: threadsMax + batchesBesideRunning(rowsMax) },
      () => new Batch({ rowsMax, layout, slab: slab++, ...kept }),
    );
    batchesOf.set(found.slot, batches);
    const lane = modelLane(batcher.addLane(spec.name, batches), spec, found);
    if (native !== null) {
      for (const batch of batches) batch.handle = openNative(native, lane, batch, nativeLimits);
    }
    admission.addLane(lane, plan?.profile.buckets ?? []);
    models.push(lane);
    infos.push({
      name: spec.name,
      version: spec.version,
      description: spec.description,
      fields: found.fields,
      predicts: found.predicts,
      tensors: hasPlainFields(spec, found) ? found.inputs : null,
      get provider() {
        return running.of(found.slot) || found.provider;
      },
      rowsMax: spec.rowsMax,
    });
  }
  const rejects = Array.from(
    { length: REJECT_BATCHES },
    () => new Batch({ rowsMax: REJECT_ROWS, layout: null, slab: slab++, ...kept }),
  );
  const limitRows = (slot: number, rowsMax: number) => {
    for (const batch of batchesOf.get(slot) ?? []) batch.limitRows(rowsMax);
  };
  return { models, infos, rejects: batcher.addLane('', rejects, false), limitRows };
}

function batchesBesideRunning(rowsMax: number): number {
  const wanted = Math.ceil(ROWS_WAITING / rowsMax);
  return Math.min(BATCHES_BESIDE_RUNNING_MAX, Math.max(BATCHES_BESIDE_RUNNING, wanted));
}

/** An event's fields are the inputs, one for one, as they go into the tensors. */
function hasPlainFields({ handlerPath, inputs }: ModelSpec, found: LoadedModel): boolean {
  const isNamed = inputs.some(({ fields }) => fields.length > 0);
  return handlerPath === null && !isNamed && found.inputs.every(({ rowBytes }) => rowBytes > 0);
}

/**
 * The batcher keeps the lane it made; what the other stages need to know of its model is added to the same
 * object.
 */
function modelLane(lane: Lane<Batch>, spec: ModelSpec, found: LoadedModel): ModelLane {
  const label = `${spec.name}@${spec.version}`;
  const sized = found.inputs.every(({ rowBytes }) => rowBytes > 0);
  return Object.assign(lane, {
    slot: spec.slot,
    label,
    nameBytes: [Buffer.from(spec.name), Buffer.from(label)],
    inputs: found.inputs,
    featuresBytes: sized ? found.inputs.reduce((sum, { rowBytes }) => sum + rowBytes, 0) : 0,
    deadlineMs: spec.deadlineMs ?? 0,
    record: spec.record,
    latest: spec.latestOnly ? new Latest() : null,
  });
}
