/**
 * What crosses the thread boundary between the pool (main thread) and a worker. Plain data, cloned by
 * postMessage.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Dtype, TensorSpec } from '../schedule/slab.ts';
import type { FieldSpec } from './handler.ts';

export type ProviderName = 'cpu' | 'cuda' | 'tensorrt' | 'webgpu' | 'coreml';

export interface ProviderSpec {
  readonly name: ProviderName;
  /**
   * Workers take these devices in turn; empty: the provider has no such choice, or the first one is meant.
   */
  readonly deviceIds: readonly number[];
  /** Sessions of one model on one device, and so workers; null: as many as there are workers. */
  readonly sessions: number | null;
  /** In onnxruntime-node's own names. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** A name alone means the provider with nothing said. */
export type ProviderEntry = ProviderName | ProviderSpec;

/** How a session is made; a manifest's `session` section. Each key is explained in README.md. */
export interface SessionSettings {
  readonly intraOpThreads: number;
  readonly interOpThreads: number;
  readonly execution: 'sequential' | 'parallel';
  readonly optimization: 'disabled' | 'basic' | 'extended' | 'layout' | 'all';
  readonly cpuArena: boolean;
  readonly memoryPattern: boolean;
  /** ONNX Runtime's own threads wait for work by spinning. */
  readonly spinning: boolean;
  /** Processors of each of ONNX Runtime's own threads, in its form; null: any. */
  readonly affinity: string | null;
  /** Further session configuration entries, by their full names. */
  readonly config: Readonly<Record<string, string>>;
}

/** When a model counts as failing, and how it is tried again. Each key is explained in README.md. */
export interface BreakerSettings {
  /** Of the statistics. */
  readonly windowMs: number;
  /** Batches within the window that there have to be before shares of them mean anything. */
  readonly volume: number;
  /** More than this share of failed ones opens it. */
  readonly failureRate: number;
  /** More than this share of slow ones opens it. */
  readonly slowRate: number;
  /** A batch is slow when it takes more than so many times the 99th percentile of its size ... */
  readonly slowFactor: number;
  /** ... and more than this. */
  readonly slowMsMin: number;
  /** So many failed or slow ones in a row open it, however long that took. */
  readonly consecutive: number;
  /** How long it stays open: between these, at random, below a limit that doubles each time. */
  readonly openMsMin: number;
  readonly openMsMax: number;
  /** Good batches after which it closes. */
  readonly probes: number;
}

/** What answers for a model that cannot be asked. */
export type RungSpec =
  | { readonly kind: 'previous' }
  | {
      readonly kind: 'last_known';
      readonly entriesMax: number;
      readonly bytesMax: number;
      readonly ageMsMax: number;
    }
  | { readonly kind: 'constant'; readonly outputs: Readonly<Record<string, unknown>> };

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
  /** What a batch may take, as the manifest says; null: the engine's share of latency.target_ms. */
  readonly runMsMax?: number | null;
  /** In order of preference; null: the engine's. */
  readonly providers?: readonly ProviderEntry[] | null;
  /** What the manifest says of its sessions. */
  readonly session?: Partial<SessionSettings>;
  /** From the manifest; null: the stream's or the engine's default. */
  readonly deadlineMs: number | null;
  /** Of a key only the newest event that waits is run. */
  readonly latestOnly: boolean;
  /** Predictions of WebSocket and HTTP requests are also appended to the predictions stream. */
  readonly record: boolean;
  readonly description: string;
  /** The manifest's inputs and outputs, already checked for form; empty: the ONNX file's own metadata. */
  readonly inputs: readonly ManifestInput[];
  readonly outputs: readonly ManifestOutput[];
  /** In the manifest's order; left out: none. */
  readonly degrade?: readonly RungSpec[];
  /** What the manifest says of it; left out: nothing. */
  readonly breaker?: Partial<BreakerSettings>;
  /** The version to fall back to; only loaded for that, under a slot of its own. */
  readonly previous?: { readonly slot: number; readonly version: number };
  /** It is loaded only to be fallen back to, by the model in this slot. */
  readonly previousOf?: number;
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
  /** It could be served if one of its providers were there. */
  readonly lacksProvider?: boolean;
}

