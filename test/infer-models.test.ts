// What the ONNX file says, joined with the manifest; labels, handlers, golden cases.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { pack } from 'msgpackr';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { LoadedModel } from '../src/infer/protocol.ts';
import { loadFixture, manifestInput, runRows } from './support/models.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'subito-models-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function file(name: string, text: string): Promise<string> {
  const path = join(dir, `${Math.random()}`, name);
  await mkdir(join(path, '..'));
  await writeFile(path, text);
  return path;
}

const golden = (cases: unknown, tolerance?: number) =>
  file('golden.json', JSON.stringify({ cases, tolerance }));

const shapes: Record<string, Pick<LoadedModel, 'batched'> & { x: readonly number[]; y: readonly number[] }> =
  {
    same_float32: { batched: true, x: [3], y: [3] },
    fixed_one: { batched: false, x: [1, 4], y: [1, 4] },
    no_batch: { batched: false, x: [4], y: [4] },
    scalar: { batched: false, x: [], y: [] },
    batch_mean: { batched: false, x: [3], y: [1, 3] },
    matrix: { batched: true, x: [6], y: [2, 3] },
    free_output: { batched: false, x: [4], y: [1, -1] },
  };

test.each(Object.entries(shapes))('%s without a manifest', async (name, { batched, x, y }) => {
  const model = await loadFixture(name);
  expect(model.parts.loaded).toMatchObject({
    batched,
    provider: 'cpu',
    inputs: [{ name: 'x', shape: x }],
    outputs: [{ name: 'y', shape: y }],
  });
});

test('rows run one by one where the graph takes no batch', async () => {
  const row = (...x: number[]) => ({ data: pack({ x }) });
  const mean = await loadFixture('batch_mean');
  expect(await runRows(mean, [row(1, 2, 3), row(4, 5, 6)])).toMatchObject([
    { outputs: { y: [[1, 2, 3]] } },
    { outputs: { y: [[4, 5, 6]] } },
  ]);
  const scalar = await loadFixture('scalar');
  expect(await runRows(scalar, [{ data: pack({ x: 2 }) }, row(3)])).toMatchObject([
    { outputs: { y: 4 } },
    { outputs: { y: 6 } },
  ]);
  const free = await loadFixture('free_output');
  expect(await runRows(free, [row(1, 0, 1, 0), row(0, 0, 0, 0), row(0, 0, 0, 1)])).toMatchObject([
    { outputs: { y: [[0, 2]] } },
    { outputs: { y: [[]] } },
    { outputs: { y: [[3]] } },
  ]);
  const matrix = await loadFixture('matrix');
  expect(
    await runRows(matrix, [row(1, 2, 3, 4, 5, 6), { ...row(1, 2, 3, 4, 5, 6), json: true }]),
  ).toMatchObject([
    {
      outputs: {
        y: [
          [1, 2, 3],
          [4, 5, 6],
        ],
      },
    },
    {
      outputs: {
        y: [
          [1, 2, 3],
          [4, 5, 6],
        ],
      },
    },
  ]);
});

test('a free dimension is refused with the fix, and the fix works', async () => {
  await expect(loadFixture('free_dim')).rejects.toThrow(
    'model.onnx: input x is float32[batch,length], and the size of length is not known; ' +
      'give its shape per row in model.yaml (inputs: [{name: x, shape: [...]}])',
  );
  const model = await loadFixture('free_dim', { inputs: [manifestInput('x', { shape: [5] })] });
  expect(model.parts.loaded).toMatchObject({ batched: true, inputs: [{ shape: [5] }] });
  const whole = await loadFixture('free_dim', { inputs: [manifestInput('x', { shape: [2, 2] })] });
  expect(whole.parts.loaded).toMatchObject({ batched: false, inputs: [{ shape: [2, 2] }] });
  expect(
    await runRows(whole, [
      {
        data: pack({
          x: [
            [1, 2],
            [3, 4],
          ],
        }),
      },
    ]),
  ).toMatchObject([{ outputs: { y: [3, 7] } }]);
});

