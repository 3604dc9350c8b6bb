// lua/claim.lua on a real server: what is handed over, to whom, and what it counts.
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { ledgerKey } from '../src/redis/keys.ts';
import { loadScript } from '../src/redis/scripts.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const IDLE_MS = 1000;
let server: TestRedis;
let redis: Redis;
beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await redis.flushall();
  await redis.xgroup('CREATE', 'events', 'subito', '0', 'MKSTREAM');
});

interface Piece {
  othersIdleMs?: number;
  ownIdleMs?: number;
  after?: string;
  rows?: number;
  alone?: number;
  exclusive?: boolean;
  ageMs?: number;
}

type Entry = [id: string, fields: string[], deliveries: number];

async function claim(piece: Piece = {}): Promise<{ epoch: string; after: string; entries: Entry[] }> {
  const { othersIdleMs = IDLE_MS, ownIdleMs = 4 * IDLE_MS, after = '', rows = 100, alone = 100 } = piece;
  const { exclusive = true, ageMs = 0 } = piece;
  const { text } = loadScript('claim');
  const [[head, entries]] = (await redis.eval(
    text,
    ...[2, 'events', ledgerKey('events'), 'subito', 'me', othersIdleMs, ownIdleMs, after, rows, alone],
    ...[exclusive ? 1 : 0, 5, ageMs],
  )) as [[string, Entry[]]];
  const [epoch = '', next = ''] = head.split(' ');
  return { epoch, after: next, entries };
}

/** Entries given to a consumer, as idle and as often as told. */
async function held(
  count: number,
  { by = 'gone', idleMs = 2 * IDLE_MS, deliveries = 1 } = {},
): Promise<string[]> {
  const ids: string[] = [];
  for (let i = 0; i < count; i += 1) ids.push(String(await redis.xadd('events', '*', 'data', `d${i}`)));
  await redis.xreadgroup('GROUP', 'subito', by, 'COUNT', count, 'STREAMS', 'events', '>');
  await redis.xclaim(
    ...(['events', 'subito', by, 0, ...ids] as const),
    ...(['IDLE', idleMs, 'RETRYCOUNT', deliveries, 'JUSTID'] as const),
  );
  return ids;
}

/** Owner and deliveries of what is pending. */
async function pending(): Promise<Record<string, string>> {
  const rows = (await redis.xpending('events', 'subito', '-', '+', 1000)) as [
    string,
    string,
    number,
    number,
  ][];
  return Object.fromEntries(rows.map(([id, owner, , deliveries]) => [id, `${owner} ${deliveries}`]));
}

test('what another consumer has held for the claim time is handed over, with its payload', async () => {
  const [old] = await held(1);
  const [young] = await held(1, { idleMs: 10 });
  const { entries, after } = await claim();
  expect(entries).toEqual([[old, ['data', 'd0'], 2]]);
  expect(after).toBe('-');
  expect(await pending()).toEqual({ [old!]: 'me 2', [young!]: 'gone 1' });
  // Its idle time began anew: nobody else takes it now.
  expect((await claim()).entries).toEqual([]);
});

test('what was given back unrun is an ordinary event again', async () => {
  const ids = await held(3, { deliveries: 0, by: 'unsettled' });
  const { entries } = await claim({ alone: 0 });
  expect(entries.map(([id, , deliveries]) => [id, deliveries])).toEqual(ids.map((id) => [id, 1]));
});

test('suspects come as many as can run alone; ordinary ones do not count', async () => {
  const first = await held(2);
  const last = await held(2);
  const unrun = await held(2, { deliveries: 0 });
  const piece = await claim({ alone: 3 });
  // What has to wait is stepped over, and the sweep goes on there.
  expect(piece.entries.map(([id]) => id)).toEqual([...first, last[0], ...unrun]);
  expect(piece.after).toBe(last[0]);
  expect(await claim({ alone: 0, after: piece.after })).toMatchObject({ entries: [], after: piece.after });
  const rest = await claim({ alone: 3, after: piece.after });
  expect([rest.entries.map(([id]) => id), rest.after]).toEqual([[last[1]], '-']);
});

test('one that was given out twice comes by itself, and not while others run alone', async () => {
  const [once] = await held(1);
  const twice = await held(2, { deliveries: 2 });
  const piece = await claim();
  expect([piece.entries.map(([id]) => id), piece.after]).toEqual([[once], once]);
  expect(await claim({ after: piece.after, exclusive: false })).toMatchObject({
    entries: [],
    after: piece.after,
  });
  const next = await claim({ after: piece.after });
  expect(next.entries).toEqual([[twice[0], ['data', 'd0'], 3]]);
  expect((await claim({ after: next.after })).entries).toEqual([[twice[1], ['data', 'd1'], 3]]);
});

test('one that was given out as often as is allowed is handed over to be given up, not claimed', async () => {
  const [id] = await held(1, { deliveries: 5 });
  expect((await claim({ alone: 0, exclusive: false })).entries).toEqual([[id, ['data', 'd0'], 6]]);
  expect(await pending()).toEqual({ [id!]: 'gone 5' });
});

