// Dead letters: the whole event, why, and how often it had been tried; of any size and shape.
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { endpointOf } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { deliver, entries, pendingCount, Settling, STREAM } from './support/settle.ts';

let server: TestRedis;
let redis: Redis;
let one: Settling;

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
  one = new Settling(endpointOf(server));
  await one.connected();
});
afterAll(async () => {
  one.committer.close();
  await server.stop();
});
beforeEach(async () => {
  await redis.flushall();
  await redis.xgroup('CREATE', STREAM.name, STREAM.group, '0', 'MKSTREAM');
  one.settled.length = 0;
});

const read = (count = 1000) =>
  redis.xreadgroup('GROUP', STREAM.group, 'reader', 'COUNT', count, 'STREAMS', STREAM.name, '>');

async function reject(rows: readonly (readonly [string, string])[]): Promise<void> {
  const before = one.settled.length;
  one.settle(
    rows.map(([id, output]) => ({ id, output })),
    { rejects: true, model: '' },
  );
  await one.done(before + 1);
}

test('all fields of the event, in their order, and its names twice where it has them twice', async () => {
  const binary = Buffer.from([0, 255, 13, 10, 36]);
  const id = String(await redis.xadd(STREAM.name, '*', 'b', binary, 'a', '', 'b', 'again', 'source', 'mine'));
  await read();
  await reject([[id, 'b: unknown field']]);
  const [[, values]] = (await redis.xrangeBuffer('deadletters', '-', '+')) as unknown as [[Buffer, Buffer[]]];
  const expected = ['b', binary, 'a', '', 'b', 'again', 'source', 'mine'];
  const added = ['source', id, 'reason', 'invalid', 'detail', 'b: unknown field', 'deliveries', '1'];
  expect(values).toEqual([...expected, ...added].map((value) => Buffer.from(value as string)));
});

test('deliveries are counted', async () => {
  const [id] = (await deliver(redis, 1)) as [string];
  for (let i = 0; i < 3; i += 1)
    await redis.xreadgroup('GROUP', STREAM.group, 'reader', 'STREAMS', STREAM.name, '0');
  await reject([[id, 'no']]);
  expect((await entries(redis, 'deadletters'))[0]).toMatchObject({ deliveries: '4' });
});

test('an event of ten megabytes is copied whole, without passing through the engine', async () => {
  const id = String(await redis.xadd(STREAM.name, '*', 'key', 'k', 'data', Buffer.alloc(10_000_000, 'x')));
  await read();
  await reject([[id, 'too large']]);
  const [[, values]] = (await redis.xrangeBuffer('deadletters', '-', '+')) as unknown as [[Buffer, Buffer[]]];
  expect(values[3]?.length).toBe(10_000_000);
  expect(values.slice(4).map(String)).toEqual([
    'source',
    id,
    'reason',
    'invalid',
    'detail',
    'too large',
    'deliveries',
    '1',
  ]);
});

test('an event of 10,000 fields keeps its first ones and its reason', async () => {
  const fields = Array.from({ length: 10_000 }, (_, i) => [`f${i}`, `v${i}`]).flat();
  const wide = String(await redis.xadd(STREAM.name, '*', ...fields));
  const [next] = (await deliver(redis, 1)) as [string];
  await read();
  await reject([
    [wide, 'f0: unknown field'],
    [next, 'also'],
  ]);
  const [first, second] = await entries(redis, 'deadletters');
  expect(first).toMatchObject({ f0: 'v0', f3000: 'v3000', source: wide, reason: 'invalid', deliveries: '1' });
  expect(second).toMatchObject({ data: 'd0', source: next });
  expect(await pendingCount(redis)).toBe(0);
});

test('an event that was deleted leaves its id and the reason', async () => {
  const [id, other] = (await deliver(redis, 2)) as [string, string];
  await redis.xdel(STREAM.name, id);
  await reject([
    [id, 'the entry was deleted'],
    [other, 'no'],
  ]);
  expect(await entries(redis, 'deadletters')).toEqual([
    { source: id, reason: 'invalid', detail: 'the entry was deleted', deliveries: '1' },
    { key: 'k1', data: 'd1', source: other, reason: 'invalid', detail: 'no', deliveries: '1' },
  ]);
});

test('an event that another consumer has settled is not dead', async () => {
  const [id] = (await deliver(redis, 1)) as [string];
  await redis.xack(STREAM.name, STREAM.group, id);
  await reject([[id, 'no']]);
  expect(await redis.exists('deadletters')).toBe(0);
  expect(one.settled[0]?.duplicatesDead).toBe(1);
});

test("events whose stream and group are gone are nobody's any more, and hold up nothing", async () => {
  const ids = await deliver(redis, 2);
  await redis.flushall();
  await reject(ids.map((id) => [id, 'no'] as const));
  one.settle(ids.map((id) => ({ id })));
  await one.done(2);
  const duplicates = one.settled.map(({ duplicatesOk, duplicatesDead }) => [duplicatesOk, duplicatesDead]);
  expect(duplicates).toEqual([
    [0, 2],
    [2, 0],
  ]);
  expect(await redis.exists('deadletters', 'predictions')).toBe(0);
});

test('a long reason is cut, also within a character', async () => {
  const ids = await deliver(redis, 2);
  await reject([
    [ids[0]!, '🎵'.repeat(3000)],
    [ids[1]!, `x${'🎵'.repeat(3000)}`],
  ]);
  for (const { detail } of await entries(redis, 'deadletters')) {
    expect(Buffer.byteLength(detail as string)).toBeLessThanOrEqual(500);
    expect(detail).toContain('🎵🎵');
    expect(detail).not.toContain('\ufffd');
  }
});

test('the largest ids', async () => {
  const id = '18446744073709551615-18446744073709551614';
  await redis.xadd(STREAM.name, id, 'key', 'k');
  await read();
  await reject([[id, 'no']]);
  expect((await entries(redis, 'deadletters'))[0]).toMatchObject({ source: id });
});
