/** What crosses the thread boundary between the pool (main thread) and a worker. Plain data, cloned by postMessage. */
import type { FieldSpec } from './handler.ts';
import type { TensorSpec } from '../schedule/slab.ts';

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
  readonly dtype: TensorSpec['dtype'] | null;
  readonly shape: readonly number[] | null;
  /** One named scalar per element, in order; empty: the input is one field of its own name. */
  readonly fields: readonly FieldSpec[];
  /** Refuse NaN and infinities. */
  readonly finite: boolean;
}

export interface ManifestOutput {
  readonly name: string;
  readonly labels: readonly string[];
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

/** One batch to run. `shared` is the slab's memory; a worker keeps its views after the first time. */
export interface InferTask {
  readonly op: 'infer';
  readonly slot: number;
  /** Index of the slab in this engine. */
  readonly slab: number;
  readonly shared: SharedArrayBuffer;
  readonly rows: number;
}

export interface InferResult {
  /** Microseconds in the worker: decode, run, encode. */
  readonly inferUs: number;
  /** Microseconds of `session.run` alone. */
  readonly runUs: number;
  /** Predictions that did not fit the output arena: the rows' offsets point into this instead, for the whole slab. */
  readonly spill: Uint8Array | null;
}

/** Passed as piscina's workerData. */
export interface WorkerOptions {
  readonly models: readonly ModelSpec[];
  readonly providers: readonly string[];
  readonly slabArenaBytes: number;
}
