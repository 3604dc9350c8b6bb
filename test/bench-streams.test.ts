// The benchmark's own judgement: wrong answers must be seen.
import { afterAll, expect, test } from 'vitest';
import { middle } from '../bench/statistics.ts';
import { added, field, fillStream, lastAddedMs, verifyOnce } from '../bench/streams.ts';
import { RedisWire } from '../src/redis/wire.ts';
import { startRedis } from './support/redis.ts';

const redis = await startRedis();
const wire = await RedisWire.connect(redis.url);

afterAll(async () => {
  wire.close();
  await redis.stop();
});

const verify = (count: number) => verifyOnce(wire, 'events', 'b', count, (fields) => field(fields, 'event'));

test('a filled stream holds each event once, over several pages', async () => {
  await fillStream(wire, 'b', 12_345);
  expect(await added(wire, 'events')).toBe(12_345);
  expect(Math.abs((await lastAddedMs(wire, 'events')) - Date.now())).toBeLessThan(60_000);
  expect(await verify(12_345)).toBeNull();
  const [[, fields]] = (await wire.call(['XRANGE', 'events', '-', '+', 'COUNT', '1'])) as [
    [string, string[]],
  ];
  expect(fields.filter((_, index) => index % 2 === 0)).toEqual(['key', 'features', 'event']);
  expect(field(fields, 'features')).toHaveLength(256);
});

test('an event that is missing or answered twice is seen, one of another batch is not counted', async () => {
  expect(await verify(12_346)).toBe('12345 of 12346 events answered, 0 more than once');
  await wire.call(['XADD', 'events', '*', 'event', 'b-7']);
  await wire.call(['XADD', 'events', '*', 'event', 'other-7']);
  expect(await verify(12_345)).toBe('12345 of 12345 events answered, 1 more than once');
});

test('trimming does not change how many were added', async () => {
  await wire.call(['XTRIM', 'events', 'MAXLEN', '10']);
  expect(await added(wire, 'events')).toBe(12_347);
  expect(await added(wire, 'nothing')).toBe(0);
});

test('medians', () => {
  expect(middle([3, 1, 2])).toBe(2);
  expect(middle([4, 1, 2, 3])).toBe(2.5);
});
