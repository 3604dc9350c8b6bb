// A consumer group that was lost is made again such that each event has exactly one outcome.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ensureGroup } from '../src/ingest/regroup.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { ledgerKey, receiptsKey } from '../src/redis/keys.ts';
import { collectNotices, endpointOf } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const STREAMS = { stream: 'events', group: 'g', predictions: 'predictions', deadletters: 'deadletters' };
const LEDGER = ledgerKey('events');

let server: TestRedis;
let redis: Redis;
let control: Control;

beforeEach(async () => {
  server = await startRedis();
  redis = server.connect();
  control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
});
afterEach(async () => {
  control.close();
  await server.stop();
});

async function add(count: number): Promise<string[]> {
  const pipeline = redis.pipeline();
  for (let n = 0; n < count; n += 1) pipeline.xadd('events', '*', 'key', `k${n}`);
  return ((await pipeline.exec()) ?? []).map(([, id]) => String(id));
}

const read = (count: number) => redis.xreadgroup('GROUP', 'g', 'c', 'COUNT', count, 'STREAMS', 'events', '>');

async function settle(id: string, stream = 'predictions'): Promise<void> {
  await redis.xack('events', 'g', id);
  await redis.xadd(stream, '*', 'source', id, 'status', 'ok');
}

interface GroupState {
  readonly lastId: string;
  readonly lag: number | null;
  readonly read: number | null;
}

async function groupState(): Promise<GroupState> {
  const [info] = (await redis.xinfo('GROUPS', 'events')) as unknown[];
  const values = (Array.isArray(info) ? info : Object.entries(info as object).flat()) as unknown[];
  const value = (name: string) => values[values.indexOf(name) + 1];
  return {
    lastId: String(value('last-delivered-id')),
    lag: value('lag') as number | null,
    read: value('entries-read') as number | null,
  };
}

/** Id, consumer, idle time, deliveries. */
const pending = async () =>
  (await redis.xpending('events', 'g', '-', '+', 100_000)) as [string, string, number, number][];

test('a group that is there is left alone; a new one begins at the beginning', async () => {
  const ids = await add(3);
  const made = await ensureGroup(control, STREAMS);
  expect(made.made).toBe(true);
  expect(Number(made.epoch)).toBeGreaterThan(1.7e12);
  expect(await redis.hget(LEDGER, 'g:epoch')).toBe(made.epoch);
  expect(await groupState()).toEqual({ lastId: '0-0', lag: 3, read: null });
  expect(JSON.stringify(await read(10))).toContain(ids[0]);
  expect(await ensureGroup(control, STREAMS)).toEqual({ made: false, epoch: made.epoch });
  await redis.hdel(LEDGER, 'g:epoch');
  const again = await ensureGroup(control, STREAMS);
  expect(again.made).toBe(false);
  expect(await redis.hget(LEDGER, 'g:epoch')).toBe(again.epoch);
});

test('no stream yet: it is made with the group', async () => {
  expect((await ensureGroup(control, STREAMS)).made).toBe(true);
  expect(await redis.exists('events')).toBe(1);
});

test('a key that holds something else, or a right that is missing, is said', async () => {
  await redis.set('events', 'text');
  await expect(ensureGroup(control, STREAMS)).rejects.toMatchObject({ code: 'STREAM_UNUSABLE' });
  await redis.del('events');
  await redis.acl('SETUSER', 'u', 'on', '>p', '~*', '+@all', '-xgroup');
  const endpoint = { ...endpointOf(server), username: 'u', password: 'p' };
  const lesser = await connectControl({ endpoint, commandMsMax: 5000 });
  await expect(ensureGroup(lesser, STREAMS)).rejects.toMatchObject({ code: 'STREAM_UNUSABLE' });
  lesser.close();
});

