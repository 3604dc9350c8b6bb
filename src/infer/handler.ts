/**
 * What a model's optional `handler.ts` exports: how a named event becomes tensor rows and how output rows
 * become a prediction. It runs in the worker thread. `handler.fields` is what clients see as the model's
 * inputs.
 */
import type { Dtype } from '../schedule/slab.ts';

/** A named value of an event's `data`. */
export interface FieldSpec {
  readonly name: string;
  readonly dtype: Dtype;
  /** [] for a scalar; -1 for a free length. */
  readonly shape: readonly number[];
  /** Used when the field is missing; a field without one is required. */
  readonly default?: unknown;
}

/**
 * A row of a tensor: a view over the slab that holds exactly this row; string inputs get a plain array.
 * float16 is raw halves in a Uint16Array, bool is 0 and 1 in a Uint8Array, 64-bit integers are bigints.
 */
export type RowView =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Uint32Array
  | BigUint64Array
  | string[];

export interface HandlerModel {
  /** Directory of the model (not of the version). */
  readonly dir: string;
  /** Labels by output name, as the manifest gives them. */
  readonly labels: Readonly<Record<string, readonly string[]>>;
}

export interface RowCodec {
  /** Fills `row` (zeroed before) from one event. Throws InvalidEvent for an event it cannot take. */
  decode(data: Record<string, unknown>, row: Record<string, RowView>): void;
  /** One row of outputs to the prediction map that clients get. */
  encode(outputs: Record<string, RowView>): Record<string, unknown>;
}

/** handler.ts exports one of these under the name `handler`. */
export interface Handler {
  readonly fields: readonly FieldSpec[];
  /** What a prediction holds, for clients that ask for the model's metadata. */
  readonly predicts: readonly FieldSpec[];
  /** Called once per worker thread. */
  create(model: HandlerModel): RowCodec;
}

/** The event is malformed: it is dead-lettered with `path: detail` and its neighbours go on. */
export class InvalidEvent extends Error {
  readonly path: string;
  constructor(path: string, detail: string) {
    super(path === '' ? detail : `${path}: ${detail}`);
    this.name = 'InvalidEvent';
    this.path = path;
  }
}
