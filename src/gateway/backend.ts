/** What the gateway asks of the engine. No socket on this side, no slab on the other. */
import type { FieldSpec } from '../infer/handler.ts';
import type { AnswerCallback, DirectEvent } from '../schedule/direct.ts';
import type { TensorSpec } from '../schedule/slab.ts';

export interface ModelInfo {
  readonly name: string;
  readonly version: number;
  readonly description: string;
  readonly fields: readonly FieldSpec[];
  readonly predicts: readonly FieldSpec[];
  /**
   * The model's inputs, where an event's fields are these and their values as they are; null: they need
   * decoding, by the manifest's fields or a handler.
   */
  readonly tensors: readonly TensorSpec[] | null;
  readonly provider: string;
  readonly rowsMax: number;
}

/** One event for the input stream. */
export interface StreamEvent {
  /** '' for the stream's default. */
  readonly model: string;
  readonly key: string;
  readonly event: string;
  /** MessagePack or JSON, as in DirectEvent; the caller does not touch it again. */
  readonly data: Uint8Array;
  readonly deadlineMs: number;
  /** 0, 1 or 2. */
  readonly priority: number;
}

export interface Backend {
  models(): readonly ModelInfo[];
  /** By `name` or `name@version`. */
  model(name: string): ModelInfo | undefined;
  /** Calls back exactly once, possibly before it returns. */
  infer(event: DirectEvent, answer: AnswerCallback): void;
  /**
   * Appends to the first input stream; resolves with the entry id once Redis has it. Rejects with a
   * SubitoError.
   */
  append(event: StreamEvent): Promise<string>;
  /** True while anyone is subscribed: the tail of the predictions stream runs only then. */
  wantPredictions(wanted: boolean): void;
  /** Reasons why it is not ready; of one that is: what is not as it was meant to be. */
  health(): { readonly live: boolean; readonly ready: boolean; readonly reasons: readonly string[] };
  /** Why a model that was found is not served; undefined when it is, or was not found. */
  problem?(name: string): string | undefined;
  /** The Prometheus text. */
  metrics(): Promise<string>;
  /** Somebody makes spans: callers' traceparents are wanted. */
  readonly tracing?: boolean;
  /** How many replicas there should be, and why, as JSON-able data; absent where nobody works it out. */
  autoscale?(): unknown;
  /** Live figures for the console, as JSON-able data. */
  stats(): unknown;
}
