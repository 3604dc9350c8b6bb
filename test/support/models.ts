/** Loads a fixture model in this thread and runs rows that a test puts into a slab by hand. */
import { fileURLToPath } from 'node:url';
import { unpack } from 'msgpackr';
import { expect } from 'vitest';
import { loadModel } from '../../src/infer/load.ts';
import type { Model } from '../../src/infer/model.ts';
import type { ManifestInput, ModelSpec } from '../../src/infer/protocol.ts';
import { loadNative, type Native } from '../../src/native.ts';
import { ENCODING, FORM, RESULT, ROW, ROW_COLUMNS } from '../../src/schedule/slab.ts';

export const modelsPath = fileURLToPath(new URL('../fixtures/models', import.meta.url));

/** The spec of a fixture as the repository would give it. */
export function fixture(name: string, changes: Partial<ModelSpec> = {}): ModelSpec {
  return {
    slot: 0,
    name,
    version: 1,
    dir: `${modelsPath}/${name}`,
    onnxPath: `${modelsPath}/${name}/1/model.onnx`,
    handlerPath: null,
    goldenPath: null,
    rowsMax: 8,
    deadlineMs: null,
    record: false,
    latestOnly: false,
    description: '',
    inputs: [],
    outputs: [],
    ...changes,
  };
}

/** A manifest's input with nothing said. */
export function manifestInput(name: string, changes: Partial<ManifestInput> = {}): ManifestInput {
  return { name, dtype: null, shape: null, fields: [], finite: false, ...changes };
}

/** Models that use the addon, and the same without it. */
const twins = new WeakMap<Model, Model>();

/** With the addon where there is one; what is run through `runRows` is then compared with its twin. */
export async function loadFixture(
  name: string,
  changes: Partial<ModelSpec> = {},
  arenaBytes = 16_384,
): Promise<Model> {
  const load = async (native: Native | null) =>
    (await loadModel(fixture(name, changes), ['cpu'], arenaBytes, native)).model;
  const { native } = loadNative('auto');
  const model = await load(native);
  // Handlers may remember what they did before.
  if (native !== null && model.parts.codec === null) twins.set(model, await load(null));
  return model;
}

export interface GivenRow {
  /** Bytes of the event's fields, or the raw features of the model's inputs, one after the other. */
  readonly data?: Uint8Array;
  readonly features?: Uint8Array;
  readonly json?: boolean;
}

export type RowOutcome =
  | { readonly status: 'ok'; readonly outputs: unknown; readonly bytes: Uint8Array }
  | { readonly status: 'invalid' | 'failed'; readonly detail: string };

/** Places rows in a slab from `first` on. */
export function placeRows(
  slab: ReturnType<Model['scratch']>,
  model: Model,
  rows: readonly GivenRow[],
  first = 0,
): void {
  const { table, layout, bytes } = slab;
  let inOffset = 0;
  rows.forEach(({ data, features, json }, i) => {
    const row = first + i;
    const at = row * ROW_COLUMNS;
    table[at + ROW.form] = data ? FORM.data : FORM.features;
    table[at + ROW.encoding] = json ? ENCODING.json : ENCODING.msgpack;
    table[at + ROW.result] = -1;
    if (data) {
      table[at + ROW.inOffset] = inOffset;
      table[at + ROW.inLength] = data.length;
      bytes.set(data, layout.arenaInOffset + inOffset);
      inOffset += data.length;
    }
    let taken = 0;
    model.parts.shape.inputs.forEach(({ rowBytes }, k) => {
      if (features && rowBytes > 0) {
        const part = features.subarray(taken, taken + rowBytes);
        bytes.set(part, layout.inputOffsets[k]! + row * rowBytes);
        taken += rowBytes;
      }
    });
  });
}

/** Reads what the worker left for `rows` rows. */
export function readRows(
  slab: ReturnType<Model['scratch']>,
  spill: Uint8Array | null,
  rows: number,
  first = 0,
): RowOutcome[] {
  const { table, layout, bytes } = slab;
  return Array.from({ length: rows }, (_, i) => {
    const at = (first + i) * ROW_COLUMNS;
    const start = table[at + ROW.outOffset]! + (spill ? 0 : layout.arenaOutOffset);
    const out = Buffer.from((spill ?? bytes).slice(start, start + table[at + ROW.outLength]!));
    if (table[at + ROW.result] === RESULT.ok) {
      const json = table[at + ROW.encoding] === ENCODING.json;
      return { status: 'ok', outputs: json ? JSON.parse(out.toString()) : unpack(out), bytes: out };
    }
    const status = table[at + ROW.result] === RESULT.invalid ? 'invalid' : 'failed';
    return { status, detail: out.toString() };
  });
}

/** Runs rows through a fresh slab, or the one given. */
export async function runRows(
  model: Model,
  rows: readonly GivenRow[],
  slab = model.scratch(),
): Promise<RowOutcome[]> {
  placeRows(slab, model, rows);
  const { spill } = await model.runSlab(slab, 0, rows.length);
  const outcomes = readRows(slab, spill, rows.length);
  const twin = twins.get(model);
  if (twin !== undefined) expect(outcomes).toEqual(await runRows(twin, rows));
  return outcomes;
}
