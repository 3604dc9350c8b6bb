/** What the gateway asks of the engine. No socket on this side, no slab on the other. */
import type { FieldSpec } from '../infer/handler.ts';

export interface ModelInfo {
  readonly name: string;
  readonly version: number;
  readonly description: string;
  readonly fields: readonly FieldSpec[];
  readonly predicts: readonly FieldSpec[];
  readonly provider: string;
  readonly rowsMax: number;
}

/** One event that wants its answer here and now. */
export interface DirectEvent {
  /** `name` or `name@version`; '' for the engine's default. */
  readonly model: string;
  /** '' for none. */
  readonly key: string;
  /** The client's own id of the event; '' for none. */
  readonly event: string;
  /** The event's named fields, MessagePack or JSON; copied before `infer` returns. */
  readonly data: Uint8Array;
  /** Encoding wanted for `outputs`. */
  readonly json: boolean;
  /** 0: the model's, else the engine's default. */
  readonly deadlineMs: number;
}

export interface Answer {
  readonly status:
    | 'ok'
    | 'degraded'
    | 'invalid'
    | 'failed'
    | 'overloaded'
    | 'expired'
    | 'unknown_model'
    | 'unavailable';
  /** `name@version`; '' when no model was reached. */
  readonly model: string;
  /** The encoded prediction; a view that is valid only during the callback. Empty when there is none. */
  readonly outputs: Uint8Array;
  /** Why there is no prediction; `path: detail` when the event is invalid. */
  readonly detail: string;
  /** Milliseconds after which a retry makes sense (overloaded, unavailable). */
  readonly retryMs: number;
  readonly waitUs: number;
  readonly inferUs: number;
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
}

export interface Backend {
  models(): readonly ModelInfo[];
  /** By `name` or `name@version`. */
  model(name: string): ModelInfo | undefined;
  /** Calls back exactly once, possibly before it returns. */
  infer(event: DirectEvent, answer: (answer: Answer) => void): void;
  /**
   * Appends to the first input stream; resolves with the entry id once Redis has it. Rejects with a
   * SubitoError.
   */
  append(event: StreamEvent): Promise<string>;
  /** True while anyone is subscribed: the tail of the predictions stream runs only then. */
  wantPredictions(wanted: boolean): void;
  health(): { readonly live: boolean; readonly ready: boolean; readonly reasons: readonly string[] };
  /** The Prometheus text. */
  metrics(): Promise<string>;
  /** Live figures for the console, as JSON-able data. */
  stats(): unknown;
}

/** A committed prediction from the tail, offered to the hub. `outputs` is valid only during the call. */
export interface Prediction {
  /** Entry id in the predictions stream. */
  readonly sid: string;
  readonly key: string;
  /** `name@version`. */
  readonly model: string;
  readonly status: string;
  /** The producer's own event id, '' for none. */
  readonly event: string;
  /** Entry id in the input stream, '' for a recorded direct answer. */
  readonly source: string;
  readonly outputs: Uint8Array;
  readonly waitUs: number;
  readonly inferUs: number;
}
