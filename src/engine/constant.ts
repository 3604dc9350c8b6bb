/** A manifest's `degrade` constant: checked against what the model predicts, and encoded once for all. */
import { OutArena } from '../infer/arena.ts';
import { encodeValue } from '../infer/encode.ts';
import type { FieldSpec } from '../infer/handler.ts';
import type { ManifestOutput } from '../infer/protocol.ts';
import { nearest } from '../nearest.ts';
import { ENCODING } from '../schedule/slab.ts';

type Outputs = Readonly<Record<string, unknown>>;

/**
 * Throws an Error that names the key. `predicts`: a handler may leave it empty, and then says nothing about
 * its predictions. Scores of labels may be given as a list, in the labels' order.
 */
export function encodeConstant(
  given: Outputs,
  predicts: readonly FieldSpec[],
  manifest: readonly ManifestOutput[],
): { readonly msgpack: Buffer; readonly json: Buffer } {
  const outputs = predicts.length === 0 ? given : checked(given, predicts, manifest);
  return { msgpack: encoded(outputs, ENCODING.msgpack), json: encoded(outputs, ENCODING.json) };
}

function encoded(outputs: Outputs, encoding: number): Buffer {
  const out = new OutArena();
  const bytes = Buffer.alloc(1024);
  out.reset(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, bytes.length);
  encodeValue(out, outputs, encoding);
  return Buffer.from(out.bytes.subarray(0, out.at));
}

function checked(
  given: Outputs,
  predicts: readonly FieldSpec[],
  manifest: readonly ManifestOutput[],
): Record<string, unknown> {
  const names = predicts.map(({ name }) => name);
  for (const name of Object.keys(given)) {
    if (names.includes(name)) continue;
    const guess = nearest(name, names);
    const fix = guess === undefined ? `use ${names.join(', ')}` : `did you mean ${guess}?`;
    throw new Error(`degrade: constant.${name}: the model has no such output; ${fix}`);
  }
  const outputs: Record<string, unknown> = {};
  for (const spec of predicts) {
    const at = `degrade: constant.${spec.name}`;
    if (given[spec.name] === undefined) {
      throw new Error(`${at}: missing; the model predicts ${names.join(', ')}: give a value for each`);
    }
    const labels = manifest.find(({ name }) => name === spec.name)?.labels ?? [];
    outputs[spec.name] = outputOf(given[spec.name], spec, labels, at);
  }
  return outputs;
}

function outputOf(value: unknown, spec: FieldSpec, labels: readonly string[], at: string): unknown {
  const isScores = labels.length > 0 && spec.dtype !== 'string';
  if (labels.length > 0 && !isScores) {
    for (const label of [value].flat(Number.POSITIVE_INFINITY)) {
      if (!labels.includes(label as string)) throw new Error(`${at}: ${shown(label)} is none of its labels`);
    }
  }
  if (!isScores || Array.isArray(value)) {
    checkNested(value, spec, 0, at);
    if (!isScores) return value;
    const scores = value as unknown[];
    if (scores.length !== labels.length) {
      throw new Error(`${at}: has ${scores.length} scores for ${labels.length} labels; give one for each`);
    }
    return Object.fromEntries(labels.map((label, i) => [label, scores[i]]));
  }
  const scores = (typeof value === 'object' && value !== null ? value : {}) as Outputs;
  const missing = labels.find((label) => typeof scores[label] !== 'number');
  const unknown = Object.keys(scores).find((label) => !labels.includes(label));
  if (missing !== undefined) throw new Error(`${at}: ${missing}: missing, or no number; give one per label`);
  if (unknown !== undefined) throw new Error(`${at}: ${unknown}: is none of its labels; remove it`);
  return Object.fromEntries(labels.map((label) => [label, scores[label]]));
}

/** Lists within lists, as the shape says, of what the dtype says. */
function checkNested(value: unknown, { dtype, shape }: FieldSpec, axis: number, at: string): void {
  if (axis < shape.length) {
    const size = shape[axis] as number;
    if (Array.isArray(value) && (size === -1 || value.length === size)) {
      const inner = { name: '', dtype, shape };
      for (const [i, one] of value.entries()) checkNested(one, inner, axis + 1, `${at}[${i}]`);
      return;
    }
    throw new Error(`${at}: must be a list${size === -1 ? '' : ` of ${size}`}, got ${shown(value)}`);
  }
  const kind = dtype === 'string' ? 'string' : dtype === 'bool' ? 'boolean' : 'number';
  const isWhole = /int/.test(dtype);
  if (typeof value === kind && (!isWhole || Number.isSafeInteger(value))) return;
  const wanted = {
    string: 'a text',
    boolean: 'true or false',
    number: isWhole ? 'a whole number' : 'a number',
  };
  throw new Error(`${at}: must be ${wanted[kind]} (${dtype}), got ${shown(value)}`);
}

const shown = (value: unknown) => String(JSON.stringify(value)).slice(0, 80);
