// A pool of real workers that gets another one, and loses one, while batches run. The provider is played by
// the CPU (support/stand-in-provider.ts), so that a start can be held up.
import { readFileSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import type { Pool } from '../src/infer/pool.ts';
import { bucketsOf } from '../src/infer/profile.ts';
import type { ModelSpec } from '../src/infer/protocol.ts';
import { HandMadeSlab } from './support/hand-made-slab.ts';
import { copied, dir, say, start, told } from './support/stand-in-pool.ts';
import { standInRuns } from './support/stand-in-provider.ts';

// Each starts pools, which takes seconds where the machine has much else to do.
vi.setConfig({ testTimeout: 60_000 });

/**
 * y = 2 x; a handler that does what its events say. Load number n of it waits while there is a file `hold-n`.
 */
async function obedient(): Promise<ModelSpec> {
  const handlerPath = join(dir, 'handler.ts');
  const place = (name: string) => JSON.stringify(join(dir, name));
  await writeFile(
    handlerPath,
    `import { appendFileSync, existsSync, readFileSync } from 'node:fs';
    appendFileSync(${place('loads')}, '.');
    const held = ${place('hold-')} + readFileSync(${place('loads')}).length;
    while (existsSync(held)) await new Promise((resolve) => setTimeout(resolve, 10));
    export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) {
        if (data.do === 'exit') process.exit(3);
        if (data.do === 'hang') for (;;);
        const end = performance.now() + (data.ms ?? 0);
        while (performance.now() < end);
        row.x[0] = data.x;
      },
      encode: (outputs) => ({ y: outputs.y }),
    }) };`,
  );
  return await copied('no_batch', { handlerPath });
}

/** A pool of up to two workers, of which one is there, and what it tells of their number. */
async function single(spec: ModelSpec, changes = {}): Promise<{ running: Pool; counted: number[] }> {
  const running = await start([spec], { threadsMin: 1, threads: 2, providers: ['cuda'], ...changes });
  await expect.poll(() => running.changing).toBe(false);
  await running.scale(1);
  expect(running.threads).toBe(1);
  const counted: number[] = [];
  running.onWorkers = (change) => counted.push(change);
  return { running, counted };
}

/** Keeps `slabs` batches with the pool until it is told to stop; resolves with how many have run. */
function traffic(running: Pool, slabs: number, ms = 0): { stop(): Promise<number> } {
  let going = true;
  const each = async (slab: HandMadeSlab, first: number) => {
    let count = 0;
    // The stand-in fails on 666.
    for (let x = first; going; x = (x + 1) % 600, count++) {
      await slab.run(running, [{ x, ms }]);
      expect(slab.output(0, 1)[0]).toBe(2 * x);
    }
    return count;
  };
  // Slabs of other numbers than those of the tests themselves.
  const all = Array.from({ length: slabs }, (_, i) => each(new HandMadeSlab(running, 0, 8, 10 + i), 100 * i));
  return {
    async stop() {
      going = false;
      return (await Promise.all(all)).reduce((sum, count) => sum + count, 0);
    },
  };
}

const hold = () => say('held', 'cuda');
const release = () => rm(join(dir, 'held'));
const opened = () => standInRuns(dir).filter(({ what }) => what === 'open').length;
/** The threads whose sessions have run since then. */
const ranSince = (at: number) =>
  new Set(
    standInRuns(dir)
      .slice(at)
      .filter(({ what }) => what === 'run')
      .map(({ thread }) => thread),
  );

test('another worker counts once it is warm for every size, and batches run meanwhile', async () => {
  const spec = await copied('same_float32', { rowsMax: 16 });
  const { running, counted } = await single(spec, { runMsMax: 1000, profileMsMax: 10 });
  const [first] = running.threadIds();
  await hold();
  const openedBefore = opened();
  const at = standInRuns(dir).length;
  const scaling = running.scale(2);
  expect(running.changing).toBe(true);
  await expect.poll(opened, { timeout: 20_000 }).toBe(openedBefore + 1);
  const slab = new HandMadeSlab(running, 0, 16, 0);
  for (let n = 0; n < 20; n++) await slab.run(running, [{ x: [n, 0, 0] }]);
  expect([counted, running.threads, [...ranSince(at)]]).toEqual([[], 1, [first]]);
  let sizes: number[] = [];
  running.onWorkers = (change) => {
    counted.push(change);
    const second = running.threadIds().at(-1);
    sizes = standInRuns(dir).flatMap(({ thread, rows }) => (thread === second ? [rows] : []));
  };
  await release();
  await scaling;
  expect([counted, running.threads, running.changing]).toEqual([[1], 2, false]);
  for (const rows of bucketsOf(running.plans[0]!.rowsMax)) expect(sizes).toContain(rows);
  // It takes batches.
  const both = standInRuns(dir).length;
  const slabs = [1, 2, 3, 4].map((n) => new HandMadeSlab(running, 0, 16, n));
  for (let n = 0; n < 5; n++) await Promise.all(slabs.map((one) => one.run(running, [{ x: [n, 0, 0] }])));
  expect(ranSince(both).size).toBe(2);
  expect(running.running.sessions()).toMatchObject([{ count: 2 }]);
});

test('workers come and go under batches, over and over: none is lost, and seats are free again', async () => {
  const { running, counted } = await single(await obedient());
  const batches = traffic(running, 4, 1);
  for (let round = 0; round < 3; round++) {
    await running.scale(2);
    expect(running.threadIds()).toHaveLength(2);
    await running.scale(1);
    expect(running.threadIds()).toHaveLength(1);
  }
  expect(await batches.stop()).toBeGreaterThan(20);
  expect(counted).toEqual([1, -1, 1, -1, 1, -1]);
  expect(running.running.sessions()).toMatchObject([{ count: 1 }]);
  expect(told('WORKER_DIED')).toEqual([]);
});

test('a worker that is to go gives its batch back first, and is taken off before that is told', async () => {
  const { running, counted } = await single(await obedient());
  await running.scale(2);
  const slabs = [0, 1].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  const seen: number[][] = [];
  const both = slabs.map((slab) =>
    slab.run(running, [{ x: 4, ms: 300 }]).then(() => seen.push([...counted])),
  );
  const scaling = running.scale(1);
  expect(counted).toEqual([1]);
  await Promise.all([...both, scaling]);
  for (const slab of slabs) expect(slab.output(0, 1)[0]).toBe(8);
  expect(seen).toContainEqual([1, -1]);
  expect(counted).toEqual([1, -1]);
  expect(running.threadIds()).toHaveLength(1);
});

test('a worker that hangs, or ends, on its last batch goes all the same', async () => {
  const { running, counted } = await single(await obedient(), { inferMsMax: 500 });
  for (const what of ['hang', 'exit']) {
    await running.scale(2);
    const slabs = [0, 1].map((slab) => new HandMadeSlab(running, 0, 8, slab));
    const outcomes = Promise.allSettled(slabs.map((slab) => slab.run(running, [{ do: what }])));
    await running.scale(1);
    for (const outcome of await outcomes)
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'WORKER_DIED' } });
    // The other one is replaced.
    await slabs[0]!.run(running, [{ x: 3 }]);
    await expect.poll(() => running.changing, { timeout: 10_000 }).toBe(false);
    expect(running.threadIds()).toHaveLength(1);
  }
  expect(counted).toEqual([1, -1, 1, -1]);
});

