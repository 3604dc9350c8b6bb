// The worker's encoder in the addon against its twin: the same bytes for every row, whatever it holds.
import { expect, test } from 'vitest';
import { OutArena } from '../src/infer/arena.ts';
import { float32Text, jsonText, OutputEncoder } from '../src/infer/encode.ts';
import { DTYPES, LEFT, nativeEncoder } from '../src/infer/native-codec.ts';
import type { ManifestOutput } from '../src/infer/protocol.ts';
import { SlabView } from '../src/infer/session.ts';
import { load, tensorSpec } from '../src/infer/tensors.ts';
import { ENCODING, RESULT, ROW, ROW_COLUMNS, slabLayout, type TensorSpec } from '../src/schedule/slab.ts';
import { longNumbers, native } from './support/native.ts';
import { Random } from './support/random.ts';

const ROWS = 16;
const seed = Number(process.env['SUBITO_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const about = `SUBITO_TEST_SEED=${seed}`;

interface AnyOutputs {
  readonly specs: readonly TensorSpec[];
  readonly manifest: readonly ManifestOutput[];
}

const LABELS = ['edm', 'pop', 'r&b', 'é', 'x"y', '日本', '', 'a longer name than fits in a short header'];

function anyOutputs(random: Random): AnyOutputs {
  const specs: TensorSpec[] = [];
  const manifest: ManifestOutput[] = [];
  for (let i = random.int(1, 3); i > 0; i--) {
    const dtype = random.chance(0.4) ? 'float32' : random.pick(DTYPES);
    const shape = random.pick([[], [1], [3], [20], [2, 2], [2, 1, 3], [1, 1, 1]]);
    const spec = tensorSpec(random.pick(['y', 'é', 'a "name"', 'probabilities']) + i, dtype, shape);
    specs.push(spec);
    if (dtype === 'bool' || shape.length > 1 || random.chance(0.5)) continue;
    const isScores = dtype.startsWith('float');
    if (isScores && shape.length === 0) continue;
    const count = isScores ? spec.elements : random.int(1, 8);
    const labels = Array.from({ length: count }, (_, k) => `${random.pick(LABELS)}${k > 7 ? k : ''}`);
    manifest.push({ name: spec.name, labels });
  }
  return { specs, manifest };
}

/** Fills an output with values of all sizes, or with any bits. */
function fillOutput(random: Random, slab: SlabView, at: number, labels: number): void {
  const { spec, region } = slab.columns[at]!;
  const kind = random.int(0, 3);
  const bytes = slab.bytes.subarray(slab.layout.outputOffsets[at]!).subarray(0, region!.byteLength);
  if (kind === 0) random.bytes(bytes.length).copy(bytes);
  for (let i = 0; kind > 0 && i < region!.length; i++) {
    const edge = random.pick([1, -1]) * (2 ** random.pick([5, 7, 8, 15, 16, 31, 32, 53]) + random.int(-1, 1));
    const plain = random.chance(0.3) ? edge : random.int(-200, 40_000);
    const whole = labels > 0 ? random.int(0, random.chance(0.1) ? labels : labels - 1) : plain;
    if (region instanceof BigInt64Array || region instanceof BigUint64Array) {
      region[i] = BigInt(whole) * (labels === 0 && random.chance(0.5) ? 10n ** 14n : 1n);
    } else if (spec.dtype.startsWith('float') && spec.dtype !== 'float16') {
      const size = 10 ** random.int(-12, 12);
      region![i] = kind === 1 ? random.next() : kind === 2 ? whole : (random.next() - 0.5) * size;
    } else region![i] = spec.dtype === 'bool' ? random.int(0, 1) : whole;
  }
}

function twinPrediction(encoder: OutputEncoder, slab: SlabView, row: number): Buffer | null {
  const out = new OutArena();
  const bytes = Buffer.alloc(1 << 16);
  out.reset(bytes, new DataView(bytes.buffer, bytes.byteOffset), 0, bytes.length);
  for (const column of slab.columns) column.seek(row);
  try {
    encoder.encode(out, slab.columns, slab.table[row * ROW_COLUMNS + ROW.encoding]!);
    return out.bytes.subarray(0, out.at);
  } catch {
    return null;
  }
}

/** Which rows the addon must do: all but those with a NaN in MessagePack, or an index without a label. */
function mustEncode(slab: SlabView, prediction: Buffer | null, row: number): boolean {
  if (prediction === null) return false;
  if (slab.table[row * ROW_COLUMNS + ROW.encoding] === ENCODING.json) return true;
  return slab.columns.every((column) => {
    column.seek(row);
    const { data, base, elements, spec } = column;
    const values = Array.from({ length: elements }, (_, i) => load(data, base + i, spec.dtype));
    return !values.some(Number.isNaN);
  });
}

test.runIf(native)('encoding: the addon writes the same bytes as the twin', { timeout: 120_000 }, () => {
  const random = new Random(seed);
  let [rows, done] = [0, 0];
  for (let round = 0; round < 1000; round++) {
    const { specs, manifest } = anyOutputs(random);
    const shape = { inputs: [], outputs: specs, leading: true, batched: true };
    // Sometimes not all of them fit.
    const layout = slabLayout([], specs, ROWS, random.pick([100, 1000, 1 << 15]));
    const slab = new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
    const encoder = new OutputEncoder(specs, manifest);
    const encode = nativeEncoder(native!, encoder, layout);
    if (encode === null) {
      expect(longNumbers, about).toBe(false);
      continue;
    }
    specs.forEach(({ name }, i) => {
      fillOutput(random, slab, i, manifest.find((entry) => entry.name === name)?.labels.length ?? 0);
    });
    const count = random.int(1, ROWS);
    for (let row = 0; row < count; row++) {
      const result = random.chance(0.1) ? RESULT.invalid : RESULT.ok;
      slab.table.set([0, 0, 0, random.int(0, 1), result, 77, 77, 0], row * ROW_COLUMNS);
    }
    const used = random.int(0, 90);
    const before = Buffer.from(slab.bytes.subarray(layout.arenaOutOffset, layout.arenaOutOffset + used));
    const usedThen = encode(slab.bytes, 0, count, used);
    expect(slab.bytes.subarray(layout.arenaOutOffset).subarray(0, used), about).toEqual(before);
    let at = used;
    for (let row = 0; row < count; row++) {
      const [, , , encoding, result, offset, length] = slab.table.subarray(row * ROW_COLUMNS);
      const told = `${about}, round ${round}: ${JSON.stringify({ specs, manifest, encoding })}`;
      if (result !== RESULT.ok) {
        expect([offset, length], told).toEqual([77, 77]);
        continue;
      }
      rows++;
      const wanted = twinPrediction(encoder, slab, row);
      if (length === LEFT) {
        if (layout.arenaOutBytes > 1000) expect(mustEncode(slab, wanted, row), told).toBe(false);
        continue;
      }
      done++;
      expect(offset, told).toBe(at);
      at += length!;
      const found = slab.bytes.subarray(layout.arenaOutOffset + offset!).subarray(0, length);
      expect(found.equals(wanted!), `${told}: ${wanted} ${found}`).toBe(true);
    }
    expect(at, about).toBe(usedThen);
    expect(usedThen, about).toBeLessThanOrEqual(layout.arenaOutBytes);
  }
  expect(done / rows, about).toBeGreaterThan(0.4);
});

const FLOATS = 500;

/** Numbers that are hard to write: of all sizes, next to powers of ten, in the middle between two texts. */
function hardNumber(random: Random, view: DataView): number {
  const kind = random.int(0, 7);
  view.setUint32(0, random.int(0, 2 ** 32 - 1));
  view.setUint32(4, random.int(0, 2 ** 32 - 1));
  if (kind === 0) return view.getFloat32(0);
  if (kind === 1) return view.getFloat64(0);
  if (kind === 2) return Math.exp(-random.next() * 30);
  if (kind === 3) return random.int(0, 2 ** 24) * 2 ** random.int(-149, 100);
  if (kind === 4) return random.int(0, 2 ** 31) * 2 ** random.int(-40, 40) * random.pick([1, -1]);
  if (kind === 5) return Number(`${random.int(0, 10 ** random.int(1, 9))}e${random.int(-50, 40)}`);
  if (kind === 6) return random.next() * 1000;
  return random.pick([
    0,
    -0,
    1,
    1e21,
    1e20,
    1e-6,
    1e-7,
    1e-45,
    3.4028235e38,
    16777216,
    1e10,
    999999.9375,
    2 ** 63,
  ]);
}

test.runIf(native).each(['float32', 'float64', 'float16'] as const)(
  'numbers in JSON: %s as the twin writes them',
  { timeout: 60_000 },
  (dtype) => {
    if (dtype === 'float64' && !longNumbers) return;
    const random = new Random(seed);
    const view = new DataView(new ArrayBuffer(8));
    const spec = tensorSpec('y', dtype, [FLOATS]);
    const layout = slabLayout([], [spec], ROWS, 1 << 19);
    const shape = { inputs: [], outputs: [spec], leading: true, batched: true };
    const slab = new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
    const encoder = new OutputEncoder([spec], []);
    const encode = nativeEncoder(native!, encoder, layout)!;
    let left = 0;
    for (let round = 0; round < 25; round++) {
      const { data } = slab.columns[0]!;
      for (let i = 0; i < ROWS * FLOATS; i++) {
        data[i] = dtype === 'float16' ? random.int(0, 65535) : hardNumber(random, view);
      }
      for (let row = 0; row < ROWS; row++) slab.table.set([0, 0, 0, ENCODING.json, 0], row * ROW_COLUMNS);
      encode(slab.bytes, 0, ROWS, 0);
      for (let row = 0; row < ROWS; row++) {
        const [offset, length] = slab.table.subarray(row * ROW_COLUMNS + ROW.outOffset);
        if (length === LEFT) {
          left++;
          continue;
        }
        const at = layout.arenaOutOffset + offset!;
        const found = slab.bytes
          .toString('utf8', at, at + length!)
          .slice(6, -2)
          .split(',');
        const values = Array.from({ length: FLOATS }, (_, i) => load(data, row * FLOATS + i, dtype));
        const texts = values.map((value) =>
          dtype === 'float32' ? float32Text(value as number) : jsonText(value),
        );
        const wrong = texts.findIndex((text, i) => text !== found[i]);
        if (wrong !== -1) expect(found[wrong], `${about}: ${values[wrong]}`).toBe(texts[wrong]);
      }
    }
    if (longNumbers) expect(left, about).toBe(0);
  },
);
