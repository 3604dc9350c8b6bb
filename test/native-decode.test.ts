// The worker's decoder in the addon against its twin: the same bytes in the same rows, for whatever comes.
import { expect, test } from 'vitest';
import { FieldDecoder } from '../src/infer/decode.ts';
import { LEFT, nativeDecoder } from '../src/infer/native-codec.ts';
import { SlabView } from '../src/infer/session.ts';
import { clear, tensorSpec } from '../src/infer/tensors.ts';
import { FORM, RESULT, ROW, ROW_COLUMNS, slabLayout } from '../src/schedule/slab.ts';
import { eventJson, eventMsgpack } from './support/event-bytes.ts';
import { type AnyModel, anyEvent, anyModel, broken } from './support/events.ts';
import { longNumbers, native } from './support/native.ts';
import { Random } from './support/random.ts';

const ROWS = 16;
const ARENA = 1 << 16;
const seed = Number(process.env['SUBITO_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const about = `SUBITO_TEST_SEED=${seed}`;

function slabOf({ specs }: AnyModel): SlabView {
  const shape = { inputs: specs, outputs: [], leading: true, batched: true };
  const layout = slabLayout(specs, [], ROWS, ARENA);
  return new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
}

/** What the row holds, bit by bit. */
function rowBytes(slab: SlabView, { specs }: AnyModel, row: number): string {
  return specs
    .map(({ rowBytes: bytes }, i) => {
      const at = (slab.layout.inputOffsets[i] as number) + row * bytes;
      return slab.bytes.toString('hex', at, at + bytes);
    })
    .join(' ');
}

/** As the worker does it without the addon: the row's bytes, or what is wrong with it. */
function twinRow(decoder: FieldDecoder, slab: SlabView, model: AnyModel, row: number): string {
  const at = row * ROW_COLUMNS;
  try {
    if (slab.table[at + ROW.form] === FORM.data) {
      model.specs.forEach(({ elements }, i) => {
        clear(slab.inputs[i]!, row * elements, (row + 1) * elements);
      });
      const start = slab.layout.arenaInOffset + slab.table[at + ROW.inOffset]!;
      const end = start + slab.table[at + ROW.inLength]!;
      decoder.decodeBytes(slab.bytes, slab.view, start, end, slab.inputs, row);
    }
    decoder.checkRow(slab.inputs, row);
    return rowBytes(slab, model, row);
  } catch (error) {
    return `error: ${(error as Error).message}`;
  }
}

interface Given {
  readonly bytes: Buffer | null;
  /** The addon must do it. */
  readonly isPlain: boolean;
}

/** Both on the same rows. Returns how many rows the addon did of those that came as fields. */
function compareDecoded(
  model: AnyModel,
  decoder: FieldDecoder,
  random: Random,
  given: readonly Given[],
): number {
  const [slab, other] = [slabOf(model), slabOf(model)];
  const decode = nativeDecoder(native!, decoder, slab.layout);
  if (decode === null) return -1;
  let used = 0;
  random.bytes(slab.layout.arenaInOffset - ROWS * ROW_COLUMNS * 4).copy(slab.bytes, ROWS * ROW_COLUMNS * 4);
  given.forEach(({ bytes }, row) => {
    const entry = [bytes === null ? FORM.features : FORM.data, used, bytes?.length ?? 0, 0, 7, 0, 0, 0];
    slab.table.set(entry, row * ROW_COLUMNS);
    bytes?.copy(slab.bytes, slab.layout.arenaInOffset + used);
    used += bytes?.length ?? 0;
  });
  slab.bytes.copy(other.bytes);
  const first = random.int(0, 1);
  const left = decode(slab.bytes, first, given.length - first);
  let [found, done] = [0, 0];
  given.forEach(({ bytes, isPlain }, row) => {
    const at = row * ROW_COLUMNS;
    const result = slab.table[at + ROW.result];
    if (row < first) {
      expect(result).toBe(7);
      return;
    }
    const wanted = twinRow(decoder, other, model, row);
    const told = `${about}: ${JSON.stringify(model)} ${bytes?.toString('hex')} ${bytes?.toString('latin1')}`;
    if (result === LEFT) {
      found++;
      if (isPlain) expect(wanted, told).toMatch(/^error: /);
    } else {
      if (bytes !== null) done++;
      expect(result, told).toBe(RESULT.ok);
      expect(rowBytes(slab, model, row), told).toBe(wanted);
    }
  });
  expect(left, about).toBe(found);
  // Behind the rows nothing was touched.
  const behind = slab.layout.arenaInOffset;
  expect(slab.bytes.compare(other.bytes, behind, undefined, behind), about).toBe(0);
  return done;
}

test.runIf(native)(
  'decoding: the addon does what is plain, exactly as the twin',
  { timeout: 120_000 },
  () => {
    const random = new Random(seed);
    let [events, done, without] = [0, 0, 0];
    for (let round = 0; round < 1000; round++) {
      const model = anyModel(random);
      const decoder = new FieldDecoder(model.specs, model.manifest);
      const odd = random.pick([0, 0, 0.05, 0.3]);
      const given = Array.from({ length: random.int(1, ROWS) }, (): Given => {
        if (random.chance(0.05)) return { bytes: null, isPlain: false };
        const event = anyEvent(random, model, odd);
        const json = random.chance(0.5);
        const bytes = json ? eventJson(random, event) : eventMsgpack(random, event);
        if (odd === 0 || random.chance(0.7)) {
          // What the twin must do: escapes and numbers that are not within a double's reach.
          const plain = event.isPlain && (!json || (longNumbers && !/\\|\ufeff/.test(bytes.toString())));
          return { bytes, isPlain: plain };
        }
        return { bytes: broken(random, bytes), isPlain: false };
      });
      const did = compareDecoded(model, decoder, random, given);
      if (did === -1) without++;
      else {
        events += given.length;
        done += did;
      }
    }
    // A field that is wider than its tensor is left to the twin altogether.
    expect(without, about).toBeLessThan(200);
    if (longNumbers) expect(done / events, about).toBeGreaterThan(0.25);
  },
);

/** Numbers as texts: with many digits, with zeros at both ends, on the edge of what a double holds. */
const FIXED = [
  '18446744073709551617',
  '9007199254740993',
  '1e22',
  '1e23',
  '123456789012345678901234567890',
  '-0',
  '0.0',
  '1E5',
  '4.9e-324',
  '2.2250738585072014e-308',
  '1e308',
];

function hardText(random: Random): string {
  const digits = (count: number) => Array.from({ length: count }, () => random.int(0, 9)).join('');
  const kind = random.int(0, 6);
  if (kind === 0) return random.pick(FIXED);
  if (kind === 1) return `${random.int(0, 9)}.${digits(random.int(1, 30))}`;
  if (kind === 2) return `-${random.int(1, 9)}${digits(random.int(1, 30))}`;
  if (kind === 3) return `${random.int(1, 9)}${digits(random.int(0, 20))}e${random.int(-330, 280)}`;
  if (kind === 4)
    return `0.${'0'.repeat(random.int(0, 30))}${digits(random.int(1, 20))}E+${random.int(0, 99)}`;
  // In the middle between two doubles, and next to it.
  const middle = (2n ** 53n + BigInt(random.int(0, 2 ** 30)) * 2n + 1n) * 2n ** BigInt(random.int(0, 40));
  if (kind === 5) return `${middle}${random.pick(['', '.0', '.000000000001', 'e-10'])}`;
  return String((random.next() - 0.5) * 10 ** random.int(-300, 300));
}

test.runIf(native)('numbers from JSON: the same doubles as JSON.parse', () => {
  const random = new Random(seed);
  const model = { specs: [tensorSpec('x', 'float64', [20])], manifest: [] };
  const slab = slabOf(model);
  const decode = nativeDecoder(native!, new FieldDecoder(model.specs, []), slab.layout)!;
  const place = (texts: readonly string[]) => {
    const event = `{"x":[${texts.join(',')}]}`;
    slab.bytes.write(event, slab.layout.arenaInOffset);
    slab.table.set([FORM.data, 0, event.length], 0);
    return event;
  };
  let left = 0;
  for (let round = 0; round < 2000; round++) {
    const texts = Array.from({ length: 20 }, () => hardText(random));
    const event = place(texts);
    left += decode(slab.bytes, 0, 1);
    if (slab.table[ROW.result] === LEFT) continue;
    const { x } = JSON.parse(event) as { x: number[] };
    const wrong = x.findIndex((value, i) => !Object.is(value, slab.inputs[0]![i]));
    if (wrong !== -1) expect(slab.inputs[0]![wrong], `${about}: ${texts[wrong]}`).toBe(x[wrong]);
  }
  // Those that are too small for a double.
  if (longNumbers) expect(left, about).toBeLessThan(1000);
  const one = Array.from({ length: 20 }, () => '1');
  place(one);
  expect(decode(slab.bytes, 0, 1)).toBe(0);
  // What is no number for JSON.parse is left to it.
  const none = ['01', '+1', '.5', '1.', '1e', '1e+', '-', '--1', '0x1', 'NaN', '1_0', '1 2', '1e999', ''];
  for (const text of none) {
    place(one.with(7, text));
    expect(decode(slab.bytes, 0, 1), text).toBe(1);
  }
});
