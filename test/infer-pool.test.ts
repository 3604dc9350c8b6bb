// Real worker threads: every model in each of them, slabs in shared memory, workers that die or hang.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPool } from '../src/infer/pool.ts';
import type { ModelSpec } from '../src/infer/protocol.ts';
import { scanModels } from '../src/repository/repository.ts';
import { ARENA, HandMadeSlab } from './support/hand-made-slab.ts';
import { fixture, modelsPath } from './support/models.ts';
import { notices, start } from './support/pools.ts';

let dir = '';

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'subito-pool-'));
});
afterAll(async () => {
  await rm(dir, { recursive: true });
});

/** A model whose handler does what its events say. */
async function obedient(slot: number): Promise<ModelSpec> {
  const handlerPath = join(dir, 'handler.ts');
  await writeFile(
    handlerPath,
    `export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) {
        if (data.do === 'exit') process.exit(3);
        if (data.do === 'throw later') setTimeout(() => { throw new Error('out of turn'); });
        if (data.do === 'hang') for (;;);
        row.x[0] = data.x;
      },
      encode: (outputs) => ({ y: outputs.y }),
    }) };`,
  );
  return fixture('no_batch', { slot, handlerPath });
}

test('every fixture that can be served is, and the one that cannot says why', async () => {
  const { specs, problems } = scanModels(modelsPath, { batchRowsMax: 16 });
  expect(problems).toEqual([]);
  const { loaded, problems: unloaded } = await start(specs);
  expect(loaded.map(({ slot }) => specs[slot]?.name).sort()).toEqual(
    specs.map(({ name }) => name).filter((name) => name !== 'free_dim'),
  );
  expect(unloaded).toEqual([
    {
      model: 'free_dim@1',
      message: expect.stringMatching(/free_dim\/1\/model\.onnx: input x .* give its shape/),
    },
  ]);
});

test('batches of several slabs at once, in any order, over and over', async () => {
  const running = await start([fixture('mixed', { slot: 0 }), fixture('classifier', { slot: 1 })]);
  const slabs = [0, 1, 2, 3].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  for (let round = 0; round < 50; round++) {
    await Promise.all(
      slabs.map(async (slab, k) => {
        const n = round * 10 + k;
        const result = await slab.run(running, [
          { x: [k, 1], n, flag: false },
          { x: [k, 1], n: 'bad', flag: true },
        ]);
        expect(result).toMatchObject({ spill: null });
        expect(slab.results(2)).toEqual([0, 1]);
        expect(slab.output(0, 1)[0]).toBe(k + 1 + 10 * n);
      }),
    );
  }
});

test('a worker that exits fails its batch alone and is replaced', async () => {
  const running = await start([await obedient(0)]);
  const slabs = [0, 1, 2].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  const [bad, good] = await Promise.allSettled([
    slabs[0]!.run(running, [{ do: 'exit' }]),
    slabs[1]!.run(running, [{ x: 4 }]),
  ]);
  expect(bad).toMatchObject({ status: 'rejected', reason: { code: 'WORKER_DIED', retryable: true } });
  expect(good.status).toBe('fulfilled');
  await Promise.all(slabs.map((slab) => slab.run(running, [{ x: 5 }])));
  for (const slab of slabs) expect(slab.output(0, 1)[0]).toBe(10);
});

test('a worker that throws out of turn is replaced', async () => {
  const running = await start([await obedient(0)], { threads: 1 });
  const slab = new HandMadeSlab(running, 0, 8, 0);
  await slab.run(running, [{ do: 'throw later', x: 1 }]);
  await expect.poll(() => notices).toMatchObject([{ code: 'WORKER_DIED', message: 'out of turn' }]);
  await slab.run(running, [{ x: 6 }]);
  expect(slab.output(0, 1)[0]).toBe(12);
});

test('a worker that hangs is replaced, and its slab comes back when its thread is gone', async () => {
  const running = await start([await obedient(0)], { threads: 1, inferMsMax: 100 });
  const slab = new HandMadeSlab(running, 0, 8, 0);
  await expect(slab.run(running, [{ do: 'hang' }])).rejects.toMatchObject({
    code: 'WORKER_DIED',
    message: 'a batch of slot 0 took longer than 100 ms',
  });
  expect(notices).toMatchObject([{ code: 'WORKER_HUNG' }]);
  // Its successor needs longer to load than a batch may take: waiting for it is not hanging.
  await slab.run(running, [{ x: 3 }]);
  expect(slab.output(0, 1)[0]).toBe(6);
});

test('a worker that cannot start is an error, not a wait', async () => {
  const handlerPath = join(dir, 'exit.ts');
  await writeFile(handlerPath, 'process.exit(4);');
  await expect(start([fixture('no_batch', { handlerPath })])).rejects.toMatchObject({
    code: 'WORKERS_NOT_STARTED',
  });
  const slow = join(dir, 'slow.ts');
  await writeFile(slow, 'await new Promise((resolve) => setTimeout(resolve, 60_000));');
  await expect(
    start([fixture('no_batch', { handlerPath: slow })], { loadMsMax: 1000 }),
  ).rejects.toMatchObject({
    code: 'WORKERS_NOT_STARTED',
    message: expect.stringContaining('0 of 2 workers were warm'),
  });
});

