/**
 * What a worker does with a batch on the 64-256-128-1 MLP (infer/): decode, run, encode, each alone and all
 * together; without pool and threads.
 */
import { fileURLToPath } from 'node:url';
import { OutArena } from '../../src/infer/arena.ts';
import { loadModel } from '../../src/infer/load.ts';
import type { Model } from '../../src/infer/model.ts';
import { nativeDecoder, nativeEncoder } from '../../src/infer/native-codec.ts';
import type { ModelSpec } from '../../src/infer/protocol.ts';
import type { SlabView } from '../../src/infer/session.ts';
import { clear } from '../../src/infer/tensors.ts';
import { limitsDefault } from '../../src/limits.ts';
import { loadNative } from '../../src/native.ts';
import { scanModels } from '../../src/repository/repository.ts';
import { ENCODING, FORM, RESULT, ROW, ROW_COLUMNS } from '../../src/schedule/slab.ts';
import { type MicroCase, twinOnly, type Work } from './case.ts';
import { fieldNames, jsonMap, packedMap } from './maps.ts';

const { native } = loadNative('auto');
const FIELDS = 64;
const ARENA_BYTES = 1_048_576;

interface Way {
  readonly name: string;
  /** Null: the row comes as bytes, and lies in its tensor. */
  readonly event: Buffer | null;
  /** The manifest names one field for each element of the row. */
  readonly named: boolean;
  readonly encoding: number;
}

const array = Buffer.from(JSON.stringify({ features: fieldNames(FIELDS).map((_, i) => i / FIELDS) }));
const { msgpack, json } = ENCODING;
const WAYS: readonly Way[] = [
  { name: 'features to MessagePack', event: null, named: false, encoding: msgpack },
  { name: 'features to JSON', event: null, named: false, encoding: json },
  { name: '64 fields, MessagePack to MessagePack', event: packedMap(FIELDS), named: true, encoding: msgpack },
  { name: '64 fields, JSON to JSON', event: jsonMap(FIELDS), named: true, encoding: json },
  { name: 'array of 64, JSON to MessagePack', event: array, named: false, encoding: msgpack },
];

function specOf(named: boolean): ModelSpec {
  const models = fileURLToPath(new URL('../models', import.meta.url));
  const { specs } = scanModels(models, limitsDefault);
  const mlp = specs.find(({ name }) => name === 'mlp');
  if (mlp === undefined) throw new Error(`${models} has no mlp`);
  const plain = { ...mlp, goldenPath: null };
  if (!named) return plain;
  const fields = fieldNames(FIELDS).map((name) => ({ name, dtype: null, default: undefined }));
  return { ...plain, inputs: [{ name: 'features', dtype: null, shape: null, fields, finite: true }] };
}

/** A slab of this worker with `way`'s event in every row. */
function placed(model: Model, { event, encoding }: Way): SlabView {
  const slab = model.scratch();
  const { table, layout, bytes } = slab;
  for (let row = 0; row < layout.rows; row++) {
    const at = row * ROW_COLUMNS;
    table[at + ROW.form] = event === null ? FORM.features : FORM.data;
    table[at + ROW.encoding] = encoding;
    if (event === null) continue;
    table[at + ROW.inOffset] = row * event.length;
    table[at + ROW.inLength] = event.length;
    event.copy(bytes, layout.arenaInOffset + row * event.length);
  }
  return slab;
}

function fail(message: string): never {
  throw new Error(message);
}

/** The model twice: without the addon and with it; null where there is no addon. */
interface Models {
  readonly twin: Model;
  readonly native: Model | null;
}

function whole(models: Models, way: Way): MicroCase {
  const workOf = (model: Model): Work => {
    const slab = placed(model, way);
    return async (events) => {
      const { spill } = await model.runSlab(slab, 0, events);
      const last = slab.table[(events - 1) * ROW_COLUMNS + ROW.result];
      if (spill !== null || last !== RESULT.ok) fail('a row has no prediction');
    };
  };
  const variants = { twin: workOf(models.twin), native: models.native && workOf(models.native) };
  return { name: way.name, variants };
}

function decode({ twin }: Models, way: Way): MicroCase {
  const { decoder, layout } = twin.parts;
  const { bytes, view, inputs } = placed(twin, way);
  const length = way.event?.length ?? 0;
  const byTwin = (events: number) => {
    for (let row = 0; row < events; row++) {
      for (const input of inputs) clear(input, row * FIELDS, (row + 1) * FIELDS);
      const start = layout.arenaInOffset + row * length;
      decoder.decodeBytes(bytes, view, start, start + length, inputs, row);
      decoder.checkRow(inputs, row);
    }
  };
  const slab = placed(twin, way);
  const run = native && nativeDecoder(native, decoder, layout);
  const byNative = (events: number) => {
    const left = run?.(slab.bytes, 0, events);
    if (left !== 0) fail(`the addon left ${left} of ${events} rows`);
  };
  return {
    name: `decode alone: ${way.name}`,
    variants: { twin: byTwin, native: run === null ? null : byNative },
  };
}

function encode({ twin }: Models, way: Way): MicroCase {
  const { encoder, layout } = twin.parts;
  const { bytes, view, columns, table } = placed(twin, way);
  const out = new OutArena();
  const byTwin = (events: number) => {
    out.reset(bytes, view, layout.arenaOutOffset, layout.arenaOutBytes);
    for (let row = 0; row < events; row++) {
      for (const column of columns) column.seek(row);
      encoder.encode(out, columns, way.encoding);
    }
    if (out.length < events * 5) fail('too little was written');
  };
  for (let row = 0; row < layout.rows; row++) table[row * ROW_COLUMNS + ROW.result] = RESULT.ok;
  const run = native && nativeEncoder(native, encoder, layout);
  const byNative = (events: number) => {
    const used = run?.(bytes, 0, events, 0) ?? 0;
    if (used < events * 5) fail(`the addon wrote ${used} bytes for ${events} rows`);
  };
  return {
    name: `encode alone: ${way.name}`,
    variants: { twin: byTwin, native: run === null ? null : byNative },
  };
}

function session(model: Model): MicroCase {
  const slab = placed(model, WAYS[0]!);
  const work = (events: number) => model.parts.session.run(slab, 0, events);
  return { name: 'session.run alone', variants: twinOnly(work) };
}

async function modelsOf(named: boolean): Promise<Models> {
  const load = async (addon: typeof native) =>
    (await loadModel(specOf(named), ['cpu'], ARENA_BYTES, addon)).model;
  return { twin: await load(null), native: native && (await load(native)) };
}

export async function cases(): Promise<MicroCase[]> {
  const plain = await modelsOf(false);
  const named = await modelsOf(true);
  const models = (way: Way) => (way.named ? named : plain);
  return [
    session(plain.twin),
    ...WAYS.map((way) => whole(models(way), way)),
    ...WAYS.filter(({ event }) => event !== null).map((way) => decode(models(way), way)),
    ...WAYS.slice(0, 2).map((way) => encode(models(way), way)),
  ];
}
