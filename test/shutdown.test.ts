// The engine as a process under load: asked to end, killed, started again. Every event has one outcome.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const ROW = Buffer.alloc(256);
let redis: TestRedis;
let client: Redis;
let engine: ChildProcess;
let models: string;

beforeEach(async () => {
  redis = await startRedis();
  client = redis.connect();
  models = modelsDir({ mlp: { from: MLP } });
});
afterEach(async () => {
  engine.kill('SIGKILL');
  await redis.stop();
});

/** Starts `subito serve` and waits until it says that it serves. */
async function serve(): Promise<void> {
  const args = ['src/main.ts', 'serve', '--redis', redis.url, '--models', models, '--port', '0'];
  const env = { ...process.env, SUBITO_WORKERS_MAX: '1', SUBITO_STREAMS: '[{name: events, model: mlp}]' };
  engine = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  await once(engine.stdout as NodeJS.ReadableStream, 'data');
}

/** Appends events at about 10,000 a second until told to stop; their ids are the return value. */
function produce(): () => Promise<string[]> {
  let going = true;
  const produced = (async () => {
    const ids: string[] = [];
    while (going) {
      const pipeline = client.pipeline();
      for (let i = 0; i < 100; i++) pipeline.xadd('events', '*', 'key', `u${i}`, 'features', ROW);
      for (const [, id] of (await pipeline.exec()) ?? []) ids.push(id as string);
      await sleep(8);
    }
    return ids;
  })();
  return () => {
    going = false;
    return produced;
  };
}

async function pending(): Promise<number> {
  const [count] = (await client.xpending('events', 'subito')) as [number];
  return count;
}

/** The sources of all predictions, which must be all the events, each once, in whatever order. */
async function expectOneOutcomeEach(ids: readonly string[]): Promise<void> {
  await expect.poll(() => client.xlen('predictions'), { timeout: 15_000 }).toBeGreaterThanOrEqual(ids.length);
  const entries = await client.xrange('predictions', '-', '+');
  const sources = entries.map(([, fields]) => fields[fields.indexOf('source') + 1]);
  expect(new Set(sources).size).toBe(sources.length);
  expect(sources.sort()).toEqual([...ids].sort());
  expect(await client.xlen('deadletters')).toBe(0);
  expect(await pending()).toBe(0);
}

test('SIGTERM under load settles what was read; the next start leaves no gap and no duplicate', async () => {
  await serve();
  const stop = produce();
  await sleep(700);
  const exit = once(engine, 'exit');
  engine.kill('SIGTERM');
  expect(await exit).toEqual([0, null]);
  // Nothing is left in hand, and there was something to leave: the producer had not stopped.
  expect(await pending()).toBe(0);
  const settled = await client.xlen('predictions');
  expect(settled).toBeGreaterThan(500);
  await sleep(100);
  expect(await client.xlen('events')).toBeGreaterThan(settled);
  await serve();
  await sleep(300);
  await expectOneOutcomeEach(await stop());
});

test('SIGKILL under load: the next start settles what had been read', async () => {
  await serve();
  const stop = produce();
  let cut = 0;
  for (let round = 0; round < 3; round++) {
    await sleep(400);
    const exit = once(engine, 'exit');
    engine.kill('SIGKILL');
    await exit;
    cut += await pending();
    await serve();
  }
  // At least one of the kills came while events were in hand, else this shows nothing.
  expect(cut).toBeGreaterThan(0);
  await expectOneOutcomeEach(await stop());
}, 60_000);

describe('SIGTERM during the start', () => {
  function starting(...more: string[]): void {
    const args = ['src/main.ts', 'serve', '--models', models, '--port', '0', ...more];
    const env = { ...process.env, SUBITO_WORKERS_MAX: '1' };
    engine = spawn(process.execPath, args, { env, stdio: ['ignore', 'ignore', 'inherit'] });
  }

  test('while Redis does not answer: it ends at once', async () => {
    starting('--redis', redis.url.replace('redis:', 'rediss:'));
    await until('it connects', async () => /clients:[2-9]/.test(await client.info('clients')));
    const begin = performance.now();
    const exit = once(engine, 'exit');
    engine.kill('SIGTERM');
    expect(await exit).toEqual([0, null]);
    // The models may be loading, which is waited for; the connect would take 5 s.
    expect(performance.now() - begin).toBeLessThan(3500);
  });

  test('the embedded Redis is not left behind', async () => {
    for (const waitMs of [0, 5, 10, 20, 60]) {
      const dir = mkdtempSync(join(tmpdir(), 'subito-start-'));
      const file = join(dir, 'subito.yaml');
      writeFileSync(file, `redis: {embedded: {dir: ${dir}}}\n`);
      starting('--config', file);
      await until('Redis is being started', () => existsSync(join(dir, 'subito-redis.port')), 20_000);
      await sleep(waitMs);
      const exit = once(engine, 'exit');
      engine.kill('SIGTERM');
      expect(await exit).toEqual([0, null]);
      const port = Number(readFileSync(join(dir, 'subito-redis.port'), 'utf8'));
      await sleep(100);
      await expect(once(createConnection(port, '127.0.0.1'), 'connect')).rejects.toThrow('REFUSED');
      rmSync(dir, { recursive: true });
    }
  }, 60_000);
});

test('a database number that does not exist ends the start, and nothing is written', async () => {
  const args = ['src/main.ts', 'serve', '--redis', `${redis.url}/99`, '--models', models, '--port', '0'];
  engine = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  engine.stderr?.on('data', (bytes: Buffer) => {
    said += bytes.toString();
  });
  expect(await once(engine, 'close')).toEqual([1, null]);
  expect(said).toMatch(/REDIS_UNREACHABLE: .*database 99: .*out of range/);
  expect(await client.dbsize()).toBe(0);
});
