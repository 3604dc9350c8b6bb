/**
 * What crosses the thread boundary between the pool (main thread) and a worker. Plain data, cloned by
 * postMessage.
 */
import type { Dtype, TensorSpec } from '../schedule/slab.ts';
import type { FieldSpec } from './handler.ts';

/** A model version on disk, checked and resolved by the repository; enough for a worker to load it. */
export interface ModelSpec {
  /** Index of the model in this engine; names its slabs and sessions on both sides. */
  readonly slot: number;
  readonly name: string;
  readonly version: number;
  readonly dir: string;
  readonly onnxPath: string;
  readonly handlerPath: string | null;
  readonly goldenPath: string | null;
  /** Rows of one slab. */
  readonly rowsMax: number;
  /** From the manifest; null: the stream's or the engine's default. */
  readonly deadlineMs: number | null;
  /** Predictions of WebSocket and HTTP requests are also appended to the predictions stream. */
  readonly record: boolean;
  readonly description: string;
  /** The manifest's inputs and outputs, already checked for form; empty: the ONNX file's own metadata. */
  readonly inputs: readonly ManifestInput[];
  readonly outputs: readonly ManifestOutput[];
}

export interface ManifestInput {
  readonly name: string;
  readonly dtype: Dtype | null;
  readonly shape: readonly number[] | null;
  /** One named scalar per element, in order; empty: the input is one field of its own name. */
  readonly fields: readonly ManifestField[];
  /** Refuse NaN and infinities. */
  readonly finite: boolean;
}

export interface ManifestField {
  readonly name: string;
  /** null: the dtype of its input. */
  readonly dtype: Dtype | null;
  /** Used when the field is missing or null; undefined: the field is required. */
  readonly default: number | boolean | string | undefined;
}

export interface ManifestOutput {
  readonly name: string;
  readonly labels: readonly string[];
}

/** A model that is not served, and why. The message names the file, the key, the value and what to do. */
export interface ModelProblem {
  /** `name` or `name@version`. */
  readonly model: string;
  readonly message: string;
}

/** What a worker found when it loaded a model: the ONNX metadata joined with the manifest. */
export interface LoadedModel {
  readonly slot: number;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** False: the graph has no batch dimension, or one that is fixed; rows run one by one. */
  readonly batched: boolean;
  /** What `data` may hold, and what a prediction holds. */
  readonly fields: readonly FieldSpec[];
  readonly predicts: readonly FieldSpec[];
  readonly provider: string;
  /** Measured at warm-up: milliseconds of one run at the largest batch. */
  readonly warmMs: number;
}

export interface DescribeTask {
  /** Counts the workers that have arrived; each waits until all `threads` have, so that each answers once. */
  readonly arrived: Int32Array<SharedArrayBuffer>;
  readonly threads: number;
}

/** One worker's answer once it is warm. */
export interface Description {
  readonly loaded: readonly LoadedModel[];
  readonly problems: readonly ModelProblem[];
  /** Things an operator should know, such as a provider that could not be had. */
  readonly notices: readonly string[];
}

/** One batch to run. `shared` is the slab's memory; a worker keeps its views after the first time. */
export interface InferTask {
  readonly slot: number;
  /** Index of the slab in this engine; never given to other memory while the pool lives. */
  readonly slab: number;
  readonly shared: SharedArrayBuffer;
  /** First row and number of rows to run; normally 0 and all of them. */
  readonly first: number;
  readonly rows: number;
  /** Each row in a run of its own. */
  readonly apart: boolean;
}

export interface InferResult {
  /** Microseconds in the worker: decode, run, encode. */
  readonly inferUs: number;
  /** Microseconds of `session.run` alone. */
  readonly runUs: number;
  /**
   * Not null when the predictions did not fit the output arena: all of the slab's rows, `outOffset` counted
   * from the start of this instead of the start of the arena.
   */
  readonly spill: Uint8Array | null;
}

/** Three cells for each thread, shared by all of them: see native.ts. */
export type NativeCells = Int32Array<SharedArrayBuffer>;

/**
 * What a worker that replaces a dead one has to know, shared by all: in the first cell how many milliseconds
 * it waits before it loads; then one cell for each slot, 1: this model is served, and a worker without it is
 * none.
 */
export type SuccessionCells = Int32Array<SharedArrayBuffer>;

/** Passed as piscina's workerData. */
export interface WorkerOptions {
  readonly models: readonly ModelSpec[];
  readonly providers: readonly string[];
  readonly slabArenaBytes: number;
  /** Use the native addon, where it can be loaded. */
  readonly native: boolean;
  /** Who is inside native code, and who may not enter it. */
  readonly cells: NativeCells;
  readonly succession: SuccessionCells;
}
