/** A committed prediction, as the tail hands it on. `outputs` is valid only during the call. */
export interface Prediction {
  /** Entry id in the predictions stream. */
  readonly sid: string;
  readonly key: string;
  /** `name@version`. */
  readonly model: string;
  readonly status: string;
  /** Of a degraded one: what it came from instead of the model; '' otherwise. */
  readonly rung?: string;
  /** The producer's own event id, '' for none. */
  readonly event: string;
  /** Entry id in the input stream, '' for a recorded direct answer. */
  readonly source: string;
  readonly outputs: Uint8Array;
  readonly waitUs: number;
  readonly inferUs: number;
}
