/**
 * What a worker does with a batch on the 64-256-128-1 MLP (infer/): decode, run, encode, each alone and all
 * together; without pool and threads.
 */
import { fileURLToPath } from 'node:url';
import { OutArena } from '../../src/infer/arena.ts';
import { loadModel } from '../../src/infer/load.ts';
import type { Model } from '../../src/infer/model.ts';
import type { ModelSpec } from '../../src/infer/protocol.ts';
import type { SlabView } from '../../src/infer/session.ts';
import { limitsDefault } from '../../src/limits.ts';
import { scanModels } from '../../src/repository/repository.ts';
import { ENCODING, FORM, RESULT, ROW, ROW_COLUMNS } from '../../src/schedule/slab.ts';
import { type MicroCase, type Piece, twinOnly } from './case.ts';
import { fieldNames, jsonMap, packedMap } from './maps.ts';

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

function whole(model: Model, way: Way): MicroCase {
  const slab = placed(model, way);
  const work = async (events: number) => {
    const { spill } = await model.runSlab(slab, 0, events);
    const last = slab.table[(events - 1) * ROW_COLUMNS + ROW.result];
    if (spill !== null || last !== RESULT.ok) throw new Error('a row has no prediction');
  };
  return { name: way.name, variants: twinOnly(work) };
}

function decode(model: Model, way: Way): MicroCase {
  const slab = placed(model, way);
  const { bytes, view, inputs, layout } = slab;
  const length = way.event?.length ?? 0;
  const work = (events: number) => {
    for (let row = 0; row < events; row++) {
      const start = layout.arenaInOffset + row * length;
      model.parts.decoder.decodeBytes(bytes, view, start, start + length, inputs, row);
    }
  };
  return { name: `decode alone: ${way.name}`, variants: twinOnly(work) };
}

function encode(model: Model, way: Way): MicroCase {
  const { bytes, view, columns, layout } = placed(model, way);
  const out = new OutArena();
  const work = (events: number) => {
    out.reset(bytes, view, layout.arenaOutOffset, layout.arenaOutBytes);
    for (let row = 0; row < events; row++) {
      for (const column of columns) column.seek(row);
      model.parts.encoder.encode(out, columns, way.encoding);
    }
    if (out.length < events * 5) throw new Error('too little was written');
  };
  return { name: `encode alone: ${way.name}`, variants: twinOnly(work) };
}

function session(model: Model): MicroCase {
  const slab = placed(model, WAYS[0]!);
  const work = (events: number) => model.parts.session.run(slab, 0, events);
  return { name: 'session.run alone', variants: twinOnly(work) };
}

async function cases(): Promise<MicroCase[]> {
  const models = new Map<boolean, Model>();
  for (const named of [false, true]) {
    models.set(named, (await loadModel(specOf(named), ['cpu'], ARENA_BYTES)).model);
  }
  const modelOf = ({ named }: Way) => models.get(named)!;
  return [
    session(models.get(false)!),
    ...WAYS.map((way) => whole(modelOf(way), way)),
    ...WAYS.filter(({ event }) => event !== null).map((way) => decode(modelOf(way), way)),
    ...WAYS.slice(0, 2).map((way) => encode(modelOf(way), way)),
  ];
}

export const worker: Piece = {
  name: 'worker',
  what: 'decode, session.run and encode of a batch, in one thread',
  cases,
};
