// Models on providers that are not there, that stop working, and that come in several devices. All of them
// are played by the CPU (support/stand-in-provider.ts), except those that are really not there.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { reasonOf } from '../src/infer/ladder.ts';
import { Running } from '../src/infer/running.ts';
import { HandMadeSlab } from './support/hand-made-slab.ts';
import { fixture } from './support/models.ts';
import { copied, dir, expectRuns, runsOn, say, start, told } from './support/stand-in-pool.ts';
import { standInRuns } from './support/stand-in-provider.ts';

// Each starts pools, which takes seconds where the machine has much else to do.
vi.setConfig({ testTimeout: 60_000 });

const opensOf = (name: string) =>
  standInRuns(dir).filter(({ what, provider }) => what === 'open' && provider === name);

test('CUDA that is really not there: the model runs on the CPU where that is in the list', async () => {
  const running = await start([fixture('same_float32')], { providers: ['cuda', 'cpu'], opener: null });
  expect(running.problems).toEqual([]);
  expect(running.running.of(0)).toBe('cpu');
  await expectRuns(running, new HandMadeSlab(running, 0, 8, 0), [1, 2, 3]);
  expect(running.running.compromises()).toEqual([
    expect.stringMatching(/^same_float32@1 runs on cpu in 2 workers, not on cuda: .*Failed to load shared/),
  ]);
});

