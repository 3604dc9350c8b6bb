// Workers of a pool that are measured, and may differ: in their providers, in what they met at their start.
// The providers are played by the CPU (support/stand-in-provider.ts).
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { ServedModels } from '../src/engine/models.ts';
import { bucketsOf } from '../src/infer/profile.ts';
import { HandMadeSlab } from './support/hand-made-slab.ts';
import { copied, dir, expectRuns, say, start, told } from './support/stand-in-pool.ts';
import { standInRuns } from './support/stand-in-provider.ts';

// Each starts pools, which takes seconds where the machine has much else to do.
vi.setConfig({ testTimeout: 60_000 });

/**
 * Where the CPU takes so long for a row, its batches have 8 rows at most. On another provider a batch takes
 * next to nothing; a busy machine adds less to it than a batch may take.
 */
const slowCpu = '{ "cpu": 10 }';
const limits = { runMsMax: 100, profileMsMax: 10 } as const;

test('the next provider is measured first, and batches get smaller where it is slower', async () => {
  await say('slow', slowCpu);
  const limited: [number, number][] = [];
  const spec = await copied('same_float32', { rowsMax: 16 });
  const running = await start([spec], { threads: 1, providers: ['cuda', 'cpu'], ...limits });
  running.onRowsMax = (slot, rows) => limited.push([slot, rows]);
  expect(running.plans).toMatchObject([{ rowsMax: 16, profile: { provider: 'cuda' } }]);
  await say('fault', 'cuda');
  await expectRuns(running, new HandMadeSlab(running, 0, 16, 0), [1, 2]);
  await expect.poll(() => limited, { timeout: 30_000 }).toHaveLength(1);
  const [[slot, rows]] = limited as [[number, number]];
  expect(slot).toBe(0);
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
});

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
});

test('workers on different providers: each is measured, and the slowest decides', async () => {
  const cuda = { name: 'cuda', deviceIds: [0, 1], sessions: null, options: {} } as const;
  const spec = await copied('same_float32', { rowsMax: 16, providers: [cuda, 'cpu'] });
  await say('slow', slowCpu);
  // Whether the one that falls back is there when the others are measured, or is added afterwards.
  for (const [fault, threadsMin] of [
    ['cuda/0', 1],
    ['cuda/0', 2],
    ['cuda/1', 1],
    ['cuda/1', 2],
  ] as const) {
    await say('fault', fault);
    const running = await start([spec], { threadsMin, ...limits });
    expect(running.running.sessions()).toHaveLength(2);
    expect(running.plans).toMatchObject([{ profile: { provider: 'cpu' } }]);
    expect(running.plans[0]!.rowsMax).toBeLessThanOrEqual(8);
    const served = new ServedModels([spec], running).list();
    expect(served).toMatchObject([{ profileProvider: 'cpu', batchRows: running.plans[0]!.rowsMax }]);
    await running.stop();
  }
});

test('a worker that came without a model hands its batches back and ends', async () => {
  const place = (name: string) => JSON.stringify(join(dir, name));
  await say('loads', '');
  const handlerPath = join(dir, 'third.ts');
  // The second worker is on another provider, and measured: from row 16 to 30 at least, for 15 rows warm it
  // up, and each size is measured once, however slow the machine. Meanwhile the first one ends; its successor
  // cannot load, and says all the same that it takes batches; the next can load.
  await writeFile(
    handlerPath,
    `import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
    import { parentPort } from 'node:worker_threads';
    appendFileSync(${place('loads')}, '.');
    const load = readFileSync(${place('loads')}).length;
    if (load === 3) {
      const tell = parentPort.postMessage.bind(parentPort);
      parentPort.postMessage = (news, ports) => {
        if (news.kind === 'desk') writeFileSync(${place('without')}, '');
        tell(news, ports);
      };
      throw new Error('away for a moment');
    }
    const wait = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    if (load === 1) setInterval(() => { if (existsSync(${place('measuring')})) process.exit(3); }, 10);
    let runs = 0;
    export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) { row.x[0] = data.x; },
      encode(outputs) {
        runs += 1;
        if (load === 2 && runs === 25) {
          writeFileSync(${place('measuring')}, '');
          for (let round = 0; round < 1500 && !existsSync(${place('without')}); round++) wait(20);
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
  await expect.poll(loads, { timeout: 30_000 }).toBe(4);
  expect(told('WORKER_DIED')).toEqual([]);
});

test('a provider that stops working while it is measured: the next one is measured', async () => {
  await say('slow', '{ "cpu": 1 }');
  // From the 13th run on, which measures, whatever the machine. Before it are two trials and a run of each of
  // the seven sizes to warm up, and of up to three of them another one, if the first took longer than 250 ms.
  // In all there are 16 at least: however long they take, each size runs twice, to warm up and be measured.
  await say('fault-after', '{ "cuda": 12 }');
  const running = await start([await copied('same_float32', { rowsMax: 64 })], {
    threads: 1,
    providers: ['cuda', 'cpu'],
    runMsMax: 10,
    profileMsMax: 40,
  });
  expect(running.running.sessions()).toEqual([{ slot: 0, provider: 'cpu', count: 1 }]);
  expect(running.plans).toMatchObject([{ profile: { provider: 'cpu' } }]);
  expect(running.plans[0]!.rowsMax).toBeLessThanOrEqual(8);
  const ran = standInRuns(dir).filter(({ what, provider }) => what === 'run' && provider === 'cuda');
  expect(ran.slice(0, 12).map(({ rows }) => rows)).toContain(64);
});
