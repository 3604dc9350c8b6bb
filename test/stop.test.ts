// Two engines share the events, and one of them stops: what it leaves, the other takes at once. The claim
// time is a minute here, so nothing that takes seconds comes from it.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { type Engine, type EngineOptions, startEngine } from '../src/engine.ts';
import { readMachine } from '../src/ingest/machine.ts';
import { consumerName } from '../src/ingest/names.ts';
import { until } from './support/core.ts';
import { entriesOf, FIXTURE_MODELS, MLP, modelsDir } from './support/engine.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const NAME = (slot: number) => consumerName(readMachine(), slot);
/** Takes its time: as many milliseconds for each row as the event says. */
const SLOW = `
export const handler = {
  fields: [{ name: 'ms', dtype: 'float64', shape: [] }],
  predicts: [{ name: 'done', dtype: 'bool', shape: [] }],
  create: () => ({
    decode(data) {
      const begin = performance.now();
      while (performance.now() - begin < data.ms);
    },
    encode: () => ({ done: true }),
  }),
};
`;

let redis: TestRedis;
let client: Redis;
let engines: Engine[];

beforeEach(async () => {
  redis = await startRedis();
  client = redis.connect();
  engines = [];
});
afterEach(async () => {
  await Promise.allSettled(engines.map((engine) => engine.stop()));
  await redis.stop();
});

async function start(path: string, limits = {}, options: EngineOptions = {}, port = 0): Promise<Engine> {
  const overrides = {
    redis: { url: redis.url },
    models: { path },
    gateway: { port },
    workers: { max: 1 },
    limits: { claim_idle_ms: 60_000, ...limits },
  };
  const engine = await startEngine(loadConfig({ env: {}, overrides }), options);
  engines.push(engine);
  return engine;
}

/** Of each consumer, how many entries are pending. */
async function consumers(): Promise<Record<string, number>> {
  const found = (await client.xinfo('CONSUMERS', 'events', 'subito')) as (string | number)[][];
  return Object.fromEntries(found.map((values) => [values[1], Number(values[3])]));
}

const heartbeats = async () => (await client.keys('*:alive:*')).sort();

async function expectOneOutcomeEach(ids: readonly string[]): Promise<void> {
  await until('all are settled', async () => (await client.xlen('predictions')) >= ids.length, 15_000);
  const sources = (await entriesOf(client, 'predictions')).map(({ source }) => String(source));
  expect(sources.sort()).toEqual([...ids].sort());
  expect(await client.xlen('deadletters')).toBe(0);
  await until('nothing is pending', async () => Object.values(await consumers()).every((n) => n === 0));
}

test('engines side by side have names of their own; under load, one stops and leaves nothing', async () => {
  const models = modelsDir({ mlp: { from: MLP } });
  const [first] = [await start(models), await start(models)];
  expect(await heartbeats()).toEqual([0, 1].map((slot) => `{events}:alive:subito:${NAME(slot)}`));
  const ids: string[] = [];
  let going = true;
  const producing = (async () => {
    while (going) {
      const pipeline = client.pipeline();
      for (let i = 0; i < 50; i += 1)
        pipeline.xadd('events', '*', 'key', `u${i}`, 'features', Buffer.alloc(256));
      for (const [, id] of (await pipeline.exec()) ?? []) ids.push(id as string);
      await sleep(5);
    }
  })();
  await until('both read', async () => Object.keys(await consumers()).length === 2);
  await sleep(300);
  await first?.stop();
  expect(Object.keys(await consumers())).toEqual([NAME(1)]);
  expect(await heartbeats()).toEqual([`{events}:alive:subito:${NAME(1)}`]);
  await sleep(300);
  going = false;
  await producing;
  await expectOneOutcomeEach(ids);
}, 60_000);

test('a start that fails leaves no name taken', async () => {
  const models = modelsDir({ mlp: { from: MLP } });
  const { url } = await start(models);
  const starting = start(models, {}, {}, Number(new URL(url).port));
  await expect(starting).rejects.toMatchObject({ code: 'GATEWAY_PORT_BUSY' });
  expect(await heartbeats()).toEqual([`{events}:alive:subito:${NAME(0)}`]);
});

test('one that cannot finish in time hands over what it had read', async () => {
  const manifest = 'name: slow\nbatch: { max: 1 }\n';
  const models = modelsDir({ slow: { from: `${FIXTURE_MODELS}same_float32`, manifest } });
  writeFileSync(join(models, 'slow', 'handler.ts'), SLOW);
  const first = await start(models, { infer_ms_max: 1000, stop_ms_max: 1000 });
  const ids: string[] = [];
  for (let i = 0; i < 20; i += 1)
    ids.push(
      String(await client.xadd('events', '*', 'key', 'k', 'deadline_ms', '60000', 'data', '{"ms":400}')),
    );
  await until('it has read some', async () => ((await consumers())[NAME(0)] ?? 0) >= 6);
  const stopping = first.stop();
  await expect(stopping).rejects.toMatchObject({ code: 'STOP_TIMEOUT' });
  const left = (await consumers())[NAME(0)] as number;
  expect(left).toBeGreaterThan(1);
  expect(await heartbeats()).toEqual([]);
  engines.length = 0;
  // Beside it from now on, and under another name: somebody else has taken the first.
  await client.set(`{events}:alive:subito:${NAME(0)}`, 'somebody');
  await start(models);
  expect(await heartbeats()).toHaveLength(2);
  await expectOneOutcomeEach(ids);
  expect(Object.keys(await consumers())).toContain(NAME(1));
}, 60_000);

test('stale consumers are removed after a while, unless that is left to others', async () => {
  const models = modelsDir({ mlp: { from: MLP } });
  const limits = { infer_ms_max: 500, claim_idle_ms: 1000 };
  const aside = await start(models, limits, { upkeep: false });
  const id = String(await client.xadd('events', '*', 'key', 'u', 'features', Buffer.alloc(256)));
  await expectOneOutcomeEach([id]);
  await client.xgroup('CREATECONSUMER', 'events', 'subito', 'stale');
  await sleep(4000);
  expect(Object.keys(await consumers()).sort()).toEqual(['stale', NAME(0)]);
  await aside.stop();
  await start(models, limits);
  await until('it is removed', async () => Object.keys(await consumers()).length === 0, 15_000);
}, 60_000);
