// Requests and answers of nothing but numbers take a short way through the gateway. It must give what the
// long way gives, to the last bit, and leave to it whatever it does not understand.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { plainRequest } from '../src/gateway/routes/body.ts';
import { readNumbers } from '../src/gateway/routes/numbers.ts';
import { OutputTexts } from '../src/gateway/routes/outputs.ts';
import { DATATYPES, rowsOf, tensorsOf } from '../src/gateway/routes/tensors.ts';
import { FieldDecoder } from '../src/infer/decode.ts';
import type { FieldSpec } from '../src/infer/handler.ts';
import { tensorSpec, viewOf } from '../src/infer/tensors.ts';
import type { Random } from '../src/random.ts';
import { seededRandom } from '../src/random.ts';
import type { Dtype, TensorSpec } from '../src/schedule/slab.ts';
import { FIXTURE_MODELS, startTestEngine, type TestEngine } from './support/engine.ts';

const SEED = 20_261;

function read(text: string, count: number, isSingle = false): number[] | null {
  const bytes = Buffer.from(`x${text}x`);
  const into = new Float64Array(count);
  return readNumbers(bytes, 1, bytes.length - 1, into, count, isSingle) ? Array.from(into) : null;
}

/** Numbers as programs write them, and as nobody does. */
function numberText(random: Random): string {
  const digits = (most: number) =>
    Array.from({ length: 1 + Math.floor(random() * most) }, () => Math.floor(random() * 10)).join('');
  const sign = random() < 0.5 ? '-' : '';
  switch (Math.floor(random() * 6)) {
    case 0:
      return JSON.stringify((random() * 2 - 1) * 10 ** Math.floor(random() * 60 - 30));
    case 1:
      return JSON.stringify(Math.fround(random() * 2 - 1));
    case 2:
      return `${sign}${Math.floor(random() * 2000)}`;
    case 3:
      return `${sign}0.${digits(30)}`;
    case 4:
      return `${sign}${1 + Math.floor(random() * 9)}${digits(25)}.${digits(25)}`;
    default:
      return `${sign}${1 + Math.floor(random() * 9)}.${digits(20)}e${Math.floor(random() * 700 - 350)}`;
  }
}

describe('numbers', () => {
  test(`are those of JSON.parse, exactly or as float32 (seed ${SEED})`, () => {
    const random = seededRandom(SEED);
    for (let run = 0; run < 300; run += 1) {
      const texts = Array.from({ length: 100 }, () => numberText(random));
      const text = `[${texts.join(run % 2 === 0 ? ',' : ' ,\n')}]`;
      const expected = JSON.parse(text) as number[];
      expect(read(text, 100)).toEqual(expected);
      expect(read(text, 100, true)?.map(Math.fround)).toEqual(expected.map(Math.fround));
    }
  });

  test('of halfway cases round as they should', () => {
    // Just above, at and below the middle of two neighbouring float32 values.
    for (const text of [
      '1.00000005960464477539062500001',
      '1.000000059604644775390625',
      '16777217.0000000001',
    ]) {
      expect(read(`[${text}]`, 1, true)?.map(Math.fround)).toEqual([Math.fround(Number(text))]);
      expect(read(`[${text}]`, 1)).toEqual([Number(text)]);
    }
    expect(Object.is(read('[-0.0]', 1)?.[0], -0)).toBe(true);
    expect(read('[1e400,-1e400,1e-400]', 3)).toEqual([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0]);
  });

  test('in nested lists are taken in order', () => {
    expect(read('[[1,2],[ [3] , 4 ]]', 4)).toEqual([1, 2, 3, 4]);
  });

  const bad = [
    '',
    '1',
    '[',
    '[]',
    '[1',
    '[1]]',
    '[[1]',
    '[1],[2]',
    '[1,]',
    '[,1]',
    '[1,,2]',
    '[1 2]',
    '[01]',
  ];
  const worse = [
    '[-]',
    '[+1]',
    '[.5]',
    '[1.]',
    '[1.e5]',
    '[1e]',
    '[1e+]',
    '[--1]',
    '[0x1]',
    '[1_0]',
    '[- 1]',
  ];
  const other = [
    '[NaN]',
    '[null]',
    '[true]',
    '["1"]',
    '[{}]',
    '[1]x',
    '[[]]',
    '[1[2]]',
    '[[1][2]]',
    '[00.5]',
  ];
  const deep = `${'['.repeat(9)}1${']'.repeat(9)}`;
  test.each([...bad, ...worse, ...other, deep])('%s is no list of numbers', (text) => {
    for (const count of [1, 2]) expect(read(text, count)).toBe(null);
  });

  test('of another count than asked for are refused', () => {
    expect(read('[1,2]', 1)).toBe(null);
    expect(read('[1,2]', 3)).toBe(null);
  });
});

