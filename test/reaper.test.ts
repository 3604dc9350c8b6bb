// Consumers that nobody reads under any more, on a real server: which go, which stay, and that no entry goes
// with them.
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { takeConsumer } from '../src/ingest/consumer.ts';
import { reap, startReaper } from '../src/ingest/reaper.ts';
import { seededRandom } from '../src/random.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { aliveKey } from '../src/redis/keys.ts';
import { collectNotices, endpointOf, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const STREAM = { name: 'events', group: 'subito' };

let server: TestRedis;
let redis: Redis;
let control: Control;
const cleanups: (() => unknown)[] = [];

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
  await redis.xgroup('CREATE', STREAM.name, STREAM.group, '0', 'MKSTREAM');
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const make = (name: string) => redis.xgroup('CREATECONSUMER', STREAM.name, STREAM.group, name);

/** Reads as `name`; Redis 7.0 makes the consumer when there is something to give. Resolves with the ids. */
async function readAs(name: string, block: number | null = null, client = redis): Promise<string[]> {
  const to = ['STREAMS', STREAM.name, '>'] as const;
  const reply = await (block === null
    ? client.xreadgroup('GROUP', STREAM.group, name, 'COUNT', 10, ...to)
    : client.xreadgroup('GROUP', STREAM.group, name, 'COUNT', 10, 'BLOCK', block, ...to));
  return ((reply as [string, [string, unknown][]][] | null)?.[0]?.[1] ?? []).map(([id]) => id);
}

const add = async () => (await redis.xadd(STREAM.name, '*', 'key', 'k')) as string;

async function consumers(): Promise<string[]> {
  const found = (await redis.xinfo('CONSUMERS', STREAM.name, STREAM.group)) as string[][];
  return found.map((values) => values[1] as string).sort();
}

async function pending(): Promise<[string, string][]> {
  const rows = (await redis.xpending(STREAM.name, STREAM.group, '-', '+', 100_000)) as [string, string][];
  return rows.map(([id, consumer]) => [id, consumer]);
}

const reapNow = (idleMs = 0, me = 'me') => reap({ control, consumer: () => me, idleMs }, STREAM);

describe('one look', () => {
  test('removes those with no heartbeat, nothing pending and nothing asked for; no others', async () => {
    const id = await add();
    expect(await readAs('holding')).toEqual([id]);
    for (const name of ['stale', 'alive', 'me', 'unsettled', 'Ω {strange} pending']) await make(name);
    await redis.set(aliveKey(STREAM.name, STREAM.group, 'alive'), 'token');
    expect((await reapNow(60_000)).length).toBe(0);
    expect((await reapNow()).sort()).toEqual(['stale', 'unsettled', 'Ω {strange} pending']);
    expect(await consumers()).toEqual(['alive', 'holding', 'me']);
    expect(await pending()).toEqual([[id, 'holding']]);
    await redis.xack(STREAM.name, STREAM.group, id);
    expect(await reapNow()).toEqual(['holding']);
  });

  test('the script checks again what has changed since the candidates were found', async () => {
    for (const name of ['idle', 'woken', 'reading']) await make(name);
    const keys = ['idle', 'woken', 'reading'].map((name) => aliveKey(STREAM.name, STREAM.group, name));
    await redis.set(keys[1] as string, 'token');
    const id = await add();
    await readAs('reading');
    const args = [STREAM.group, 0, 'idle', 'woken', 'reading'];
    expect(await control.script('reap', [STREAM.name, ...keys], args)).toEqual(['idle']);
    expect(await pending()).toEqual([[id, 'reading']]);
    const late = [STREAM.group, 60_000, 'woken'];
    await redis.del(keys[1] as string);
    expect(await control.script('reap', [STREAM.name, keys[1] as string], late)).toEqual([]);
  });

  test('without the group or the stream there is nothing to remove; other errors are told', async () => {
    const keys = [STREAM.name, aliveKey(STREAM.name, STREAM.group, 'x')];
    const args = [STREAM.group, 0, 'x'];
    await redis.xgroup('DESTROY', STREAM.name, STREAM.group);
    expect(await control.script('reap', keys, args)).toEqual([]);
    await redis.del(STREAM.name);
    expect(await control.script('reap', keys, args)).toEqual([]);
    await redis.set(STREAM.name, 'text');
    await expect(control.script('reap', keys, args)).rejects.toThrow('WRONGTYPE');
  });
});

describe('a reader that is removed', () => {
  test('while it waits goes on: the entry that ends the wait is given to it', async () => {
    const reader = server.connect();
    await make('waiting');
    const read = readAs('waiting', 10_000, reader);
    await until('it waits', async () => (await redis.info('clients')).includes('blocked_clients:1'));
    expect(await reapNow()).toEqual(['waiting']);
    expect(await consumers()).toEqual([]);
    const id = await add();
    expect(await read).toEqual([id]);
    expect(await pending()).toEqual([[id, 'waiting']]);
    expect(await reapNow()).toEqual([]);
    expect(await readAs('waiting', null, reader)).toEqual([]);
  });

  test('at any moment loses nothing: reaping against reading, waiting and acknowledging', async () => {
    const readers = Array.from({ length: 3 }, () => server.connect());
    const random = seededRandom(7);
    let done = false;
    let removed = 0;
    const reaping = (async () => {
      while (!done) removed += (await reapNow()).length;
    })();
    const seen: string[] = [];
    const left = new Set<string>();
    const reading = readers.map(async (reader, i) => {
      while (!done) {
        const ids = await readAs(`reader-${i}`, 5, reader);
        seen.push(...ids);
        for (const id of ids) {
          // Some stay pending, so that removing this consumer would lose them.
          if (random() < 0.05) left.add(id);
          else await redis.xack(STREAM.name, STREAM.group, id);
        }
        if (left.size > 0 && random() < 0.5) {
          for (const id of [...left]) {
            // Another reader may have come to it meanwhile.
            if (!left.delete(id)) continue;
            expect(await redis.xack(STREAM.name, STREAM.group, id), 'it was still pending').toBe(1);
          }
        }
      }
    });
    const ids: string[] = [];
    for (let i = 0; i < 1500; i += 1) {
      ids.push(await add());
      if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, random() * 8));
    }
    await until('all were read', () => seen.length >= ids.length);
    done = true;
    await Promise.all([...reading, reaping]);
    expect(seen.sort()).toEqual(ids.sort());
    expect(new Set(await pending().then((rows) => rows.map(([id]) => id)))).toEqual(left);
    // Else this shows nothing.
    expect(removed).toBeGreaterThan(100);
  }, 60_000);
});

