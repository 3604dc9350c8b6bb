// The whole engine behind real Sentinels: the master dies, or hands over, while events flow.
import { rmSync } from 'node:fs';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { MASTER_NAME, startSentinels, type TestSentinels } from './support/sentinel.ts';
import { eachOnce, entriesOf, flows, Producer, partsOf } from './support/survive.ts';

// Servers agree among themselves in seconds; a busy machine takes its time.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const parts = partsOf(1);
const features = Buffer.alloc(256);
let models: string;
let servers: TestSentinels;
let client: Redis;
let reader: Redis;
let engine: Engine;
let producer: Producer;

beforeAll(() => {
  models = modelsDir({ mlp: { from: MLP } });
});
afterAll(() => rmSync(models, { recursive: true }));
beforeEach(async () => {
  servers = await startSentinels();
  engine = await startEngine(
    loadConfig({
      env: {},
      overrides: {
        redis: { sentinels: servers.urls, master: MASTER_NAME },
        models: { path: models },
        gateway: { port: 0 },
        workers: { max: 1 },
      },
    }),
  );
  client = new Redis({
    sentinels: servers.sentinels.map(({ port }) => ({ host: '127.0.0.1', port })),
    name: MASTER_NAME,
    maxRetriesPerRequest: 0,
    retryStrategy: () => 50,
  });
  client.on('error', () => {});
  // It only reads, and waits for a master as long as that takes.
  reader = new Redis({
    sentinels: servers.sentinels.map(({ port }) => ({ host: '127.0.0.1', port })),
    name: MASTER_NAME,
    maxRetriesPerRequest: null,
    retryStrategy: () => 50,
  });
  reader.on('error', () => {});
  producer = new Producer(client, parts, features);
  producer.start();
  await flows(reader, parts);
});
afterEach(async () => {
  await producer?.stop();
  client?.disconnect();
  reader?.disconnect();
  await engine?.stop();
  await servers?.stop();
});

test('the master is killed and its replica is promoted while events flow', async () => {
  const [master, replica] = servers.servers;
  await master.kill();
  await until('the replica is promoted', async () => (await servers.masterPort()) === replica.port, 15_000);
  await flows(reader, parts, 1);
  const survivors = await entriesOf(reader, parts);
  await flows(reader, parts);
  await until('the engine is ready', () => engine.backend.health().ready);
  await producer.stop();
  const lost = await eachOnce(reader, parts, producer);
  expect(lost.length).toBeLessThan(producer.count / 10);
  expect(lost.filter((entry) => survivors.has(entry))).toEqual([]);
});

test('the master hands over and becomes a replica: nobody goes on talking to it', async () => {
  const [master, replica] = servers.servers;
  await servers.sentinels[0]?.client.call('SENTINEL', 'FAILOVER', MASTER_NAME);
  await until('the replica is promoted', async () => (await servers.masterPort()) === replica.port, 15_000);
  const old = master.connect();
  await until('the old master is a replica', async () => (await old.role())[0] === 'slave', 15_000);
  await flows(reader, parts, 1);
  const survivors = await entriesOf(reader, parts);
  await flows(reader, parts);
  await until('the engine is ready', () => engine.backend.health().ready);
  await producer.stop();
  const lost = await eachOnce(reader, parts, producer);
  expect(lost.filter((entry) => survivors.has(entry))).toEqual([]);
  const connected = String(await old.client('LIST')).split('\n');
  expect(connected.filter((line) => /name=subito:(reader|committer|control)/.test(line))).toEqual([]);
});
