// The backlog is never less than the work that is there, and right wherever it can be counted.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { connectControl } from '../src/redis/control.ts';
import { ledgerKey } from '../src/redis/keys.ts';
import { loadScript } from '../src/redis/scripts.ts';
import { endpointOf } from './support/core.ts';
import { Random, seeds } from './support/random.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const LEDGER = ledgerKey('events');

let server: TestRedis;
let redis: Redis;

beforeEach(async () => {
  server = await startRedis({ appendonly: true });
  redis = server.connect();
});
afterEach(() => server.stop());

async function add(count: number): Promise<string[]> {
  const pipeline = redis.pipeline();
  for (let n = 0; n < count; n += 1) pipeline.xadd('events', '*', 'key', `k${n}`);
  return ((await pipeline.exec()) ?? []).map(([, id]) => String(id));
}

const read = (count: number) => redis.xreadgroup('GROUP', 'g', 'c', 'COUNT', count, 'STREAMS', 'events', '>');

type Answer = [
  unread: number,
  pending: number,
  oldestUnread: string,
  oldestPending: string,
  epoch: string,
  how: string,
];

async function ask(page = 500): Promise<Answer> {
  return (await redis.eval(loadScript('backlog').text, 2, 'events', LEDGER, 'g', page)) as Answer;
}

/** What Redis says itself. */
async function groupInfo(): Promise<{ lag: unknown; read: unknown; last: unknown }> {
  const [info] = (await redis.xinfo('GROUPS', 'events')) as unknown[];
  const values = (Array.isArray(info) ? info : Object.entries(info as object).flat()) as unknown[];
  const value = (name: string) => values[values.indexOf(name) + 1];
  return { lag: value('lag'), read: value('entries-read'), last: value('last-delivered-id') };
}

async function crash(): Promise<void> {
  await server.kill();
  await server.restart();
}

test('nothing is told from not known', async () => {
  expect(await ask()).toEqual([0, 0, '', '', '', 'stream']);
  const ids = await add(3);
  expect(await ask()).toEqual([3, 0, ids[0], '', '', 'group']);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await redis.hset(LEDGER, 'g:epoch', '17');
  expect(await ask()).toEqual([3, 0, ids[0], '', '17', 'exact']);
  await read(2);
  expect(await ask()).toEqual([1, 2, ids[2], ids[0], '17', 'exact']);
  await redis.xack('events', 'g', ids[0]!);
  await read(2);
  expect(await ask()).toEqual([0, 2, '', ids[1], '17', 'exact']);
  await redis.set('text', 'x');
  await expect(redis.eval(loadScript('backlog').text, 2, 'text', LEDGER, 'g', 1)).rejects.toThrow(
    'WRONGTYPE',
  );
});

test('what Redis forgets when it is killed is counted and put right', async () => {
  await add(50);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(20);
  const before = await groupInfo();
  expect(before).toMatchObject({ lag: 30, read: 20 });
  await crash();
  expect(await groupInfo()).toEqual({ lag: null, read: null, last: before.last });
  expect((await ask()).slice(0, 2)).toEqual([30, 20]);
  expect(await groupInfo()).toEqual(before);
  // Put right, it is remembered; but not what was read after that.
  await read(10);
  await crash();
  expect(await groupInfo()).toMatchObject({ lag: 30, read: 20 });
  expect((await ask()).slice(0, 2)).toEqual([20, 30]);
  expect(await groupInfo()).toMatchObject({ lag: 20, read: 30 });
  // Nothing is left: also that is put right.
  await read(100);
  await crash();
  expect(await groupInfo()).toMatchObject({ lag: 20 });
  expect((await ask()).slice(0, 2)).toEqual([0, 50]);
  expect(await groupInfo()).toMatchObject({ lag: 0, read: 50 });
});

test('a long count goes on from call to call; until then it is no less than what is there', async () => {
  await add(9000);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(4000);
  await crash();
  const answers: Answer[] = [];
  do answers.push(await ask());
  while (answers.at(-1)?.[5] === 'estimate' && answers.length < 20);
  expect(answers.length).toBe(8);
  expect(answers.at(-1)?.[0]).toBe(5000);
  for (const [n, [unread]] of answers.entries()) expect(unread).toBe(9000 - 500 * (n + 1));
  // From here on Redis counts by itself again.
  await read(1000);
  expect(await ask()).toMatchObject({ 0: 4000, 5: 'exact' });
  // And what was counted once need not be counted again.
  await crash();
  expect(await ask()).toMatchObject({ 5: 'estimate' });
  await ask();
  expect(await ask()).toMatchObject({ 0: 4000, 5: 'exact' });

  const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
  await crash();
  await redis.del(LEDGER);
  expect(await control.backlog('events', 'g')).toMatchObject({ unread: 4000, pending: 5000 });
  control.close();
});

