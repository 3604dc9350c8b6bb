/** Output rows to the prediction map that clients get, in MessagePack or JSON. */
import { ENCODING, type TensorSpec } from '../schedule/slab.ts';
import { OutArena } from './arena.ts';
import type { OutputColumn } from './columns.ts';
import { fromHalf } from './half.ts';
import type { FieldSpec } from './handler.ts';
import {
  DEPTH_MAX,
  putArrayHeader,
  putBigint,
  putFloat32,
  putFloat64,
  putInteger,
  putMapHeader,
  putString,
  putValue,
} from './msgpack.ts';
import type { ManifestOutput } from './protocol.ts';
import { isFloat, load, type TensorData } from './tensors.ts';

/** How one output is named and labelled, prepared once. */
export interface EncodedPart {
  readonly spec: TensorSpec;
  /** The name as MessagePack and as JSON. */
  readonly keyBytes: Uint8Array;
  readonly keyText: string;
  readonly labels: readonly string[];
  readonly labelBytes: readonly Uint8Array[];
  readonly labelTexts: readonly string[];
  /** Scores by label, or integers that are indices into the labels. */
  readonly labelled: 'none' | 'scores' | 'indices';
}

/** Encodes without a handler: each output under its own name. */
export class OutputEncoder {
  /** For its counterpart in the addon, too. */
  readonly parts: readonly EncodedPart[];

  /** Throws an Error when labels do not fit an output. */
  constructor(outputs: readonly TensorSpec[], manifest: readonly ManifestOutput[]) {
    this.parts = outputs.map((spec) => {
      const labels = manifest.find((entry) => entry.name === spec.name)?.labels ?? [];
      return {
        spec,
        keyBytes: packed(spec.name),
        keyText: `${JSON.stringify(spec.name)}:`,
        labels,
        labelBytes: labels.map(packed),
        labelTexts: labels.map((label) => JSON.stringify(label)),
        labelled: labelling(spec, labels),
      };
    });
  }

  /** What a prediction holds. */
  describe(): FieldSpec[] {
    return this.parts.map(({ spec, labelled }) => ({
      name: spec.name,
      dtype: labelled === 'indices' ? 'string' : spec.dtype,
      shape: spec.shape,
    }));
  }

  /** Writes the row that every column was sought to. */
  encode(out: OutArena, columns: readonly OutputColumn[], encoding: number): void {
    const { parts } = this;
    if (encoding === ENCODING.json) {
      let text = '{';
      for (let i = 0; i < parts.length; i++) {
        text += (i === 0 ? '' : ',') + parts[i]!.keyText + jsonPart(parts[i]!, columns[i]!);
      }
      out.text(`${text}}`);
      return;
    }
    putMapHeader(out, parts.length);
    for (let i = 0; i < parts.length; i++) {
      out.copy(parts[i]!.keyBytes);
      putPart(out, parts[i]!, columns[i]!);
    }
  }
}

function packed(text: string): Uint8Array {
  const bytes = Buffer.alloc(text.length * 3 + 5);
  const out = new OutArena();
  out.reset(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, bytes.length);
  putString(out, text);
  return new Uint8Array(bytes.subarray(0, out.at));
}

function labelling(spec: TensorSpec, labels: readonly string[]): EncodedPart['labelled'] {
  if (labels.length === 0) return 'none';
  const { name, dtype, shape } = spec;
  if (dtype === 'string' || dtype === 'bool') {
    throw new Error(`outputs ${name}: labels need numbers, the output is ${dtype}; remove labels`);
  }
  if (!isFloat(dtype)) {
    if (shape.length <= 1) return 'indices';
    throw new Error(`outputs ${name}: labels need rows of one dimension, these have ${shape.length}`);
  }
  if (shape.length !== 1 || (shape[0] !== labels.length && shape[0] !== -1)) {
    const row = `[${shape.join(',')}]`;
    throw new Error(
      `outputs ${name}: has ${labels.length} labels, but a row is ${row}; give one per element`,
    );
  }
  return 'scores';
}

function labelOf(part: EncodedPart, value: unknown): number {
  const index = Number(value);
  if (part.labels[index] === undefined) {
    throw new RangeError(`output ${part.spec.name}: there is no label ${index} of ${part.labels.length}`);
  }
  return index;
}

function checkScores(part: EncodedPart, elements: number): void {
  if (elements === part.labels.length) return;
  throw new RangeError(`output ${part.spec.name}: ${elements} scores for ${part.labels.length} labels`);
}

function putPart(out: OutArena, part: EncodedPart, column: OutputColumn): void {
  const { data, base, elements } = column;
  const { dtype } = part.spec;
  if (part.labelled === 'none') {
    putNested(out, column, dtype, 0, base);
  } else if (part.labelled === 'scores') {
    checkScores(part, elements);
    putMapHeader(out, elements);
    for (let i = 0; i < elements; i++) {
      out.copy(part.labelBytes[i]!);
      putElement(out, data, base + i, dtype);
    }
  } else {
    if (column.shape.length > 0) putArrayHeader(out, elements);
    for (let i = 0; i < elements; i++) out.copy(part.labelBytes[labelOf(part, data[base + i])]!);
  }
}