test('a deleted entry comes without fields, and stays pending until somebody settles it', async () => {
  const ids = await held(3);
  await redis.xdel('events', ids[1]!);
  const { entries } = await claim();
  expect(entries).toEqual([
    [ids[0], ['data', 'd0'], 2],
    [ids[1], [], 2],
    [ids[2], ['data', 'd2'], 2],
  ]);
  expect((await pending())[ids[1]!]).toBe('gone 1');
});

test('its own: all after a connect, counted again only if another process had them', async () => {
  const [before] = await held(1, { by: 'me', idleMs: 500 });
  const [mine] = await held(1, { by: 'me', idleMs: 20 });
  expect((await claim()).entries).toEqual([]);
  const { entries } = await claim({ ownIdleMs: 0, ageMs: 100 });
  expect(entries.map(([id, , deliveries]) => [id, deliveries])).toEqual([
    [before, 2],
    [mine, 1],
  ]);
  expect(await pending()).toEqual({ [before!]: 'me 2', [mine!]: 'me 1' });
});

test('a sweep over thousands of entries comes in pieces, each entry once', async () => {
  const ids = [
    ...(await held(1500, { deliveries: 0 })),
    ...(await held(1500, { idleMs: 0 })),
    ...(await held(700, { deliveries: 0 })),
  ];
  const found: string[] = [];
  let after = '';
  let pieces = 0;
  for (; after !== '-'; pieces += 1) {
    const piece = await claim({ after, rows: 400 });
    found.push(...piece.entries.map(([id]) => id));
    after = piece.after;
  }
  expect(found).toEqual([...ids.slice(0, 1500), ...ids.slice(3000)]);
  expect(pieces).toBeGreaterThan(5);
});

test('the epoch is there from the first call, and changes only when something changed hands', async () => {
  const first = await claim();
  expect(Math.abs(Number(first.epoch) - Date.now())).toBeLessThan(60_000);
  expect((await claim()).epoch).toBe(first.epoch);
  await held(1);
  const second = await claim();
  expect(Number(second.epoch)).toBe(Number(first.epoch) + 1);
  expect(await redis.hget(ledgerKey('events'), 'subito:epoch')).toBe(second.epoch);
  expect((await claim()).epoch).toBe(second.epoch);
});

test('a clock that was set back: what is pending begins to age anew, where it is', async () => {
  const [id] = await held(1, { deliveries: 2 });
  // An hour ago the server's clock was an hour ahead.
  await redis.hset(ledgerKey('events'), 'subito:time', Date.now() + 3_600_000);
  expect((await claim()).entries).toEqual([]);
  expect(await pending()).toEqual({ [id!]: 'gone 2' });
  expect(Number(await redis.hget(ledgerKey('events'), 'subito:time'))).toBeLessThan(Date.now() + 60_000);
  expect(await redis.hexists(ledgerKey('events'), 'subito:ageing')).toBe(0);
  // It ages from then on, and is taken over in its time.
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect((await claim({ othersIdleMs: 1500 })).entries).toEqual([]);
  expect((await claim({ othersIdleMs: 40 })).entries).toMatchObject([[id, ['data', 'd0'], 3]]);
});

test('so does each of many, a page per call, and what was deleted is not dropped by it', async () => {
  const ids = await held(1200, { deliveries: 1 });
  await redis.xdel('events', ids[1]!);
  await redis.hset(ledgerKey('events'), 'subito:time', Date.now() + 3_600_000);
  const young = async () => {
    const rows = await redis.xpending('events', 'subito', '-', '+', 2000);
    return (rows as [string, string, number, number][]).filter(([, , idleMs]) => idleMs < IDLE_MS).length;
  };
  // In the middle of a sweep, too.
  const middle = { after: ids[1199]!, othersIdleMs: 10 * IDLE_MS };
  await claim(middle);
  expect(await young()).toBe(499);
  await claim(middle);
  expect(await young()).toBe(999);
  await claim(middle);
  expect(await young()).toBe(1199);
  expect(Object.keys(await pending())).toHaveLength(1000);
  expect(await redis.hexists(ledgerKey('events'), 'subito:ageing')).toBe(0);
});

test('its own, looked for after a connect, go on ageing: they may be in hand', async () => {
  await held(1, { by: 'me', idleMs: 700 });
  const idleMs = async () => ((await redis.xpending('events', 'subito', '-', '+', 1))[0] as unknown[])[2];
  expect((await claim({ ownIdleMs: 0, ageMs: 10_000 })).entries).toHaveLength(1);
  expect(await idleMs()).toBeGreaterThanOrEqual(700);
  // Later sweeps, which look for what was lost in the engine, find it once.
  expect((await claim({ ownIdleMs: 500, ageMs: 10_000 })).entries).toHaveLength(1);
  expect(await idleMs()).toBeLessThan(500);
});

test('a group that is gone says so', async () => {
  await redis.xgroup('DESTROY', 'events', 'subito');
  await expect(claim()).rejects.toThrow(/^NOGROUP/);
});
