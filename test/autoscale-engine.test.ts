// GET /autoscale of real engines on a real Redis: never none while there is work, whatever Redis has lost.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Advisor, type AutoscaleReport } from '../src/autoscale/advisor.ts';
import { Census } from '../src/autoscale/census.ts';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { Totals } from '../src/observe/totals.ts';
import { connectControl } from '../src/redis/control.ts';
import { aliveKey } from '../src/redis/keys.ts';
import { endpointOf, until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { start, stopGateways } from './support/gateway.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

let server: TestRedis;
let redis: Redis;
let engines: Engine[] = [];

beforeEach(async () => {
  server = await startRedis({ appendonly: true });
  redis = server.connect();
});
afterEach(async () => {
  for (const engine of engines) await engine.stop().catch(() => {});
  engines = [];
  await server.stop();
});

const models = modelsDir({ mlp: { from: MLP } });

async function startOne(autoscale: object = {}, limits: Record<string, number> = {}): Promise<Engine> {
  const settings = {
    redis: { url: server.url },
    models: { path: models },
    gateway: { port: 0 },
    workers: { max: 1 },
    streams: [{ name: 'events', model: 'mlp' }],
    autoscale: { window_ms: 2000, ...autoscale },
    limits,
  };
  const engine = await startEngine(loadConfig({ env: {}, overrides: settings }));
  engines.push(engine);
  return engine;
}

async function ask({ url }: Engine): Promise<AutoscaleReport> {
  const response = await fetch(`${url}/autoscale`);
  expect(response.status).toBe(200);
  const report = (await response.json()) as AutoscaleReport;
  const desired = report.desired_replicas;
  expect(Number.isInteger(desired) && desired >= 0 && desired <= 20, JSON.stringify(report)).toBe(true);
  return report;
}

async function add(count: number): Promise<void> {
  const pipeline = redis.pipeline();
  for (let n = 0; n < count; n += 1) pipeline.xadd('events', '*', 'key', `k${n}`, 'features', 'x');
  await pipeline.exec();
}

/** What an engine would count, without the engine: what is added stays unread. */
async function census(consumer: string): Promise<{ census: Census; close: () => void }> {
  const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 1000 });
  const partitions = [{ name: 'events', group: 'subito' }];
  return {
    census: new Census({ control, partitions, consumer: () => consumer }),
    close: () => control.close(),
  };
}

test('an idle engine wants the least; the number lies where KEDA looks for it', async () => {
  const engine = await startOne();
  await until('the signals are there', async () => (await ask(engine)).needed_replicas !== null);
  const report = await ask(engine);
  expect(report).toMatchObject({ desired_replicas: 1, needed_replicas: 1 });
  expect(report.signals).toMatchObject({
    replicas: 1,
    arrivals_per_second: 0,
    backlog_events: 0,
    pending_events: 0,
    oldest_unread_seconds: 0,
  });
  const metrics = await (await fetch(`${engine.url}/metrics`)).text();
  expect(metrics).toMatch(/^subito_desired_replicas 1$/m);
});

test('it is read, not written; a gateway whose backend does not work it out has nothing there', async () => {
  const { gateway, backend } = await start();
  expect(await fetch(`${gateway.url}/autoscale`)).toMatchObject({ status: 404 });
  Object.assign(backend, { autoscale: () => ({ desired_replicas: 3 }) });
  const response = await fetch(`${gateway.url}/autoscale`);
  expect(response.headers.get('content-type')).toContain('application/json');
  expect(await response.json()).toEqual({ desired_replicas: 3 });
  expect(await fetch(`${gateway.url}/autoscale`, { method: 'POST' })).toMatchObject({ status: 405 });
  await stopGateways();
});

test('arrivals are those of all engines, and each counts the other', async () => {
  const [one, two] = [await startOne(), await startOne()];
  // Redis hands entries out in turn; whoever has been given one is counted.
  for (const engine of [one, two]) {
    await until('both are counted', async () => {
      await add(1);
      return (await ask(engine)).signals.replicas === 2;
    });
  }
  await add(500);
  for (const engine of [one, two])
    await until('arrivals are seen', async () => ((await ask(engine)).signals.arrivals_per_second ?? 0) > 50);
  await two.stop();
  engines = [one];
  await until('one is left', async () => (await ask(one)).signals.replicas === 1);
});

test('a Redis that stops changes nothing, and is not taken for one without work', async () => {
  const engine = await startOne({ replicas_min: 0, stabilisation_ms: 1000 }, { redis_command_ms_max: 500 });
  await until('the signals are there', async () => (await ask(engine)).needed_replicas !== null);
  await server.kill();
  await until('it is noticed', async () => (await ask(engine)).signals.backlog_events === null, 10_000);
  const dark = await ask(engine);
  expect(dark.desired_replicas).toBe(1);
  expect(dark.needed_replicas).toBeNull();
  expect(dark.reasons[0]).toContain('not known: ');
  expect(dark.signals.arrivals_per_second).toBeNull();
  await server.restart();
  await until('it is there again', async () => (await ask(engine)).needed_replicas !== null, 15_000);
});

