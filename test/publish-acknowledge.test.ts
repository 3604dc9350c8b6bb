// One XACK for a whole batch: only where nobody else can have settled any of it.
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { ledgerKey } from '../src/redis/keys.ts';
import { collectNotices, endpointOf, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { deliver, entries, pendingCount, Settling, STREAM } from './support/settle.ts';

let server: TestRedis;
let redis: Redis;
let one: Settling;

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await redis.flushall();
  one = new Settling(endpointOf(server));
  await one.connected();
});
afterEach(() => one.committer.close());

/** XACK commands that the server has carried out. */
async function xacks(): Promise<number> {
  return Number(/cmdstat_xack:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0);
}

test('when it can only be ours, and row by row when it may not', async () => {
  const settleAll = async (ids: readonly string[], firstHand = true, mark?: number) => {
    await redis.config('RESETSTAT');
    one.settle(
      ids.map((id) => ({ id })),
      { firstHand, mark },
    );
    const before = one.settled.length;
    await one.done(before + 1);
    return await xacks();
  };
  expect(await settleAll(await deliver(redis, 40))).toBe(1);
  // The reader had been given some of it before.
  expect(await settleAll(await deliver(redis, 40), false)).toBe(40);
  // Somebody else was given it since.
  const taken = await deliver(redis, 40);
  await redis.xclaim(STREAM.name, STREAM.group, 'other', 0, ...taken);
  expect(await settleAll(taken)).toBe(40);
  // Something has changed hands since it was read, if not the oldest of it.
  const changed = await deliver(redis, 40);
  await redis.hincrby(ledgerKey(STREAM.name), `${STREAM.group}:epoch`, 1);
  expect(await settleAll(changed)).toBe(40);
  // It was in the stream when deliveries were last forgotten.
  const contested = await deliver(redis, 40);
  await redis.hset(ledgerKey(STREAM.name), `${STREAM.group}:contested`, contested[0]!);
  expect(await settleAll(contested)).toBe(40);
  // The committer has another connection than when it was read.
  const before = await deliver(redis, 40);
  const mark = one.fences[0]?.mark ?? 0;
  one.fences[0]?.reconnected();
  expect(one.fences[0]?.mark).toBeGreaterThan(mark);
  expect(await settleAll(before, true, mark)).toBe(40);
  expect(await pendingCount(redis)).toBe(0);
  expect(await entries(redis, 'predictions')).toHaveLength(240);
});

test('on a server that may have forgotten deliveries: row by row up to what was there by then', async () => {
  const ledger = ledgerKey(STREAM.name);
  const field = (name: string) => redis.hget(ledger, `${STREAM.group}:${name}`);
  const history = await field('history');
  expect(await redis.info('replication')).toContain(`master_replid:${history}`);
  const settleAll = async (ids: readonly string[]) => {
    await redis.config('RESETSTAT');
    const before = one.settled.length;
    one.settle(ids.map((id) => ({ id })));
    await one.done(before + 1);
    return xacks();
  };
  // As if a replica had taken over, with the ledger of its master; an entry came in meanwhile.
  await redis.hset(ledger, `${STREAM.group}:history`, 'another');
  const [early] = await deliver(redis, 1);
  const reconnect = async () => {
    await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await until('lost', () => !one.committer.connected);
    await one.connected();
  };
  await reconnect();
  expect([await field('history'), await field('contested')]).toEqual([history, early]);
  expect(await settleAll([early!, ...(await deliver(redis, 9))])).toBe(10);
  expect(await settleAll(await deliver(redis, 10))).toBe(1);
  // The same server: nothing more is contested.
  await reconnect();
  expect(await field('contested')).toBe(early);
});

test('a prediction that cannot be appended makes the rest of the batch pending again', async () => {
  const ids = await deliver(redis, 10);
  const { codes, stop } = collectNotices();
  // Room for three more ids in the predictions stream.
  await redis.xadd('predictions', '18446744073709551615-18446744073709551612', 'a', 'b');
  one.settle(ids.map((id) => ({ id })));
  await until('refused', () => codes().includes('COMMIT_REFUSED'));
  stop();
  expect(await pendingCount(redis)).toBe(7);
  const first = (await entries(redis, 'predictions')).slice(1).map(({ source }) => source);
  expect(first).toEqual(ids.slice(0, 3));
  await redis.del('predictions');
  await one.done(1);
  const rest = (await entries(redis, 'predictions')).map(({ source }) => source);
  expect([...first, ...rest]).toEqual(ids);
  expect(await pendingCount(redis)).toBe(0);
});
