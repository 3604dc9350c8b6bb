// Outcomes of events that were not put to their model, or were answered in its place, on real servers: told
// in the predictions stream, each once, whatever is lost, refused or raced.
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { ledgerKey } from '../src/redis/keys.ts';
import type { Batch } from '../src/schedule/batch.ts';
import { RUNG } from '../src/schedule/slab.ts';
import { fillBatch, type RowSpec } from './support/batches.ts';
import { collectNotices, endpointOf, Relay, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import {
  deliver,
  EPOCH,
  entries,
  newBatch,
  pendingCount,
  SECOND,
  Settling,
  STREAM,
} from './support/settle.ts';

const cleanups: (() => unknown)[] = [];
let server: TestRedis;
let redis: Redis;

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
});
afterAll(() => server.stop());
beforeEach(() => redis.flushall());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function settling(port = server.port, to = server): Promise<Settling> {
  const made = new Settling(endpointOf(to, port));
  cleanups.push(() => made.committer.close());
  await made.connected();
  return made;
}

function notices() {
  const collected = collectNotices();
  cleanups.push(collected.stop);
  return collected;
}

interface Row extends RowSpec {
  readonly rung?: keyof typeof RUNG;
}

/** A batch that a worker was not given, or not all of. */
function batchOf(rows: readonly Row[], dispatchedMs?: number): Batch {
  const batch = fillBatch(newBatch(), rows, dispatchedMs);
  for (const [row, { rung = 'none' }] of rows.entries()) batch.rungs[row] = RUNG[rung];
  return batch;
}

/** Entries that were refused before they had a row in their model's lane. */
function refusals(rows: readonly Row[], model: string, dispatchedMs?: number): Batch {
  const batch = fillBatch(newBatch(true), rows, dispatchedMs);
  batch.models.fill(model, 0, rows.length);
  return batch;
}

const FATES = ['expired', 'overloaded', 'superseded', 'cancelled'] as const;

test('each says what became of it, of what, and how long that took', async () => {
  const ids = await deliver(redis, 6);
  const one = await settling();
  const rows: Row[] = FATES.map((result, i) => ({ id: ids[i]!, key: `ключ${i}`, result, output: '' }));
  const outputs = Buffer.from([0x81, 0xa1, 0x61, 0x0d, 0x0a, 0xff]);
  rows.push({ id: ids[4]!, key: '', event: 'mine', rung: 'last_known', output: outputs });
  rows.push({ id: ids[5]!, event: 'run', output: 'from the model' });
  const batch = batchOf(rows, Number.parseInt(ids[0]!, 10) + 40);
  one.committer.settle(batch, 'm@3', null);
  await one.done(1);
  const found = await entries(redis, 'predictions');
  const waitUs = (i: number) =>
    String((Number.parseInt(ids[0]!, 10) + 40 - Number.parseInt(ids[i]!, 10)) * 1000);
  const common = { model: 'm@3' };
  expect(found.find(({ event }) => event === 'run')).toMatchObject({
    status: 'ok',
    outputs: 'from the model',
  });
  const told = found.filter(({ event }) => event !== 'run');
  expect(told).toEqual([
    ...FATES.map((status, i) => {
      return { ...common, source: ids[i], key: `ключ${i}`, status, wait_us: waitUs(i) };
    }),
    {
      ...common,
      source: ids[4],
      event: 'mine',
      key: '',
      status: 'degraded',
      rung: 'last_known',
      outputs: expect.any(String),
      wait_us: waitUs(4),
      infer_us: '77',
    },
  ]);
  const last = (await redis.xrevrangeBuffer('predictions', '+', '-')).map(([, values]) => values);
  const degraded = last.find((values) => values.some((value) => String(value) === 'degraded'))!;
  expect(degraded[degraded.findIndex((value) => String(value) === 'outputs') + 1]).toEqual(outputs);
  expect(await pendingCount(redis)).toBe(0);
  expect(await redis.exists('deadletters')).toBe(0);
  expect([batch.duplicatesOk, batch.duplicatesDead, batch.duplicatesUnrun]).toEqual([0, 0, 0]);
});

