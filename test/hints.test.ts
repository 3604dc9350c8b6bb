// What producers can read beside a stream: the script that adds up the engines' parts, and engines that
// write.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { type Hints, startHints } from '../src/ingest/hints.ts';
import { channels } from '../src/observe/channels.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { hintPartsKey, hintsKey } from '../src/redis/keys.ts';
import { loadScript } from '../src/redis/scripts.ts';
import { addUp } from './simulation/producers.ts';
import { collectNotices, endpointOf, until } from './support/core.ts';
import { FIXTURE_MODELS, MLP, modelsDir } from './support/engine.ts';
import { forSeeds, type Random } from './support/random.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const HINTS = hintsKey('events');
const PARTS = hintPartsKey('events');
const FEATURES = Buffer.alloc(256);

let server: TestRedis;
let redis: Redis;
beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
});
afterAll(() => server.stop());
beforeEach(() => redis.flushall());

interface Part {
  readonly state?: string;
  readonly rate?: number | '-';
  readonly served?: number;
  readonly backlog?: number;
  readonly oldestMs?: number;
  readonly group?: string;
}

async function tell(consumer: string, part: Part = {}, staleMs = 5000): Promise<number[]> {
  const { state = 'ok', rate = '-', served = 0, backlog = 0, oldestMs = 0, group = 'g' } = part;
  const args = [group, consumer, state, rate, served, backlog, oldestMs, staleMs];
  return (await redis.eval(loadScript('hints').text, 3, HINTS, PARTS, 'events', ...args)) as number[];
}

const hints = () => redis.hgetall(HINTS);

describe('the script', () => {
  test('one engine: what it says, and when; in the slot of the stream, for seconds', async () => {
    const before = Date.now();
    const [serverMs, added] = await tell('a', { state: 'slow', rate: 950, backlog: 40, oldestMs: 120 });
    expect(serverMs).toBeGreaterThanOrEqual(before - 1);
    expect(added).toBe(-1);
    const found = await hints();
    expect(found).toEqual({
      state: 'slow',
      rate_per_s: '950',
      backlog: '40',
      oldest_ms: '120',
      at_ms: String(serverMs),
    });
    for (const key of [HINTS, PARTS]) {
      const ttlMs = await redis.pttl(key);
      expect(ttlMs).toBeGreaterThan(4000);
      expect(ttlMs).toBeLessThanOrEqual(5000);
    }
    expect([hintsKey('events:{3}'), hintPartsKey('events')]).toEqual([
      'events:{3}:hints',
      '{events}:hints:parts',
    ]);
    // Without a limit the field is there, and empty.
    await tell('a');
    expect(await hints()).toMatchObject({ state: 'ok', rate_per_s: '', backlog: '0', oldest_ms: '0' });
  });

  test('entries ever added to the stream are told, trimmed ones too', async () => {
    for (let i = 0; i < 5; i += 1) await redis.xadd('events', '*', 'a', 'b');
    await redis.xtrim('events', 'MAXLEN', 2);
    expect((await tell('a'))[1]).toBe(5);
  });

  test('engines of a group add up; the slowest group decides', async () => {
    expect((await tell('a', { rate: 300, served: 280 }))[2]).toBe(0);
    expect((await tell('b', { rate: 500, served: 490, state: 'slow', backlog: 7, oldestMs: 90 }))[2]).toBe(
      280,
    );
    expect(await hints()).toMatchObject({ state: 'slow', rate_per_s: '800', backlog: '7', oldest_ms: '90' });
    // One that has never been at its limit counts like the others' mean.
    await tell('c');
    expect(await hints()).toMatchObject({ rate_per_s: '1200' });
    // One that must stop takes nothing.
    await tell('c', { state: 'stop', rate: 0 });
    expect(await hints()).toMatchObject({ state: 'slow', rate_per_s: '800' });
    expect((await tell('a', { rate: 100, group: 'h', served: 90, backlog: 3 }))[2]).toBe(0);
    expect(await hints()).toMatchObject({ state: 'slow', rate_per_s: '100', backlog: '7' });
    await tell('a', { rate: '-', group: 'h' });
    expect(await hints()).toMatchObject({ rate_per_s: '800' });
    await tell('a', { state: 'stop', rate: 0, group: 'h' });
    expect(await hints()).toMatchObject({ state: 'stop', rate_per_s: '0' });
    await tell('a', { state: 'gone', group: 'h' });
    expect(await hints()).toMatchObject({ state: 'slow', rate_per_s: '800' });
  });

  test('who falls silent, or is gone, does not count; without anybody there is nothing', async () => {
    await tell('a', { rate: 300 });
    await tell('b', { rate: 500 });
    await sleep(30);
    await tell('b', { rate: 500 }, 20);
    expect(await hints()).toMatchObject({ rate_per_s: '500' });
    expect(await redis.hkeys(PARTS)).toEqual(['b g']);
    await tell('b', { state: 'gone' });
    expect(await redis.exists(HINTS, PARTS)).toBe(0);
    // What somebody else has written there is no part.
    await redis.hset(PARTS, 'x', 'rubbish', 'y', 'ok 1 2');
    await tell('a', { rate: 300 });
    expect(await redis.hkeys(PARTS)).toEqual(['a g']);
    await tell('a', { rate: 300 }, 20);
    await sleep(30);
    expect(await redis.exists(HINTS, PARTS)).toBe(0);
  });

  test('it adds up as the simulation does', async () => {
    const parts: (readonly [Random, Part[]])[] = [];
    forSeeds(20, (random) => {
      const part = () => {
        const state = random.pick(['ok', 'ok', 'slow', 'stop']);
        return {
          state,
          rate: state === 'stop' ? 0 : random.chance(0.4) ? ('-' as const) : random.int(0, 999),
        };
      };
      parts.push([random, Array.from({ length: random.int(1, 5) }, part)]);
    });
    for (const [random, engines] of parts) {
      await redis.del(HINTS, PARTS);
      for (const [i, part] of engines.entries()) await tell(`e${i}`, part);
      const limit = (rate: Part['rate']) => (rate === '-' ? Number.POSITIVE_INFINITY : (rate ?? 0));
      const sum = addUp(engines.map(({ state = 'ok', rate }) => ({ state, ratePerS: limit(rate) })));
      const found = await hints();
      const rate = found['rate_per_s'] === '' ? Number.POSITIVE_INFINITY : Number(found['rate_per_s']);
      expect({ state: found['state'], ratePerS: rate }, `seed ${random.seed}`).toEqual(sum);
    }
  });

  test('it may write when memory is used up', async () => {
    await redis.config('SET', 'maxmemory', '1');
    try {
      await tell('a', { state: 'stop', rate: 0 });
      expect(await hints()).toMatchObject({ state: 'stop' });
    } finally {
      await redis.config('SET', 'maxmemory', '0');
    }
  });
});