test('what Redis forgets in a crash, and a group that is gone, are work all the same', async () => {
  const { census: count, close } = await census('host-boot-0');
  const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 1000 });
  try {
    expect(await count.count()).toEqual({ added: 0, replicas: null });
    await add(50);
    // No group: all that is in the stream is unread; who lives is not known.
    expect(await count.count()).toEqual({ added: 50, replicas: null });
    expect((await control.backlog('events', 'subito')).unread).toBe(50);
    await redis.xgroup('CREATE', 'events', 'subito', '0');
    await redis.set(aliveKey('events', 'subito', 'host-boot-0'), 'token');
    expect(await count.count()).toEqual({ added: 50, replicas: 1 });
    await redis.xreadgroup('GROUP', 'subito', 'host-boot-1', 'COUNT', 20, 'STREAMS', 'events', '>');
    // It has read, and has no heartbeat.
    expect(await count.count()).toEqual({ added: 50, replicas: 1 });
    await redis.set(aliveKey('events', 'subito', 'host-boot-1'), 'token');
    expect(await count.count()).toEqual({ added: 50, replicas: 2 });
    await server.kill();
    expect(await count.count()).toEqual({ added: null, replicas: null });
    await server.restart();
    await until('it is back', async () => (await count.count()).added === 50);
    expect(await control.backlog('events', 'subito')).toMatchObject({ unread: 30, pending: 20 });
    expect((await count.count()).replicas).toBe(2);
    await redis.del('events');
    expect(await count.count()).toEqual({ added: 0, replicas: null });
    await redis.set('events', 'text');
    expect(await count.count()).toEqual({ added: null, replicas: null });
  } finally {
    control.close();
    close();
  }
});

test('a backlog asks for engines, whatever Redis has lost: a crash, the group, itself', async () => {
  // An advisor of an engine that does 1,000 rows a second when it is busy all the time, and reads nothing.
  const { census: count, close } = await census('host-boot-0');
  const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 1000 });
  let nowMs = 0;
  let backlog = await control.backlog('events', 'subito');
  const busy = { directRows: 0, batchRows: 0, busyUs: 0, settled: { ...new Totals().settled } };
  const advisor = new Advisor({
    config: loadConfig({ env: {}, overrides: { autoscale: { replicas_min: 0 } } }).autoscale,
    totals: busy,
    streams: 1,
    backlog: () => [backlog],
    workers: () => 1,
    count: () => count.count(),
    loopActiveMs: () => 0,
    now: () => nowMs,
    wallNow: Date.now,
  });
  const ticks = async (seconds: number, rows = 0) => {
    for (let i = 0; i < seconds; i += 1) {
      nowMs += 1000;
      busy.batchRows += rows;
      busy.busyUs += rows * 1000;
      backlog = await control.backlog('events', 'subito');
      advisor.tick();
      await count.count();
    }
    return advisor.report();
  };
  try {
    // No stream at all: nothing to do, but that is known only once there has been time to see it.
    expect((await ticks(1)).desired_replicas).toBe(1);
    expect(await ticks(20, 1000)).toMatchObject({ desired_replicas: 1 });
    await redis.xgroup('CREATE', 'events', 'subito', '0', 'MKSTREAM');
    for (let i = 0; i < 10; i += 1) await add(9000);
    await redis.xreadgroup('GROUP', 'subito', 'c', 'COUNT', 1, 'STREAMS', 'events', '>');
    const seen = await ticks(18, 1000);
    expect(seen).toMatchObject({ needed_replicas: 3, signals: { backlog_events: 89_999 } });
    await server.kill();
    const dark = await ticks(3, 1000);
    expect(dark).toMatchObject({ desired_replicas: seen.desired_replicas, needed_replicas: null });
    expect(dark.reasons[0]).toContain('as before: not known: the arrival rate, the backlog');
    await server.restart();
    await until('it is back', async () => (await count.count()).added === 90_000);
    expect(await redis.xinfo('GROUPS', 'events')).toEqual([expect.arrayContaining(['lag', null])]);
    expect(await ticks(18, 1000)).toMatchObject({ needed_replicas: 3, signals: { backlog_events: 89_999 } });
    await redis.xgroup('DESTROY', 'events', 'subito');
    const ungrouped = await ticks(2, 1000);
    expect(ungrouped).toMatchObject({ needed_replicas: 3, signals: { backlog_events: 90_000 } });
    await redis.del('events');
    expect((await ticks(2)).desired_replicas).toBeGreaterThanOrEqual(1);
  } finally {
    control.close();
    close();
  }
});
