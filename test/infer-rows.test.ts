// Rows that are wrong beside rows that are right; slabs that are used again; predictions that do not fit.
import { pack } from 'msgpackr';
import { expect, test, vi } from 'vitest';
import type { Model } from '../src/infer/model.ts';
import { type GivenRow, loadFixture, manifestInput, placeRows, readRows, runRows } from './support/models.ts';
import { Random } from './support/random.ts';

const named = {
  inputs: [
    manifestInput('features', {
      finite: true,
      fields: [
        { name: 'energy', dtype: null, default: undefined },
        { name: 'tempo', dtype: null, default: 120 },
        { name: 'year', dtype: 'int16' as const, default: undefined },
        { name: 'explicit', dtype: 'bool' as const, default: false },
      ],
    }),
  ],
  outputs: [{ name: 'top', labels: ['edm', 'pop', 'rock'] }],
};

async function outcomesBeside(model: Model, bad: readonly GivenRow[], good: GivenRow): Promise<unknown[]> {
  const rows = bad.flatMap((row) => [good, row, good]);
  const outcomes: unknown[] = [];
  for (let i = 0; i < rows.length; i += 6) outcomes.push(...(await runRows(model, rows.slice(i, i + 6))));
  const [first] = outcomes;
  expect(first).toMatchObject({ status: 'ok' });
  outcomes.forEach((outcome, i) => {
    if (i % 3 !== 1) expect(outcome).toEqual(first);
  });
  return outcomes.filter((_, i) => i % 3 === 1);
}

test('named fields: order, defaults, types; each wrong event stays alone', async () => {
  const model = await loadFixture('classifier', named);
  expect(model.parts.loaded.fields).toEqual([
    { name: 'energy', dtype: 'float32', shape: [] },
    { name: 'tempo', dtype: 'float32', shape: [], default: 120 },
    { name: 'year', dtype: 'int16', shape: [] },
    { name: 'explicit', dtype: 'bool', shape: [], default: false },
  ]);
  const features = new Uint8Array(new Float32Array([0.5, 120, 1999, 0]).buffer);
  const same = await runRows(model, [
    { data: pack({ energy: 0.5, year: 1999 }) },
    { data: pack({ explicit: false, year: 1999, tempo: null, energy: 0.5 }) },
    { data: Buffer.from(' {"year":1999,"energy":0.5}') },
    { data: Buffer.from('\ufeff{"year":1999,"energy":0.5}') },
    { features },
  ]);
  for (const outcome of same) expect(outcome).toEqual(same[0]);
  expect(same[0]).toMatchObject({ outputs: { top: ['rock', 'pop'] } });

  const sent = (data: unknown): GivenRow => ({ data: pack(data) });
  const text = (data: string): GivenRow => ({ data: Buffer.from(data) });
  const features1 = new Uint8Array(new Float32Array([0.5, Number.NaN, 1999, 0]).buffer);
  const wrong: [GivenRow, string | RegExp][] = [
    [sent({ energy: 1 }), 'year: is missing; it must be a whole number from -32768 to 32767'],
    [sent({ energy: 1, year: 1, tempoo: 1 }), 'tempoo: is not a field of this model; did you mean tempo?'],
    [sent({ energy: 1, year: 1, mood: 1 }), 'mood: is not a field of this model'],
    [sent({ energy: '1', year: 1 }), 'energy: must be a number, got "1"'],
    [sent({ energy: 1, year: 1.5 }), 'year: must be a whole number from -32768 to 32767, got 1.5'],
    [sent({ energy: 1, year: 1, explicit: 'no' }), 'explicit: must be true or false, got "no"'],
    [sent({ energy: Number.NaN, year: 1 }), 'energy: must be finite, got NaN'],
    [sent({ energy: 1e39, year: 1 }), 'energy: must be finite, got Infinity'],
    [{ features: features1 }, 'tempo: must be finite, got NaN'],
    [sent([1, 2]), 'data: must be a map of named fields'],
    [sent('energy'), 'data: must be a map of named fields'],
    [text('[1]'), 'data: must be a map of named fields'],
    [text('{"energy":1,"year":1'), /^data: .*JSON/],
    [text('{"energy":1,"year":1,"__proto__":{"x":1}}'), '__proto__: is not a field of this model'],
    [text('{"energy":1,"year":1,"constructor":1}'), 'constructor: is not a field of this model'],
    [{ data: Buffer.from('{"energy":1,"year":1,"\xe9":1}', 'latin1') }, 'data: holds text that is not UTF-8'],
    [{ data: Buffer.from('\xef{"energy":1,"year":1}', 'latin1') }, 'data: holds text that is not UTF-8'],
    [{ data: new Uint8Array(0) }, 'data: must be a map of named fields, got nothing'],
    [{ data: pack({ energy: 1, year: 1 }).subarray(0, 12) }, 'data: ends in the middle of a value'],
    [
      { data: Buffer.concat([pack({ energy: 1, year: 1 }), pack(1)]) },
      'data: something follows the end of the map',
    ],
    [{ data: Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff]) }, 'data: ends in the middle of a value'],
    [{ data: Buffer.from([0x81, 0x01, 0x01]) }, 'data: a key must be a string'],
    [{ data: Buffer.from([0x81, 0xa1, 0x61, 0xc1]) }, 'data: byte 0xc1 begins no value that is accepted'],
    [{ data: Buffer.from([0x81, 0xa1, 0x61, 0xd4, 0x72, 0x40]) }, /^data: byte 0xd4 begins no value/],
  ];
  const details = await outcomesBeside(
    model,
    wrong.map(([row]) => row),
    same.length > 0 ? { features } : {},
  );
  details.forEach((outcome, i) => {
    const detail = wrong[i]![1];
    const expected = typeof detail === 'string' ? detail : expect.stringMatching(detail);
    expect(outcome).toEqual({ status: 'invalid', detail: expected });
  });
});