const contradictions: [string, Parameters<typeof loadFixture>, string][] = [
  [
    'name of an input',
    ['classifier', { inputs: [manifestInput('feature')] }],
    'model.yaml: inputs feature: model.onnx has no such input; did you mean features?',
  ],
  [
    'name of an output',
    ['mixed', { outputs: [{ name: 'label', labels: [] }] }],
    'model.yaml: outputs label: model.onnx has no such output; use one of score',
  ],
  [
    'dtype',
    ['no_batch', { inputs: [manifestInput('x', { dtype: 'int64' })] }],
    'model.yaml: inputs x: dtype is int64, but model.onnx says float32; correct the dtype or leave it out',
  ],
  [
    'shape',
    ['classifier', { inputs: [manifestInput('features', { shape: [12] })] }],
    'model.yaml: inputs features: shape is [12], but model.onnx says float32[batch,4]; give the shape of',
  ],
  [
    'number of fields',
    ['no_batch', { inputs: [manifestInput('x', { fields: [{ name: 'a', dtype: null, default: 1 }] })] }],
    'model.yaml: inputs x: has 1 fields, but a row has 4 elements; name each',
  ],
  [
    'number of labels',
    ['classifier', { outputs: [{ name: 'probabilities', labels: ['a', 'b'] }] }],
    'model.yaml: outputs probabilities: has 2 labels, but a row is [3]; give one per element',
  ],
];

test.each(contradictions)('a manifest that contradicts the file: %s', async (_, args, message) => {
  await expect(loadFixture(...args)).rejects.toThrow(message);
});

test('defaults are checked when the model is loaded', async () => {
  const fields = ['a', 'b', 'c', 'd'].map((name) => ({ name, dtype: null, default: 'loud' }));
  await expect(loadFixture('no_batch', { inputs: [manifestInput('x', { fields })] })).rejects.toThrow(
    'model.yaml: inputs x: field a: default: must be a number, got "loud"',
  );
  const twice = ['a', 'b', 'a', 'd'].map((name) => ({ name, dtype: null, default: undefined }));
  await expect(loadFixture('no_batch', { inputs: [manifestInput('x', { fields: twice })] })).rejects.toThrow(
    'two fields are called a',
  );
});

test('an ONNX file that is none', async () => {
  const onnxPath = await file('model.onnx', 'not a model');
  await expect(loadFixture('broken', { onnxPath })).rejects.toThrow(/^model\.onnx: .*protobuf/i);
});

test('labels: scores by label, indices as labels; outputs not listed are not served', async () => {
  const data = pack({ features: [1, 3, 2, 0] });
  const rows = [{ data }, { data, json: true }];
  const labels = ['edm', 'pop', 'rock'];
  const model = await loadFixture('classifier', {
    outputs: [
      { name: 'probabilities', labels },
      { name: 'top', labels },
    ],
  });
  const close = (n: number) => expect.closeTo(n, 4);
  const probabilities = { edm: close(0.09), pop: close(0.6652), rock: close(0.2447) };
  const outcomes = await runRows(model, rows);
  expect(outcomes).toMatchObject([
    { outputs: { probabilities, top: ['pop', 'rock'] } },
    { outputs: { probabilities, top: ['pop', 'rock'] } },
  ]);
  expect(model.parts.loaded.predicts).toEqual([
    { name: 'probabilities', dtype: 'float32', shape: [3] },
    { name: 'top', dtype: 'string', shape: [2] },
  ]);
  const one = await loadFixture('classifier', { outputs: [{ name: 'top', labels: [] }] });
  expect(await runRows(one, rows)).toMatchObject([
    { outputs: { top: [1, 2] } },
    { outputs: { top: [1, 2] } },
  ]);
});

const source = pathToFileURL(join(import.meta.dirname, '../src/infer/handler.ts')).href;
const handlerText = `
  import { InvalidEvent } from '${source}';
  export const handler = {
    fields: [{ name: 'songs', dtype: 'string', shape: [-1] }],
    predicts: [{ name: 'best', dtype: 'string', shape: [] }],
    create: ({ dir, labels }) => ({
      decode(data, row) {
        if (data.songs === 'throw') throw new Error('decode broke');
        if (data.songs.length > 4) throw new InvalidEvent('songs[4]', 'is one too many');
        for (const [i, song] of data.songs.entries()) row.features[i] = song.length;
      },
      encode(outputs) {
        const scores = outputs.probabilities;
        const best = scores.indexOf(Math.max(...scores));
        if (best === 2) throw new Error('encode broke');
        return { best: labels.probabilities[best], scores, second: outputs.top[1], dir: dir.length > 0 };
      },
    }),
  };`;

