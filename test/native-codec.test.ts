// The worker's codec in the addon: what it is given may lie, and the model with it is the model without it.
import { expect, test } from 'vitest';
import { FieldDecoder } from '../src/infer/decode.ts';
import { OutputEncoder } from '../src/infer/encode.ts';
import { decoderPlan, encoderPlan, LEFT, nativeDecoder, nativeEncoder } from '../src/infer/native-codec.ts';
import { SlabView } from '../src/infer/session.ts';
import { tensorSpec } from '../src/infer/tensors.ts';
import { ENCODING, FORM, RESULT, ROW, slabLayout } from '../src/schedule/slab.ts';
import { manifestInput } from './support/models.ts';
import { native } from './support/native.ts';

const ROWS = 16;
const ARENA = 1 << 16;

test.runIf(native)('a row table that lies, slabs and plans that do not fit: nothing is touched', () => {
  const spec = tensorSpec('x', 'float32', [2]);
  const layout = slabLayout([spec], [], ROWS, ARENA);
  const shape = { inputs: [spec], outputs: [], leading: true, batched: true };
  const slab = new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
  const decoder = new FieldDecoder([spec], []);
  const decode = nativeDecoder(native!, decoder, layout)!;
  // All of it is there, but for the last byte.
  const event = Buffer.from([0x81, 0xa1, 0x78, 0xc4, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
  for (const past of [0, 1]) {
    const offset = ARENA - event.length + past;
    event.copy(slab.bytes, layout.arenaInOffset + offset);
    slab.table.set([FORM.data, offset, event.length], 0);
    expect(decode(slab.bytes, 0, 1)).toBe(past);
  }
  for (const [offset, length] of [
    [-1, 5],
    [0, -1],
    [0, 0],
    [ARENA, 1],
    [ARENA - 3, 4],
    [2 ** 31 - 1, 2 ** 31 - 1],
    [-(2 ** 31), 2 ** 31 - 1],
  ] as const) {
    slab.table.set([FORM.data, offset, length, 0, RESULT.ok], 0);
    expect(decode(slab.bytes, 0, 1)).toBe(1);
    expect(slab.table[ROW.result]).toBe(LEFT);
  }
  const encoder = new OutputEncoder([], []);
  const encode = nativeEncoder(native!, encoder, layout)!;
  const small = slab.bytes.subarray(0, layout.bytes - 1);
  const wrong = 'slab and rows are not those of the plan';
  expect(() => decode(small, 0, 1)).toThrow(wrong);
  expect(() => decode(slab.bytes, 0, ROWS + 1)).toThrow(wrong);
  expect(() => decode(slab.bytes, ROWS, 1)).toThrow(wrong);
  expect(() => decode(slab.bytes, 2 ** 32 - 1, 2)).toThrow(wrong);
  expect(() => encode(slab.bytes, 0, 1, ARENA + 1)).toThrow(wrong);
  expect(() => encode(small, 0, 1, 0)).toThrow(wrong);
  const loose = decode as (...given: unknown[]) => number;
  for (const given of [
    [],
    [slab.bytes],
    [slab.bytes, 0],
    [slab.table, 0, 1],
    [{}, 0, 1],
    [slab.bytes, 'a', 1],
  ]) {
    expect(() => loose(...given)).toThrow('decode takes a slab');
  }
  expect(() => native!.createDecoder('plan' as never)).toThrow('a plan must be a Uint8Array');
  expect(() => (native!.createEncoder as (plan?: unknown) => unknown)()).toThrow(
    'a plan must be a Uint8Array',
  );
  for (const [plan, create] of [
    [decoderPlan(decoder, layout)!, native!.createDecoder],
    [encoderPlan(new OutputEncoder([], []), layout)!, native!.createEncoder],
  ] as const) {
    expect(create(plan)).toBeTypeOf('function');
    expect(create(Buffer.concat([plan, Buffer.of(0)]))).toBe(null);
    for (let end = 0; end < plan.length; end++) expect(create(plan.subarray(0, end))).toBe(null);
  }
});

/** JavaScript keeps the bits of a NaN or changes them, as it likes. */
test.runIf(native)('a NaN is the twin’s, wherever it stands', () => {
  const spec = tensorSpec('x', 'float32', [3]);
  const layout = slabLayout([spec], [spec], ROWS, ARENA);
  const shape = { inputs: [spec], outputs: [spec], leading: true, batched: true };
  const slab = new SlabView(shape, layout, new SharedArrayBuffer(layout.bytes));
  const decode = nativeDecoder(native!, new FieldDecoder([spec], []), layout)!;
  const encode = nativeEncoder(native!, new OutputEncoder([spec], []), layout)!;
  for (const place of [-1, 0, 1, 2]) {
    const values = [1, 2, 3].map((value, i) => (i === place ? Number.NaN : value));
    for (const width of [4, 8]) {
      const items = values.flatMap((value) => {
        const item = Buffer.alloc(1 + width, width === 4 ? 0xca : 0xcb);
        if (width === 4) item.writeFloatBE(value, 1);
        else item.writeDoubleBE(value, 1);
        return [...item];
      });
      const event = Buffer.from([0x81, 0xa1, 0x78, 0x93, ...items]);
      event.copy(slab.bytes, layout.arenaInOffset);
      slab.table.set([FORM.data, 0, event.length], 0);
      expect(decode(slab.bytes, 0, 1)).toBe(place === -1 ? 0 : 1);
    }
    (slab.columns[0]!.data as Float32Array).set(values);
    for (const encoding of [ENCODING.msgpack, ENCODING.json]) {
      slab.table.set([FORM.data, 0, 0, encoding, RESULT.ok, 0, 0], 0);
      encode(slab.bytes, 0, 1, 0);
      const isLeft = slab.table[ROW.outLength] === LEFT;
      expect(isLeft).toBe(place !== -1 && encoding === ENCODING.msgpack);
    }
  }
});

test.runIf(native)(
  'what has no place in the slab is the twin’s: text, free shapes, fields wider than their tensor',
  () => {
    const text = tensorSpec('x', 'string', [2]);
    const free = tensorSpec('y', 'float32', [-1]);
    const layout = slabLayout([text], [free], ROWS, ARENA);
    expect(nativeDecoder(native!, new FieldDecoder([text], []), layout)).toBe(null);
    expect(nativeEncoder(native!, new OutputEncoder([free], []), layout)).toBe(null);
    // JavaScript rounds such a number before it cuts it to the tensor's width.
    const small = tensorSpec('x', 'int8', [1]);
    const wide = manifestInput('x', { fields: [{ name: 'id', dtype: 'int64', default: undefined }] });
    const there = slabLayout([small], [], ROWS, ARENA);
    expect(nativeDecoder(native!, new FieldDecoder([small], [wide]), there)).toBe(null);
    expect(nativeDecoder(native!, new FieldDecoder([small], []), there)).not.toBe(null);
  },
);
