// Tensors as bytes behind the JSON, in requests and answers, on a real engine: the same predictions as in
// JSON.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elementBytes, splitBody } from '../src/gateway/routes/binary.ts';
import { FIXTURE_MODELS, startTestEngine, type TestEngine } from './support/engine.ts';

interface Tensor {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
  readonly data?: readonly unknown[];
  readonly parameters?: { readonly binary_data_size?: number };
}

let running: TestEngine;
beforeAll(async () => {
  running = await startTestEngine(FIXTURE_MODELS);
});
afterAll(() => running.stop());

const texts = (...all: string[]) =>
  Buffer.concat(
    all.map((text) => {
      const bytes = Buffer.from(`\0\0\0\0${text}`);
      bytes.writeUInt32LE(bytes.length - 4);
      return bytes;
    }),
  );

interface Sent {
  readonly inputs: readonly object[];
  readonly parts: readonly Uint8Array[];
  readonly more?: object;
  readonly headers?: Record<string, string>;
}

async function send(model: string, { inputs, parts, more, headers }: Sent) {
  const json = Buffer.from(JSON.stringify({ id: 'ü', inputs, ...more }));
  return fetch(`${running.engine.url}/v2/models/${model}/infer`, {
    method: 'POST',
    body: Buffer.concat([json, ...parts]),
    headers: {
      'content-type': 'application/octet-stream',
      'inference-header-content-length': `${json.length}`,
      ...headers,
    },
  });
}

/** An input with its elements in binary. */
const input = (name: string, datatype: string, shape: number[], bytes: Uint8Array) => ({
  name,
  datatype,
  shape,
  parameters: { binary_data_size: bytes.length },
});

const bytesOf = (view: ArrayBufferView) => Buffer.from(view.buffer, view.byteOffset, view.byteLength);