test('a provider that is not there is a notice', async () => {
  const running = await start([fixture('no_batch')], { providers: ['cuda', 'cpu'] });
  // Both workers met it; it is one thing to tell.
  expect(notices).toMatchObject([
    {
      level: 'warn',
      code: 'PROVIDER_FALLBACK',
      message: expect.stringMatching(/^no_batch@1 runs on cpu: cuda cannot: .*Failed to load shared library/),
    },
  ]);
  expect(running.running.of(0)).toBe('cpu');
  expect(running.running.sessions()).toEqual([{ slot: 0, provider: 'cpu', count: 2 }]);
  expect(running.running.fallbacks()).toEqual([{ slot: 0, provider: 'cuda', count: 2 }]);
});

/** A model that takes a millisecond or so a row, or next to nothing. */
async function paced(slot: number, rowMs: number): Promise<ModelSpec> {
  const handlerPath = join(dir, `paced-${rowMs}.ts`);
  await writeFile(
    handlerPath,
    `export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) {
        if (data.do === 'exit') process.exit(3);
        row.x[0] = data.x;
      },
      encode(outputs) {
        const end = performance.now() + ${rowMs};
        while (performance.now() < end);
        return { y: outputs.y };
      },
    }) };`,
  );
  return fixture('no_batch', { slot, handlerPath, rowsMax: 16 });
}

test('a slow model gets all the workers there may be, and small batches; a fast one does not', async () => {
  const changes = { threadsMin: 1, threads: 3, runMsMax: 8, profileMsMax: 20 };
  const slow = await start([await paced(0, 1)], changes);
  expect(slow.threads).toBe(3);
  expect(slow.threadIds()).toHaveLength(3);
  const [plan] = slow.plans;
  expect(plan!.rowsMax).toBeLessThan(16);
  expect(plan!.rowsMax).toBeGreaterThan(1);
  expect(slow.loaded[0]!.profile).toBe(plan!.profile);
  expect(plan!.profile.buckets.map(({ rows }) => rows)).toEqual([1, 2, 4, 8, 16]);
  await slow.stop();
  const fast = await start([fixture('same_float32')], { ...changes, threads: 8 });
  expect(fast.threads).toBeLessThan(8);
  expect(fast.threads).toBeGreaterThan(1);
  expect(fast.plans).toMatchObject([{ rowsMax: 8, choice: { why: 'fits' } }]);
});

test('workers that were added after measuring are replaced like the first ones', async () => {
  const running = await start([await paced(0, 1)], { threadsMin: 1, threads: 3, profileMsMax: 20 });
  const slab = new HandMadeSlab(running, 0, 16, 0);
  const before = running.threadIds();
  for (let deaths = 1; deaths <= 3; deaths++) {
    await expect(slab.run(running, [{ do: 'exit' }])).rejects.toMatchObject({ code: 'WORKER_DIED' });
    // With nothing to do: it is not the next batches that bring the workers back.
    await expect.poll(() => running.running.sessions(), { timeout: 10_000 }).toMatchObject([{ count: 3 }]);
    expect(running.threadIds()).toHaveLength(3);
  }
  expect(running.threadIds()).not.toEqual(before);
  await slab.run(running, [{ x: 2 }]);
});

test('a worker that dies while it is added is an error, not a wait', async () => {
  const count = join(dir, 'count');
  const handlerPath = join(dir, 'second.ts');
  await writeFile(count, '');
  await writeFile(
    handlerPath,
    `import { appendFileSync, readFileSync } from 'node:fs';
    appendFileSync(${JSON.stringify(count)}, '.');
    if (readFileSync(${JSON.stringify(count)}).length > 1) process.exit(5);
    ${(await readFile((await paced(0, 1)).handlerPath!, 'utf8')).toString()}`,
  );
  const spec = fixture('no_batch', { handlerPath });
  const began = performance.now();
  await expect(start([spec], { threadsMin: 1, threads: 2, profileMsMax: 20 })).rejects.toMatchObject({
    code: 'WORKERS_NOT_STARTED',
    message: expect.stringMatching(/^1 of 2 workers were warm .*: a worker ended while it loaded$/),
  });
  expect(performance.now() - began).toBeLessThan(15_000);
});

// ONNX Runtime's binding aborts the process when its thread is ended under it: see native.ts.
test('a pool is stopped while its workers load, and while they run, and the process lives', async () => {
  const { specs } = scanModels(modelsPath, { batchRowsMax: 16 });
  for (let round = 0; round < 6; round++) {
    // Too little time to load two dozen models, at another place each time.
    const starting = startPool({
      specs,
      providers: ['cpu'],
      threads: 2,
      slabArenaBytes: ARENA,
      loadMsMax: 150 + 40 * round,
    });
    const started = await starting.catch((error: Error) => error);
    if (started instanceof Error) expect(started).toMatchObject({ code: 'WORKERS_NOT_STARTED' });
    else await started.stop();
  }
  const running = await start([fixture('mixed', { slot: 0 })]);
  const slabs = Array.from({ length: 16 }, (_, slab) => new HandMadeSlab(running, 0, 8, slab));
  const event = { x: [1, 2], n: 3, flag: true };
  const outcomes = Promise.allSettled(slabs.map((slab) => slab.run(running, [event])));
  await running.stop();
  for (const outcome of await outcomes) {
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'WORKER_DIED' });
  }
});