test('arrays: flat, nested, raw; each wrong shape is named', async () => {
  const model = await loadFixture('no_batch', { inputs: [manifestInput('x', { finite: true })] });
  const good = { data: pack({ x: [1, 2, 3, 4] }) };
  const wrong: [unknown, string][] = [
    [{ x: [1, 2, 3] }, 'x: must be an array of 4, got 3 elements'],
    [{ x: 5 }, 'x: must be an array of 4, got 5'],
    [{ x: [1, 2, [3], 4] }, 'x[2]: must be a number, got an array'],
    [{ x: [1, 2, 3, Number.POSITIVE_INFINITY] }, 'x[3]: must be finite, got Infinity'],
    [{ x: Buffer.alloc(15) }, 'x: must be 16 bytes (an array of 4), got 15'],
    [{ x: { 0: 1 } }, 'x: must be an array of 4, got a map'],
    [{}, 'x: is missing; it must be an array of 4'],
  ];
  const details = await outcomesBeside(
    model,
    wrong.map(([data]) => ({ data: pack(data) })),
    good,
  );
  expect(details).toEqual(wrong.map(([, detail]) => ({ status: 'invalid', detail })));
  const fixed = await loadFixture('fixed_one');
  const outcomes = await runRows(fixed, [
    { data: pack({ x: [[1, 2, 3, 4]] }) },
    { data: pack({ x: [1, 2, 3, 4] }) },
    { data: pack({ x: [[1, 2, 3]] }) },
    { data: pack({ x: [[1, 2, [3], 4]] }) },
    { data: pack({ x: [[1], 2] }) },
  ]);
  expect(outcomes).toEqual([
    expect.objectContaining({ outputs: { y: [[2, 4, 6, 8]] } }),
    expect.objectContaining({ outputs: { y: [[2, 4, 6, 8]] } }),
    { status: 'invalid', detail: 'x[0]: must be an array of 4, got 3 elements' },
    { status: 'invalid', detail: 'x[0][2]: must be a number, got an array' },
    { status: 'invalid', detail: 'x: must be an array of 1, got 2 elements' },
  ]);
});