test('reasons are shortened to what a person can use', () => {
  const signature =
    '/onnxruntime_src/core/cuda_call.cc:154 std::conditional_t<THRW, void> [with ERRTYPE = X] ';
  const tail = ' ; GPU=-1 ; hostname=vm ; file=/onnxruntime_src/x.cc ; line=352 ; expr=cudaSetDevice(0); ';
  const driver = 'CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version';
  expect(reasonOf(`${signature}${driver}${tail}\n\n`)).toBe(driver);
  const adapter = 'Failed to get a WebGPU adapter: No supported adapters';
  expect(reasonOf(`/onnxruntime_src/webgpu_context.cc:136 a::b() adapter was false. ${adapter}\n`)).toBe(
    adapter,
  );
  expect(reasonOf('OrtSessionOptionsAppendExecutionProvider_Cuda: Failed to load shared library')).toMatch(
    /^OrtSession.* shared library \(deploy\/setup\.sh --cuda fetches what is missing/,
  );
  expect(reasonOf('plain words\nand more')).toBe('plain words');
});

test('where it is not, the model is not served, and says what it lacks; others are', async () => {
  const lacking = fixture('same_float32', { slot: 1, providers: ['cuda'] });
  const running = await start([fixture('no_batch'), lacking], { opener: null });
  expect(running.loaded.map(({ slot }) => slot)).toEqual([0]);
  expect(running.problems).toEqual([
    {
      model: 'same_float32@1',
      lacksProvider: true,
      message: expect.stringMatching(
        /model\.onnx: none of its providers can run it \(cuda: .*\); add cpu to the list/,
      ),
    },
  ]);
});

test('a file that no provider can read is the file’s fault', async () => {
  const spec = await copied();
  await say('model.onnx', 'no graph');
  const running = await start([spec], { providers: ['cuda', 'cpu'] });
  expect(running.problems).toEqual([
    { model: 'same_float32@1', message: expect.stringMatching(/model\.onnx: .*(parse|protobuf)/i) },
  ]);
});

test('a provider that opens the model and cannot run it is passed over', async () => {
  await say('fault', 'cuda');
  const running = await start([await copied()], { providers: ['cuda', 'webgpu', 'cpu'] });
  expect(running.running.of(0)).toBe('webgpu');
  expect(told('PROVIDER_FALLBACK')).toEqual([
    expect.stringMatching(/^same_float32@1 runs on webgpu: cuda cannot: .*illegal memory access/),
  ]);
});

test('a provider that computes something else is passed over', async () => {
  const goldenPath = join(dir, 'golden.json');
  await writeFile(
    goldenPath,
    JSON.stringify({ cases: [{ inputs: { x: [1, 2, 3] }, outputs: { y: [1, 2, 3] } }] }),
  );
  await say('wrong', 'cuda');
  const running = await start([await copied('same_float32', { goldenPath })], { providers: ['cuda', 'cpu'] });
  expect(running.running.of(0)).toBe('cpu');
  expect(told('PROVIDER_FALLBACK')).toEqual([
    expect.stringMatching(/golden\.json: cases\[0\].*expected 1, got 2/),
  ]);
});

test('after a fault that lasts the model moves to the next provider, with the batch in hand', async () => {
  const running = await start([await copied()], { providers: ['cuda', 'cpu'] });
  const slabs = [0, 1, 2, 3].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  await Promise.all(slabs.map((slab) => expectRuns(running, slab, [1, 2, 3])));
  expect(running.running.sessions()).toEqual([{ slot: 0, provider: 'cuda', count: 2 }]);
  await say('fault', 'cuda');
  for (let round = 0; round < 5; round++) {
    await Promise.all(slabs.map((slab, k) => expectRuns(running, slab, [round, k, 5, 6, 7])));
  }
  const moved = [{ slot: 0, provider: 'cpu', count: 2 }];
  await expect.poll(() => running.running.sessions(), { timeout: 30_000 }).toEqual(moved);
  expect(running.running.of(0)).toBe('cpu');
  expect(running.running.fallbacks()).toEqual([{ slot: 0, provider: 'cuda', count: 2 }]);
  expect(running.running.compromises()).toEqual([
    expect.stringMatching(/^same_float32@1 runs on cpu in 2 workers, not on cuda: cuda failure 700/),
  ]);
  expect(told('PROVIDER_FALLBACK')).toHaveLength(1);
  // No thread was lost, and nobody went back.
  expect(told('WORKER_DIED')).toEqual([]);
  const before = runsOn('cuda');
  await Promise.all(slabs.map((slab) => expectRuns(running, slab, [9])));
  expect(runsOn('cuda')).toBe(before);
});

test('a next provider that takes longer to open than a batch may take: all batches run there', async () => {
  const limits = { threads: 4, inferMsMax: 1000 };
  const running = await start([await copied()], { providers: ['cuda', 'cpu'], ...limits });
  const slabs = [0, 1, 2, 3].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  const threads = running.threadIds();
  await say('held', 'cpu');
  await say('fault', 'cuda');
  const waiting = Promise.all(slabs.map((slab, k) => expectRuns(running, slab, [k])));
  await expect.poll(() => opensOf('cpu'), { timeout: 30_000 }).toHaveLength(4);
  await sleep(limits.inferMsMax + 500);
  await say('held', '');
  await waiting;
  expect(running.threadIds()).toEqual(threads);
  expect(told('WORKER_HUNG')).toEqual([]);
  const moved = [{ slot: 0, provider: 'cpu', count: 4 }];
  await expect.poll(() => running.running.sessions(), { timeout: 30_000 }).toEqual(moved);
});

test('a next provider that takes too long to open: no batch is blamed', async () => {
  const limits = { threads: 1, inferMsMax: 2000, loadMsMax: 5000 };
  const spec = await copied();
  const running = await start([spec], { providers: ['cuda', 'cpu'], ...limits });
  await say('held', 'cpu');
  await say('fault', 'cuda');
  const waiting = expectRuns(running, new HandMadeSlab(running, 0, 8, 0), [4, 5]);
  await expect.poll(() => told('WORKER_HUNG'), { timeout: 30_000 }).toHaveLength(1);
  await say('held', '');
  await waiting;
  expect(told('WORKER_HUNG')).toEqual([expect.stringMatching(/^the next provider of slot 0 takes long/)]);
  const opened = standInRuns(dir).filter(({ what }) => what === 'open');
  expect(opened.map(({ provider }) => provider)).toEqual(['cuda', 'cpu', 'cpu']);
});

test('a batch has its full time from when a worker takes it', async () => {
  const handlerPath = join(dir, 'busy.ts');
  await writeFile(
    handlerPath,
    `export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) {
        row.x[0] = data.x;
        if (data.x > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500);
      },
      encode: (outputs) => ({ y: outputs.y }),
    }) };`,
  );
  const spec = await copied('no_batch', { handlerPath });
  const running = await start([spec], { threads: 1, inferMsMax: 2900 });
  const slabs = [0, 1].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  // One behind the other: the second is taken at 1500 ms at the earliest, and not over at 2900.
  await Promise.all(slabs.map((slab) => slab.run(running, [{ x: 2 }])));
  expect(told('WORKER_HUNG')).toEqual([]);
});

test('a worker that starts later does not try what has failed in use', async () => {
  const handlerPath = join(dir, 'exit.ts');
  await writeFile(
    handlerPath,
    `export const handler = { fields: [], predicts: [], create: () => ({
      decode(data) { process.exit(3); }, encode: () => ({}),
    }) };`,
  );
  const killer = await copied('no_batch', { slot: 1, handlerPath }, join(dir, '..', 'killer', '1'));
  const running = await start([await copied(), killer], { threads: 1, providers: ['cuda', 'cpu'] });
  const slab = new HandMadeSlab(running, 0, 8, 0);
  await say('fault', 'cuda');
  await expectRuns(running, slab, [1, 2, 3]);
  const before = opensOf('cuda').length;
  await expect(new HandMadeSlab(running, 1, 8, 1).run(running, [{ x: 1 }])).rejects.toMatchObject({
    code: 'WORKER_DIED',
  });
  await expectRuns(running, slab, [4, 5]);
  expect(opensOf('cuda')).toHaveLength(before);
  await expect.poll(() => running.running.of(0), { timeout: 30_000 }).toBe('cpu');
  expect(running.running.compromises()).toHaveLength(1);
});

test('a row that the graph does not take moves nothing', async () => {
  const running = await start([await copied()], { threads: 1, providers: ['cuda', 'cpu'] });
  const slab = new HandMadeSlab(running, 0, 8, 0);
  await slab.run(running, [{ x: [1, 0, 0] }, { x: [666, 0, 0] }, { x: [3, 0, 0] }]);
  expect(slab.results(3)).toEqual([0, 2, 0]);
  expect(slab.detail(1)).toBe('a value that the graph does not take');
  expect(running.running.of(0)).toBe('cuda');
  expect(runsOn('cpu')).toBe(0);
  expect(told('PROVIDER_FALLBACK')).toEqual([]);
});

test('where there is no other provider, events wait until it is back, and none is blamed', async () => {
  const running = await start([await copied()], { providers: ['cuda'] });
  const slabs = [0, 1].map((slab) => new HandMadeSlab(running, 0, 8, slab));
  await Promise.all(slabs.map((slab) => expectRuns(running, slab, [1])));
  await say('fault', 'cuda');
  const waiting = Promise.all(slabs.map((slab) => expectRuns(running, slab, [4, 5, 6])));
  await expect.poll(() => running.trouble, { timeout: 30_000 }).toMatch(/cuda.*illegal memory access/);
  await sleep(300);
  await say('fault', '');
  await waiting;
  await expect.poll(() => running.trouble, { timeout: 30_000 }).toBe('');
  expect(running.running.of(0)).toBe('cuda');
});

test('what is known of workers that are gone is forgotten', () => {
  const running = new Running([], ['cuda', 'cpu']);
  const left = [{ provider: 'cuda', reason: 'gone' }] as const;
  const tell = (thread: number) =>
    running.record({ kind: 'provider', thread, slot: 0, provider: 'cpu', left, profile: null });
  tell(1);
  tell(1);
  expect(running.fallbacks()).toEqual([{ slot: 0, provider: 'cuda', count: 1 }]);
  running.keep([]);
  expect(running.sessions()).toEqual([]);
  // Another one, for all that is known.
  tell(1);
  expect(running.fallbacks()).toEqual([{ slot: 0, provider: 'cuda', count: 2 }]);
});

test('workers share the devices, and who takes the place of a dead one has its device', async () => {
  const handlerPath = join(dir, 'exit.ts');
  await writeFile(
    handlerPath,
    `export const handler = { fields: [], predicts: [], create: () => ({
      decode(data, row) {
        if (data.x === 9) process.exit(3);
        row.x[0] = data.x;
      },
      encode: (outputs) => ({ y: outputs.y }),
    }) };`,
  );
  const providers = [{ name: 'cuda', deviceIds: [3, 5], sessions: null, options: {} }] as const;
  const spec = await copied('no_batch', { handlerPath, providers });
  const running = await start([spec], { threads: 4 });
  const opened = () => standInRuns(dir).filter(({ what }) => what === 'open');
  const devices = () =>
    running.threadIds().map((id) => opened().find(({ thread }) => thread === id)?.device ?? null);
  expect(devices().toSorted()).toEqual([3, 3, 5, 5]);
  const slab = new HandMadeSlab(running, 0, 8, 0);
  for (let deaths = 1; deaths <= 4; deaths++) {
    await expect(slab.run(running, [{ x: 9 }])).rejects.toMatchObject({ code: 'WORKER_DIED' });
    await expect.poll(() => opened().length, { timeout: 30_000 }).toBe(4 + deaths);
    await expect.poll(() => running.running.sessions()[0]?.count, { timeout: 30_000 }).toBe(4);
    expect(devices().toSorted(), `after ${deaths}`).toEqual([3, 3, 5, 5]);
  }
});

test('a model that one worker cannot load is not served by any, and says in which one', async () => {
  const providers = [{ name: 'cuda', deviceIds: [0, 1], sessions: null, options: {} }] as const;
  const one = await copied('same_float32', { slot: 1, providers });
  const other = await copied('no_batch', {}, join(dir, '..', 'other', '1'));
  for (const absent of ['cuda/0', 'cuda/1']) {
    await say('absent', absent);
    // At the start, and in a worker that is added.
    for (const threadsMin of [2, 1]) {
      const running = await start([other, one], {
        threadsMin,
        profileMsMax: 10,
        runMsMax: 1e-6,
      });
      expect(running.threadIds()).toHaveLength(2);
      expect(running.loaded.map(({ slot }) => slot)).toEqual([0]);
      expect(running.plans.map(({ slot }) => slot)).toEqual([0]);
      expect(running.problems).toEqual([
        {
          model: 'same_float32@1',
          lacksProvider: true,
          message: expect.stringMatching(
            /cuda: no such device is detected.*\(in thread \d+; 1 of 2 workers can load it\)$/,
          ),
        },
      ]);
      expect(running.running.sessions().map(({ slot }) => slot)).toEqual([0]);
      await running.stop();
    }
  }
});

test('no more workers than sessions that a device may have', async () => {
  const two = [{ name: 'cuda', deviceIds: [0], sessions: 2, options: {} }, 'cpu'] as const;
  const running = await start([await copied('same_float32', { providers: two })], {
    threads: 4,
    threadsMin: 3,
  });
  expect(running.threads).toBe(2);
  expect(running.running.sessions()).toEqual([{ slot: 0, provider: 'cuda', count: 2 }]);
  expect(told('WORKERS_LIMITED')).toEqual([expect.stringContaining('2 workers instead of 3')]);
});