const spec = (name: string, dtype: Dtype, ...shape: number[]) => tensorSpec(name, dtype, shape);

/** Each row's tensors, by the engine's own decoder. */
function longWay(body: string, tensors: readonly TensorSpec[]): Buffer[] {
  const decoder = new FieldDecoder(tensors, []);
  const fields = decoder.describe();
  return rowsOf((JSON.parse(body) as { inputs: unknown }).inputs, fields, 4096).map((row) => {
    const views = tensors.map(({ dtype, rowBytes, elements }) => {
      const memory = new ArrayBuffer(rowBytes);
      return { memory, view: viewOf(dtype, memory, 0, elements) };
    });
    decoder.decode(
      row,
      views.map(({ view }) => view),
      0,
    );
    return Buffer.concat(views.map(({ memory }) => Buffer.from(memory)));
  });
}

function shortWay(body: string, tensors: readonly TensorSpec[]): Buffer[] | null {
  const plain = plainRequest(Buffer.from(body), tensors, 4096);
  if (plain === null) return null;
  return Array.from({ length: plain.rows }, (_, i) => Buffer.from(plain.row(i)));
}

const X = spec('x', 'float32', 2);
const input = (changes: object = {}) => ({
  name: 'x',
  shape: [1, 2],
  datatype: 'FP32',
  data: [1, 2.5],
  ...changes,
});
const bodyOf = (...inputs: object[]) => JSON.stringify({ inputs });

