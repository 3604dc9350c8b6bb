// The bytes themselves: MessagePack, shortest decimals, halves. msgpackr is the other implementation.
import { pack, Unpackr } from 'msgpackr';
import { expect, test } from 'vitest';
import { OutArena } from '../src/infer/arena.ts';
import { float32Text, jsonText } from '../src/infer/encode.ts';
import { fromHalf, toHalf } from '../src/infer/half.ts';
import { MessagePackReader, putValue } from '../src/infer/msgpack.ts';
import { Random } from './support/random.ts';

function packed(value: unknown, room = 4): Buffer {
  const bytes = Buffer.alloc(room);
  const out = new OutArena();
  out.reset(bytes, new DataView(bytes.buffer, bytes.byteOffset, room), 0, room);
  putValue(out, value);
  return Buffer.from(out.bytes.subarray(0, out.at));
}

function read(bytes: Buffer): Record<string, unknown> {
  return new MessagePackReader().map(
    bytes,
    new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    0,
    bytes.length,
  );
}

const edges = [
  0,
  1,
  31,
  32,
  127,
  128,
  255,
  256,
  32767,
  32768,
  65535,
  65536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
];
const numbers = [
  ...edges,
  ...edges.map((n) => -n - 1),
  ...[0.5, 0.1, -0.1, 1e300, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN],
];
const lengths = [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536];

test('what is written, msgpackr reads, and so do we', () => {
  const values = {
    numbers,
    bigints: [2n ** 63n, -(2n ** 63n), 2n ** 64n - 1n, 2n ** 60n],
    texts: lengths.map((n) => 'é'.repeat(n)),
    lists: [[], [[]], [null, true, false], Array.from({ length: 20 }, (_, i) => i)],
    maps: { empty: {}, many: Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`key ${i}`, i])) },
  };
  const bytes = packed(values);
  expect(new Unpackr({ useRecords: false, int64AsType: 'auto' } as object).unpack(bytes)).toEqual(values);
  expect(read(bytes)).toEqual(values);
  expect(packed(new Float32Array([1.5, 2]))).toEqual(packed([1.5, 2]));
  expect(packed({ a: undefined, b: 1 })).toEqual(packed({ b: 1 }));
});

test('what msgpackr writes, we read', () => {
  const values = {
    numbers,
    large: [2 ** 53, -(2 ** 40), 2n ** 60n],
    texts: lengths.map((n) => 'x'.repeat(n)),
    many: Array.from({ length: 70_000 }, (_, i) => i % 7),
    deep: { a: { b: { c: [{ d: null }] } } },
  };
  expect(read(pack(values))).toEqual(values);
  const binary = read(pack({ raw: Buffer.from('bytes') }));
  expect(Buffer.from(binary['raw'] as Uint8Array).toString()).toBe('bytes');
});

test('keys are remembered, never confused', () => {
  const reader = new MessagePackReader();
  const random = new Random(3);
  for (let round = 0; round < 2000; round++) {
    const entries = Array.from({ length: 4 }, () => {
      const key = 'aé0_'.charAt(random.int(0, 3)) + 'bü1'.charAt(random.int(0, 2));
      return [key, random.int(0, 9)];
    });
    const value = Object.fromEntries(entries);
    const bytes = pack(value);
    expect(reader.map(bytes, new DataView(bytes.buffer, bytes.byteOffset), 0, bytes.length)).toEqual(value);
  }
});

test('every prefix of an event is refused', () => {
  const bytes = pack({
    a: 1.5,
    list: [1, 300, 70_000, -1, 'text'],
    map: { b: null, c: 2n ** 60n },
    raw: Buffer.alloc(9),
  });
  for (let end = 1; end < bytes.length; end++) expect(() => read(bytes.subarray(0, end))).toThrow(/middle/);
});

test('what no prediction can hold is refused', () => {
  const loop: unknown[] = [];
  loop.push(loop);
  for (const write of [packed, jsonText]) {
    expect(() => write(loop)).toThrow('nested deeper than 32 levels');
    expect(() => write(() => 1)).toThrow('cannot hold a function');
  }
  expect(() => packed(2n ** 64n)).toThrow('does not fit in 64 bits');
});

test('a float32 in JSON is a short text that is that float32 again', () => {
  const random = new Random(11);
  const bits = new DataView(new ArrayBuffer(4));
  for (let round = 0; round < 50_000; round++) {
    bits.setUint32(0, random.int(0, 2 ** 32 - 1));
    const value = round % 2 ? bits.getFloat32(0) : Math.fround(random.next());
    const text = float32Text(value);
    if (!Number.isFinite(value)) expect(text).toBe('null');
    else if (Math.fround(Number(text)) !== value || text.length > 22) expect.fail(`${value} became ${text}`);
  }
  const known = [0.1, 1 / 3, 16777216, 1e-45, 3.4028235e38, -0.5, 123456.79].map(Math.fround);
  expect(known.map(float32Text)).toEqual([
    '0.1',
    '0.33333334',
    '16777216',
    '1.4013e-45',
    '3.4028235e+38',
    '-0.5',
    '123456.789',
  ]);
});

test('JSON of what a handler returns', () => {
  const value = {
    a: Math.fround(0.1),
    b: [1n, 2n ** 60n],
    c: new Float32Array([0.5]),
    d: undefined,
    e: null,
  };
  expect(jsonText(value)).toBe('{"a":0.1,"b":[1,"1152921504606846976"],"c":[0.5],"e":null}');
  expect(jsonText({ f: Number.NaN, g: 0.1, 'h"': 'i"', j: true })).toBe(
    '{"f":null,"g":0.1,"h\\"":"i\\"","j":true}',
  );
});

test('all halves survive the way to a number and back; between them the nearest is taken', () => {
  for (let half = 0; half < 65536; half++) {
    const value = fromHalf(half);
    if (Number.isNaN(value)) expect(fromHalf(toHalf(value))).toBeNaN();
    else if (toHalf(value) !== half) expect.fail(`half ${half} became ${toHalf(value)}`);
  }
  expect([65519, 65520, 1e9, -1e9].map((n) => fromHalf(toHalf(n)))).toEqual([
    65504,
    Number.POSITIVE_INFINITY,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ]);
  // Ties go to the even neighbour: 2049 lies between 2048 and 2050, 2051 between 2050 and 2052.
  expect([2049, 2051, 2 ** -25, 3 * 2 ** -25].map((n) => fromHalf(toHalf(n)))).toEqual([
    2048,
    2052,
    0,
    2 ** -23,
  ]);
});
