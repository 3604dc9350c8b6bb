// Every dtype through decode, run and encode: MessagePack and JSON in and out, raw bytes in a field, raw
// features.
import { pack } from 'msgpackr';
import { expect, test } from 'vitest';
import { loadFixture, runRows } from './support/models.ts';

interface DtypeCase {
  readonly values: readonly unknown[];
  /** What comes back, where that is not `values`. */
  readonly packed?: readonly unknown[];
  readonly json?: readonly unknown[];
  readonly raw: ArrayBufferView;
  /** A value that is refused, and how. */
  readonly bad: readonly [value: unknown, detail: string];
}

const big = 2n ** 62n + 1n;
const cases: Record<string, DtypeCase> = {
  float32: {
    values: [0.1, -2, 3.4e38],
    packed: [Math.fround(0.1), -2, Math.fround(3.4e38)],
    raw: new Float32Array([0.1, -2, 3.4e38]),
    bad: ['1', 'x[1]: must be a number, got "1"'],
  },
  float64: {
    values: [0.1, -2, 1e300],
    raw: new Float64Array([0.1, -2, 1e300]),
    bad: [true, 'x[1]: must be a number, got true'],
  },
  float16: {
    values: [0.5, -2, 65504],
    raw: new Uint16Array([0x3800, 0xc000, 0x7bff]),
    bad: [[1], 'x[1]: must be a number, got an array'],
  },
  int8: {
    values: [-128, 0, 127],
    raw: new Int8Array([-128, 0, 127]),
    bad: [128, 'x[1]: must be a whole number from -128 to 127, got 128'],
  },
  int16: {
    values: [-32768, 0, 32767],
    raw: new Int16Array([-32768, 0, 32767]),
    bad: [0.5, 'x[1]: must be a whole number from -32768 to 32767, got 0.5'],
  },
  int32: {
    values: [-(2 ** 31), 0, 2 ** 31 - 1],
    raw: new Int32Array([-(2 ** 31), 0, 2 ** 31 - 1]),
    bad: [2 ** 31, 'x[1]: must be a whole number from -2147483648 to 2147483647, got 2147483648'],
  },
  int64: {
    values: [-5, `${big}`, 2 ** 53 - 1],
    // msgpackr reads integers of 64 bits as bigints unless it is told otherwise.
    packed: [-5, big, 2n ** 53n - 1n],
    raw: new BigInt64Array([-5n, big, 2n ** 53n - 1n]),
    bad: [
      '9223372036854775808',
      'x[1]: must be a whole number from -9223372036854775808 to 9223372036854775807, ' +
        'got "9223372036854775808"',
    ],
  },
  uint8: {
    values: [0, 128, 255],
    raw: new Uint8Array([0, 128, 255]),
    bad: [-1, 'x[1]: must be a whole number from 0 to 255, got -1'],
  },
  uint16: {
    values: [0, 256, 65535],
    raw: new Uint16Array([0, 256, 65535]),
    bad: [65536, 'x[1]: must be a whole number from 0 to 65535, got 65536'],
  },
  uint32: {
    values: [0, 70000, 2 ** 32 - 1],
    raw: new Uint32Array([0, 70000, 2 ** 32 - 1]),
    bad: [{}, 'x[1]: must be a whole number from 0 to 4294967295, got a map'],
  },
  uint64: {
    values: [0, '18446744073709551615', 7],
    packed: [0, 2n ** 64n - 1n, 7],
    raw: new BigUint64Array([0n, 2n ** 64n - 1n, 7n]),
    bad: [-1, 'x[1]: must be a whole number from 0 to 18446744073709551615, got -1'],
  },
  bool: {
    values: [true, 0, 1],
    packed: [true, false, true],
    json: [true, false, true],
    raw: new Uint8Array([1, 0, 1]),
    bad: [2, 'x[1]: must be true or false, got 2'],
  },
};

test.each(Object.entries(cases))('%s goes in and comes out', async (dtype, given) => {
  const model = await loadFixture(`same_${dtype}`);
  expect(model.parts.loaded).toMatchObject({ batched: true, inputs: [{ name: 'x', dtype, shape: [3] }] });
  const { values, raw, bad } = given;
  const packed = given.packed ?? values;
  const json = given.json ?? values;
  const bytes = new Uint8Array(raw.buffer);
  const text = Buffer.from(JSON.stringify({ x: values }));
  const outcomes = await runRows(model, [
    { data: pack({ x: values }) },
    { data: pack({ x: [values[0], bad[0], values[2]] }) },
    { data: text, json: true },
    { data: pack({ x: Buffer.from(bytes) }) },
    { features: bytes },
    { features: bytes, json: true },
  ]);
  const refused = { status: 'invalid', detail: bad[1] };
  const ok = (y: readonly unknown[]) => expect.objectContaining({ status: 'ok', outputs: { y } });
  expect(outcomes).toEqual([ok(packed), refused, ok(json), ok(packed), ok(packed), ok(json)]);
});