describe('requests', () => {
  const dtypes: Dtype[] = [
    'float32',
    'float64',
    'int8',
    'int16',
    'int32',
    'int64',
    'uint8',
    'uint16',
    'uint32',
    'uint64',
  ];
  test.each(dtypes)('of %s have the rows that the long way has', (dtype) => {
    const random = seededRandom(SEED);
    const value = () => {
      if (dtype.startsWith('float')) return (random() * 2 - 1) * 10 ** Math.floor(random() * 20 - 10);
      const whole = Math.floor(random() * 100);
      return dtype.startsWith('u') ? whole : whole - 50;
    };
    for (const shape of [[], [1], [3], [2, 2]]) {
      const tensors = [spec('a', 'int8'), spec('b', dtype, ...shape), spec('c', 'float64', 2)];
      const rows = 1 + Math.floor(random() * 5);
      const inputs = tensors.map(({ name, dtype: own, elements, shape: rowShape }) => ({
        name,
        datatype: DATATYPES[own],
        shape: [rows, ...rowShape],
        data: Array.from(
          { length: rows * elements },
          name === 'b' ? value : () => Math.floor(random() * 100),
        ),
      }));
      // Their order is the client's affair.
      const body = JSON.stringify({ id: 'ü', inputs: inputs.reverse() });
      const expected = longWay(body, tensors);
      expect(shortWay(body, tensors)).toEqual(expected);
      expect(expected).toHaveLength(rows);
    }
  });

  test('may nest their lists, and may write a column of scalars as [n, 1]', () => {
    const nested = bodyOf(
      input({
        shape: [2, 2],
        data: [
          [1, 2],
          [3, 4],
        ],
      }),
    );
    expect(shortWay(nested, [X])).toEqual(longWay(nested, [X]));
    const scalars = bodyOf(input({ shape: [2, 1] }));
    expect(shortWay(scalars, [spec('x', 'float32')])).toEqual(longWay(scalars, [spec('x', 'float32')]));
    const spread = '{ "inputs" : [ { "data" :\n[1, 2 ] , "name":"x","shape":[1,2], "datatype":"FP32" } ] }';
    expect(shortWay(spread, [X])).toEqual(longWay(spread, [X]));
  });

  test('the last of two lists counts, and what else they say is kept', () => {
    const twice =
      '{"id":"data","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[7,8],"data":[1,2]}]}';
    expect(shortWay(twice, [X])).toEqual(longWay(twice, [X]));
    expect(plainRequest(Buffer.from(twice), [X], 4)?.fields['id']).toBe('data');
  });

  const wide = spec('x', 'int64', 2);
  const odd: readonly (readonly [string, string, readonly TensorSpec[]])[] = [
    [
      'an escape',
      '{"id":"\\u0061","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
      [X],
    ],
    [
      'a key written as an escape',
      '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","d\\u0061ta":0}]}',
      [X],
    ],
    ['a number for data', bodyOf(input({ data: 0 })), [X]],
    ['a map for data', '{"data":{"x":[1,2]}}', [X]],
    ['text in a list', bodyOf(input({ data: [1, 'x]'] })), [X]],
    ['brackets in text', bodyOf(input({ data: [1, '[', 2] })), [X]],
    ['half a body', bodyOf(input()).slice(0, -2), [X]],
    ['half a list', '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2', [X]],
    ['half a nested list', '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1],[2', [X]],
    ['more after the end', `${bodyOf(input())}]`, [X]],
    ['a list', `[${bodyOf(input())}]`, [X]],
    ['null', 'null', [X]],
    ['nothing', '', [X]],
    ['no inputs', '{"data":[1,2]}', [X]],
    ['inputs that are none', '{"inputs":[null]}', [X]],
    ['deep nesting', `{"a":${'['.repeat(40)}${']'.repeat(40)},"inputs":[${JSON.stringify(input())}]}`, [X]],
    ['another name', bodyOf(input({ name: 'y' })), [X]],
    ['another datatype', bodyOf(input({ datatype: 'FP64' })), [X]],
    ['a datatype that needs care', bodyOf(input({ datatype: 'FP16' })), [spec('x', 'float16', 2)]],
    ['another shape', bodyOf(input({ shape: [2] })), [X]],
    ['a shape that is none', bodyOf(input({ shape: 2 })), [X]],
    ['half a row', bodyOf(input({ shape: [0.5, 2], data: [1] })), [X]],
    ['no rows', bodyOf(input({ shape: [0, 2], data: [] })), [X]],
    ['too many rows', bodyOf(input({ shape: [5000, 2], data: Array(10_000).fill(1) })), [X]],
    ['a shape that promises more', bodyOf(input({ shape: [4096, 2] })), [X]],
    ['a shape that asks for memory', bodyOf(input({ shape: [4096, 1e9] })), [spec('x', 'float32', 1e9)]],
    ['a shape that promises less', bodyOf(input({ data: [1, 2, 3] })), [X]],
    ['an input too few', bodyOf(input()), [X, spec('y', 'float32')]],
    ['an input too many', bodyOf(input(), input({ name: 'y' })), [X]],
    ['an input twice', bodyOf(input(), input()), [X, spec('y', 'float32', 2)]],
    ['uneven rows', bodyOf(input(), input({ name: 'y', shape: [2] })), [X, spec('y', 'float32')]],
    ['a fraction among integers', bodyOf(input({ datatype: 'INT64' })), [wide]],
    ['a rounded integer', bodyOf(input({ datatype: 'INT64', data: [1, 2 ** 53] })), [wide]],
    ['an integer out of range', bodyOf(input({ datatype: 'INT8', data: [1, 128] })), [spec('x', 'int8', 2)]],
    ['a negative count', bodyOf(input({ datatype: 'UINT64', data: [1, -1] })), [spec('x', 'uint64', 2)]],
  ];
  test.each(odd)('%s goes the long way', (_name, body, tensors) => {
    expect(shortWay(body, tensors)).toBe(null);
  });

  test('of bytes that are no UTF-8 go the long way, also after one that looks the same', () => {
    const named = (id: string) => bodyOf(input()).replace('{"inputs"', `{"id":"${id}","inputs"`);
    expect(plainRequest(Buffer.from(named('\ufffd')), [X], 4)?.fields['id']).toBe('\ufffd');
    expect(plainRequest(Buffer.from(named('\xe9'), 'latin1'), [X], 4)).toBe(null);
  });

  test('that differ in their numbers alone have their own numbers', () => {
    for (const data of [
      [1, 2],
      [3, 4.5],
      [1e300, -1],
    ]) {
      const body = bodyOf(input({ data }));
      expect(shortWay(body, [X])).toEqual(longWay(body, [X]));
    }
    const other = bodyOf(input({ shape: [2, 1] }));
    expect(shortWay(other, [X])).toBe(null);
  });
});