describe('a request', () => {
  test.each([
    ['same_float32', 'FP32', bytesOf(new Float32Array([1.5, -2, 0.25])), [1.5, -2, 0.25]],
    ['same_float64', 'FP64', bytesOf(new Float64Array([1.5, -2, 0.1])), [1.5, -2, 0.1]],
    ['same_float16', 'FP16', bytesOf(new Uint16Array([0x3e00, 0xc000, 0x2e66])), [1.5, -2, 0.099975586]],
    ['same_int8', 'INT8', bytesOf(new Int8Array([1, -2, 3])), [1, -2, 3]],
    ['same_int64', 'INT64', bytesOf(new BigInt64Array([1n, -2n, 2n ** 60n])), [1, -2, `${2n ** 60n}`]],
    ['same_uint16', 'UINT16', bytesOf(new Uint16Array([1, 2, 65_535])), [1, 2, 65_535]],
    ['same_bool', 'BOOL', Buffer.from([1, 0, 1]), [true, false, true]],
    ['same_string', 'BYTES', texts('a', 'ü', ''), ['a', 'ü', '']],
  ])('of %s is answered as in JSON', async (model, datatype, bytes, expected) => {
    const inputs = [input('x', datatype, [1, 3], bytes)];
    const response = await send(model, { inputs, parts: [bytes] });
    const body = (await response.json()) as { id: string; outputs: Tensor[] };
    expect(body).toMatchObject({ id: 'ü', outputs: [{ name: 'y', datatype, shape: [1, 3] }] });
    expect(JSON.stringify(body.outputs[0]!.data)).toBe(JSON.stringify(expected));
  });

  test('may have some tensors in binary and others in JSON', async () => {
    const x = bytesOf(new Float32Array([1, 2, 3, 4]));
    const flag = Buffer.from([1, 0]);
    const inputs = [
      input('x', 'FP32', [2, 2], x),
      { name: 'n', datatype: 'INT64', shape: [2], data: [3, 4] },
      input('flag', 'BOOL', [2], flag),
    ];
    const response = await send('mixed', { inputs, parts: [x, flag] });
    const all = [1, 2].map((row) => ({ x: [2 * row - 1, 2 * row], n: row + 2, flag: row === 1 }));
    const singly = await Promise.all(
      all.map(async (data) => {
        const path = `${running.engine.url}/v2/models/mixed/infer`;
        const one = await fetch(path, { method: 'POST', body: JSON.stringify({ data }) });
        return ((await one.json()) as { outputs: { score: number } }).outputs.score;
      }),
    );
    expect(((await response.json()) as { outputs: Tensor[] }).outputs[0]).toMatchObject({ data: singly });
  });

  test('of many rows keeps them until they had their turn', async () => {
    const values = Float32Array.from({ length: 900 }, (_, i) => i);
    const bytes = bytesOf(values);
    const response = await send('same_float32', {
      inputs: [input('x', 'FP32', [300, 3], bytes)],
      parts: [bytes],
    });
    const { outputs } = (await response.json()) as { outputs: Tensor[] };
    expect(outputs[0]?.data).toEqual(Array.from(values));
  });

  const three = bytesOf(new Float32Array([1, 2, 3]));
  const good = { inputs: [input('x', 'FP32', [1, 3], three)], parts: [three] };
  const bad: readonly (readonly [string, string, Sent, RegExp])[] = [
    [
      'more bytes than said',
      'same_float32',
      { ...good, parts: [three, three] },
      /12 bytes follow the last tensor/,
    ],
    [
      'fewer bytes than said',
      'same_float32',
      { ...good, parts: [] },
      /binary_data_size: 12 bytes are not there/,
    ],
    [
      'a size that is none',
      'same_float32',
      { inputs: [{ ...good.inputs[0], parameters: { binary_data_size: -1 } }], parts: [three] },
      /-1 bytes are not there/,
    ],
    [
      'values twice',
      'same_float32',
      { ...good, inputs: [{ ...good.inputs[0], data: [1, 2, 3] }] },
      /not both/,
    ],
    [
      'half an element',
      'same_float32',
      { inputs: [input('x', 'FP32', [1, 3], three.subarray(1))], parts: [three.subarray(1)] },
      /11 bytes are no FP32/,
    ],
    [
      'more elements than its shape',
      'same_float32',
      { inputs: [input('x', 'FP32', [1, 3], Buffer.alloc(24))], parts: [Buffer.alloc(24)] },
      /has 6 elements, its shape asks for 3/,
    ],
    [
      'fewer elements than its shape',
      'same_float32',
      { inputs: [input('x', 'FP32', [2, 3], three)], parts: [three] },
      /has 3 elements, its shape asks for 6/,
    ],
    [
      'an unknown datatype',
      'same_float32',
      { inputs: [input('x', 'BF16', [1, 3], three)], parts: [three] },
      /BF16/,
    ],
    [
      'a truth value of 2',
      'mixed',
      { inputs: [input('flag', 'BOOL', [1], Buffer.from([2]))], parts: [Buffer.from([2])] },
      /must be 0 or 1, got 2/,
    ],
    [
      'a text that ends early',
      'same_string',
      { inputs: [input('x', 'BYTES', [1, 3], three)], parts: [three] },
      /ends inside text 0/,
    ],
    [
      'a text that is no UTF-8',
      'same_string',
      {
        inputs: [input('x', 'BYTES', [1, 1], Buffer.from('\x01\0\0\0\xff', 'latin1'))],
        parts: [Buffer.from('\x01\0\0\0\xff', 'latin1')],
      },
      /is not UTF-8/,
    ],
    [
      'a longer JSON than the body',
      'same_float32',
      { ...good, headers: { 'inference-header-content-length': '9999' } },
      /9999/,
    ],
    [
      'a length that is none',
      'same_float32',
      { ...good, headers: { 'inference-header-content-length': 'x' } },
      /is x/,
    ],
    [
      'JSON cut short',
      'same_float32',
      { ...good, headers: { 'inference-header-content-length': '20' } },
      /not taken/,
    ],
    ['nothing but a list', 'same_float32', { inputs: 7 as never, parts: [] }, /inputs: must be a list/],
  ];
  test.each(bad)('with %s is a 400 that says so', async (_name, model, sent, message) => {
    const response = await send(model, sent);
    expect(response.status).toBe(400);
    expect(((await response.json()) as { error: string }).error).toMatch(message);
  });
});

