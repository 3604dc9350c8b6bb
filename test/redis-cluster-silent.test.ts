// A master that neither answers nor hangs up: its machine froze, or the cable was pulled. It comes back.
import { rmSync } from 'node:fs';
import { expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { startEngine } from '../src/engine.ts';
import { startCluster, type TestNode } from './support/cluster.ts';
import { until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { eachOnce, entriesOf, flows, Producer, partsOf } from './support/survive.ts';

const parts = partsOf(4);

test('a master falls silent while events flow; its replica takes over, and it comes back', async () => {
  const models = modelsDir({ mlp: { from: MLP } });
  const cluster = await startCluster({ replicas: 3 });
  const overrides = {
    redis: { cluster: cluster.urls },
    streams: [{ name: 'events', partitions: parts.length }],
    models: { path: models },
    gateway: { port: 0 },
    workers: { max: 1 },
  };
  const engine = await startEngine(loadConfig({ env: {}, overrides }));
  const client = cluster.connect();
  const producer = new Producer(client, parts, Buffer.alloc(256));
  try {
    producer.start();
    await flows(client, parts);
    const victim = await cluster.masterOf('events:{0}');
    const witness = cluster.nodes.find((node) => node !== victim) as TestNode;
    process.kill(victim.redis.pid, 'SIGSTOP');
    await until('its replica has taken over', async () => {
      return (await cluster.masterOf('events:{0}', witness)) !== victim;
    });
    await flows(client, parts, 1);
    const survivors = await entriesOf(client, parts);
    // What it was sent and had not read yet, it reads now.
    process.kill(victim.redis.pid, 'SIGCONT');
    await until('it is a replica', async () => (await victim.client.role())[0] === 'slave', 15_000);
    await flows(client, parts);
    await producer.stop();
    const lost = await eachOnce(client, parts, producer);
    expect(lost.length).toBeLessThan(producer.count / 10);
    expect(lost.filter((entry) => survivors.has(entry))).toEqual([]);
  } finally {
    await producer.stop();
    await engine.stop();
    await cluster.stop();
    rmSync(models, { recursive: true });
  }
}, 90_000);
