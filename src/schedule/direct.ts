/** An event that waits on a socket for its answer: what the gateway hands in, and what it gets back. */

export interface DirectEvent {
  /** `name` or `name@version`; '' for the engine's default. */
  readonly model: string;
  /** '' for none. */
  readonly key: string;
  /** The client's own id of the event; '' for none. */
  readonly event: string;
  /** The event's named fields, MessagePack or JSON; copied before `takeDirect` returns. */
  readonly data: Uint8Array;
  /** `data` is the model's row instead, as a stream entry's `features` are. */
  readonly raw?: boolean;
  /** Encoding wanted for `outputs`. */
  readonly json: boolean;
  /** 0: the model's, else the engine's default. */
  readonly deadlineMs: number;
  /** 0 (playing), 1 (prefetch) or 2 (analytics). Default: the most urgent, for somebody waits. */
  readonly priority?: number;
  readonly caller?: Caller;
  /** The caller's traceparent; what is none is ignored, as the standard wants it. */
  readonly trace?: string;
}

/** Who waits for the answer. */
export interface Caller {
  /** Nobody any more: the event need not be run. */
  gone: boolean;
}

/** What became of it. */
export interface Answer {
  readonly status:
    | 'ok'
    | 'degraded'
    | 'invalid'
    | 'failed'
    | 'overloaded'
    | 'expired'
    | 'superseded'
    | 'cancelled'
    | 'unknown_model'
    | 'unavailable';
  /** Of a degraded answer: what it came from instead of the model (`previous`, ...); '' otherwise. */
  readonly rung?: string;
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

/** Called exactly once for an event that was taken. */
export type AnswerCallback = (answer: Answer) => void;