/** Batches of one size: milliseconds in a worker, from raw rows to encoded predictions. */
export interface BucketProfile {
  readonly rows: number;
  /** What the percentiles stand on. Of fewer than 100 runs the 99th is the slowest. */
  readonly runs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface ModelProfile {
  readonly provider: ProviderName;
  /** By rows. Empty until measured; sizes above a hopelessly slow one are left out. */
  readonly buckets: readonly BucketProfile[];
}

/** A provider that was tried and is not used. */
export interface LeftProvider {
  readonly provider: ProviderName;
  readonly reason: string;
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
  readonly provider: ProviderName;
  /** Without figures until it has been measured. */
  readonly profile: ModelProfile;
}

/**
 * What a model runs on in one worker: part of its description, and a message of its own (parentPort) when it
 * changes, or from a worker that started later.
 */
export interface ProviderNews {
  readonly kind: 'provider';
  readonly thread: number;
  readonly slot: number;
  readonly provider: ProviderName;
  /** Those before it, and why not. */
  readonly left: readonly LeftProvider[];
  /** Measured when a worker is not on the provider that the model was measured on; null: not measured. */
  readonly profile: ModelProfile | null;
}

/** A message of a worker that has to do without the addon, although the main thread could load it. */
export interface AddonNews {
  readonly kind: 'addon';
  readonly why: string;
}

/** A worker takes batches, over this: see desk.ts. */
export interface DeskNews {
  readonly kind: 'desk';
  readonly thread: number;
  readonly shared: SharedArrayBuffer;
  readonly port: MessagePort;
}

export type WorkerNews = ProviderNews | AddonNews | DeskNews;

/** Asks workers to measure models: for each that is wanted the first one that runs it there, in turns. */
export interface ProfileTask extends Meeting {
  /** For each of them. */
  readonly budgetMs: number;
  readonly wanted: readonly { readonly slot: number; readonly provider: ProviderName }[];
  /** 1 in the first: a worker measures. Then one for each that is wanted, 1: a worker has taken it. */
  readonly claims: Int32Array<SharedArrayBuffer>;
}

/** A task that every worker does once. */
export interface Meeting {
  /** Counts the workers that have arrived; each waits until all `threads` have, so that each answers once. */
  readonly arrived: Int32Array<SharedArrayBuffer>;
  readonly threads: number;
}

/** One worker's answer once it is warm. */
export interface Description {
  readonly thread: number;
  readonly loaded: readonly LoadedModel[];
  readonly problems: readonly ModelProblem[];
  /** What its models run on now, and what they do not. */
  readonly running: readonly ProviderNews[];
}

/** A worker's answer to a ProfileTask, for each model that it measured. */
export interface Profiled {
  readonly slot: number;
  readonly profile: ModelProfile;
}

/** One batch to run. `shared` is the slab's memory; a worker gets it once, and keeps its views. */
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

/** Some cells for each thread, shared by all of them: see native.ts. */
export type NativeCells = Int32Array<SharedArrayBuffer>;

/**
 * What a worker that replaces a dead one has to know, shared by all: in the first cell how many milliseconds
 * it waits before it loads; then one cell for each slot, 1: this model is served, and a worker without it is
 * none.
 */
export type SuccessionCells = Int32Array<SharedArrayBuffer>;

/** Taken by workers as they start, given back when they are gone: who has which device. Holds thread ids. */
export type SeatCells = Int32Array<SharedArrayBuffer>;

/** By slot: the index of the first provider to try, because those before it failed in use. */
export type FloorCells = Int32Array<SharedArrayBuffer>;

/** By slot: a bit for each of the model's providers, 1: it has been measured there. */
export type MeasuredCells = Int32Array<SharedArrayBuffer>;

/**
 * By slot: the rows that a batch may have at present, all of whose sizes are to be warm; 0: not known yet.
 */
export type PlannedCells = Int32Array<SharedArrayBuffer>;

/** Passed as piscina's workerData. */
export interface WorkerOptions {
  readonly models: readonly ModelSpec[];
  readonly providers: readonly ProviderEntry[];
  readonly slabArenaBytes: number;
  /** What a batch may take, where the model does not say. */
  readonly runMsMax: number;
  /** For measuring one model. */
  readonly profileMsMax: number;
  /** A module whose `open` takes the place of InferenceSession.create; null: that itself. */
  readonly opener: string | null;
  /** Use the native addon, where it can be loaded. */
  readonly native: boolean;
  /** Who is inside native code, and who may not enter it. */
  readonly cells: NativeCells;
  readonly succession: SuccessionCells;
  readonly seats: SeatCells;
  readonly floors: FloorCells;
  readonly planned: PlannedCells;
  readonly measured: MeasuredCells;
}