function putNested(out: OutArena, column: OutputColumn, dtype: string, axis: number, base: number): number {
  const { shape, data } = column;
  if (axis === shape.length) {
    putElement(out, data, base, dtype);
    return base + 1;
  }
  const length = shape[axis]!;
  putArrayHeader(out, length);
  if (axis === shape.length - 1 && dtype === 'float32') {
    putFloats(out, data as Float32Array, base, length);
    return base + length;
  }
  let at = base;
  for (let i = 0; i < length; i++) at = putNested(out, column, dtype, axis + 1, at);
  return at;
}

/** The hot path: embeddings, probabilities, scores. */
function putFloats(out: OutArena, data: Float32Array, base: number, count: number): void {
  out.ensure(count * 5);
  const { bytes, view } = out;
  let at = out.at;
  for (let i = 0; i < count; i++) {
    bytes[at] = 0xca;
    view.setFloat32(at + 1, data[base + i]!);
    at += 5;
  }
  out.at = at;
}

function putElement(out: OutArena, data: TensorData, at: number, dtype: string): void {
  const value = data[at]!;
  if (typeof value === 'string') putString(out, value);
  else if (typeof value === 'bigint') {
    const near = Number(value);
    if (Number.isSafeInteger(near)) putInteger(out, near);
    else putBigint(out, value);
  } else if (dtype === 'float32') putFloat32(out, value);
  else if (dtype === 'float64') putFloat64(out, value);
  else if (dtype === 'float16') putFloat32(out, fromHalf(value));
  else if (dtype === 'bool') putValue(out, value !== 0);
  else putInteger(out, value);
}

function jsonPart(part: EncodedPart, column: OutputColumn): string {
  const { data, base, elements } = column;
  if (part.labelled === 'none') return jsonNested(column, 0, base, elements);
  let text = '';
  for (let i = 0; i < elements; i++) {
    if (i > 0) text += ',';
    if (part.labelled === 'indices') text += part.labelTexts[labelOf(part, data[base + i])]!;
    else text += `${part.labelTexts[i]}:${jsonElement(column, base + i)}`;
  }
  if (part.labelled === 'scores') checkScores(part, elements);
  else return column.shape.length > 0 ? `[${text}]` : text;
  return `{${text}}`;
}

/** `count` elements from `at`, all that lies under one place of the outer axes. */
function jsonNested(column: OutputColumn, axis: number, at: number, count: number): string {
  const { shape } = column;
  if (axis === shape.length) return jsonElement(column, at);
  const length = shape[axis]!;
  const inner = length === 0 ? 0 : count / length;
  let text = '[';
  for (let i = 0; i < length; i++) {
    if (i > 0) text += ',';
    text += jsonNested(column, axis + 1, at + i * inner, inner);
  }
  return `${text}]`;
}

function jsonElement(column: OutputColumn, at: number): string {
  const { dtype } = column.spec;
  if (dtype === 'float32') return float32Text(column.data[at] as number);
  return jsonText(load(column.data, at, dtype));
}

const { fround } = Math;

/**
 * A decimal of at most nine digits that is this float32 again: 0.1, not 0.10000000149011612. JSON has no NaN
 * or infinity: null. Scaling finds it for nearly all values of everyday size, three times faster than
 * toPrecision.
 */
export function float32Text(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e6) {
    let scale = size < 1 ? 1e8 : size < 1000 ? 1e6 : 1e3;
    let near = Math.round(value * scale) / scale;
    if (fround(near) === value) return String(near);
    scale *= 10;
    near = Math.round(value * scale) / scale;
    if (fround(near) === value) return String(near);
  }
  if (!Number.isFinite(value)) return 'null';
  for (let digits = 6; digits < 9; digits++) {
    const near = Number(value.toPrecision(digits));
    if (fround(near) === value) return String(near);
  }
  return String(Number(value.toPrecision(9)));
}

/** Any plain value as JSON; 64-bit integers that a JSON number cannot hold become text. */
export function jsonText(value: unknown, depth = 0): string {
  if (depth > DEPTH_MAX) throw new RangeError(`a prediction is nested deeper than ${DEPTH_MAX} levels`);
  if (typeof value === 'number') {
    if (Number.isInteger(value)) return String(value);
    return fround(value) === value ? float32Text(value) : Number.isFinite(value) ? String(value) : 'null';
  }
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? String(value) : `"${value}"`;
  if (typeof value === 'string' || typeof value === 'boolean') return JSON.stringify(value);
  if (value === null || value === undefined) return 'null';
  if (typeof value !== 'object') throw new TypeError(`a prediction cannot hold a ${typeof value}`);
  if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
    return `[${Array.from(value as ArrayLike<unknown>, (item) => jsonText(item, depth + 1)).join(',')}]`;
  }
  const fields = Object.entries(value).filter(([, inner]) => inner !== undefined);
  const texts = fields.map(([key, inner]) => `${JSON.stringify(key)}:${jsonText(inner, depth + 1)}`);
  return `{${texts.join(',')}}`;
}

/** A handler's prediction. */
export function encodeValue(out: OutArena, prediction: Record<string, unknown>, encoding: number): void {
  if (encoding === ENCODING.json) out.text(jsonText(prediction));
  else putValue(out, prediction);
}