test('entries deleted in the middle', async () => {
  const ids = await add(3000);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(1000);
  const exact = async () => {
    for (;;) {
      const [unread, , , , , how] = await ask();
      if (how === 'exact') return unread;
    }
  };
  expect(await exact()).toBe(2000);
  await redis.xdel('events', ...ids.slice(1500, 1600));
  expect((await groupInfo()).lag).toBe(null);
  expect(await exact()).toBe(1900);
  await read(700);
  expect(await exact()).toBe(1200);
  await read(1000);
  expect(await exact()).toBe(200);
  await read(1000);
  expect(await exact()).toBe(0);
});

test('of what nobody has read nothing needs to be counted, even when others trim it', async () => {
  await add(3000);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  expect(await ask()).toMatchObject({ 0: 3000, 5: 'exact' });
  await read(10);
  expect(await ask()).toMatchObject({ 0: 2990, 5: 'exact' });
  await redis.xtrim('events', 'MAXLEN', 2000);
  expect((await groupInfo()).lag).toBe(2990);
  expect(await ask()).toMatchObject({ 0: 2000, 5: 'exact' });
});

test('a ledger that cannot be true is not believed', async () => {
  await add(3000);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(1000);
  const { last } = await groupInfo();
  await redis.hset(LEDGER, { 'g:last': String(last), 'g:read': 2900, 'g:deleted': '0-0', 'g:added': 3000 });
  expect(await ask()).toMatchObject({ 0: 3000, 5: 'estimate' });
  let answer = await ask();
  for (let more = 0; more < 5 && answer[5] === 'estimate'; more += 1) answer = await ask();
  expect(answer).toMatchObject({ 0: 2000, 5: 'exact' });
});

test('memory that is used up does not keep it from counting', async () => {
  await add(50);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(20);
  await crash();
  await redis.config('SET', 'maxmemory', '1');
  expect((await ask())[0]).toBe(30);
});

test('control: ages for the metrics; without Redis nothing is known', async () => {
  const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 500 });
  for (const id of ['1000-5', '2000-0', '3000-0']) await redis.xadd('events', id, 'key', 'k');
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(2);
  expect(await control.backlog('events', 'g')).toEqual({
    stream: 'events',
    unread: 1,
    pending: 2,
    oldestUnreadMs: 3000,
    oldestPendingMs: 1000,
  });
  await server.kill();
  expect(await control.backlog('events', 'g')).toMatchObject({ unread: null, oldestUnreadMs: null });
  control.close();
});

test.each(seeds(8))('whatever happens, it is never less than what is there: seed %i', async (seed) => {
  const random = new Random(seed);
  let ids: string[] = await add(10);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  let deletions = false;
  for (let step = 0; step < 150; step += 1) {
    switch (random.int(0, 6)) {
      case 0:
      case 1:
        ids.push(...(await add(random.int(1, 12))));
        break;
      case 2:
      case 3:
        await read(random.int(1, 9));
        break;
      case 4:
        // Settled, and trimmed.
        if (random.chance(0.3)) await redis.xtrim('events', 'MINID', String((await groupInfo()).last));
        break;
      case 5:
        if (!random.chance(0.15)) break;
        await redis.xdel('events', random.pick(ids));
        deletions = true;
        break;
      default:
        // As after a restart: no count, and another process.
        if (!random.chance(0.5)) break;
        await redis.xgroup('SETID', 'events', 'g', String((await groupInfo()).last));
        await redis.hset(LEDGER, 'g:server', 'another');
        // Or a wrong one.
        if (random.chance(0.5)) {
          const { last } = await groupInfo();
          await redis.call('XGROUP', 'SETID', 'events', 'g', String(last), 'ENTRIESREAD', random.int(1, 5));
        }
    }
    const { last } = await groupInfo();
    const there = await redis.xrange('events', `(${last}`, '+');
    const [unread, , oldest, , , how] = await ask(random.int(2, 6));
    const context = `step ${step}`;
    expect(unread, context).toBeGreaterThanOrEqual(there.length);
    expect(unread, context).toBeLessThanOrEqual(await redis.xlen('events'));
    expect(oldest, context).toBe(there[0]?.[0] ?? '');
    if (there.length === 0) deletions = false;
    if (how === 'exact' && !deletions) expect(unread, context).toBe(there.length);
    expect((await groupInfo()).last, context).toBe(last);
    ids = ids.slice(-200);
  }
});
