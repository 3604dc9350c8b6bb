// `subito models`: what is known of a model once it has been loaded and measured, as a table and as data.
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { formatModels, type ModelReport, reportModels } from '../src/commands/models.ts';
import { loadConfig } from '../src/config.ts';
import { FIXTURE_MODELS, MLP, modelsDir } from './support/engine.ts';

const models = modelsDir({
  broken: { from: join(FIXTURE_MODELS, 'free_dim') },
  mlp: { from: MLP, manifest: 'description: A perceptron.\nproviders: [cuda, cpu]\nbatch: { max: 16 }' },
  rungs: {
    from: join(FIXTURE_MODELS, 'same_float32'),
    manifest: 'degrade: [previous, { constant: { y: [0, 0, 0] } }]\nbreaker: { consecutive: 3 }',
  },
  slow: { from: join(FIXTURE_MODELS, 'no_batch'), manifest: 'batch: { max: 4, run_ms: 0.5 }' },
});
cpSync(join(models, 'rungs', '1'), join(models, 'rungs', '2'), { recursive: true });
// Two milliseconds a row.
writeFileSync(
  join(models, 'slow', 'handler.ts'),
  `export const handler = { fields: [], predicts: [], create: () => ({
    decode() {},
    encode() { const end = performance.now() + 2; while (performance.now() < end); return {}; },
  }) };`,
);
afterAll(() => rmSync(models, { recursive: true }));

test('a model’s provider, batches and profile, and why they are not what they might be', async () => {
  const reports = await reportModels(loadConfig({ env: {}, overrides: { models: { path: models } } }));
  expect(reports.map(({ name, status }) => [name, status])).toEqual([
    ['broken', 'problem'],
    ['mlp', 'ok'],
    ['rungs', 'ok'],
    ['slow', 'ok'],
  ]);
  const [, mlp, rungs, slow] = reports as [ModelReport, ModelReport, ModelReport, ModelReport];
  expect(mlp).toMatchObject({ provider: 'cpu', rowsMax: 16, runMsMax: 3.5 });
  expect(mlp.profile.map(({ rows }) => rows)).toEqual([1, 2, 4, 8, 16]);
  for (const { runs, p50Ms, p99Ms } of mlp.profile) {
    expect(runs).toBeGreaterThan(0);
    expect(p50Ms).toBeGreaterThan(0);
    expect(p99Ms).toBeGreaterThanOrEqual(p50Ms);
  }
  expect(mlp.notes[0]).toMatch(
    /^mlp@1 runs on cpu in 1 worker, not on cuda: .*Failed to load shared library/,
  );
  expect(slow).toMatchObject({ batchRows: 1, runMsMax: 0.5 });
  expect(slow.profile[0]!.p50Ms).toBeGreaterThanOrEqual(2);
  expect(slow.notes).toEqual([
    expect.stringMatching(/^one row alone takes .* more than the 0\.5 ms that a batch/),
  ]);

  expect(rungs.degrade).toEqual(['previous (rungs@1)', 'constant']);
  expect(rungs.breaker).toMatchObject({ consecutive: 3, probes: 3 });

  const text = formatModels(reports, models);
  expect(text).toMatch(/^MODEL +STATUS +PROVIDER +BATCH +P50 MS +P99 MS +ROWS\/S\n/);
  expect(text).toMatch(/^broken@1 +problem +- +- +- +- +-$/m);
  expect(text).toMatch(/^slow@1 +ok +cpu +1 of 4 +[\d.]+ +[\d.]+ +\d+$/m);
  expect(text).toMatch(/^ {4}ms: {2}1 row [\d.]+ \(p99 [\d.]+, \d+ runs\), 2 [\d.]+ \([\d.]+, \d+\), 4 /m);
  expect(text).toContain(`    ${mlp.notes[0]}\n`);
  expect(text).toMatch(/^rungs@2 +ok/m);
  expect(text).not.toMatch(/^rungs@1/m);
  expect(text).toContain('    degrade: previous (rungs@1), constant\n');
  expect(text).toMatch(/^ {4}breaker: window_ms 5000, volume 10, .*, consecutive 3, .*, probes 3$/m);
});