test.each([
  ['its successor comes first', 4, 3],
  ['its successor comes last', 3, 4],
])('a worker dies while another is added, %s: one of them counts, once both are there', async (_, a, b) => {
  const { running, counted } = await single(await obedient());
  await say('hold-3', '');
  await say('hold-4', '');
  const loads = () => readFileSync(join(dir, 'loads')).length;
  const scaling = running.scale(2);
  await expect.poll(loads, { timeout: 20_000 }).toBe(3);
  const slab = new HandMadeSlab(running, 0, 8, 0);
  await expect(slab.run(running, [{ do: 'exit' }])).rejects.toMatchObject({ code: 'WORKER_DIED' });
  await expect.poll(loads, { timeout: 20_000 }).toBe(4);
  await rm(join(dir, `hold-${a}`));
  await slab.run(running, [{ x: 5 }]);
  expect(slab.output(0, 1)[0]).toBe(10);
  expect([running.threads, counted, running.changing]).toEqual([1, [], true]);
  await rm(join(dir, `hold-${b}`));
  await scaling;
  expect([running.threads, counted, running.changing]).toEqual([2, [1], false]);
  expect(running.threadIds()).toHaveLength(2);
});

test('a start that fails is given up, tells why, and disturbs nobody; the next one may do', async () => {
  const { running, counted } = await single(await obedient());
  const onnx = join(dir, 'model.onnx');
  await rename(onnx, `${onnx}.away`);
  const batches = traffic(running, 2, 1);
  for (let round = 0; round < 2; round++) {
    const threads = running.threadIds();
    await expect(running.scale(2)).rejects.toMatchObject({
      code: 'WORKERS_NOT_STARTED',
      message: expect.stringMatching(/^one more worker: .*model\.onnx/),
    });
    expect([running.threads, running.changing]).toEqual([1, false]);
    // Nobody tries again.
    await sleep(500);
    expect(running.threadIds()).toEqual(threads);
  }
  expect(running.trouble).toBe('');
  await rename(`${onnx}.away`, onnx);
  await running.scale(2);
  expect([running.threads, counted]).toEqual([2, [1]]);
  expect(await batches.stop()).toBeGreaterThan(10);
});

