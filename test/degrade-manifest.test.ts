// `degrade` and `breaker` of a manifest: what the repository makes of them, and how they are checked against
// the models that were loaded.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { unpack } from 'msgpackr';
import { afterEach, expect, test } from 'vitest';
import { encodeConstant } from '../src/engine/constant.ts';
import { guardModels } from '../src/engine/guarded.ts';
import type { FieldSpec } from '../src/infer/handler.ts';
import type { LoadedModel, ModelProblem, ModelSpec } from '../src/infer/protocol.ts';
import { scanModels } from '../src/repository/repository.ts';
import type { TensorSpec } from '../src/schedule/slab.ts';
import { tensor } from './support/batches.ts';

const roots: string[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true });
});

function scan(models: Record<string, { versions: readonly number[]; manifest: string }>): ModelSpec[] {
  const root = mkdtempSync(join(tmpdir(), 'subito-degrade-'));
  roots.push(root);
  for (const [name, { versions, manifest }] of Object.entries(models)) {
    for (const version of versions) {
      mkdirSync(join(root, name, String(version)), { recursive: true });
      writeFileSync(join(root, name, String(version), 'model.onnx'), '');
    }
    writeFileSync(join(root, name, 'model.yaml'), manifest);
  }
  const { specs, problems } = scanModels(root, { batchRowsMax: 256 });
  expect(problems).toEqual([]);
  return [...specs];
}

test('the manifest’s rungs in their order; defaults where it says no more', () => {
  const manifest = `
degrade: [last_known, previous, { constant: { y: 1 } }]
breaker: { consecutive: 3, open_ms_max: 900 }`;
  const [spec] = scan({ m: { versions: [1], manifest } });
  expect(spec?.degrade).toEqual([
    { kind: 'last_known', entriesMax: 100_000, bytesMax: 67_108_864, ageMsMax: 600_000 },
    { kind: 'previous' },
    { kind: 'constant', outputs: { y: 1 } },
  ]);
  expect(spec?.breaker).toEqual({ consecutive: 3, openMsMax: 900 });
  const own = 'degrade: [{ last_known: { entries: 5, age_ms: 70 } }]';
  expect(scan({ m: { versions: [1], manifest: own } })[0]?.degrade).toEqual([
    { kind: 'last_known', entriesMax: 5, bytesMax: 67_108_864, ageMsMax: 70 },
  ]);
});

test('the version before is there only where it is asked for, behind all that are served', () => {
  const asks = 'degrade: [previous]\nserve: { stable: 9 }';
  const specs = scan({
    a: { versions: [1, 3, 9, 12], manifest: asks },
    b: { versions: [1, 2], manifest: '' },
    c: { versions: [1], manifest: 'degrade: [previous]' },
  });
  expect(specs.map(({ slot, name, version }) => [slot, name, version])).toEqual([
    [0, 'a', 9],
    [1, 'b', 2],
    [2, 'c', 1],
    [3, 'a', 3],
  ]);
  expect(specs.map(({ previous, previousOf }) => [previous, previousOf])).toEqual([
    [{ slot: 3, version: 3 }, undefined],
    [undefined, undefined],
    [undefined, undefined],
    [undefined, 0],
  ]);
  expect(specs[3]?.onnxPath).toMatch(/a\/3\/model\.onnx$/);
  expect(specs[3]?.degrade).toBeUndefined();
});

function found(slot: number, inputs: readonly TensorSpec[], outputs: readonly TensorSpec[]): LoadedModel {
  const predicts = outputs.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const profile = { provider: 'cpu', buckets: [] } as const;
  return { slot, inputs, outputs, batched: true, fields: [], predicts, provider: 'cpu', profile };
}

const X = [tensor('x', 3)];
const Y = [tensor('y', 1)];
const LIMITS = { slabArenaBytes: 1024 };
const guard = (specs: readonly ModelSpec[], loaded: readonly LoadedModel[], problems: ModelProblem[] = []) =>
  guardModels(specs, { loaded, problems }, LIMITS);

test('a model with a version to fall back to: only the newer one takes traffic', () => {
  const specs = scan({ m: { versions: [1, 2], manifest: 'degrade: [previous, last_known]' } });
  const { loaded, problems, guarded, lacking } = guard(specs, [found(0, X, Y), found(1, X, Y)]);
  expect([loaded.map(({ slot }) => slot), problems, lacking]).toEqual([[0], [], []]);
  const said = guarded.map(({ label, ladder, enforced }) => [label, ladder.text, enforced]);
  expect(said).toEqual([
    ['m@2', 'm@1, last_known', true],
    ['m@1', '', true],
  ]);
});

test('a breaker refuses batches only where the manifest asks for it', () => {
  const versions = [1];
  const specs = scan({ a: { versions, manifest: '' }, b: { versions, manifest: 'breaker: {}' } });
  const { guarded } = guard(specs, [found(0, X, Y), found(1, X, Y)]);
  expect(guarded.map(({ enforced, settings }) => [enforced, settings.probes])).toEqual([
    [false, 3],
    [true, 3],
  ]);
});

