/**
 * golden.json: events and tensors with the predictions they must give, checked before a model takes traffic.
 */
import { readFile } from 'node:fs/promises';
import { ENCODING, FORM, RESULT, ROW, ROW_COLUMNS } from '../schedule/slab.ts';
import { FieldDecoder } from './decode.ts';
import { jsonText } from './encode.ts';
import type { Model } from './model.ts';
import type { SlabView } from './session.ts';
import { load } from './tensors.ts';

export interface GoldenCase {
  /** The event's named fields. */
  readonly data?: Record<string, unknown>;
  /** Tensor rows by input name, nested or flat. With `data`: what it must decode to. */
  readonly inputs?: Record<string, unknown>;
  /** The prediction. */
  readonly outputs?: Record<string, unknown>;
}

export interface Golden {
  readonly cases: readonly GoldenCase[];
  /** Numbers may differ by this, absolutely below 1 and relatively above. */
  readonly tolerance: number;
}

/** Throws an Error that names the file and the place. */
export async function readGolden(path: string): Promise<Golden> {
  const isMap = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value);
  let parsed: Partial<Golden>;
  try {
    parsed = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new Error(`golden.json: ${(error as Error).message}`);
  }
  const { cases, tolerance = 1e-4 } = isMap(parsed) ? parsed : {};
  if (!Array.isArray(cases) || cases.length === 0) {
    throw new Error('golden.json: cases: must be a list of at least one case');
  }
  if (typeof tolerance !== 'number' || !(tolerance >= 0)) {
    throw new Error(`golden.json: tolerance = ${tolerance}: must be a number of at least 0, such as 1e-4`);
  }
  cases.forEach((entry: GoldenCase, i) => {
    const maps = isMap(entry) ? [entry.data, entry.inputs, entry.outputs] : [null];
    if (maps.some((map) => map !== undefined && !isMap(map)) || (!entry.data && !entry.inputs)) {
      throw new Error(`golden.json: cases[${i}]: must hold data or inputs (maps), and outputs to expect`);
    }
  });
  return { cases, tolerance };
}

/**
 * Runs every case through the path that events take. Throws an Error that says which value differs, and how.
 */
export async function checkGolden(model: Model, slab: SlabView, golden: Golden): Promise<void> {
  for (const [i, { data, inputs, outputs }] of golden.cases.entries()) {
    const at = `golden.json: cases[${i}]`;
    if (inputs !== undefined) {
      placeInputs(model, slab, inputs, at);
      compare(outputs, await predict(model, slab, true, at), `${at}.outputs`, golden.tolerance);
    }
    if (data === undefined) continue;
    placeData(slab, data, at);
    const prediction = await predict(model, slab, false, at);
    if (inputs !== undefined) compareInputs(model, slab, inputs, at, golden.tolerance);
    compare(outputs, prediction, `${at}.outputs`, golden.tolerance);
  }
}

/** Puts a case's event into row 0, for the model to decode. */
function placeData(slab: SlabView, data: Record<string, unknown>, at: string): void {
  const bytes = Buffer.from(JSON.stringify(data));
  if (bytes.length > slab.layout.arenaInBytes) throw new Error(`${at}.data: larger than a slab's arena`);
  bytes.copy(slab.bytes, slab.layout.arenaInOffset);
  slab.table.fill(0, 0, ROW_COLUMNS);
  slab.table[ROW.form] = FORM.data;
  slab.table[ROW.inLength] = bytes.length;
  slab.table[ROW.encoding] = ENCODING.msgpack;
}

/** Puts a case's tensors into row 0. */
function placeInputs(model: Model, slab: SlabView, inputs: Record<string, unknown>, at: string): void {
  slab.table.fill(0, 0, ROW_COLUMNS);
  try {
    new FieldDecoder(model.parts.shape.inputs, []).decode(inputs, slab.inputs, 0);
  } catch (error) {
    throw new Error(`${at}.inputs: ${(error as Error).message}`);
  }
}

async function predict(model: Model, slab: SlabView, placed: boolean, at: string): Promise<unknown> {
  slab.table[ROW.encoding] = ENCODING.json;
  const { spill } = await model.runSlab(slab, 0, 1, { placed });
  const start = slab.table[ROW.outOffset]! + (spill ? 0 : slab.layout.arenaOutOffset);
  const bytes = spill ? Buffer.from(spill) : slab.bytes;
  const text = bytes.toString('utf8', start, start + slab.table[ROW.outLength]!);
  if (slab.table[ROW.result] !== RESULT.ok) throw new Error(`${at}: ${text}`);
  return JSON.parse(text);
}

function compareInputs(
  model: Model,
  slab: SlabView,
  inputs: Record<string, unknown>,
  at: string,
  tolerance: number,
): void {
  model.parts.shape.inputs.forEach((spec, i) => {
    const given = [inputs[spec.name]].flat(Number.POSITIVE_INFINITY);
    const got = Array.from({ length: spec.elements }, (_, k) => load(slab.inputs[i]!, k, spec.dtype));
    const known = given.map((value) => (spec.dtype === 'bool' ? Boolean(value) : value));
    compare(known, JSON.parse(jsonText(got)), `${at}.inputs.${spec.name} (from data)`, tolerance);
  });
}

/** A missing `outputs` expects nothing but that the case runs. */
function compare(wanted: unknown, got: unknown, path: string, tolerance: number): void {
  if (wanted === undefined) return;
  if (typeof wanted === 'number' && typeof got === 'number') {
    if (Math.abs(wanted - got) <= tolerance * Math.max(1, Math.abs(wanted))) return;
  } else if (Array.isArray(wanted) && Array.isArray(got) && wanted.length === got.length) {
    wanted.forEach((value, i) => {
      compare(value, got[i], `${path}[${i}]`, tolerance);
    });
    return;
  } else if (isPlain(wanted) && isPlain(got)) {
    for (const key of new Set([...Object.keys(wanted), ...Object.keys(got)])) {
      compare(wanted[key] ?? null, got[key] ?? null, `${path}.${key}`, tolerance);
    }
    return;
  } else if (wanted === got) {
    return;
  }
  const text = (value: unknown) => String(JSON.stringify(value)).slice(0, 100);
  throw new Error(`${path}: expected ${text(wanted)}, got ${text(got)} (tolerance ${tolerance})`);
}

function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
