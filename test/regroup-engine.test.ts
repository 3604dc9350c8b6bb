// Engines under load while somebody takes the consumer group away: each event has exactly one outcome.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { collectNotices, until } from './support/core.ts';
import { FIXTURE_MODELS, modelsDir } from './support/engine.ts';
import { Random } from './support/random.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const PIECE = 40;

let server: TestRedis;
let redis: Redis;
let engines: Engine[];
let notices: ReturnType<typeof collectNotices>;

beforeEach(async () => {
  server = await startRedis();
  redis = server.connect();
  const config = loadConfig({
    env: {},
    overrides: {
      redis: { url: server.url },
      // Trimmed at once, so that the ledger's floor moves while the test runs.
      streams: [{ name: 'events', model: 'same_float32', events_keep_ms: 100 }],
      models: { path: modelsDir({ same_float32: { from: `${FIXTURE_MODELS}/same_float32` } }) },
      gateway: { port: 0 },
      workers: { max: 1 },
    },
  });
  notices = collectNotices();
  engines = [await startEngine(config), await startEngine(config)];
});
afterEach(async () => {
  notices.stop();
  for (const engine of engines) await engine.stop();
  await server.stop();
});

/** Adds numbered events until told to stop; what is added in one piece is one transaction with `before`. */
class Load {
  sent = 0;
  #stop = false;
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  async run(): Promise<void> {
    while (!this.#stop) {
      await this.piece();
      await sleep(this.#random.int(0, 8));
    }
  }

  stop(): void {
    this.#stop = true;
  }

  /** One in thirty is malformed. Resolves with the number of the first one. */
  async piece(...before: (readonly [string, ...string[]])[]): Promise<number> {
    const first = this.sent;
    this.sent += PIECE;
    const transaction = redis.multi();
    for (const [name, ...args] of before) transaction.call(name, ...args);
    for (let event = first; event < this.sent; event += 1) {
      const wrong = event % 30 === 0 ? ['colour', 'red'] : [];
      const features = Buffer.from(new Float32Array([event, 1, 2]).buffer);
      transaction.xadd('events', '*', 'key', 'k', 'event', String(event), 'features', features, ...wrong);
    }
    const replies = (await transaction.exec()) ?? [];
    for (const [error] of replies) if (error !== null) throw error;
    return first;
  }
}

/** How many outcomes each event has. */
async function outcomes(): Promise<Map<number, number>> {
  const counts = new Map<number, number>();
  for (const stream of ['predictions', 'deadletters']) {
    for (const [, values] of await redis.xrange(stream, '-', '+')) {
      const event = Number(values[values.lastIndexOf('event') + 1]);
      counts.set(event, (counts.get(event) ?? 0) + 1);
    }
  }
  return counts;
}

/** All events up to here from the one given have exactly one outcome, the ones before at most one. */
async function exactlyOnce(load: Load, from: number): Promise<void> {
  const missing = async () => {
    const counts = await outcomes();
    const numbers = Array.from({ length: load.sent - from }, (_, n) => from + n);
    return numbers.filter((event) => !counts.has(event));
  };
  await until('every event has an outcome', async () => (await missing()).length === 0, 20_000).catch(
    async (error) => {
      throw new Error(`of ${load.sent} without an outcome: ${(await missing()).slice(0, 20)}`, {
        cause: error,
      });
    },
  );
  // A second outcome of some event could still come.
  await until('nothing is pending', async () => {
    const [pending] = (await redis.xpending('events', 'subito')) as [number];
    return pending === 0 && engines.every(({ backend }) => backend.stats() !== null);
  });
  await sleep(500);
  const twice = [...(await outcomes())].filter(([, count]) => count > 1);
  expect(twice).toEqual([]);
}

const seed = () => Number(process.env['SUBITO_TEST_SEED'] ?? Date.now() % 1_000_000);

test('XGROUP DESTROY: nothing is lost, nothing is predicted twice', { timeout: 60_000 }, async () => {
  const random = new Random(seed());
  const load = new Load(random);
  const running = load.run();
  for (let round = 0; round < 8; round += 1) {
    await sleep(random.int(100, 700));
    // With an old ledger, and without one.
    if (round === 5) await redis.del('{events}:ledger');
    expect(await redis.xgroup('DESTROY', 'events', 'subito'), `seed ${random.seed}`).toBe(1);
    await until(
      'the group is made again',
      async () => JSON.stringify(await redis.xinfo('GROUPS', 'events')) !== '[]',
    );
  }
  load.stop();
  await running;
  await exactlyOnce(load, 0);
  expect(notices.codes().filter((code) => code === 'GROUP_REMADE').length).toBeGreaterThan(4);
  expect(notices.codes()).not.toContain('GROUP_REMADE_TWICE');
});

test.each(['DEL', 'FLUSHALL'] as const)(
  '%s: what is added afterwards has exactly one outcome, what was there at most one',
  { timeout: 60_000 },
  async (how) => {
    const random = new Random(seed());
    const load = new Load(random);
    let from = 0;
    for (let round = 0; round < 4; round += 1) {
      const enoughAt = performance.now() + random.int(200, 700);
      while (performance.now() < enoughAt) {
        await load.piece();
        await sleep(random.int(0, 8));
      }
      from = await load.piece(how === 'DEL' ? ['DEL', 'events'] : ['FLUSHALL']);
    }
    const enoughAt = performance.now() + 500;
    while (performance.now() < enoughAt) await load.piece();
    await exactlyOnce(load, from);
  },
);
