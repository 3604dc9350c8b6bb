// What /metrics of a real engine says.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from './support/core.ts';
import {
  entriesOf,
  FIXTURE_MODELS,
  modelsDir,
  predictionOf,
  startTestEngine,
  type TestEngine,
} from './support/engine.ts';

let running: TestEngine;
beforeAll(async () => {
  const from = `${FIXTURE_MODELS}same_float32`;
  const hasty = { from, manifest: 'name: hasty\ndeadline_ms: 300\n' };
  running = await startTestEngine(modelsDir({ hasty, same: { from } }), {
    streams: [
      { name: 'own', model: 'hasty', deadline_ms: 70 },
      { name: 'models', model: 'hasty', predictions: 'p2', deadletters: 'd2' },
      { name: 'default', predictions: 'p3', deadletters: 'd3' },
    ],
    latency: { target_ms: 25 },
    limits: { deadline_ms_default: 900 },
  });
});
afterAll(() => running.stop());

async function metric(name: string): Promise<string[]> {
  const page = await (await fetch(`${running.engine.url}/metrics`)).text();
  const lines = page.split('\n').filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  return lines.map((line) => line.slice(name.length));
}

test('readiness, the target, and deadlines: of a stream, of its model, or the default', async () => {
  expect(await metric('subito_ready')).toEqual([' 1']);
  expect(await metric('subito_latency_target_seconds')).toEqual([' 0.025']);
  expect(await metric('subito_deadline_seconds')).toEqual([
    '{stream="own"} 0.07',
    '{stream="models"} 0.3',
    '{stream="default"} 0.9',
  ]);
});

test('what became of events, counted by stream, model and status', async () => {
  const { client } = running;
  const features = Buffer.from(new Float32Array([1, 2, 3]).buffer);
  const long = ['deadline_ms', '60000'];
  const id = await client.xadd('own', '*', 'features', features, ...long);
  await client.xadd('own', '*', 'data', '{"x":"no numbers"}', ...long);
  await predictionOf(client, id as string);
  await until(
    'the other is a dead letter',
    async () => (await entriesOf(client, 'deadletters')).length === 1,
  );
  const count = async (status: string) => {
    const start = `{stream="own",model="hasty@1",status="${status}"} `;
    const line = (await metric('subito_events_total')).find((each) => each.startsWith(start));
    return line?.slice(start.length);
  };
  await until(
    'both are counted',
    async () => (await count('ok')) === '1' && (await count('invalid')) === '1',
  );
  for (const status of [
    'degraded',
    'failed',
    'expired',
    'overloaded',
    'superseded',
    'cancelled',
    'duplicate',
  ]) {
    expect(await count(status), status).toBe('0');
  }
});