test('nesting without end is refused, not followed', async () => {
  const model = await loadFixture('no_batch', {}, 200_000);
  const deep = Buffer.alloc(65_000, 0x91);
  deep.set([0x81, 0xa1, 0x78]);
  const maps = Buffer.concat([
    Buffer.from([0x81, 0xa1, 0x78]),
    Buffer.alloc(60_000, Buffer.from([0x81, 0xa0])),
  ]);
  const json = Buffer.from(`{"x":${'['.repeat(30_000)}${']'.repeat(30_000)}}`);
  const outcomes = await runRows(model, [{ data: deep }, { data: maps }, { data: json }]);
  expect(outcomes).toEqual([
    { status: 'invalid', detail: 'data: nested deeper than 32 levels' },
    { status: 'invalid', detail: 'data: nested deeper than 32 levels' },
    { status: 'invalid', detail: 'x: must be an array of 4, got 1 elements' },
  ]);
});

test('bytes at random never do more than make their own row invalid', async () => {
  const random = new Random(7);
  const model = await loadFixture('mixed', { rowsMax: 64 });
  const slab = model.scratch();
  const good = pack({ x: [1, 2], n: 5, flag: true });
  for (let round = 0; round < 40; round++) {
    const rows = Array.from({ length: 64 }, (_, i): GivenRow => {
      if (i % 2 === 0) return { data: good };
      const data = Buffer.from(i % 4 === 1 ? good : '{"x":[1,2],"n":5,"flag":true}');
      for (let k = 0; k < 3; k++)
        data[Math.floor(random.next() * data.length)] = Math.floor(random.next() * 256);
      return { data, json: i % 8 === 1 };
    });
    const outcomes = await runRows(model, rows, slab);
    outcomes.forEach((outcome, i) => {
      if (i % 2 === 0) expect(outcome).toMatchObject({ status: 'ok', outputs: { score: 153 } });
      else expect(['ok', 'invalid']).toContain(outcome.status);
    });
  }
});

test('a row on which the model throws fails alone, with the reason', async () => {
  const model = await loadFixture('gather');
  const outcomes = await runRows(model, [
    { data: pack({ index: 1 }) },
    { data: pack({ index: 9 }) },
    { data: pack({ index: 3 }) },
    { data: pack({ index: 'two' }) },
  ]);
  expect(outcomes).toEqual([
    expect.objectContaining({ outputs: { y: [2, 3] } }),
    { status: 'failed', detail: expect.stringContaining('idx=9 must be within the inclusive range [-4,3]') },
    expect.objectContaining({ outputs: { y: [6, 7] } }),
    { status: 'invalid', detail: expect.stringContaining('index: must be a whole number') },
  ]);
});

test('a detail has at most 500 bytes and ends between characters', async () => {
  const model = await loadFixture('classifier', {
    inputs: [
      manifestInput('features', {
        fields: ['a', 'b', 'c', '音'.repeat(128)].map((name) => ({ name, dtype: null, default: undefined })),
      }),
    ],
  });
  const [outcome] = await runRows(model, [
    { data: pack({ a: 1, b: 1, c: 1, ['音'.repeat(128)]: '楽'.repeat(99) }) },
  ]);
  const detail = (outcome as { detail: string }).detail;
  expect(Buffer.byteLength(detail)).toBeLessThanOrEqual(500);
  expect(detail).toContain('must be a number');
  expect(detail).not.toContain('\uFFFD');
});