describe('answers', () => {
  const predicts: FieldSpec[] = [
    { name: 'score', dtype: 'float32', shape: [] },
    { name: 'one', dtype: 'float64', shape: [1] },
    { name: 'a "b"', dtype: 'int32', shape: [2, 1, 2] },
  ];
  const row = (seed: number) => ({ score: seed / 3, one: [-1e-9 * seed], 'a "b"': [[[seed, 2]], [[3, -4]]] });
  const texts = (...values: unknown[]) => values.map((value) => JSON.stringify(value));

  test('are the tensors of the long way', () => {
    const outputs = new OutputTexts(predicts);
    for (const rows of [[row(1)], [row(1), row(2), row(30)]]) {
      expect(outputs.join(texts(...rows), null)).toBe(JSON.stringify(tensorsOf(rows, predicts)));
    }
    const [, only] = tensorsOf([row(1)], predicts);
    expect(outputs.join(texts(row(1)), new Set(['one']))).toBe(JSON.stringify([only]));
    expect(outputs.join(texts(row(1)), new Set(['one', 'two']))).toBe(null);
  });

  const odd: readonly (readonly [string, unknown])[] = [
    ['another order', { one: [1], score: 1, 'a "b"': [[[1, 2]], [[3, 4]]] }],
    ['an output more', { ...row(1), more: 1 }],
    ['an output less', { score: 1, one: [1] }],
    ['null', { ...row(1), score: null }],
    ['text', { ...row(1), one: ['9007199254740993'] }],
    ['a truth value', { ...row(1), score: true }],
    ['a map', { ...row(1), one: { a: 1 } }],
    ['a list for a scalar', { ...row(1), score: [1] }],
    ['a scalar for a list', { ...row(1), one: 1 }],
    ['a longer list', { ...row(1), one: [1, 2] }],
    ['a shorter list', { ...row(1), 'a "b"': [[[1, 2]], [[3]]] }],
    ['a flatter list', { ...row(1), 'a "b"': [1, 2, 3, 4] }],
    ['a deeper list', { ...row(1), one: [[1]] }],
    ['a list more', { ...row(1), 'a "b"': [[[1, 2]], [[3, 4]], [[5, 6]]] }],
    ['no map', [1]],
  ];
  test.each(odd)('with %s go the long way', (_name, value) => {
    expect(new OutputTexts(predicts).join(texts(row(1), value), null)).toBe(null);
  });

  test('cut off anywhere go the long way', () => {
    const [whole] = texts(row(7)) as [string];
    const outputs = new OutputTexts(predicts);
    for (let end = 0; end < whole.length; end += 1)
      expect(outputs.join([whole.slice(0, end)], null)).toBe(null);
    expect(outputs.join([whole], null)).not.toBe(null);
    expect(outputs.join([`${whole}]`], null)).toBe(null);
  });

  test.each([
    ['text', { name: 'y', dtype: 'string', shape: [] }],
    ['truth values', { name: 'y', dtype: 'bool', shape: [] }],
    ['a free length', { name: 'y', dtype: 'float32', shape: [-1] }],
  ] as const)('of %s go the long way', (_name, field) => {
    expect(new OutputTexts([field]).join(['{"y":[1]}'], null)).toBe(null);
  });
});

describe('on a real engine', () => {
  let running: TestEngine;
  beforeAll(async () => {
    running = await startTestEngine(FIXTURE_MODELS);
  });
  afterAll(() => running.stop());

  async function infer(model: string, body: object, id: string): Promise<unknown> {
    const text = JSON.stringify(body).replace('{', `{"id":"${id}",`);
    const path = `/v2/models/${model}/infer`;
    const response = await fetch(running.engine.url + path, { method: 'POST', body: text });
    const { outputs, error } = (await response.json()) as { outputs?: unknown; error?: string };
    return outputs ?? error;
  }

  test.each([
    [
      'same_float32',
      [{ name: 'x', datatype: 'FP32', shape: [2, 3], data: [1.5, -2, 0.1, 1e-3, 4e20, -0.7] }],
    ],
    ['same_float64', [{ name: 'x', datatype: 'FP64', shape: [1, 3], data: [1.5, Math.PI, 1e-300] }]],
    ['same_int64', [{ name: 'x', datatype: 'INT64', shape: [1, 3], data: [1, -2, 9007199254740991] }]],
    ['same_uint8', [{ name: 'x', datatype: 'UINT8', shape: [1, 3], data: [0, 1, 255] }]],
    ['matrix', [{ name: 'x', datatype: 'FP32', shape: [1, 6], data: [1, 2, 3, 4, 5, 6] }]],
  ])('%s gives by the short way what it gives by the long one', async (model, inputs) => {
    const short = await infer(model, { inputs }, 'a');
    expect(short).toEqual(await infer(model, { inputs }, '\\u0061'));
    expect(short).toMatchObject([{ data: expect.any(Array) }]);
  });

  test('a hundred rows come back in order', async () => {
    const data = Array.from({ length: 300 }, (_, i) => i);
    const inputs = [{ name: 'x', datatype: 'FP32', shape: [100, 3], data }];
    expect(await infer('same_float32', { inputs }, 'a')).toEqual([
      { name: 'y', datatype: 'FP32', shape: [100, 3], data },
    ]);
  });
});