test('a producer with the rights that the README names may send and look, and no more', async () => {
  const readme = readFileSync('README.md', 'utf8');
  const [, rules = ''] = /^redis-cli ACL SETUSER producer on '>PASSWORD' (.*)$/m.exec(readme) ?? [];
  await redis.acl('SETUSER', 'producer', 'reset', 'on', '>secret', ...rules.replaceAll("'", '').split(' '));
  await tell('a', { rate: 300 });
  const producer = server.connect();
  await producer.auth('producer', 'secret');
  expect(await producer.xadd('events', '*', 'key', 'u', 'data', '{}')).toMatch(/^\d+-0$/);
  expect(await producer.hgetall(HINTS)).toMatchObject({ rate_per_s: '300' });
  await expect(producer.hgetall(PARTS)).rejects.toThrow('NOPERM');
  await expect(producer.xadd(HINTS, '*', 'a', 'b')).rejects.toThrow('NOPERM');
  await expect(producer.xrange('events', '-', '+')).rejects.toThrow('NOPERM');
});

describe('the writer', () => {
  let control: Control;
  let writer: Hints;
  let nowMs = 0;
  const name = { current: 'me' };
  const state = { refused: false };
  const known = { stream: 'events', unread: 0, pending: 0, oldestUnreadMs: null, oldestPendingMs: null };

  beforeEach(async () => {
    control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
    nowMs = Date.now();
    Object.assign(name, { current: 'me' });
    state.refused = false;
    writer = startHints({
      control,
      streams: [{ name: 'events', group: 'g', deadlineMs: 1000 }],
      consumer: () => name.current,
      refused: () => state.refused,
      now: () => nowMs,
    });
  });
  afterEach(async () => {
    await writer.stop();
    control.close();
  });

  const settle = (counts: Readonly<Record<string, number>>, stream = 'events') =>
    channels.settle.publish({ stream, model: 'm@1', ...counts });
  const second = async (backlog: object = {}) => {
    nowMs += 1000;
    await writer.tell({ ...known, ...backlog });
    return (await redis.hgetall(PARTS))['me g']?.split(' ') ?? [];
  };

  test('what is served and what is given up is counted by stream, whatever the clocks say', async () => {
    settle({ ok: 700, degraded: 50, invalid: 30, failed: 20, duplicate: 100, superseded: 5, rows: 905 });
    settle({ ok: 400 }, 'others');
    expect((await second()).slice(0, 5)).toEqual(['ok', '-', '800', '0', '0']);
    // This machine is a minute behind the server; the next age is by the server's clock.
    const serverMs = Date.now();
    nowMs = serverMs - 60_000;
    await writer.tell(known);
    settle({ ok: 500, expired: 300, overloaded: 100 });
    const late = await second({ unread: 900, oldestUnreadMs: serverMs - 200 });
    expect(late[0]).toBe('slow');
    expect(late.slice(2, 4)).toEqual(['500', '900']);
    expect(Number(late[4])).toBeGreaterThan(1000);
    expect(Number(late[4])).toBeLessThan(3000);
    expect(Number(late[1])).toBeLessThan(500);
  });

  test('refused settlements say stop, a backlog that is not known says what was said before', async () => {
    state.refused = true;
    expect((await second({ unread: null })).slice(0, 2)).toEqual(['stop', '0']);
    state.refused = false;
    expect((await second({ unread: null })).slice(0, 2)).toEqual(['stop', '0']);
    expect((await second()).slice(0, 2)).toEqual(['ok', '-']);
  });

  test('another name takes the part along, and the end takes it away', async () => {
    await second();
    name.current = 'me2';
    await second();
    expect(await redis.hkeys(PARTS)).toEqual(['me2 g']);
    await writer.stop();
    expect(await redis.exists(HINTS, PARTS)).toBe(0);
    await second();
    expect(await redis.exists(HINTS, PARTS)).toBe(0);
  });

  test('what goes wrong is told to the operator, and nobody else', async () => {
    const notices = collectNotices();
    await redis.set(PARTS, 'text');
    await second().catch(() => undefined);
    expect(notices.codes()).toEqual(['HINTS_FAILED']);
    notices.stop();
    await redis.del(PARTS);
    expect((await second())[0]).toBe('ok');
  });
});