test('after a start that failed, workers that die are replaced as ever', async () => {
  const { running } = await single(await obedient());
  const onnx = join(dir, 'model.onnx');
  await rename(onnx, `${onnx}.away`);
  await expect(running.scale(2)).rejects.toMatchObject({ code: 'WORKERS_NOT_STARTED' });
  await rename(`${onnx}.away`, onnx);
  await running.scale(2);
  const slabs = [0, 1].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  await Promise.allSettled(slabs.map((slab) => slab.run(running, [{ do: 'exit' }])));
  await expect.poll(() => running.changing, { timeout: 20_000 }).toBe(false);
  expect(running.threadIds()).toHaveLength(2);
  await Promise.all(slabs.map((slab) => slab.run(running, [{ x: 1 }])));
});

test('a start that takes too long is given up once it can be', async () => {
  const { running, counted } = await single(await obedient(), { loadMsMax: 8000 });
  await hold();
  const outcome = running.scale(2).then(
    () => 'there',
    (error: Error) => error.message,
  );
  await expect.poll(() => told('WORKER_HUNG'), { timeout: 20_000 }).toHaveLength(1);
  expect(told('WORKER_HUNG')[0]).toMatch(/loads for more than 8000 ms, in native code/);
  expect(running.changing).toBe(true);
  const slab = new HandMadeSlab(running, 0, 8, 0);
  await slab.run(running, [{ x: 2 }]);
  await release();
  expect(await outcome).toMatch(/^one more worker: it loads for more than 8000 ms$/);
  expect([running.threads, counted, running.changing]).toEqual([1, [], false]);
  expect(running.threadIds()).toHaveLength(1);
});

test('a pool is stopped while another worker starts, and while one is drained', async () => {
  const spec = await obedient();
  for (const ms of [0, 50, 150, 300]) {
    const { running } = await single(spec);
    const more = running.scale(2).then(
      () => 'there',
      (error: Error & { code: string }) => error.code,
    );
    await sleep(ms);
    await running.stop();
    expect(await more).toMatch(/^there$|^WORKERS_NOT_STARTED$/);
  }
  const running = await start([spec], { threadsMin: 1, threads: 2 });
  await expect.poll(() => running.changing).toBe(false);
  const slabs = [0, 1].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  const outcomes = Promise.allSettled(slabs.map((slab) => slab.run(running, [{ x: 1, ms: 300 }])));
  const fewer = running.scale(1);
  await running.stop();
  await Promise.all([fewer, outcomes]);
});

test('the number stays between the least and the most, and one change is made at a time', async () => {
  const { running } = await single(await obedient());
  await running.scale(0);
  expect(running.threads).toBe(1);
  const first = running.scale(9);
  await expect(running.scale(1)).rejects.toThrow('the number of workers is being changed');
  await first;
  expect(running.threads).toBe(2);
});
