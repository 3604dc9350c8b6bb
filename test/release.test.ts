// What an engine that stops gives back, on a real server.
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ensureGroup } from '../src/ingest/regroup.ts';
import { releaseConsumer } from '../src/ingest/release.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { aliveKey } from '../src/redis/keys.ts';
import { endpointOf } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const ME = { stream: 'events', group: 'subito', consumer: 'me', token: 'my token' };
const ALIVE = aliveKey(ME.stream, ME.group, ME.consumer);
const DAY_MS = 86_400_000;

let server: TestRedis;
let redis: Redis;
let control: Control;

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
  control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
});
afterAll(async () => {
  control.close();
  await server.stop();
});
beforeEach(async () => {
  await redis.flushall();
  await ensureGroup(control, { ...ME, predictions: 'predictions', deadletters: 'deadletters' });
  await redis.set(ALIVE, ME.token);
});

async function give(consumer: string, count: number): Promise<string[]> {
  const pipeline = redis.pipeline();
  for (let i = 0; i < count; i += 1) pipeline.xadd(ME.stream, '*', 'key', `k${i}`);
  const ids = ((await pipeline.exec()) ?? []).map(([, id]) => id as string);
  await redis.xreadgroup('GROUP', ME.group, consumer, 'COUNT', count, 'STREAMS', ME.stream, '>');
  return ids;
}

interface Row {
  readonly id: string;
  readonly consumer: string;
  readonly idleMs: number;
  readonly deliveries: number;
}

async function pending(): Promise<Row[]> {
  const rows = await redis.xpending(ME.stream, ME.group, '-', '+', 100_000);
  return (rows as [string, string, number, number][]).map(([id, consumer, idleMs, deliveries]) => {
    return { id, consumer, idleMs, deliveries };
  });
}

async function consumers(): Promise<string[]> {
  const found = (await redis.xinfo('CONSUMERS', ME.stream, ME.group)) as string[][];
  return found.map((values) => values[1] as string).sort();
}

test('with nothing pending the consumer goes, and its heartbeat', async () => {
  const ids = await give('me', 3);
  const others = await give('other', 2);
  await redis.xack(ME.stream, ME.group, ...ids);
  expect(await releaseConsumer(control, ME, [])).toBe(0);
  expect(await consumers()).toEqual(['other']);
  expect(await redis.exists(ALIVE)).toBe(0);
  expect((await pending()).map(({ id }) => id)).toEqual(others);
  // A consumer that never read anything is not there.
  expect(await releaseConsumer(control, { ...ME, consumer: 'nobody' }, [])).toBe(0);
});

describe('what is pending', () => {
  test('can be claimed at once, counted as before where a worker has it; the consumer stays', async () => {
    const mine = await give('me', 3);
    const others = await give('other', 2);
    await redis.xclaim(ME.stream, ME.group, 'me', 0, mine[2] as string, 'RETRYCOUNT', 4, 'JUSTID');
    expect(await releaseConsumer(control, ME, mine)).toBe(3);
    const rows = await pending();
    expect(rows.map(({ id, consumer, deliveries }) => [id, consumer, deliveries])).toEqual([
      [mine[0], 'me', 1],
      [mine[1], 'me', 1],
      [mine[2], 'me', 4],
      [others[0], 'other', 1],
      [others[1], 'other', 1],
    ]);
    for (const { consumer, idleMs } of rows) {
      if (consumer === 'me') expect(idleMs).toBeGreaterThanOrEqual(DAY_MS);
      else expect(idleMs).toBeLessThan(DAY_MS / 2);
    }
    expect(await redis.exists(ALIVE)).toBe(0);
    const claim = [ME.group, 'heir', 60_000, '0', 'JUSTID'];
    const [, claimed] = (await control.call('XAUTOCLAIM', ME.stream, ...claim)) as [string, string[]];
    expect(claimed).toEqual(mine);
  });

  test('and no worker has counts one delivery less; ids that are not ours change nothing', async () => {
    const mine = await give('me', 3);
    const others = await give('other', 1);
    await redis.xclaim(ME.stream, ME.group, 'me', 0, mine[1] as string, 'RETRYCOUNT', 3, 'JUSTID');
    const settled = await give('me', 1);
    await redis.xack(ME.stream, ME.group, ...settled);
    expect(await releaseConsumer(control, ME, [mine[2]!, ...others, ...settled, '5-5'])).toBe(3);
    expect((await pending()).map(({ id, deliveries }) => [id, deliveries])).toEqual([
      [mine[0], 0],
      [mine[1], 2],
      [mine[2], 1],
      [others[0], 1],
    ]);
    // Once more, as after an answer that was lost: nothing is taken off twice.
    expect(await releaseConsumer(control, ME, [])).toBe(3);
    expect((await pending()).map(({ deliveries }) => deliveries)).toEqual([0, 2, 1, 1]);
  });

  test('goes through in pieces, whatever its number', async () => {
    const mine = await give('me', 4500);
    expect(await releaseConsumer(control, ME, mine.slice(1000, 3000))).toBe(4500);
    const rows = await pending();
    expect(rows.map(({ id }) => id)).toEqual(mine);
    expect(rows.every(({ idleMs }) => idleMs >= DAY_MS)).toBe(true);
    expect(rows.map(({ deliveries }) => deliveries).join('')).toBe(
      '0'.repeat(1000) + '1'.repeat(2000) + '0'.repeat(1500),
    );
  });

  test('though it was deleted from the stream stays pending, for somebody to settle', async () => {
    const mine = await give('me', 3);
    await redis.xdel(ME.stream, mine[1] as string);
    expect(await releaseConsumer(control, ME, [])).toBe(3);
    expect((await pending()).map(({ id, deliveries }) => [id, deliveries])).toEqual([
      [mine[0], 0],
      [mine[1], 1],
      [mine[2], 0],
    ]);
    expect(await consumers()).toEqual(['me']);
  });
});

test('a name that somebody else has taken is left alone; one that expired is not', async () => {
  const mine = await give('me', 2);
  await redis.set(ALIVE, 'another token');
  expect(await releaseConsumer(control, ME, mine)).toBe(-1);
  expect(await redis.get(ALIVE)).toBe('another token');
  expect((await pending()).every(({ idleMs, deliveries }) => idleMs < DAY_MS && deliveries === 1)).toBe(true);
  await redis.del(ALIVE);
  expect(await releaseConsumer(control, ME, [])).toBe(2);
});

test('without the group, or under OOM, it does what there is to do', async () => {
  await give('me', 2);
  await redis.config('SET', 'maxmemory', '1');
  expect(await releaseConsumer(control, ME, [])).toBe(2);
  await redis.config('SET', 'maxmemory', '0');
  expect((await pending()).every(({ idleMs }) => idleMs >= DAY_MS)).toBe(true);
  await redis.set(ALIVE, ME.token);
  await redis.xgroup('DESTROY', ME.stream, ME.group);
  expect(await releaseConsumer(control, ME, [])).toBe(0);
  expect(await redis.exists(ALIVE)).toBe(0);
  await redis.del(ME.stream);
  expect(await releaseConsumer(control, ME, [])).toBe(0);
  await redis.set(ME.stream, 'text');
  await expect(releaseConsumer(control, ME, [])).rejects.toThrow('WRONGTYPE');
});