test('a handler decodes and encodes; what it throws stays with its row', async () => {
  const labels = ['a', 'b', 'c'];
  const model = await loadFixture('classifier', {
    handlerPath: await file('handler.ts', handlerText),
    outputs: [
      { name: 'probabilities', labels },
      { name: 'top', labels },
    ],
  });
  expect(model.parts.loaded).toMatchObject({ fields: [{ name: 'songs' }], predicts: [{ name: 'best' }] });
  const songs = (list: unknown, json = false) => ({ data: pack({ songs: list }), json });
  const outcomes = await runRows(model, [
    songs(['x', 'xxx']),
    songs(['', '', 'xx']),
    songs(['1', '2', '3', '4', '5']),
    songs('throw'),
    songs(7),
    songs(['xxx', 'x'], true),
  ]);
  const scores = [expect.closeTo(0.1142, 4), expect.closeTo(0.8438, 4), expect.closeTo(0.042, 4)];
  const best = { best: 'b', scores, second: 0n, dir: true };
  expect(outcomes).toMatchObject([
    { outputs: best },
    { status: 'failed', detail: 'encode broke' },
    { status: 'invalid', detail: 'songs[4]: is one too many' },
    { status: 'failed', detail: 'decode broke' },
    { status: 'failed', detail: 'data.songs.entries is not a function or its return value is not iterable' },
    { outputs: { best: 'a', second: 1 } },
  ]);
});

test('a handler outside a checkout imports nothing of it but types', async () => {
  const text = `
    import type { Handler } from '../../nowhere/handler.ts';
    export const handler: Handler = {
      fields: [{ name: 'a', dtype: 'float32', shape: [] }],
      predicts: [{ name: 'b', dtype: 'bool', shape: [] }],
      create: () => ({
        decode({ a }) {
          if (a !== 1) throw Object.assign(new Error('a: must be 1'), { name: 'InvalidEvent' });
        },
        encode: () => ({ b: true }),
      }),
    };`;
  const model = await loadFixture('classifier', { handlerPath: await file('handler.ts', text) });
  expect(await runRows(model, [{ data: pack({ a: 1 }) }, { data: pack({ a: 2 }) }])).toMatchObject([
    { status: 'ok', outputs: { b: true } },
    { status: 'invalid', detail: 'a: must be 1' },
  ]);
});

test('golden cases go through the handler', async () => {
  const labels = ['a', 'b', 'c'];
  const changes = {
    handlerPath: await file('handler.ts', handlerText),
    outputs: ['probabilities', 'top'].map((name) => ({ name, labels })),
  };
  const data = { songs: ['x', 'xxx'] };
  const outputs = { best: 'b', scores: [0.1142, 0.8438, 0.042], second: 0, dir: true };
  const good = await golden([{ data, inputs: { features: [1, 3, 0, 0] }, outputs }]);
  await expect(loadFixture('classifier', { ...changes, goldenPath: good })).resolves.toBeDefined();
  const skewed = await golden([{ data, inputs: { features: [1, 4, 0, 0] } }]);
  await expect(loadFixture('classifier', { ...changes, goldenPath: skewed })).rejects.toThrow(
    'golden.json: cases[0].inputs.features (from data)[1]: expected 4, got 3',
  );
  const wrong = await golden([{ data, outputs: { ...outputs, best: 'c' } }]);
  await expect(loadFixture('classifier', { ...changes, goldenPath: wrong })).rejects.toThrow(
    'golden.json: cases[0].outputs.best: expected "c", got "b"',
  );
});

test('a handler fills text rows', async () => {
  const text = `export const handler = { fields: [], predicts: [], create: () => ({
    decode(data, row) { row.x[0] = data.a; if (data.b) row.x[2] = data.b; },
    encode: (outputs) => ({ y: outputs.y }),
  }) };`;
  const model = await loadFixture('same_string', { handlerPath: await file('handler.ts', text) });
  const slab = model.scratch();
  const rows = [{ data: pack({ a: 'one', b: 'two' }) }, { data: pack({ a: 'three' }) }];
  expect(await runRows(model, rows, slab)).toMatchObject([
    { outputs: { y: ['one', '', 'two'] } },
    { outputs: { y: ['three', '', ''] } },
  ]);
  expect(await runRows(model, [...rows].reverse(), slab)).toMatchObject([
    { outputs: { y: ['three', '', ''] } },
    { outputs: { y: ['one', '', 'two'] } },
  ]);
});