describe('engines', () => {
  const engines: Engine[] = [];
  afterEach(async () => {
    await Promise.all(engines.splice(0).map((engine) => engine.stop()));
  });

  async function start(models: string, overrides: object = {}): Promise<Engine> {
    const settings = {
      redis: { url: server.url },
      models: { path: models },
      gateway: { port: 0 },
      workers: { max: 1 },
      ...overrides,
    };
    const engine = await startEngine(loadConfig({ env: {}, overrides: settings }));
    engines.push(engine);
    return engine;
  }

  test('two that share a stream each bring a part, and take it away when they stop', async () => {
    const models = modelsDir({ mlp: { from: MLP } });
    const first = await start(models);
    await start(models);
    await until('two parts', async () => (await redis.hlen(PARTS)) === 2);
    await redis.xadd('events', '*', 'key', 'u', 'features', FEATURES);
    expect(await hints()).toMatchObject({ state: 'ok', rate_per_s: '', oldest_ms: expect.any(String) });
    engines.shift();
    await first.stop();
    expect(await redis.hlen(PARTS)).toBe(1);
    await engines.shift()?.stop();
    expect(await redis.exists(HINTS, PARTS)).toBe(0);
  });

  test('more than it can serve: slow, with a rate below that; then nobody is held back', async () => {
    // Each event takes 4 ms: 250/s at the most.
    const dir = modelsDir({ slow: { from: `${FIXTURE_MODELS}same_float32` } });
    copyFileSync(
      new URL('./faults/harness/trouble-handler.ts', import.meta.url),
      join(dir, 'slow', 'handler.ts'),
    );
    await start(dir, { streams: [{ name: 'events', model: 'slow' }], limits: { batch_rows_max: 8 } });
    const many = redis.pipeline();
    for (let i = 0; i < 1200; i += 1) many.xadd('events', '*', 'key', 'u', 'data', '{"do":"wait","ms":4}');
    await many.exec();
    await until('slow, with a rate', async () => {
      const { state, rate_per_s: rate } = await hints();
      return state === 'slow' && Number(rate) > 0 && Number(rate) < 250;
    });
    const { backlog, oldest_ms: oldestMs } = await hints();
    expect(Number(backlog)).toBeGreaterThan(0);
    expect(Number(oldestMs)).toBeGreaterThan(100);
    await until('it is over', async () => (await hints())['state'] === 'ok', 20_000);
    // Those that had been read by then are still on their way.
    await until('all are predicted', async () => (await redis.xlen('predictions')) === 1200);
  }, 40_000);
});
