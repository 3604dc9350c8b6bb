// Workers of a pool that are measured, and may differ: in their providers, in what they met at their start.
// The providers are played by the CPU (support/stand-in-provider.ts).
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ServedModels } from '../src/engine/models.ts';
import { bucketsOf } from '../src/infer/profile.ts';
import { HandMadeSlab } from './support/hand-made-slab.ts';
import { copied, dir, expectRuns, say, start, told } from './support/stand-in-pool.ts';
import { standInRuns } from './support/stand-in-provider.ts';

test('the next provider is measured first, and batches get smaller where it is slower', async () => {
  await say('slow', 'cpu');
  const limited: [number, number][] = [];
  const running = await start([await copied('same_float32', { rowsMax: 64 })], {
    threads: 1,
    providers: ['cuda', 'cpu'],
    runMsMax: 10,
    profileMsMax: 10,
  });
  running.onRowsMax = (slot, rows) => limited.push([slot, rows]);
  expect(running.plans).toMatchObject([{ rowsMax: 64, profile: { provider: 'cuda' } }]);
  await say('fault', 'cuda');
  await expectRuns(running, new HandMadeSlab(running, 0, 64, 0), [1, 2]);
  await expect.poll(() => limited).toHaveLength(1);
  const [[slot, rows]] = limited as [[number, number]];
  expect(slot).toBe(0);
  // A millisecond a row.
  expect(rows).toBeLessThanOrEqual(8);
  expect(running.plans).toMatchObject([{ rowsMax: rows, profile: { provider: 'cpu' } }]);
  expect(running.plans[0]!.profile.buckets[0]).toMatchObject({ rows: 1 });
});

test('a provider that searches at the first run of each size is measured by what comes after', async () => {
  await say('search', '{ "cuda": [1, 300] }');
  const running = await start([await copied('same_float32', { rowsMax: 16 })], {
    threads: 1,
    providers: ['cuda'],
    runMsMax: 100,
    profileMsMax: 20,
  });
  expect(running.plans).toMatchObject([{ rowsMax: 16, choice: { why: 'fits' } }]);
  for (const { p99Ms } of running.plans[0]!.profile.buckets) expect(p99Ms).toBeLessThan(300);
}, 20_000);

test('every worker is warm for every size that batches will have, whatever it met at its start', async () => {
  const providers = [{ name: 'cuda', deviceIds: [0, 1], sessions: null, options: {} }] as const;
  const spec = await copied('same_float32', { rowsMax: 16, providers });
  // The second device stalls twice, and so looks as if larger sizes were of no use.
  await say('search', '{ "cuda/1": [2, 300] }');
  // With one worker at first, the one on the first device is measured.
  for (const threadsMin of [1, 2]) {
    const running = await start([spec], { threadsMin, runMsMax: 100, profileMsMax: 20 });
    const [plan] = running.plans;
    if (threadsMin === 1) expect(plan!.rowsMax).toBe(16);
    const runs = standInRuns(dir);
    for (const id of running.threadIds()) {
      const sizes = new Set(runs.filter(({ thread }) => thread === id).map(({ rows }) => rows));
      for (const rows of bucketsOf(plan!.rowsMax)) expect([...sizes]).toContain(rows);
    }
    await running.stop();
  }
}, 20_000);

test('workers on different providers: each is measured, and the slowest decides', async () => {
  const cuda = { name: 'cuda', deviceIds: [0, 1], sessions: null, options: {} } as const;
  const spec = await copied('same_float32', { rowsMax: 64, providers: [cuda, 'cpu'] });
  await say('slow', 'cpu');
  // Whether the one that falls back is there when the others are measured, or is added afterwards.
  for (const [fault, threadsMin] of [
    ['cuda/0', 1],
    ['cuda/0', 2],
    ['cuda/1', 1],
    ['cuda/1', 2],
  ] as const) {
    await say('fault', fault);
    const running = await start([spec], { threadsMin, runMsMax: 10, profileMsMax: 10 });
    expect(running.running.sessions()).toHaveLength(2);
    expect(running.plans).toMatchObject([{ profile: { provider: 'cpu' } }]);
    // A millisecond a row.
    expect(running.plans[0]!.rowsMax).toBeLessThanOrEqual(8);
    const served = new ServedModels([spec], running).list();
    expect(served).toMatchObject([{ profileProvider: 'cpu', batchRows: running.plans[0]!.rowsMax }]);
    await running.stop();
  }
}, 40_000);

test('a worker that came without a model hands its batches back and ends', async () => {
  const place = (name: string) => JSON.stringify(join(dir, name));
  await say('loads', '');
  const handlerPath = join(dir, 'third.ts');
  // The second worker is on another provider, and measured, after 15 rows that warm it up. Meanwhile the
  // first one ends; its successor cannot load, the next can.
  await writeFile(
    handlerPath,
    `import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
    appendFileSync(${place('loads')}, '.');
    const loads = () => readFileSync(${place('loads')}).length;
    const load = loads();
    if (load === 3) throw new Error('away for a moment');
    const wait = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    if (load === 1) setInterval(() => { if (existsSync(${place('measuring')})) process.exit(3); }, 10);
    let runs = 0;
    export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) { row.x[0] = data.x; },
      encode(outputs) {
        runs += 1;
        if (load === 2 && runs === 25) {
          writeFileSync(${place('measuring')}, '');
          for (let round = 0; round < 500 && loads() < 3; round++) wait(20);
          wait(300);
        }
        return { y: outputs.y };
      },
    }) };`,
  );
  await say('fault', 'cuda/1');
  const cuda = { name: 'cuda', deviceIds: [0, 1], sessions: null, options: {} } as const;
  const spec = await copied('no_batch', { handlerPath, providers: [cuda, 'cpu'] });
  const running = await start([spec], { threadsMin: 1, profileMsMax: 40 });
  const slabs = [0, 1, 2, 3].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  await Promise.all(slabs.map((slab) => slab.run(running, [{ x: 7 }])));
  for (const slab of slabs) expect(slab.output(0, 1)[0]).toBe(14);
  // The successor's successor; nothing of it was the fault of a batch.
  const loads = async () => (await readFile(join(dir, 'loads'))).length;
  await expect.poll(loads, { timeout: 10_000 }).toBe(4);
  expect(told('WORKER_DIED')).toEqual([]);
}, 20_000);

test('a provider that stops working while it is measured: the next one is measured', async () => {
  await say('slow', 'cpu');
  await say('fault-after', '{ "cuda": 60 }');
  const running = await start([await copied('same_float32', { rowsMax: 64 })], {
    threads: 1,
    providers: ['cuda', 'cpu'],
    runMsMax: 10,
    profileMsMax: 40,
  });
  expect(running.running.sessions()).toEqual([{ slot: 0, provider: 'cpu', count: 1 }]);
  expect(running.plans).toMatchObject([{ profile: { provider: 'cpu' } }]);
  expect(running.plans[0]!.rowsMax).toBeLessThanOrEqual(8);
}, 20_000);