test('a 64-bit integer beyond what a JSON number holds is refused, and exact as text', async () => {
  const inexact = 'a number beyond 2^53 - 1 is not exact: give it as a string (got ';
  for (const [dtype, sign] of [
    ['int64', ''],
    ['int64', '-'],
    ['uint64', ''],
  ] as const) {
    const model = await loadFixture(`same_${dtype}`);
    const text = (x: string) => ({ data: Buffer.from(`{"x":[0,${x},0]}`), json: true });
    const [least, beyond] = [`${sign}9007199254740991`, `${sign}9007199254740993`];
    const outcomes = await runRows(model, [
      text(least),
      text(beyond),
      text(`"${beyond}"`),
      { data: pack({ x: [0, BigInt(beyond), 0] }), json: true },
      { data: pack({ x: [0, Number(beyond), 0] }), json: true },
    ]);
    const refused = { status: 'invalid', detail: `x[1]: ${inexact}${sign}9007199254740992)` };
    const exact = { status: 'ok', outputs: { y: [0, beyond, 0] } };
    expect(outcomes).toMatchObject([
      { status: 'ok', outputs: { y: [0, Number(least), 0] } },
      refused,
      exact,
      exact,
      refused,
    ]);
  }
});

test('text goes in and comes out, and has no raw form', async () => {
  const model = await loadFixture('same_string');
  const x = ['Björk', '', '音楽 🎵'];
  const outcomes = await runRows(model, [
    { data: pack({ x }) },
    { data: pack({ x: ['a', 'b', 7] }) },
    { data: Buffer.from(JSON.stringify({ x })), json: true },
    { features: new Uint8Array(0) },
    { data: pack({ x: ['a', 'b\0c', ''] }) },
    { data: pack({ x: Buffer.from('abc') }) },
  ]);
  const ok = expect.objectContaining({ status: 'ok', outputs: { y: x } });
  expect(outcomes).toEqual([
    ok,
    { status: 'invalid', detail: 'x[2]: must be a string, got 7' },
    ok,
    { status: 'invalid', detail: 'features: text has no raw form; send data' },
    { status: 'invalid', detail: 'x[1]: must not hold a zero character' },
    { status: 'invalid', detail: 'x: must be text, got binary' },
  ]);
});

test('text that is not UTF-8 is refused; a replacement character that was sent is not', async () => {
  const model = await loadFixture('same_string');
  const x = ['a\ufffd', 'b', 'c'];
  const rows = [pack({ x }), Buffer.from(JSON.stringify({ x }))];
  const sound = await runRows(
    model,
    rows.map((data) => ({ data })),
  );
  expect(sound).toMatchObject([{ outputs: { y: x } }, { outputs: { y: x } }]);
  // The same with a byte that begins no character: 62 is the b of the second text.
  const broken = rows.map((bytes) => {
    const data = Buffer.from(bytes);
    data[data.lastIndexOf('b')] = 0xff;
    return { data };
  });
  const refused = { status: 'invalid', detail: 'data: holds text that is not UTF-8' };
  expect(await runRows(model, broken)).toEqual([refused, refused]);
});

test('float64, NaN and infinities: JSON says null, MessagePack says what it is', async () => {
  const model = await loadFixture('same_float32');
  const features = new Uint8Array(new Float32Array([Number.NaN, Number.POSITIVE_INFINITY, -0]).buffer);
  const [packed, json] = await runRows(model, [{ features }, { features, json: true }]);
  expect(packed).toMatchObject({ outputs: { y: [Number.NaN, Number.POSITIVE_INFINITY, -0] } });
  expect(json).toMatchObject({ outputs: { y: [null, null, 0] } });
});

test('several inputs of different dtypes, each a field of its own name', async () => {
  const model = await loadFixture('mixed');
  expect(model.parts.loaded.fields).toEqual([
    { name: 'x', dtype: 'float32', shape: [2] },
    { name: 'n', dtype: 'int64', shape: [] },
    { name: 'flag', dtype: 'bool', shape: [] },
  ]);
  const features = Buffer.alloc(17);
  features.writeFloatLE(1, 0);
  features.writeFloatLE(2, 4);
  features.writeBigInt64LE(5n, 8);
  features[16] = 1;
  const outcomes = await runRows(model, [
    { data: pack({ x: [1, 2], n: 5, flag: true }) },
    { data: pack({ flag: false, n: 5n, x: [1, 2] }) },
    { data: pack({ x: [1, 2], n: 5 }) },
    { features },
  ]);
  expect(outcomes).toEqual([
    expect.objectContaining({ outputs: { score: 153 } }),
    expect.objectContaining({ outputs: { score: 53 } }),
    { status: 'invalid', detail: 'flag: is missing; it must be true or false' },
    expect.objectContaining({ outputs: { score: 153 } }),
  ]);
});

test('a truth value is 0 or 1, however it comes', async () => {
  const model = await loadFixture('same_bool');
  const outcomes = await runRows(model, [
    { features: Buffer.from([1, 0, 2]) },
    { data: pack({ x: Buffer.from([255, 0, 0]) }) },
    { features: Buffer.from([1, 0, 1]) },
  ]);
  expect(outcomes).toEqual([
    { status: 'invalid', detail: 'x[2]: must be 0 or 1, got 2' },
    { status: 'invalid', detail: 'x[0]: must be 0 or 1, got 255' },
    expect.objectContaining({ outputs: { y: [true, false, true] } }),
  ]);
});

test('text in, number out', async () => {
  const model = await loadFixture('genre_id', { outputs: [{ name: 'id', labels: ['EDM', 'Pop', 'Rock'] }] });
  const outcomes = await runRows(model, [
    { data: pack({ genre: 'rock' }) },
    { data: pack({ genre: 'polka' }) },
    { data: pack({ genre: 'edm' }), json: true },
  ]);
  expect(outcomes).toEqual([
    expect.objectContaining({ outputs: { id: 'Rock' } }),
    { status: 'failed', detail: 'output id: there is no label -1 of 3' },
    expect.objectContaining({ outputs: { id: 'EDM' } }),
  ]);
});
