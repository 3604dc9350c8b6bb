import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { scanModels } from '../src/repository/repository.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'subito-repository-'));
});
afterEach(() => rmSync(root, { recursive: true }));

/** A model directory; the files by their paths in it. */
function model(name: string, files: Record<string, string>): void {
  for (const [path, text] of Object.entries(files)) {
    const full = join(root, name, path);
    mkdirSync(join(full, '..'), { recursive: true });
    writeFileSync(full, text);
  }
}

const scan = (batchRowsMax = 1024) => scanModels(root, { batchRowsMax });

/** What is wrong with one manifest. */
function problemOf(yaml: string): string {
  model('m', { '1/model.onnx': '', 'model.yaml': yaml });
  const { specs, problems } = scan();
  expect(specs).toEqual([]);
  expect(problems).toMatchObject([{ model: 'm' }]);
  const { message } = problems[0]!;
  expect(message).toContain(join(root, 'm', 'model.yaml: '));
  return message.slice(join(root, 'm', 'model.yaml: ').length);
}

test('a directory with a version needs no manifest; the highest whole number is served', () => {
  model('plain', {
    '1/model.onnx': '',
    '2/other': '',
    '10/model.onnx': '',
    '9/model.onnx': '',
    '011/model.onnx': '',
  });
  const dir = join(root, 'plain');
  expect(scan()).toEqual({
    problems: [],
    specs: [
      {
        slot: 0,
        name: 'plain',
        version: 10,
        dir,
        onnxPath: join(dir, '10', 'model.onnx'),
        handlerPath: null,
        goldenPath: null,
        rowsMax: 256,
        runMsMax: null,
        providers: null,
        session: {},
        deadlineMs: null,
        record: false,
        latestOnly: false,
        description: '',
        inputs: [],
        outputs: [],
      },
    ],
  });
});

test('a manifest says the rest', () => {
  model('genre', {
    '1/model.onnx': '',
    '2/model.onnx': '',
    'handler.ts': '',
    'golden.json': '',
    'labels.json': '["edm", "pop"]',
    'model.yaml': `
name: genre
description: Genre of a track.
inputs:
  - name: features
    dtype: float32
    shape: [2]
    fields: [energy, { name: tempo, default: 120, dtype: int16 }]
    finite: true
  - name: other
outputs:
  - { name: probabilities, labels: labels.json }
  - { name: top, labels: [a, b] }
  - name: plain
batch: { max: 2000 }
deadline_ms: 50
record: true
serve: { stable: 1 }`,
  });
  const [spec] = scan(512).specs;
  expect(spec).toMatchObject({
    version: 1,
    handlerPath: join(root, 'genre', 'handler.ts'),
    goldenPath: join(root, 'genre', 'golden.json'),
    rowsMax: 512,
    deadlineMs: 50,
    record: true,
    description: 'Genre of a track.',
    inputs: [
      {
        name: 'features',
        dtype: 'float32',
        shape: [2],
        fields: [
          { name: 'energy', dtype: null, default: undefined },
          { name: 'tempo', dtype: 'int16', default: 120 },
        ],
        finite: true,
      },
      { name: 'other', dtype: null, shape: null, fields: [], finite: false },
    ],
    outputs: [
      { name: 'probabilities', labels: ['edm', 'pop'] },
      { name: 'top', labels: ['a', 'b'] },
      { name: 'plain', labels: [] },
    ],
  });
});

test('a manifest says what its model runs on, and how', () => {
  model('m', {
    '1/model.onnx': '',
    'model.yaml': `
batch: { run_ms: 7.5 }
providers:
  - { name: cuda, device_id: [0, 2], sessions: 3 }
  - { name: webgpu, options: { preferredLayout: NCHW } }
  - cpu
session:
  intra_op_threads: 3
  affinity: "1,2;3-4"
  optimization: basic
  spinning: true
  config: { session.set_denormal_as_zero: "1" }`,
  });
  expect(scan()).toMatchObject({ problems: [] });
  expect(scan().specs[0]).toMatchObject({
    runMsMax: 7.5,
    providers: [
      { name: 'cuda', deviceIds: [0, 2], sessions: 3, options: {} },
      { name: 'webgpu', deviceIds: [], sessions: null, options: { preferredLayout: 'NCHW' } },
      'cpu',
    ],
    session: {
      intraOpThreads: 3,
      affinity: '1,2;3-4',
      optimization: 'basic',
      spinning: true,
      config: { 'session.set_denormal_as_zero': '1' },
    },
  });
});

test('an empty manifest says nothing', () => {
  model('m', { '1/model.onnx': '', 'model.yaml': '# later\n' });
  expect(scan()).toMatchObject({ problems: [], specs: [{ name: 'm', rowsMax: 256 }] });
});

test('a broken model never stops the others; slots have no gaps', () => {
  model('a', { '1/model.onnx': '' });
  model('b', { 'model.yaml': 'name: b' });
  model('c d', { '1/model.onnx': '' });
  model('.hidden', { '1/model.onnx': '' });
  model('e', { '1/model.onnx': '' });
  symlinkSync(join(root, 'e'), join(root, 'f'));
  writeFileSync(join(root, 'README.md'), '');
  const { specs, problems } = scan();
  expect(specs.map(({ name, slot }) => [name, slot])).toEqual([
    ['a', 0],
    ['e', 1],
    ['f', 2],
  ]);
  expect(problems).toEqual([
    {
      model: 'b',
      message: `${join(root, 'b')}: no version; put the model at ${join(root, 'b', '1', 'model.onnx')}`,
    },
    { model: 'c d', message: expect.stringContaining('"c d" cannot name a model; use letters, digits') },
  ]);
});