describe('an answer', () => {
  /** The answer's JSON, and what lies behind it by output. */
  async function answer(model: string, body: object) {
    const path = `${running.engine.url}/v2/models/${model}/infer`;
    const response = await fetch(path, { method: 'POST', body: JSON.stringify(body) });
    const bytes = Buffer.from(await response.arrayBuffer());
    const length = Number(response.headers.get('inference-header-content-length') ?? bytes.length);
    const json = JSON.parse(bytes.toString('utf8', 0, length)) as { outputs: Tensor[] };
    let at = length;
    const parts = json.outputs.map(({ parameters }) => {
      const start = at;
      at += parameters?.binary_data_size ?? 0;
      return bytes.subarray(start, at);
    });
    expect(at).toBe(bytes.length);
    return { type: response.headers.get('content-type'), outputs: json.outputs, parts };
  }
  const binary = { binary_data_output: true };

  test.each([
    ['same_float32', 'FP32', [1.5, -2, 0.1], bytesOf(new Float32Array([1.5, -2, 0.1]))],
    ['same_float64', 'FP64', [1.5, -2, 0.1], bytesOf(new Float64Array([1.5, -2, 0.1]))],
    ['same_int64', 'INT64', [1, -2, `${2n ** 60n}`], bytesOf(new BigInt64Array([1n, -2n, 2n ** 60n]))],
    ['same_uint8', 'UINT8', [0, 1, 255], Buffer.from([0, 1, 255])],
    ['same_bool', 'BOOL', [true, false, true], Buffer.from([1, 0, 1])],
    ['same_string', 'BYTES', ['a', 'ü', ''], texts('a', 'ü', '')],
  ])('of %s holds the elements that were sent', async (model, datatype, data, expected) => {
    const inputs = [{ name: 'x', datatype, shape: [1, 3], data }];
    const { type, outputs, parts } = await answer(model, { inputs, parameters: binary });
    expect(type).toBe('application/octet-stream');
    expect(outputs).toEqual([
      { name: 'y', datatype, shape: [1, 3], parameters: { binary_data_size: expected.length } },
    ]);
    expect(parts).toEqual([expected]);
  });

  test('is in binary where an output asks for it, and nowhere else', async () => {
    const inputs = [{ name: 'x', datatype: 'FP32', shape: [1, 3], data: [1, 2, 3] }];
    const asked = (binary_data: boolean) => [{ name: 'y', parameters: { binary_data } }];
    const one = await answer('same_float32', { inputs, outputs: asked(true) });
    expect(one.parts[0]).toHaveLength(12);
    const none = await answer('same_float32', { inputs, outputs: asked(false), parameters: binary });
    expect([none.type, none.outputs[0]?.data]).toEqual(['application/json', [1, 2, 3]]);
    const plain = await answer('same_float32', { inputs, outputs: [{ name: 'y' }] });
    expect([plain.type, plain.outputs[0]?.data]).toEqual(['application/json', [1, 2, 3]]);
  });

  test('of halves stays JSON', async () => {
    const inputs = [{ name: 'x', datatype: 'FP16', shape: [1, 3], data: [1.5, -2, 0] }];
    const { type, outputs } = await answer('same_float16', { inputs, parameters: binary });
    expect([type, outputs[0]?.data]).toEqual(['application/json', [1.5, -2, 0]]);
  });

  test('of values that their declaration does not hold stays JSON', () => {
    const tensor = (datatype: string, ...data: unknown[]) =>
      elementBytes({ name: 'y', datatype, shape: [1], data });
    for (const [datatype, value] of [
      ['INT32', 1.5],
      ['UINT8', 300],
      ['UINT64', -1],
      ['INT64', 0.5],
    ] as const) {
      expect(tensor(datatype, value)).toBe(null);
    }
    expect(tensor('INT32', -1)).toEqual(Buffer.from([255, 255, 255, 255]));
  });
});

test('a body is split where the header says, wherever that is', () => {
  const json = Buffer.from('{"inputs":[{"parameters":{"binary_data_size":3}},{"data":[1]},null]}');
  const { fields, parts } = splitBody(Buffer.concat([json, Buffer.from('abc')]), `${json.length}`);
  expect(fields['inputs']).toHaveLength(3);
  expect(parts.map((part) => part?.toString() ?? null)).toEqual(['abc', null, null]);
});