test('lost without a ledger: what has an outcome is not served again, what was delivered is', async () => {
  const notices = collectNotices();
  await ensureGroup(control, STREAMS);
  await redis.del(LEDGER);
  const ids = await add(10);
  await read(7);
  await settle(ids[0]!);
  await settle(ids[2]!, 'deadletters');
  await settle(ids[3]!, receiptsKey('deadletters'));
  await settle(ids[5]!);
  // Answers to socket requests are nobody's outcome.
  await redis.xadd('predictions', '*', 'source', '', 'status', 'ok');
  await redis.xgroup('DESTROY', 'events', 'g');
  expect(notices.codes()).toEqual([]);
  const { made, epoch } = await ensureGroup(control, STREAMS);
  notices.stop();
  expect(made).toBe(true);
  expect(notices.all.map(({ message }) => message).join()).toContain('2 events are served again');
  expect(await redis.hget(LEDGER, 'g:epoch')).toBe(epoch);
  const rows = await pending();
  expect(rows.map(([id]) => id)).toEqual([ids[1], ids[4]]);
  for (const [, consumer, idleMs, deliveries] of rows) {
    expect([consumer, deliveries]).toEqual(['unsettled', 0]);
    expect(idleMs).toBeGreaterThan(1e11);
  }
  expect((await groupState()).lastId).toBe(ids[5]);
  // 6 had been delivered: it is unread again, as nothing says that it was.
  const served = JSON.stringify(await read(100));
  expect(ids.map((id) => served.includes(id))).toEqual([...Array(6).fill(false), ...Array(4).fill(true)]);
});

test('lost with a ledger: only what lies between floor and last delivered is looked at', async () => {
  const notices = collectNotices();
  const { epoch } = await ensureGroup(control, STREAMS);
  const ids = await add(10);
  await read(8);
  // The first ones were settled long ago: their outcomes are gone.
  await redis.xack('events', 'g', ...ids.slice(0, 3));
  await settle(ids[4]!);
  const ledger = { 'g:floor': ids[2]!, 'g:last': ids[6]!, 'g:read': 7, 'g:added': 10 };
  await redis.hset(LEDGER, ledger);
  await redis.xgroup('DESTROY', 'events', 'g');
  const remade = await ensureGroup(control, STREAMS);
  notices.stop();
  expect(remade).toEqual({ made: true, epoch: String(Number(epoch) + 1) });
  expect((await pending()).map(([id]) => id)).toEqual([ids[3], ids[5], ids[6]]);
  expect(await groupState()).toEqual({ lastId: ids[6], lag: 3, read: 7 });
  expect(notices.codes()).toContain('GROUP_REMADE');
  expect(await redis.hgetall(LEDGER)).toMatchObject({ ...stringsOf(ledger), 'g:epoch': remade.epoch });
});

function stringsOf(values: object): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value)]));
}

test('what was settled beyond the ledger’s last counts as delivered, and as read', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(10);
  await read(10);
  await settle(ids[8]!);
  await redis.hset(LEDGER, { 'g:floor': ids[1]!, 'g:last': ids[3]!, 'g:read': 4, 'g:added': 10 });
  await redis.xgroup('DESTROY', 'events', 'g');
  await ensureGroup(control, STREAMS);
  expect(await groupState()).toEqual({ lastId: ids[8], lag: 1, read: 9 });
  expect((await pending()).map(([id]) => id)).toEqual(ids.slice(2, 8));
});

test('a stream that was deleted and made again begins anew, whatever the ledger says', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(5);
  await read(5);
  for (const id of ids) await settle(id);
  const last = ids[4]!;
  // Larger ids than before, and smaller ones.
  for (const [added, floor] of [
    [6, last],
    [0, '99999999999999-0'],
  ] as const) {
    await redis.del('events');
    await redis.hset(LEDGER, { 'g:floor': floor, 'g:last': floor, 'g:read': 5, 'g:added': added });
    const fresh = await add(5);
    await ensureGroup(control, STREAMS);
    expect((await groupState()).lag).toBe(5);
    expect(await pending()).toEqual([]);
    const served = JSON.stringify(await read(100));
    expect(fresh.every((id) => served.includes(id))).toBe(true);
  }
  // Put back with its old ids: those with an outcome are not served again.
  await redis.del('events');
  await redis.hset(LEDGER, { 'g:floor': last, 'g:last': last, 'g:read': 6, 'g:added': 6 });
  await redis.xadd('events', '1-1', 'key', 'new');
  for (const id of ids.slice(0, 3)) await redis.xadd('events', id, 'key', 'old');
  await redis.xadd('events', '*', 'key', 'newer');
  await ensureGroup(control, STREAMS);
  expect((await pending()).map(([id]) => id)).toEqual(['1-1']);
  const served = JSON.stringify(await read(100));
  expect(served).toContain('newer');
  expect(served).not.toContain('old');
});

