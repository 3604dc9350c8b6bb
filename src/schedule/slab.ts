/**
 * The slab: one batch of one model in shared memory, allocated once at start and reused for ever.
 *
 *   [ row table | input tensors ... | output tensors ... | arena in | arena out ]
 *
 * Main thread and worker threads both compute the layout with `slabLayout` from the same arguments, so no
 * offsets travel between them. Ownership passes with the message that names the slab: from the batcher to one
 * worker, back to the main thread with the worker's answer. Nobody else touches it in between.
 */

/** Element types of ONNX tensors that can be served, with their size in bytes (0: no fixed size). */
export const DTYPE_BYTES = {
  float32: 4,
  float64: 8,
  float16: 2,
  int8: 1,
  int16: 2,
  int32: 4,
  int64: 8,
  uint8: 1,
  uint16: 2,
  uint32: 4,
  uint64: 8,
  bool: 1,
  string: 0,
} as const;

export type Dtype = keyof typeof DTYPE_BYTES;

/** What their elements lie in: halves raw, truth values as 0 and 1. Text has no memory of this kind. */
export const DTYPE_ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const satisfies Record<Exclude<Dtype, 'string'>, unknown>;

export type NumericData = InstanceType<(typeof DTYPE_ARRAYS)[keyof typeof DTYPE_ARRAYS]>;

/** One input or output of a model, per row: the batch dimension is left out. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: Dtype;
  /** Shape of one row. In an output -1 stands for a dimension known only after the run. */
  readonly shape: readonly number[];
  /** Elements of one row; 0 when the shape is not fixed. */
  readonly elements: number;
  /** Bytes of one row in the slab; 0 when the tensor has no region there (strings, free shapes). */
  readonly rowBytes: number;
}

export interface SlabLayout {
  readonly rows: number;
  /** Byte offset of each input's region, in the model's order; -1 for one without a region. */
  readonly inputOffsets: readonly number[];
  readonly outputOffsets: readonly number[];
  readonly arenaInOffset: number;
  readonly arenaInBytes: number;
  readonly arenaOutOffset: number;
  readonly arenaOutBytes: number;
  readonly bytes: number;
}

/** Columns of the row table: Int32 each, `ROW_COLUMNS` per row. Written by the side named. */
export const ROW = {
  /** FORM; main. */
  form: 0,
  /** Start and length of the event's bytes in the input arena (FORM.data); main. */
  inOffset: 1,
  inLength: 2,
  /** ENCODING wanted for the prediction; main. */
  encoding: 3,
  /** RESULT; worker. */
  result: 4,
  /** Start and length of the encoded prediction, or of the UTF-8 detail when the result is not ok; worker. */
  outOffset: 5,
  outLength: 6,
  /** In the first row of a task: the thread that has taken it, 0 before that; worker. */
  thread: 7,
} as const;
export const ROW_COLUMNS = 8;

/**
 * How the event came: its tensor rows are in place, or its named fields lie in the arena (MessagePack or
 * JSON).
 */
export const FORM = { features: 0, data: 1 } as const;
export const ENCODING = { msgpack: 0, json: 1 } as const;
/** What became of a row. From `expired` on: it was never run. */
export const RESULT = {
  ok: 0,
  invalid: 1,
  failed: 2,
  expired: 3,
  overloaded: 4,
  superseded: 5,
  cancelled: 6,
} as const;
/** By RESULT: as an outcome is called in streams, frames and figures. */
export const STATUS = [
  'ok',
  'invalid',
  'failed',
  'expired',
  'overloaded',
  'superseded',
  'cancelled',
] as const;
/** Which rung of the ladder a row that is ok was answered by, when its model could not be asked. */
export const RUNG = { none: 0, previous: 1, last_known: 2, constant: 3 } as const;

/** ONNX Runtime reads tensors with vector instructions; a cache line keeps regions of two rows apart. */
const ALIGN = 64;
const align = (n: number) => Math.ceil(n / ALIGN) * ALIGN;

/**
 * Lays out a slab of `rows` rows. The input arena must take the largest single event and, for small events,
 * about one kilobyte a row; the output arena likewise for predictions (larger ones travel beside the slab).
 */
export function slabLayout(
  inputs: readonly TensorSpec[],
  outputs: readonly TensorSpec[],
  rows: number,
  arenaBytes: number,
): SlabLayout {
  let offset = align(rows * ROW_COLUMNS * 4);
  const place = (spec: TensorSpec) => {
    if (spec.rowBytes === 0) return -1;
    const at = offset;
    offset = align(offset + rows * spec.rowBytes);
    return at;
  };
  const inputOffsets = inputs.map(place);
  const outputOffsets = outputs.map(place);
  const arenaInOffset = offset;
  const arenaOutOffset = align(arenaInOffset + arenaBytes);
  return {
    rows,
    inputOffsets,
    outputOffsets,
    arenaInOffset,
    arenaInBytes: arenaBytes,
    arenaOutOffset,
    arenaOutBytes: arenaBytes,
    bytes: arenaOutOffset + arenaBytes,
  };
}