test('a handler that cannot be used refuses its model', async () => {
  const broken = await file('handler.ts', 'export const handler = {');
  await expect(loadFixture('classifier', { handlerPath: broken })).rejects.toThrow(/^handler\.ts: /);
  const nothing = await file('handler.ts', 'export const other = 1;');
  await expect(loadFixture('classifier', { handlerPath: nothing })).rejects.toThrow('must export `handler`');
  const field = "{ name: 'a', dtype: 'float32', shape: [] }";
  const good = { fields: `[${field}]`, predicts: `[${field}]`, create: 'decode() {}, encode() {}' };
  const text = ({ fields, predicts, create }: typeof good) =>
    `export const handler = { fields: ${fields}, predicts: ${predicts}, create: () => ({ ${create} }) };`;
  const load = async (changes: Partial<typeof good>) =>
    loadFixture('classifier', { handlerPath: await file('handler.ts', text({ ...good, ...changes })) });
  await expect(load({})).resolves.toBeDefined();
  for (const [changes, message] of [
    [
      { create: 'decode() {}' },
      'an object with the functions decode and encode; what it returned has no encode',
    ],
    [{ create: 'encode() {}' }, 'returned has no decode'],
    [{ create: '' }, 'returned has no decode and no encode'],
    [{ fields: 'undefined' }, 'fields must be a list of fields, such as { name'],
    [{ predicts: '{}' }, 'predicts must be a list of fields'],
    [{ fields: '[null]' }, 'fields[0] must be a field'],
    [{ fields: `[${field}, { dtype: 'int8', shape: [] }]` }, 'fields[1].name must be text'],
    [{ predicts: `[${field}, ${field}]` }, 'predicts[1].name: a is given twice'],
    [{ fields: "[{ name: 'a', dtype: 'float', shape: [] }]" }, 'fields[0].dtype (a) must be one of float32,'],
    [{ fields: "[{ name: 'a', dtype: 'int8' }]" }, 'fields[0].shape (a) must be a list of sizes'],
    [{ fields: "[{ name: 'a', dtype: 'int8', shape: [0.5] }]" }, 'fields[0].shape (a)'],
  ] as const) {
    await expect(load(changes), message).rejects.toThrow(message);
  }
  const slow = text(good).replace('create: ()', 'create: async ()');
  const later = loadFixture('classifier', { handlerPath: await file('handler.ts', slow) });
  await expect(later).rejects.toThrow('it must not be async');
});

test('golden cases that hold let a model in; one that does not says where and what', async () => {
  const inputs = { x: [1, 2, 3, 4] };
  const y = [2, 4, 6, 8];
  const good = await golden([{ inputs, data: { x: [1, 2, 3, 4] }, outputs: { y } }, { data: inputs }]);
  await expect(loadFixture('no_batch', { goldenPath: good })).resolves.toBeDefined();
  const near = await golden([{ inputs, outputs: { y: [2.01, 4, 6, 8] } }], 0.02);
  await expect(loadFixture('no_batch', { goldenPath: near })).resolves.toBeDefined();
  const refused: [unknown, string][] = [
    [
      [{ inputs, outputs: { y: [2, 4, 6, 9] } }],
      'cases[0].outputs.y[3]: expected 9, got 8 (tolerance 0.0001)',
    ],
    [[{ inputs, outputs: { y, z: 1 } }], 'cases[0].outputs.z: expected 1, got null'],
    [[{ inputs }, { data: { x: [1] } }], 'cases[1]: x: must be an array of 4, got 1 elements'],
    [[{ inputs: { x: 1 } }], 'cases[0]: x: must be an array of 4, got 1'],
    [
      [{ inputs, data: { x: [1, 2, 3, 5] } }],
      'cases[0].inputs.x (from data)[3]: expected 4, got 5 (tolerance 0.0001)',
    ],
    [[{ outputs: { y } }], 'cases[0]: must hold data or inputs'],
    [[], 'cases: must be a list of at least one case'],
  ];
  for (const [cases, message] of refused) {
    const goldenPath = await golden(cases);
    await expect(loadFixture('no_batch', { goldenPath })).rejects.toThrow(`golden.json: ${message}`);
  }
  const goldenPath = await file('golden.json', '{');
  await expect(loadFixture('no_batch', { goldenPath })).rejects.toThrow(/^golden\.json: /);
});
