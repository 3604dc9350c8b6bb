// Batches on a provider that pays for each new shape: run at the size of a bucket, with nothing of the rows
// that pad to be seen. The provider is played by the CPU.
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pack } from 'msgpackr';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadModel } from '../src/infer/load.ts';
import type { Model } from '../src/infer/model.ts';
import type { ModelSpec } from '../src/infer/protocol.ts';
import { fixture, modelsPath, placeRows, readRows, runRows } from './support/models.ts';
import { Random } from './support/random.ts';
import { open, standInRuns } from './support/stand-in-provider.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'subito-padding-'));
});
afterAll(() => rm(dir, { recursive: true }));

/** The fixture on a provider that is padded for, and where its runs are noted. */
async function padded(
  name: string,
  changes: Partial<ModelSpec> = {},
): Promise<{ model: Model; sizes: () => number[] }> {
  const place = join(dir, name);
  await rm(place, { recursive: true, force: true });
  await cp(join(modelsPath, name), place, { recursive: true });
  const spec = fixture(name, { onnxPath: join(place, '1', 'model.onnx'), rowsMax: 24, ...changes });
  const { model } = await loadModel(spec, ['cuda'], 16_384, null, { open });
  const runs = () => standInRuns(join(place, '1')).filter(({ what }) => what === 'run');
  const before = runs().length;
  return {
    model,
    sizes: () =>
      runs()
        .slice(before)
        .map(({ rows }) => rows),
  };
}

const numbers = (...x: number[]) => ({ data: pack({ x }) });

test('batches run at the size of a bucket, and each row gets its own outputs', async () => {
  const { model, sizes } = await padded('same_float32');
  const slab = model.scratch();
  // Down and up again: what an earlier, larger batch left behind must not come back.
  for (const count of [5, 24, 3, 1, 17, 8, 2, 9]) {
    const rows = Array.from({ length: count }, (_, i) => numbers(count, i, 0.5));
    const outcomes = await runRows(model, rows, slab);
    expect(outcomes.map((one) => one.status === 'ok' && one.outputs)).toEqual(
      Array.from({ length: count }, (_, i) => ({ y: [count, i, 0.5] })),
    );
  }
  expect(sizes()).toEqual([8, 24, 4, 1, 24, 8, 2, 16]);
});

test('rows beside the batch are left as they are', async () => {
  const { model, sizes } = await padded('same_float32');
  const slab = model.scratch();
  const [input] = slab.inputs as [Float32Array];
  const output = slab.columns[0]!.region as Float32Array;
  input.fill(7);
  output.fill(9);
  placeRows(slab, model, [numbers(1, 2, 3), numbers(4, 5, 6), numbers(7, 8, 9)], 2);
  const { spill } = await model.runSlab(slab, 2, 3);
  expect(readRows(slab, spill, 3, 2)).toMatchObject([{ status: 'ok' }, { status: 'ok' }, { status: 'ok' }]);
  expect(sizes()).toEqual([4]);
  const beside = [...input.slice(0, 6), ...input.slice(15)];
  expect(new Set(beside)).toEqual(new Set([7]));
  expect(new Set([...output.slice(0, 6), ...output.slice(15)])).toEqual(new Set([9]));
  expect([...output.slice(6, 15)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('a row that the graph did not take does not come back in the padding of the next batch', async () => {
  const { model, sizes } = await padded('same_float32');
  const slab = model.scratch();
  const first = await runRows(
    model,
    [1, 2, 3, 4, 5, 666, 7].map((x) => numbers(x, 0, 0)),
    slab,
  );
  expect(first.map(({ status }) => status)).toEqual(['ok', 'ok', 'ok', 'ok', 'ok', 'failed', 'ok']);
  const before = sizes().length;
  const second = await runRows(
    model,
    [1, 2, 3, 4, 5].map((x) => numbers(x, 0, 0)),
    slab,
  );
  expect(second.map(({ status }) => status)).toEqual(Array(5).fill('ok'));
  // At once: had the row come back, each would have run alone.
  expect(sizes().slice(before)).toEqual([8]);
});

test('text, several inputs, and outputs that ONNX Runtime allocates', async () => {
  const text = await padded('same_string');
  const slab = text.model.scratch();
  for (const words of [
    ['a', 'b', 'c'],
    ['d', 'e', 'f'],
  ]) {
    const events = words.map((word) => ({ data: pack({ x: [word, `${word}2`, ''] }) }));
    expect(await runRows(text.model, events, slab)).toMatchObject(
      words.map((word) => ({ outputs: { y: [word, `${word}2`, ''] } })),
    );
  }
  expect(text.sizes()).toEqual([4, 4]);
  const mixed = await padded('mixed');
  const events = [0, 1, 2, 3, 4].map((n) => ({ data: pack({ x: [n, 1], n, flag: n === 3 }) }));
  expect(await runRows(mixed.model, events)).toMatchObject(
    [1, 12, 23, 134, 45].map((score) => ({ outputs: { score } })),
  );
  expect(mixed.sizes()).toEqual([8]);
});

test('the same as without padding, for any number of rows', async () => {
  const random = new Random(5);
  const { model } = await padded('classifier');
  const { model: plain } = await loadModel(fixture('classifier', { rowsMax: 24 }), ['cpu'], 16_384);
  const [input] = model.parts.loaded.inputs;
  for (let round = 0; round < 60; round++) {
    const rows = Array.from({ length: random.int(1, 24) }, () => {
      const values = Array.from({ length: input!.elements }, () => random.next() * 4 - 2);
      return { data: pack({ [input!.name]: values }) };
    });
    const [one, other] = [await runRows(model, rows), await runRows(plain, rows)];
    expect(one.map((row) => row.status === 'ok' && row.outputs)).toEqual(
      other.map((row) => row.status === 'ok' && row.outputs),
    );
  }
});

test('a graph that takes one row at a time is not padded', async () => {
  const { model, sizes } = await padded('no_batch');
  await runRows(
    model,
    [1, 2, 3].map((x) => ({ data: pack({ x: [x, 0, 0, 0] }) })),
  );
  expect(sizes()).toHaveLength(3);
});