test.each([
  ['inputs', [tensor('x', 4)], Y, /: its inputs are x float32\[4\], not x float32\[3\]; remove previous/],
  ['outputs', X, [tensor('y', 99)], /: its outputs are y float32\[99\], not y float32\[1\], and a batch's/],
])('a version with other %s cannot be fallen back to: the model is not served, and says why', (...given) => {
  const [, inputs, outputs, why] = given;
  const specs = scan({ m: { versions: [1, 2], manifest: 'degrade: [previous]' } });
  const { loaded, problems } = guard(specs, [found(0, X, Y), found(1, inputs, outputs)]);
  expect(loaded).toEqual([]);
  expect(problems).toEqual([{ model: 'm@2', message: expect.stringMatching(why) }]);
  expect(problems[0]?.message).toMatch(/model\.yaml: degrade: previous: m@1 cannot run what m@2 takes/);
});

test('a version before that does not load is no problem of the model: it lacks a rung, and says so', () => {
  const specs = scan({ m: { versions: [1, 2], manifest: 'degrade: [previous, last_known]' } });
  const { loaded, problems, guarded, lacking } = guard(
    specs,
    [found(0, X, Y)],
    [{ model: 'm@1', message: 'model.onnx: broken', lacksProvider: true }],
  );
  expect([loaded.length, problems]).toEqual([1, []]);
  expect(lacking).toEqual(['m@2 cannot fall back to m@1: model.onnx: broken']);
  expect(guarded[0]?.ladder.text).toBe('last_known');
});

const FLOATS: FieldSpec = { name: 'p', dtype: 'float32', shape: [3] };
const LABELS = [{ name: 'p', labels: ['a', 'b', 'c'] }];

test('a constant is encoded as the model would have', () => {
  const given = { p: [0.5, 1, 0], n: 7, t: 'hello', ok: true };
  const predicts: FieldSpec[] = [
    FLOATS,
    { name: 'n', dtype: 'int64', shape: [] },
    { name: 't', dtype: 'string', shape: [] },
    { name: 'ok', dtype: 'bool', shape: [] },
  ];
  const plain = encodeConstant(given, predicts, []);
  expect(unpack(plain.msgpack)).toEqual(given);
  expect(JSON.parse(String(plain.json))).toEqual(given);
  const labelled = { p: { a: 0.5, b: 1, c: 0 } };
  for (const p of [[0.5, 1, 0], { c: 0, a: 0.5, b: 1 }]) {
    expect(String(encodeConstant({ p }, [FLOATS], LABELS).json)).toBe(JSON.stringify(labelled));
  }
  // A handler that says nothing of what it predicts.
  expect(String(encodeConstant({ any: ['thing'] }, [], []).json)).toBe('{"any":["thing"]}');
});

test.each<[unknown, FieldSpec, string]>([
  [{}, FLOATS, 'constant.p: missing; the model predicts p: give a value for each'],
  [{ p: [1, 2, 3], q: 1 }, FLOATS, 'constant.q: the model has no such output; did you mean p?'],
  [{ p: 1 }, FLOATS, 'constant.p: must be a list of 3, got 1'],
  [{ p: [1, 2] }, FLOATS, 'constant.p: must be a list of 3, got [1,2]'],
  [{ p: [1, 'x', 3] }, FLOATS, 'constant.p[1]: must be a number (float32), got "x"'],
  [
    { p: 1.5 },
    { ...FLOATS, dtype: 'int32', shape: [] },
    'constant.p: must be a whole number (int32), got 1.5',
  ],
  [{ p: 1 }, { ...FLOATS, dtype: 'bool', shape: [] }, 'constant.p: must be true or false (bool), got 1'],
  [{ p: 1 }, { ...FLOATS, dtype: 'string', shape: [] }, 'constant.p: must be a text (string), got 1'],
])('%j is refused', (given, spec, message) => {
  expect(() => encodeConstant(given as Record<string, unknown>, [spec], [])).toThrow(message);
});

test.each<[unknown, FieldSpec['dtype'], string]>([
  [[1, 2], 'float32', 'must be a list of 3'],
  [{ a: 1, b: 2 }, 'float32', 'constant.p: c: missing, or no number; give one per label'],
  [{ a: 1, b: 2, c: 3, d: 4 }, 'float32', 'constant.p: d: is none of its labels; remove it'],
  ['d', 'string', 'constant.p: "d" is none of its labels'],
])('with labels, %j is refused', (p, dtype, message) => {
  const spec = { name: 'p', dtype, shape: dtype === 'string' ? [] : [3] };
  expect(() => encodeConstant({ p }, [spec], LABELS)).toThrow(message);
});