test('a slab used again remembers nothing of the last batch', async () => {
  const model = await loadFixture('classifier', named);
  const slab = model.scratch();
  const row = (energy: number): GivenRow => ({ data: pack({ energy, year: 1, tempo: 1 }) });
  const once = await runRows(model, [row(5)]);
  for (let i = 0; i < 3; i++) {
    await runRows(model, [row(1e9), row(2), { data: pack({ energy: 7e9 }) }, row(-4)], slab);
    const again = await runRows(model, [row(5), row(5)], slab);
    expect(again).toEqual([...once, ...once]);
  }
});

test('a batch that runs again, after a worker died on it, gives the same again', async () => {
  const model = await loadFixture('classifier', named);
  const slab = model.scratch();
  const nan = new Uint8Array(new Float32Array([Number.NaN, 1, 1, 0]).buffer);
  const rows: GivenRow[] = [
    { features: nan },
    { data: pack({ energy: 1, year: 2 }) },
    { data: pack({ energy: 'x', year: 2 }) },
    { features: new Uint8Array(new Float32Array([1, 120, 2, 0]).buffer), json: true },
  ];
  const once = await runRows(model, rows, slab);
  expect(once.map(({ status }) => status)).toEqual(['invalid', 'ok', 'invalid', 'ok']);
  expect(readRows(slab, (await model.runSlab(slab, 0, 4)).spill, 4)).toEqual(once);
});

test('only the rows asked for are run', async () => {
  const model = await loadFixture('mixed');
  const slab = model.scratch();
  const rows = [1, 2, 3].map((n): GivenRow => ({ data: pack({ x: [0, 0], n, flag: false }) }));
  placeRows(slab, model, rows);
  const { spill } = await model.runSlab(slab, 1, 2);
  expect(readRows(slab, spill, 2, 1)).toMatchObject([{ outputs: { score: 20 } }, { outputs: { score: 30 } }]);
  const text = await loadFixture('same_string');
  const words = text.scratch();
  placeRows(
    words,
    text,
    [['a'], ['b'], ['c']].map((x) => ({ data: pack({ x: [...x, 'x', 'y'] }) })),
  );
  expect(readRows(words, (await text.runSlab(words, 2, 1)).spill, 1, 2)).toMatchObject([
    { outputs: { y: ['c', 'x', 'y'] } },
  ]);
});

test('rows that have to run apart each have a run of their own, with the same results', async () => {
  const model = await loadFixture('classifier', named);
  const slab = model.scratch();
  const rows: GivenRow[] = [
    { data: pack({ energy: 1, year: 2 }) },
    { data: pack({ energy: 'x', year: 2 }) },
    { data: pack({ energy: 3, year: 4 }) },
  ];
  const together = await runRows(model, rows, slab);
  const { session } = model.parts;
  const [whole, alone] = [vi.spyOn(session, 'run'), vi.spyOn(session, 'runAlone')];
  const { spill } = await model.runSlab(slab, 0, 3, { apart: true });
  expect(readRows(slab, spill, 3)).toEqual(together);
  expect([whole.mock.calls.length, alone.mock.calls.length]).toEqual([0, 2]);
  vi.restoreAllMocks();
});

test('predictions that do not fit the arena travel beside the slab, all of them', async () => {
  const model = await loadFixture('same_string', {}, 512);
  const long = 'x'.repeat(50);
  const rows = [1, 2, 3].map((n): GivenRow => ({ data: pack({ x: [`${n}`, long, ''] }), json: n === 2 }));
  const slab = model.scratch();
  placeRows(slab, model, rows);
  const small = await model.runSlab(slab, 0, 3);
  expect(small.spill).toBeNull();
  const { layout } = slab;
  Object.assign(slab, { layout: { ...layout, arenaOutBytes: 100 } });
  placeRows(slab, model, rows);
  const { spill } = await model.runSlab(slab, 0, 3);
  expect(spill?.buffer.byteLength).toBe(spill?.length);
  expect(readRows(slab, spill, 3)).toMatchObject(
    [1, 2, 3].map((n) => ({ outputs: { y: [`${n}`, long, ''] } })),
  );
});
