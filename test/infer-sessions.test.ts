// Session settings and providers of a manifest, as ONNX Runtime gets them.
import { InferenceSession } from 'onnxruntime-node';
import { expect, test } from 'vitest';
import type { OpenSession } from '../src/infer/ladder.ts';
import { loadModel } from '../src/infer/load.ts';
import { fixture } from './support/models.ts';

test('settings and provider options reach ONNX Runtime, the defaults where nothing is said', async () => {
  const seen: InferenceSession.SessionOptions[] = [];
  const open: OpenSession = (path, options) => {
    seen.push(options);
    return InferenceSession.create(path, { ...options, executionProviders: ['cpu'] });
  };
  const session = {
    intraOpThreads: 2,
    affinity: '1',
    optimization: 'basic',
    cpuArena: false,
    config: { 'session.set_denormal_as_zero': '1' },
  } as const;
  const providers = [{ name: 'cuda', deviceIds: [4, 6], sessions: null, options: {} }] as const;
  const spec = fixture('no_batch', { session, providers });
  await loadModel(spec, ['cpu'], 1024, null, { open, seat: 3 });
  await loadModel(fixture('no_batch'), ['cpu'], 1024, null, { open });
  expect(seen).toMatchObject([
    {
      executionProviders: [{ name: 'cuda', deviceId: 6 }],
      intraOpNumThreads: 2,
      interOpNumThreads: 1,
      executionMode: 'sequential',
      graphOptimizationLevel: 'basic',
      enableCpuMemArena: false,
      enableMemPattern: true,
      extra: {
        'session.intra_op.allow_spinning': '0',
        'session.intra_op_thread_affinities': '1',
        'session.set_denormal_as_zero': '1',
      },
    },
    { executionProviders: [{ name: 'cpu' }], intraOpNumThreads: 1, graphOptimizationLevel: 'all' },
  ]);
  expect(seen[1]!.extra).not.toHaveProperty('session.intra_op_thread_affinities');
});

test('what ONNX Runtime says of a session setting is told', async () => {
  const session = { config: { 'session.intra_op_thread_affinities': 'x' }, intraOpThreads: 2 };
  await expect(loadModel(fixture('no_batch', { session }), ['cpu'], 1024)).rejects.toThrow(/^model\.onnx: /);
});

test('a provider that is not there falls back to the CPU and says so', async () => {
  const { model, left } = await loadModel(fixture('no_batch'), ['cuda', 'cpu'], 1024);
  expect(model.parts.loaded.provider).toBe('cpu');
  expect(left).toEqual([
    { provider: 'cuda', reason: expect.stringContaining('Failed to load shared library') },
  ]);
});