test('a path that is no directory', () => {
  expect(() => scanModels(join(root, 'none'), { batchRowsMax: 1 })).toThrow(
    expect.objectContaining({ code: 'MODEL_INVALID', message: `${join(root, 'none')}: not a directory` }),
  );
});

const wrong: [yaml: string, message: string][] = [
  ['nmae: m', 'nmae: unknown key; did you mean name?'],
  ['name: other', 'name = other: the directory is m; give both the same name'],
  ['batch: { max: 0 }', 'batch.max = 0: not a value it can take; use a whole number from 1 to 65536'],
  [
    'deadline_ms: soon',
    'deadline_ms = "soon": not a value it can take; use a whole number from 1 to 3600000',
  ],
  ['record: 1', 'record = 1: not a value it can take; use true or false'],
  ['[]', 'the file = []: not a value it can take; use'],
  [
    'inputs: [{ dtype: float32 }]',
    'inputs[0].name = missing: not a value it can take; use the name of a tensor',
  ],
  [
    'inputs: [{ name: x, dtype: float }]',
    'inputs[0].dtype = "float": not a value it can take; use one of float32',
  ],
  [
    'inputs: [{ name: x, shape: [-1] }]',
    'inputs[0].shape[0] = -1: not a value it can take; use a whole number',
  ],
  [
    'inputs: [{ name: x, shape: 12 }]',
    'inputs[0].shape = 12: not a value it can take; use the whole numbers of',
  ],
  ['inputs: [{ name: x, feilds: [a] }]', 'inputs[0].feilds: unknown key; did you mean fields?'],
  [
    'inputs: [{ name: x, fields: [7] }]',
    'inputs[0].fields[0] = 7: not a value it can take; use a field name, or',
  ],
  [
    'inputs: [{ name: x, fields: [{ name: a, defualt: 1 }] }]',
    'inputs[0].fields[0].defualt: unknown key; did you mean default?',
  ],
  [
    'outputs: [{ name: y, labels: 7 }]',
    'outputs[0].labels = 7: not a value it can take; use a list of texts, or',
  ],
  ['outputs: [{ name: y, labels: none.json }]', 'outputs y: labels = none.json: ENOENT'],
  ['outputs: [{ name: y, labels: ../x.json }]', 'outputs y: labels = ../x.json: must lie beside model.yaml'],
  ['batch: { run_ms: 0 }', 'batch.run_ms = 0: not a value it can take; use milliseconds, from 0.01 to 60000'],
  ['batch: { runms: 5 }', 'batch.runms: unknown key; did you mean run_ms?'],
  ['providers: cuda', 'providers = "cuda": not a value it can take; use a list of cpu, cuda'],
  ['providers: [gpu]', 'providers[0] = "gpu": not a value it can take; use'],
  ['providers: [cuda, cuda]', 'providers[1] = "cuda": named twice; name each once; device_id takes a list'],
  [
    'providers: [{ name: webgpu, device_id: 1 }]',
    'providers[0].device_id = 1: webgpu has no choice of devices;',
  ],
  [
    'providers: [{ name: cuda, cudnn_conv_algo_search: HEURISTIC }]',
    'providers[0].cudnn_conv_algo_search = "HEURISTIC": onnxruntime-node 1.30 hands cuda nothing but',
  ],
  [
    'session: { intra_op_threads: 0 }',
    'session.intra_op_threads = 0: not a value it can take; use a whole number',
  ],
  [
    'session: { execution: both }',
    'session.execution = "both": not a value it can take; use one of sequential,',
  ],
  [
    'session: { optimization: most }',
    'session.optimization = "most": not a value it can take; use one of disabled,',
  ],
  ['session: { cpu_area: true }', 'session.cpu_area: unknown key; did you mean cpu_arena?'],
  [
    'session: { affinity: all }',
    'session.affinity = "all": not a value it can take; use processors of each thread',
  ],
  [
    'session: { intra_op_threads: 2, affinity: "1;2" }',
    'session.affinity = "1;2": 1 of session.intra_op_threads = 2 are ONNX Runtime\'s own threads;',
  ],
  ['session: { config: { "session.x": 1 } }', 'session.config.session.x = 1: not a value it can take; use'],
  ['serve: { stable: 3 }', 'serve.stable = 3: no such version; use 1'],
  ['serve: { stable: newest }', 'serve.stable = "newest": not a value it can take; use'],
  ['serve: { canary: { version: 3, percent: 5 } }', 'serve.canary: not supported by this version; remove it'],
  ['serve: { shadow: [4] }', 'serve.shadow: not supported by this version; remove it'],
  ['degrade: next', 'degrade = "next": not a value it can take; use a list of previous, last_known'],
  ['degrade: [next]', 'degrade[0] = "next": not a value it can take; use previous, last_known or {constant'],
  ['degrade: [{ last_known: { ages_ms: 1 } }]', 'degrade[0].last_known.ages_ms: unknown key'],
  ['degrade: [last_known, last_known]', 'degrade[1] = last_known: it is in the list before; name it once'],
  [
    'degrade: [{ constant: {} }, previous]',
    'degrade[0] = constant: what follows it is never reached; put it',
  ],
  ['breaker: { probe: 1 }', 'breaker.probe: unknown key; did you mean probes?'],
  ['breaker: { failure_rate: 50 }', 'breaker.failure_rate = 50: not a value it can take; use a share from'],
  ['breaker: { open_ms_min: 3000 }', 'breaker: open_ms_min (3000) is more than open_ms_max (2000); lower'],
  ['name: [', 'Flow sequence'],
];

test.each(wrong)('%s', (yaml, message) => {
  expect(problemOf(yaml)).toContain(message);
});

test('several mistakes are told at once', () => {
  expect(problemOf('record: 1\ndeadline_ms: -1\nlabels: []').split('\n')).toHaveLength(3);
});
