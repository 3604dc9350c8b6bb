// The whole engine on a real Redis Cluster: slots that move and masters that die while events flow.
import { rmSync } from 'node:fs';
import type { Cluster } from 'ioredis';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { connect } from '../src/client/client.ts';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { loadDefaults } from '../src/load/options.ts';
import { runLoad } from '../src/load/run.ts';
import { startCluster, type TestCluster, type TestNode } from './support/cluster.ts';
import { until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { eachOnce, entriesOf, flows, type Part, Producer, partsOf } from './support/survive.ts';

// Servers agree among themselves in seconds; a busy machine takes its time.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const parts = partsOf(4);
const features = Buffer.alloc(256);
let models: string;
let cluster: TestCluster;
let client: Cluster;
let engine: Engine;
let producer: Producer;

beforeAll(async () => {
  models = modelsDir({ mlp: { from: MLP } });
  cluster = await startCluster({ replicas: 3 });
});
afterAll(async () => {
  await cluster?.stop();
  rmSync(models, { recursive: true });
});
afterEach(async () => {
  await producer?.stop();
  await engine?.stop();
});

async function start(): Promise<void> {
  client = cluster.connect();
  await client.flushall().catch(() => {});
  for (const { client: node } of cluster.nodes) await node.flushall().catch(() => {});
  engine = await startEngine(
    loadConfig({
      env: {},
      overrides: {
        redis: { cluster: cluster.urls.slice(0, 2) },
        streams: [{ name: 'events', partitions: parts.length }],
        models: { path: models },
        gateway: { port: 0 },
        workers: { max: 1 },
      },
    }),
  );
  producer = new Producer(client, parts, features);
}

test('every partition is served by the node of its slot; what is pushed comes from all of them', async () => {
  await start();
  const socket = connect(engine.url.replace('http', 'ws'));
  const pushed = new Set<string>();
  socket.subscribe('model:mlp', {}, ({ key }) => pushed.add(key as string));
  const owners = new Set<number>();
  for (const { name } of parts) owners.add((await cluster.masterOf(name)).redis.port);
  expect(owners.size).toBe(3);
  await until('all four push', async () => {
    for (const { name } of parts) await client.xadd(name, '*', 'key', name, 'features', features);
    return pushed.size === parts.length;
  });
  socket.close();
  expect(await eachOnce(client, parts, producer)).toEqual([]);
});

test('load is sent to one partition at a time, at its node', async () => {
  await start();
  const [part] = parts as [Part];
  const { redis } = await cluster.masterOf(part.name);
  const other = cluster.nodes.find((node) => node.redis.port !== redis.port) as TestNode;
  const options = {
    ...loadDefaults,
    ...{ stream: part.name, predictions: part.predictions, deadletters: part.deadletters },
    ...{ featuresBytes: 256, ratePerS: 200, durationS: 0.5, warmupS: 0.1 },
  };
  await expect(runLoad({ ...options, redisUrl: other.redis.url })).rejects.toMatchObject({
    code: 'REDIS_MODE',
    message: expect.stringContaining(`127.0.0.1:${redis.port}`),
  });
  const report = await runLoad({ ...options, redisUrl: redis.url });
  expect(report.ok).toBe(true);
});

test('a slot moves to another node and back while events flow', async () => {
  await start();
  producer.start();
  await flows(client, parts);
  const [part] = parts;
  const name = part?.name as string;
  const socket = connect(engine.url.replace('http', 'ws'));
  let pushes = 0;
  socket.subscribe(`key:${name}`, {}, () => {
    pushes += 1;
  });
  const pushed = async () => {
    const before = pushes;
    await until('what is predicted is pushed', () => pushes > before + 5);
  };
  await pushed();
  const home = await cluster.masterOf(name);
  const away = cluster.nodes.slice(0, 3).find((node) => node !== home) as TestNode;
  // Half-way the partition is in two places: nobody can settle anything of it.
  await cluster.move(name, away, () => new Promise((resolve) => setTimeout(resolve, 300)));
  expect(await cluster.masterOf(name)).toBe(away);
  await flows(client, parts);
  await pushed();
  await cluster.move(name, home);
  await flows(client, parts);
  await pushed();
  socket.close();
  await producer.stop();
  expect(await eachOnce(client, parts, producer)).toEqual([]);
  expect(producer.count).toBeGreaterThan(100);
});

test('a master hands over to its replica while events flow, and nothing is lost', async () => {
  await start();
  producer.start();
  await flows(client, parts);
  const before = await cluster.masterOf('events:{1}');
  const replica = await cluster.replicaOf(before);
  await replica.client.cluster('FAILOVER');
  await until('it has handed over', async () => (await cluster.masterOf('events:{1}')) === replica);
  await flows(client, parts);
  await producer.stop();
  expect(await eachOnce(client, parts, producer)).toEqual([]);
});

test('a master is killed and its replica takes over while events flow', async () => {
  await start();
  producer.start();
  await flows(client, parts);
  const victim = await cluster.masterOf('events:{0}');
  const witness = cluster.nodes.find((node) => node !== victim) as TestNode;
  await victim.redis.kill();
  await until('a replica has taken over', async () => {
    return (await cluster.masterOf('events:{0}', witness)) !== victim;
  });
  await flows(client, parts, 1);
  const survivors = await entriesOf(client, parts);
  await flows(client, parts);
  await until('the engine is ready', () => engine.backend.health().ready);
  await producer.stop();
  const lost = await eachOnce(client, parts, producer);
  // What the master had confirmed and not yet passed on.
  expect(lost.length).toBeLessThan(producer.count / 10);
  expect(lost.filter((entry) => survivors.has(entry))).toEqual([]);
});