test('refused before they had a row: their own model, and never an answer before their arrival', async () => {
  const ids = await deliver(redis, 3);
  const one = await settling();
  const rows: Row[] = [
    { id: ids[0]!, result: 'overloaded', output: '' },
    { id: ids[1]!, result: 'expired', event: 'e', output: '' },
    { id: ids[2]!, result: 'invalid', output: 'data: missing' },
  ];
  one.committer.settle(refusals(rows, 'genre@2', Number.parseInt(ids[0]!, 10) - 5), '', null);
  await one.done(1);
  expect(await entries(redis, 'predictions')).toEqual([
    { source: ids[0], key: 'k', model: 'genre@2', status: 'overloaded', wait_us: '0' },
    { source: ids[1], event: 'e', key: 'k', model: 'genre@2', status: 'expired', wait_us: '0' },
  ]);
  expect((await entries(redis, 'deadletters')).map(({ detail }) => detail)).toEqual(['data: missing']);
  expect(await pendingCount(redis)).toBe(0);
});

test('of several streams each goes to its own place', async () => {
  const a = await deliver(redis, 2);
  const b = await deliver(redis, 1, SECOND);
  const one = await settling();
  const rows: Row[] = [
    { id: a[0]!, result: 'expired' },
    { id: b[0]!, stream: 1, result: 'expired' },
    { id: a[1]!, result: 'superseded' },
  ];
  const batch = batchOf(rows);
  one.committer.settle(batch, 'm@1', null);
  await one.done(1);
  expect(batch.duplicatesUnrun).toBe(0);
  const sources = async (stream: string) => (await entries(redis, stream)).map(({ source }) => source);
  expect(await sources('predictions')).toEqual(a);
  expect(await sources('more-predictions')).toEqual(b);
});

test('who waited on a socket is told there; a degraded answer is recorded where answers are', async () => {
  const one = await settling();
  const rows: Row[] = [
    { id: '', key: 'd', event: 'e', rung: 'constant', output: '{}' },
    ...FATES.map((result) => ({ id: '', result })),
  ];
  one.committer.settle(batchOf(rows), 'm@1', null);
  expect(one.settled, 'nothing to tell Redis').toHaveLength(1);
  const batch = batchOf(rows);
  one.committer.settle(batch, 'm@1', 0);
  await one.done(2);
  expect(await entries(redis, 'predictions')).toEqual([
    {
      source: '',
      event: 'e',
      key: 'd',
      model: 'm@1',
      status: 'degraded',
      rung: 'constant',
      outputs: '{}',
      wait_us: '0',
      infer_us: '77',
    },
  ]);
  expect(batch.duplicatesUnrun).toBe(0);
  // Nor is it recorded elsewhere because it was in a batch with an event of a stream.
  const [id] = (await deliver(redis, 1)) as [string];
  one.committer.settle(batchOf([...rows, { id, result: 'expired' }]), 'm@1', null);
  await one.done(3);
  expect((await entries(redis, 'predictions')).map(({ source }) => source)).toEqual(['', id]);
});

test('what somebody else has settled is skipped, and counted', async () => {
  const ids = await deliver(redis, 4);
  const one = await settling();
  await redis.xack(STREAM.name, STREAM.group, ids[1]!, ids[3]!);
  const rows: Row[] = ids.map((id, i) => (i < 2 ? { id, result: 'expired' } : { id, rung: 'previous' }));
  const batch = batchOf(rows);
  one.committer.settle(batch, 'm@1', null);
  await one.done(1);
  expect((await entries(redis, 'predictions')).map(({ source }) => source)).toEqual([ids[0], ids[2]]);
  expect([batch.duplicatesUnrun, batch.duplicatesOk]).toEqual([2, 0]);
});

test('two committers race for the same events: one outcome each', async () => {
  const ids = await deliver(redis, 400);
  const racers = [await settling(), await settling()];
  const batches = ids.length / 40;
  for (let at = 0; at < ids.length; at += 40) {
    const rows = ids.slice(at, at + 40).map((id) => ({ id, result: 'overloaded' }) as const);
    for (const { committer } of racers) committer.settle(batchOf(rows), 'm@1', null);
  }
  for (const racer of racers) await racer.done(batches);
  const sources = (await entries(redis, 'predictions')).map(({ source }) => source);
  expect(sources.toSorted()).toEqual(ids.toSorted());
  const duplicates = racers.flatMap(({ settled }) => settled.map(({ duplicatesUnrun }) => duplicatesUnrun));
  expect(duplicates.reduce((sum, count) => sum + count, 0)).toBe(400);
});

