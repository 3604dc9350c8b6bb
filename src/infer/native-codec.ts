/**
 * The worker's codec in the addon: whole batches decoded and encoded in one call. Told once, by a plan, what
 * the FieldDecoder and the OutputEncoder of a model go by. Those two are the reference, and do every row that
 * the addon leaves: whatever is wrong, odd or rare.
 */
import type { Native, NativeDecode, NativeEncode } from '../native.ts';
import type { Dtype, SlabLayout, TensorSpec } from '../schedule/slab.ts';
import type { DecodedField, FieldDecoder } from './decode.ts';
import type { EncodedPart, OutputEncoder } from './encode.ts';
import { store, viewOf } from './tensors.ts';

/** In the result of a row that was not decoded, in the length of one that was not encoded. */
export const LEFT = -1;

/** All but text. A dtype's number is its place; native/src/plan.h has the same order. */
export const DTYPES: readonly Dtype[] = [
  'float32',
  'float64',
  'float16',
  'int8',
  'int16',
  'int32',
  'int64',
  'uint8',
  'uint16',
  'uint32',
  'uint64',
  'bool',
];
const CHECKS = [null, 'finite', 'flags'] as const;
const LABELLED = ['none', 'scores', 'indices'] as const;
/** Stands for the whole row, where an element is named. */
const WHOLE_ROW = 0xffff_ffff;

/** 32-bit little-endian numbers, and texts with their length in front. */
class PlanWriter {
  readonly #chunks: Uint8Array[] = [];

  number(value: number): void {
    const chunk = new Uint8Array(4);
    new DataView(chunk.buffer).setUint32(0, value, true);
    this.#chunks.push(chunk);
  }

  bytes(bytes: Uint8Array): void {
    this.#chunks.push(bytes);
  }

  text(text: Uint8Array): void {
    this.number(text.length);
    this.bytes(text);
  }

  texts(texts: readonly Uint8Array[]): void {
    this.number(texts.length);
    for (const text of texts) this.text(text);
  }

  finish(): Uint8Array {
    return Buffer.concat(this.#chunks);
  }
}

function putLayout(plan: PlanWriter, layout: SlabLayout, arenaOffset: number, arenaBytes: number): void {
  for (const value of [layout.rows, layout.bytes, arenaOffset, arenaBytes]) plan.number(value);
}

function putRegion(plan: PlanWriter, { dtype, shape, elements }: TensorSpec, offset: number): void {
  plan.number(offset);
  plan.number(DTYPES.indexOf(dtype));
  plan.number(elements);
  plan.number(shape.length);
  for (const dim of shape) plan.number(dim);
}

/** Text and free shapes have no place in the slab, which is where the addon works. */
function isInSlab(specs: readonly TensorSpec[], { bytes }: SlabLayout): boolean {
  return bytes < 2 ** 31 && specs.every(({ rowBytes }) => rowBytes > 0);
}

function putField(plan: PlanWriter, { name, input, element, dtype, spec, fallback }: DecodedField): void {
  plan.text(Buffer.from(name));
  plan.number(input);
  plan.number(element === -1 ? WHOLE_ROW : element);
  plan.number(DTYPES.indexOf(dtype));
  plan.number(fallback === undefined ? 0 : 1);
  const bytes = new Uint8Array(8);
  if (fallback !== undefined) store(viewOf(spec.dtype, bytes.buffer, 0, 1), 0, spec.dtype, fallback);
  plan.bytes(bytes);
}

export function decoderPlan(decoder: FieldDecoder, layout: SlabLayout): Uint8Array | null {
  const { inputs, checks, fields } = decoder.plan;
  if (!isInSlab(inputs, layout)) return null;
  // As bytes they would equal another name.
  if (!fields.every(({ name }) => name.isWellFormed())) return null;
  const plan = new PlanWriter();
  putLayout(plan, layout, layout.arenaInOffset, layout.arenaInBytes);
  plan.number(inputs.length);
  inputs.forEach((spec, i) => {
    putRegion(plan, spec, layout.inputOffsets[i]!);
    plan.number(CHECKS.indexOf(checks[i]!));
  });
  plan.number(fields.length);
  for (const field of fields) putField(plan, field);
  return plan.finish();
}

function putPart(plan: PlanWriter, part: EncodedPart, offset: number): void {
  const { spec, keyBytes, keyText, labelBytes, labelTexts, labelled } = part;
  putRegion(plan, spec, offset);
  plan.number(LABELLED.indexOf(labelled));
  plan.text(keyBytes);
  plan.text(Buffer.from(keyText));
  plan.texts(labelBytes);
  const end = labelled === 'scores' ? ':' : '';
  plan.texts(labelTexts.map((text) => Buffer.from(text + end)));
}

export function encoderPlan(encoder: OutputEncoder, layout: SlabLayout): Uint8Array | null {
  const { parts } = encoder;
  const specs = parts.map(({ spec }) => spec);
  if (!isInSlab(specs, layout)) return null;
  const plan = new PlanWriter();
  putLayout(plan, layout, layout.arenaOutOffset, layout.arenaOutBytes);
  plan.number(parts.length);
  parts.forEach((part, i) => {
    putPart(plan, part, layout.outputOffsets[i]!);
  });
  return plan.finish();
}

/** Null: this model's events are for the twin. */
export function nativeDecoder(
  native: Native,
  decoder: FieldDecoder,
  layout: SlabLayout,
): NativeDecode | null {
  const plan = decoderPlan(decoder, layout);
  return plan === null ? null : native.createDecoder(plan);
}

/** Null: this model's predictions are for the twin. */
export function nativeEncoder(
  native: Native,
  encoder: OutputEncoder,
  layout: SlabLayout,
): NativeEncode | null {
  const plan = encoderPlan(encoder, layout);
  return plan === null ? null : native.createEncoder(plan);
}