describe('from time to time', () => {
  /** Timers of the test: `fire` runs the next one. */
  function clock() {
    const waiting: { ms: number; run: () => void }[] = [];
    const after = (ms: number, run: () => void) => {
      const timer = { ms, run };
      waiting.push(timer);
      return () => void waiting.splice(waiting.indexOf(timer), 1);
    };
    return { waiting, after, fire: () => waiting.shift()?.run() };
  }

  test('about once in the time given, never sooner or later by more than a quarter', async () => {
    const { waiting, after, fire } = clock();
    const random = [0, 0.5, 0.999].values();
    const options = { control, partitions: [STREAM], consumer: () => 'me', idleMs: 0, everyMs: 1000, after };
    const reaper = startReaper({ ...options, random: () => random.next().value as number });
    const waits: number[] = [];
    for (let round = 0; round < 3; round += 1) {
      await make('stale');
      waits.push(waiting[0]?.ms as number);
      if (round === 2) break;
      fire();
      await until('it looked', () => waiting.length === 1);
      expect(await consumers()).toEqual([]);
    }
    expect(waits).toEqual([750, 1000, 1249.5]);
    reaper.stop();
    expect(waiting).toEqual([]);
    expect(await consumers()).toEqual(['stale']);
  });

  test('an error is told and does not end it; stopped while it looks, it does not go on', async () => {
    const { waiting, after, fire } = clock();
    const notices = collectNotices();
    const partitions = [{ name: 'text', group: 'g' }, STREAM];
    await redis.set('text', 'x');
    const options = { control, partitions, consumer: () => 'me', idleMs: 0, everyMs: 1000, after };
    const reaper = startReaper(options);
    await make('stale');
    fire();
    await until('it waits again', () => waiting.length === 1);
    notices.stop();
    expect(notices.all).toMatchObject([
      { code: 'REAPER_FAILED', message: expect.stringMatching(/^text: WRONGTYPE/) },
    ]);
    expect(await consumers()).toEqual([]);
    fire();
    reaper.stop();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(waiting).toEqual([]);
  });

  test('a consumer with its heartbeat stays for as long as it lives', async () => {
    const consumer = await takeConsumer({ control, partitions: [STREAM], ttlMs: 600 });
    cleanups.push(() => consumer.stop());
    await make(consumer.name);
    const other = { control, partitions: [STREAM], consumer: () => 'me', idleMs: 0, everyMs: 20 };
    const reaper = startReaper(other);
    cleanups.push(() => reaper.stop());
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(await consumers()).toEqual([consumer.name]);
    await consumer.stop();
    await until('it is removed', async () => (await consumers()).length === 0);
  });
});