test('an engine that was slower takes what the faster one made', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(2000);
  await read(2000);
  await Promise.all(ids.filter((_, n) => n % 2 === 0).map((id) => settle(id)));
  await redis.xgroup('DESTROY', 'events', 'g');
  const other = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
  const groups = await Promise.all([control, other, control].map((each) => ensureGroup(each, STREAMS)));
  other.close();
  expect(groups.filter(({ made }) => made).length).toBe(1);
  expect(new Set(groups.map(({ epoch }) => epoch)).size).toBe(1);
  // The last one was not settled: it is unread.
  expect((await pending()).map(([id]) => id)).toEqual(ids.filter((_, n) => n % 2 === 1).slice(0, -1));
});

test('a stream deleted during the scan is looked at again', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(3);
  await read(3);
  for (const id of ids) await settle(id);
  await redis.xgroup('DESTROY', 'events', 'g');
  let scripts = 0;
  const meddled: Control = {
    ...control,
    script: async (...args) => {
      if (args[0] === 'regroup') scripts += 1;
      if (args[0] === 'regroup' && scripts === 2) {
        await redis.del('events');
        await redis.xadd('events', '5-5', 'key', 'k');
      }
      return control.script(...args);
    },
  };
  expect((await ensureGroup(meddled, STREAMS)).made).toBe(true);
  expect(scripts).toBe(4);
  expect((await groupState()).lastId).toBe('0-0');
});

test('memory that is used up does not keep the group from being made', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(3);
  await read(3);
  await settle(ids[1]!);
  await redis.xgroup('DESTROY', 'events', 'g');
  await redis.config('SET', 'maxmemory', '1');
  expect((await ensureGroup(control, STREAMS)).made).toBe(true);
  expect((await pending()).map(([id]) => id)).toEqual([ids[0]]);
});

test('ids of the future are no clock: all outcomes are read', async () => {
  await ensureGroup(control, STREAMS);
  const ids = [1, 2, 3].map((n) => `${Date.now() + 1e9}-${n}`);
  for (const id of ids) await redis.xadd('events', id, 'key', 'k');
  await read(3);
  for (const id of ids.slice(0, 2)) await settle(id);
  await redis.hset(LEDGER, { 'g:floor': ids[0]!, 'g:last': ids[2]!, 'g:added': 3 });
  await redis.xgroup('DESTROY', 'events', 'g');
  await ensureGroup(control, STREAMS);
  expect((await pending()).map(([id]) => id)).toEqual([ids[2]]);
});

test('more than can be made pending in one call: the rest is unread again, and that is said', async () => {
  const notices = collectNotices();
  await ensureGroup(control, STREAMS);
  const ids = await add(10);
  await read(10);
  await settle(ids[1]!);
  await settle(ids[8]!);
  await redis.xgroup('DESTROY', 'events', 'g');
  await redis.hset(LEDGER, { 'g:floor': '0-0', 'g:last': ids[9]!, 'g:read': 10, 'g:added': 10 });
  await ensureGroup(control, STREAMS, 4);
  notices.stop();
  expect((await pending()).map(([id]) => id)).toEqual([ids[0], ids[2], ids[3], ids[4]]);
  expect((await groupState()).lastId).toBe(ids[4]);
  expect(JSON.stringify(await read(100))).toContain(ids[5]);
  expect(notices.codes()).toContain('GROUP_REMADE_TWICE');
});

test('many that have to be served again are made pending in one call', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(90_000);
  await settle(ids.at(-1)!);
  await redis.xgroup('DESTROY', 'events', 'g');
  await ensureGroup(control, STREAMS);
  expect((await pending()).map(([id]) => id)).toEqual(ids.slice(0, -1));
});

test('made by another engine and lost again during a scan: what was settled meanwhile counts', async () => {
  await ensureGroup(control, STREAMS);
  const ids = await add(3);
  await read(3);
  await settle(ids[2]!);
  await redis.xgroup('DESTROY', 'events', 'g');
  let scripts = 0;
  const meddled: Control = {
    ...control,
    script: async (...args) => {
      if (args[0] === 'regroup') scripts += 1;
      if (args[0] === 'regroup' && scripts === 2) {
        await ensureGroup(control, STREAMS);
        await settle(ids[0]!);
        await redis.xgroup('DESTROY', 'events', 'g');
      }
      return control.script(...args);
    },
  };
  expect((await ensureGroup(meddled, STREAMS)).made).toBe(true);
  expect((await pending()).map(([id]) => id)).toEqual([ids[1]]);
});
