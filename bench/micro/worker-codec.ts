/** The worker's codec alone, in TypeScript and in the addon: events and predictions of several forms. */
import { OutArena } from '../../src/infer/arena.ts';
import { FieldDecoder } from '../../src/infer/decode.ts';
import { OutputEncoder } from '../../src/infer/encode.ts';
import { LEFT, nativeDecoder, nativeEncoder } from '../../src/infer/native-codec.ts';
import type { ManifestInput, ManifestOutput } from '../../src/infer/protocol.ts';
import { SlabView } from '../../src/infer/session.ts';
import { clear, tensorSpec } from '../../src/infer/tensors.ts';
import { loadNative } from '../../src/native.ts';
import { seededRandom } from '../../src/random.ts';
import {
  type Dtype,
  ENCODING,
  FORM,
  RESULT,
  ROW,
  ROW_COLUMNS,
  slabLayout,
  type TensorSpec,
} from '../../src/schedule/slab.ts';
import { EVENTS_LARGE, type MicroCase } from './case.ts';
import { fieldNames, jsonMap, packedMap } from './maps.ts';

const { native } = loadNative('auto');
const ARENA_BYTES = 4 << 20;

function slabOf(inputs: readonly TensorSpec[], outputs: readonly TensorSpec[]): SlabView {
  const layout = slabLayout(inputs, outputs, EVENTS_LARGE, ARENA_BYTES);
  const shape = { inputs, outputs, leading: true, batched: true };
  return new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
}

interface Events {
  readonly name: string;
  readonly input: TensorSpec;
  /** Named, one for each element; else the row is one field. */
  readonly fields: readonly string[];
  readonly event: Buffer;
}

/** As JSON.stringify writes doubles of any client: seventeen digits. */
function longJson(count: number): Buffer {
  const random = seededRandom(7);
  return Buffer.from(JSON.stringify(Object.fromEntries(fieldNames(count).map((name) => [name, random()]))));
}

const floats = (count: number) => tensorSpec('features', 'float32', [count]);
const ids = Array.from({ length: 32 }, (_, i) => i * 7919);
const EVENTS: readonly Events[] = [
  { name: '12 fields, MessagePack', input: floats(12), fields: fieldNames(12), event: packedMap(12) },
  { name: '12 fields, JSON', input: floats(12), fields: fieldNames(12), event: jsonMap(12) },
  { name: '12 long numbers, JSON', input: floats(12), fields: fieldNames(12), event: longJson(12) },
  {
    name: 'array of 32 whole numbers to int64, JSON',
    input: tensorSpec('songs', 'int64', [32]),
    fields: [],
    event: Buffer.from(JSON.stringify({ songs: ids })),
  },
];

function decode({ name, input, fields, event }: Events): MicroCase {
  const named = fields.map((field) => ({ name: field, dtype: null, default: undefined }));
  const about: ManifestInput = { name: input.name, dtype: null, shape: null, fields: named, finite: true };
  const decoder = new FieldDecoder([input], [about]);
  const { table, layout, bytes, view, inputs } = slabOf([input], []);
  for (let row = 0; row < layout.rows; row++) {
    event.copy(bytes, layout.arenaInOffset + row * event.length);
    table.set([FORM.data, row * event.length, event.length], row * ROW_COLUMNS);
  }
  const twin = (events: number) => {
    for (let row = 0; row < events; row++) {
      clear(inputs[0]!, row * input.elements, (row + 1) * input.elements);
      const start = layout.arenaInOffset + row * event.length;
      decoder.decodeBytes(bytes, view, start, start + event.length, inputs, row);
      decoder.checkRow(inputs, row);
    }
  };
  const run = native && nativeDecoder(native, decoder, layout);
  const byNative = (events: number) => {
    if (run?.(bytes, 0, events) !== 0) throw new Error('the addon left rows');
  };
  return { name: `decode ${name}`, variants: { twin, native: run && byNative } };
}

interface Predictions {
  readonly name: string;
  readonly output: TensorSpec;
  readonly labels: readonly string[];
  readonly encoding: number;
}

function predictions(
  name: string,
  dtype: Dtype,
  count: number,
  labels: readonly string[] = [],
): Predictions[] {
  const output = tensorSpec('y', dtype, [count]);
  return [
    { name: `${name}, MessagePack`, output, labels, encoding: ENCODING.msgpack },
    { name: `${name}, JSON`, output, labels, encoding: ENCODING.json },
  ];
}

const PREDICTIONS: readonly Predictions[] = [
  ...predictions('one score', 'float32', 1),
  ...predictions('10 labelled scores', 'float32', 10, fieldNames(10)),
  ...predictions('embedding of 128', 'float32', 128),
  ...predictions('10 ids, int64', 'int64', 10),
];

function encode({ name, output, labels, encoding }: Predictions): MicroCase {
  const about: ManifestOutput[] = labels.length === 0 ? [] : [{ name: output.name, labels }];
  const encoder = new OutputEncoder([output], about);
  const { table, layout, bytes, view, columns } = slabOf([], [output]);
  const random = seededRandom(3);
  const { data } = columns[0]!;
  for (let i = 0; i < data.length; i++) {
    data[i] =
      data instanceof BigInt64Array ? BigInt(i * 31) : output.elements === 128 ? random() - 0.5 : random();
  }
  for (let row = 0; row < layout.rows; row++) {
    table.set([FORM.data, 0, 0, encoding, RESULT.ok], row * ROW_COLUMNS);
  }
  const out = new OutArena();
  const twin = (events: number) => {
    out.reset(bytes, view, layout.arenaOutOffset, layout.arenaOutBytes);
    for (let row = 0; row < events; row++) {
      for (const column of columns) column.seek(row);
      encoder.encode(out, columns, encoding);
    }
    if (out.length < events * 3) throw new Error('too little was written');
  };
  const run = native && nativeEncoder(native, encoder, layout);
  const byNative = (events: number) => {
    run?.(bytes, 0, events, 0);
    if (table[(events - 1) * ROW_COLUMNS + ROW.outLength] === LEFT) throw new Error('the addon left rows');
  };
  return { name: `encode ${name}`, variants: { twin, native: run && byNative } };
}

export const cases = (): MicroCase[] => [...EVENTS.map(decode), ...PREDICTIONS.map(encode)];