test('answers lost after the settlement: sent again, and nothing is doubled', async () => {
  const ids = await deliver(redis, 12);
  const relay = await Relay.to(server.port);
  cleanups.push(() => relay.close());
  const one = await settling(relay.port);
  relay.dropReplies = true;
  one.committer.settle(batchOf(ids.slice(0, 6).map((id) => ({ id, result: 'expired' }))), 'm@1', null);
  one.committer.settle(batchOf(ids.slice(6).map((id) => ({ id, rung: 'constant' }))), 'm@1', null);
  await until('Redis has it', async () => (await pendingCount(redis)) === 0);
  relay.dropReplies = false;
  expect(one.settled).toHaveLength(0);
  relay.cut();
  await one.done(2);
  expect((await entries(redis, 'predictions')).map(({ source }) => source)).toEqual(ids);
  expect(one.settled.map(({ duplicatesUnrun }) => duplicatesUnrun)).toEqual([6, 6]);
});

test('a predictions key of the wrong type: nothing is acknowledged until it is gone', async () => {
  const ids = await deliver(redis, 2);
  const one = await settling();
  const { codes, all } = notices();
  await redis.set('predictions', 'in the way');
  one.committer.settle(batchOf(ids.map((id) => ({ id, result: 'expired' }))), 'm@1', null);
  await until('refused twice', () => codes().filter((code) => code === 'COMMIT_REFUSED').length >= 2);
  expect(all[0]?.message).toContain('WRONGTYPE');
  expect([await pendingCount(redis), one.settled.length]).toEqual([2, 0]);
  await redis.del('predictions');
  await one.done(1);
  expect(await entries(redis, 'predictions')).toHaveLength(2);
});

test('an outcome that cannot be appended: its event is pending again, and the epoch another', async () => {
  const ids = await deliver(redis, 2);
  const one = await settling();
  const { codes } = notices();
  const max = '18446744073709551615';
  await redis.xadd('predictions', `${max}-${max}`, 'a', 'b');
  const batch = batchOf(ids.map((id) => ({ id, result: 'overloaded' })));
  one.committer.settle(batch, 'm@1', null);
  await until('refused', () => codes().includes('COMMIT_REFUSED'));
  expect([await pendingCount(redis), one.settled.length]).toEqual([2, 0]);
  const pending = (await redis.xpending(STREAM.name, STREAM.group, '-', '+', 2)) as unknown[][];
  expect(pending.map(([, , , deliveries]) => deliveries)).toEqual([1, 1]);
  const epoch = await redis.hget(ledgerKey(STREAM.name), `${STREAM.group}:epoch`);
  expect(Number(epoch)).toBeGreaterThan(Number(EPOCH));
  await redis.del('predictions');
  await one.done(1);
  expect(await entries(redis, 'predictions')).toHaveLength(2);
  expect(batch.duplicatesUnrun).toBe(0);
});

test('out of memory: nothing is acknowledged until there is room', async () => {
  const small = await startRedis({ config: { 'maxmemory-policy': 'noeviction' } });
  cleanups.push(() => small.stop());
  const control = small.connect();
  const ids = await deliver(control, 2);
  const one = await settling(small.port, small);
  const { codes } = notices();
  await control.config('SET', 'maxmemory', '1');
  one.committer.settle(batchOf(ids.map((id) => ({ id, result: 'overloaded' }))), 'm@1', null);
  await until('refused twice', () => codes().filter((code) => code === 'COMMIT_REFUSED').length >= 2);
  expect([await pendingCount(control), one.settled.length]).toEqual([2, 0]);
  expect(await control.exists('predictions')).toBe(0);
  await control.config('SET', 'maxmemory', '0');
  await one.done(1);
  expect(await entries(control, 'predictions')).toHaveLength(2);
});

test('SCRIPT FLUSH: the script is loaded again', async () => {
  const [id] = (await deliver(redis, 1)) as [string];
  const one = await settling();
  await redis.script('FLUSH');
  one.committer.settle(batchOf([{ id, result: 'expired' }]), 'm@1', null);
  await one.done(1);
  expect(await entries(redis, 'predictions')).toHaveLength(1);
});
