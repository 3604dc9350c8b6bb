// The output is the bottleneck: a Redis whose memory is used up takes acknowledgements and reads, but no
// predictions. Reading stops, nothing is lost, producers and clients are told, and it all goes on by itself.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect } from '../src/client/client.ts';
import { createPacer } from '../src/client/pacing.ts';
import { hintsKey } from '../src/redis/keys.ts';
import { until } from './support/core.ts';
import { entriesOf, MLP, modelsDir, startTestEngine, type TestEngine } from './support/engine.ts';

const EVENTS = 5000;
const ROWS = 16;
/** Beside the batch that runs: lanes.ts. */
const BATCHES = 1 + 8;
const FEATURES = '\0'.repeat(256);
/** Looks at memory when it begins, not in between: so it crosses the limit, as no single client could. */
const FLOOD = `for i = 1, ARGV[1] do
  redis.call('XADD', KEYS[1], '*', 'key', 'k' .. i, 'features', ARGV[2])
end`;

let running: TestEngine;
beforeAll(async () => {
  const models = modelsDir({
    mlp: { from: MLP },
    kept: { from: MLP, manifest: 'name: kept\nrecord: true\n' },
  });
  running = await startTestEngine(models, {
    streams: [{ name: 'events', model: 'mlp' }],
    limits: { batch_rows_max: ROWS },
  });
});
afterAll(() => running.stop());

const hints = () => running.client.hgetall(hintsKey('events'));

/** Of the input stream: read and not settled. */
async function pending(): Promise<number> {
  return (await running.client.xpending('events', 'subito'))[0] as number;
}

async function infer(model: string): Promise<Response> {
  const data = { features: Array(64).fill(0.5) };
  return fetch(`${running.engine.url}/v2/models/${model}/infer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ data }),
  });
}

async function usedMemory(): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await running.client.info('memory'))?.[1]);
}

test('memory used up: reading stops, all are told, and nothing is lost', { timeout: 60_000 }, async () => {
  const { client, engine } = running;
  await client.config('SET', 'maxmemory', String((await usedMemory()) + 500_000));
  await client.eval(FLOOD, 1, 'events', EVENTS, FEATURES);
  expect(await usedMemory()).toBeGreaterThan(Number((await client.config('GET', 'maxmemory'))[1]));

  await until('it is refused', () => /OOM/.test(engine.backend.health().reasons.join()));
  const refusedMs = performance.now();
  await until('the hints say stop', async () => (await hints())['state'] === 'stop');
  // With the next word, not only when nothing has been served for three seconds.
  expect(performance.now() - refusedMs).toBeLessThan(2900);
  expect(await hints()).toMatchObject({ state: 'stop', rate_per_s: '0' });
  // Every row that streams may have is taken, and no more than these has been read.
  const held = await pending();
  expect(held).toBeGreaterThan(0);
  expect(held).toBeLessThanOrEqual(BATCHES * ROWS);
  const settled = await client.xlen('predictions');
  expect(settled).toBeLessThan(EVENTS - held);
  await sleep(1500);
  expect([await pending(), await client.xlen('predictions')]).toEqual([held, settled]);
  expect(Number((await hints())['backlog'])).toBe(EVENTS - held - settled);
  expect(engine.backend.health().reasons.join()).toMatch(/refuses settlements: OOM/);

  // Requests need no Redis, as long as nobody wants their answers kept there.
  expect((await infer('mlp')).status).toBe(200);
  const kept = await infer('kept');
  expect([kept.status, kept.headers.get('retry-after')]).toEqual([503, '1']);
  expect(await kept.json()).toMatchObject({
    code: 'model_unavailable',
    error: expect.stringMatching(/^its answers are recorded, which Redis refuses now: ./),
    retry_ms: 1000,
  });
  const player = connect(engine.url);
  const event = { key: 'u', model: 'mlp', data: { features: Array(64).fill(0.5) } };
  await expect(player.send(event)).rejects.toMatchObject({ code: 113, retryable: true, afterMs: 1000 });
  expect(await player.infer(event)).toMatchObject({ status: 'ok' });
  player.close();
  const pacer = createPacer({ read: hints, waitMsMax: 60_000 });
  const turn = pacer.turn();
  await sleep(300);
  expect(pacer.state).toMatchObject({ hint: 'stop', waiting: 1 });

  await client.config('SET', 'maxmemory', '0');
  await until('all is settled', async () => (await client.xlen('predictions')) === EVENTS, 20_000);
  await turn;
  const sources = (await entriesOf(client, 'predictions')).map((fields) => String(fields['source']));
  const ids = (await client.xrange('events', '-', '+')).map(([id]) => id);
  expect(new Set(sources)).toEqual(new Set(ids));
  expect(sources.length).toBe(EVENTS);
  expect(await pending()).toBe(0);
  await until('the hints are well', async () => (await hints())['state'] === 'ok');
  expect((await infer('kept')).status).toBe(200);
});
