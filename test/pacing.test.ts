// The producers' side of the hints, on a simulated clock, and once against a real Redis.
import { Redis } from 'ioredis';
import { afterEach, describe, expect, test } from 'vitest';
import { createPacer, PacerError, type PacerOptions } from '../src/client/pacing.ts';
import { startRedis } from './support/redis.ts';

/** Time that passes when it is told to; promises get their turn in between. */
class Clock {
  nowMs = 1000;
  readonly #timers = new Map<number, { readonly atMs: number; readonly run: () => void }>();
  #next = 0;
  readonly now = () => this.nowMs;
  readonly after = (ms: number, run: () => void) => {
    const id = this.#next++;
    this.#timers.set(id, { atMs: this.nowMs + ms, run });
    return () => {
      this.#timers.delete(id);
    };
  };

  get timers(): number {
    return this.#timers.size;
  }

  async pass(ms: number): Promise<void> {
    const endMs = this.nowMs + ms;
    await settled();
    for (;;) {
      const [due] = [...this.#timers].sort(([, a], [, b]) => a.atMs - b.atMs);
      if (due === undefined || due[1].atMs > endMs) break;
      this.#timers.delete(due[0]);
      this.nowMs = due[1].atMs;
      due[1].run();
      await settled();
    }
    this.nowMs = endMs;
  }
}

const settled = async () => {
  for (let i = 0; i < 10; i += 1) await Promise.resolve();
};

type Hash = Record<string, string> | null;

function make(first: Hash | (() => Promise<Hash>), options: Partial<PacerOptions> = {}) {
  const clock = new Clock();
  const world = { hash: first, reads: [] as number[] };
  const read = () => {
    world.reads.push(clock.nowMs);
    return typeof world.hash === 'function' ? world.hash() : Promise.resolve(world.hash);
  };
  const pacer = createPacer({
    ...clock,
    now: clock.now,
    after: clock.after,
    random: () => 0.5,
    read,
    ...options,
  });
  /** Asks for a turn and notes when it came, or what came instead. */
  const ended: (number | string)[] = [];
  const ask = (events = 1, signal?: AbortSignal) => {
    pacer.turn(events, signal === undefined ? {} : { signal }).then(
      () => ended.push(clock.nowMs),
      (error: unknown) => ended.push(error instanceof PacerError ? error.code : String(error)),
    );
  };
  return { clock, world, pacer, ask, ended };
}

const slow = (rate: number | '') => ({
  state: 'slow',
  rate_per_s: String(rate),
  backlog: '9',
  oldest_ms: '9',
});

test('without hints, and without a limit, nobody waits', async () => {
  for (const hash of [null, {}, { state: 'ok', rate_per_s: '' }]) {
    const { clock, ask, ended, pacer } = make(hash);
    for (let i = 0; i < 500; i += 1) ask();
    await settled();
    expect(ended).toEqual(Array(500).fill(1000));
    expect(pacer.state).toMatchObject({ ratePerS: Number.POSITIVE_INFINITY, turns: 500, waiting: 0 });
    expect(clock.timers).toBe(0);
  }
});

test('a rate is kept to, from the first event on, in the order of asking', async () => {
  const { clock, ask, ended, pacer } = make(slow(100), { burstMs: 50, waitersMax: 5000, waitMsMax: 60_000 });
  for (let i = 0; i < 1000; i += 1) ask();
  await clock.pass(5000);
  expect(pacer.state).toMatchObject({ hint: 'slow', ratePerS: 100 });
  expect(ended.length).toBeGreaterThanOrEqual(499);
  expect(ended.length).toBeLessThanOrEqual(506);
  expect([...ended]).toEqual([...ended].sort((a, b) => Number(a) - Number(b)));
  // After a pause a burst of five, and no more.
  await clock.pass(30_000);
  const before = ended.length;
  for (let i = 0; i < 50; i += 1) ask();
  await settled();
  expect(ended.length - before).toBe(5);
  expect(pacer.state.waits).toBeGreaterThan(900);
  expect(pacer.state.waitedMsMax).toBeGreaterThan(9000);
});

test('a share of the rate, turns for many events at once, and rates below one', async () => {
  const { clock, ask, ended } = make(slow(100), { share: 0.25, burstMs: 0 });
  for (let i = 0; i < 1000; i += 1) ask();
  await clock.pass(4000);
  expect(ended.length).toBeGreaterThanOrEqual(99);
  expect(ended.length).toBeLessThanOrEqual(102);
  // Fifty take what fifty single ones do; the debt is waited off by whoever comes next.
  const many = make(slow(100), { waitMsMax: 60_000 });
  for (let i = 0; i < 11; i += 1) many.ask(50);
  await many.clock.pass(5150);
  expect(many.ended.length).toBe(11);
  expect(many.ended.at(-1)).toBeGreaterThan(5900);
  const rare = make(slow(1), { share: 0.1, waitMsMax: 60_000 });
  for (let i = 0; i < 3; i += 1) rare.ask();
  await rare.clock.pass(25_000);
  expect(rare.ended.length).toBe(2);
});

test('it looks about twice a second while it is used, jittered, and not at all when it is not', async () => {
  const numbers = [0, 1, 0.5, 0.25];
  let at = 0;
  const { clock, world, ask } = make(slow(1000), { random: () => numbers[at++ % 4] as number });
  for (let i = 0; i < 200; i += 1) {
    ask();
    await clock.pass(50);
  }
  expect(world.reads.length).toBeGreaterThan(17);
  expect(world.reads.length).toBeLessThan(24);
  const gaps = world.reads.slice(1).map((ms, i) => ms - (world.reads[i] as number));
  expect(Math.min(...gaps)).toBeGreaterThanOrEqual(375);
  expect(Math.max(...gaps)).toBeLessThanOrEqual(700);
  const before = world.reads.length;
  await clock.pass(60_000);
  expect([world.reads.length, clock.timers]).toEqual([before, 0]);
});

test('stop stops, at most for as long as a turn may wait; after it all goes at the new rate', async () => {
  const { clock, world, ask, ended, pacer } = make({ state: 'stop', rate_per_s: '0' }, { waitMsMax: 3000 });
  ask();
  await clock.pass(2999);
  expect(ended).toEqual([]);
  expect(pacer.state).toMatchObject({ hint: 'stop', ratePerS: 0, waiting: 1 });
  await clock.pass(1);
  expect(ended).toEqual(['PACING_TIMEOUT']);
  await expect(pacer.turn(0)).rejects.toMatchObject({ code: 'PACING_INVALID', retryable: false });
  const late = pacer.turn().catch((error: unknown) => error);
  await clock.pass(3000);
  expect(await late).toMatchObject({ retryable: true, message: expect.stringContaining('says stop') });
  for (let i = 0; i < 100; i += 1) ask();
  await clock.pass(500);
  world.hash = slow(50);
  await clock.pass(1100);
  // No stampede: fifty a second from when it was heard, about half a second ago at the earliest.
  expect(ended.length).toBeGreaterThan(25);
  expect(ended.length).toBeLessThan(62);
  expect(pacer.state).toMatchObject({ hint: 'slow', timeouts: 2 });
});

test('no more wait than may', async () => {
  const { clock, ask, ended, pacer } = make({ state: 'stop', rate_per_s: '0' }, { waitersMax: 3 });
  await clock.pass(0);
  for (let i = 0; i < 5; i += 1) ask();
  await clock.pass(10);
  expect(ended).toEqual(['PACING_FULL', 'PACING_FULL']);
  expect(pacer.state).toMatchObject({ waiting: 3, refusals: 2 });
});

test('a turn can be given up, before and while it waits; the others move up', async () => {
  const { clock, ask, ended, pacer } = make(slow(10), { burstMs: 0 });
  const giveUp = new AbortController();
  for (let i = 0; i < 3; i += 1) ask(1, i === 1 ? giveUp.signal : undefined);
  await clock.pass(150);
  giveUp.abort(new Error('enough'));
  await clock.pass(100);
  expect(ended.filter((end) => typeof end === 'string')).toEqual(['Error: enough']);
  expect(ended.length).toBe(3);
  ask(1, giveUp.signal);
  await settled();
  expect(ended.at(-1)).toBe('Error: enough');
  expect(pacer.state).toMatchObject({ waiting: 0, turns: 2 });
});

test('when the hash is gone it keeps the last rate for a while, and a stop not at all', async () => {
  const { clock, world, ask, pacer } = make(slow(100), { keepMs: 20_000 });
  const use = async (ms: number) => {
    for (let passed = 0; passed < ms; passed += 250) {
      ask();
      await clock.pass(250);
    }
  };
  await use(1000);
  world.hash = {};
  await use(2000);
  expect(pacer.state).toMatchObject({ hint: 'none', ratePerS: 100 });
  await use(20_000);
  expect(pacer.state).toMatchObject({ hint: 'none', ratePerS: Number.POSITIVE_INFINITY });
  world.hash = slow(40);
  await use(1000);
  world.hash = { state: 'stop', rate_per_s: '0' };
  await use(1000);
  expect(pacer.state).toMatchObject({ hint: 'stop', ratePerS: 0 });
  world.hash = null;
  await use(1000);
  expect(pacer.state).toMatchObject({ hint: 'none', ratePerS: 40, waiting: 0 });
});

test('Redis that is away changes nothing for seconds, then it is as if the hash were gone', async () => {
  const { clock, world, ask, pacer } = make({ state: 'stop', rate_per_s: '0' }, { waitMsMax: 60_000 });
  ask();
  await clock.pass(100);
  world.hash = () => Promise.reject(new Error('Connection is closed.'));
  await clock.pass(4000);
  expect(pacer.state).toMatchObject({ hint: 'stop', waiting: 1 });
  expect(pacer.state.readErrors).toBeGreaterThan(3);
  await clock.pass(2000);
  expect(pacer.state).toMatchObject({ hint: 'none', waiting: 0, turns: 1 });
  // One that throws at once is no other.
  world.hash = () => {
    throw new Error('no client');
  };
  ask();
  await clock.pass(1000);
  expect(pacer.state.turns).toBe(2);
});

test('a look that never ends is given up, and is not one of many', async () => {
  const { clock, world, ask, pacer } = make(() => new Promise(() => {}), { readMsMax: 1000 });
  for (let i = 0; i < 3; i += 1) ask();
  await clock.pass(999);
  expect(pacer.state).toMatchObject({ hint: 'unknown', waiting: 3 });
  await clock.pass(1);
  expect(pacer.state).toMatchObject({ hint: 'none', waiting: 0, turns: 3, readErrors: 1 });
  for (let i = 0; i < 40; i += 1) {
    ask();
    await clock.pass(250);
  }
  expect(world.reads.length).toBeLessThanOrEqual(3);
  expect(pacer.state.turns).toBe(43);
});

test.each([
  ['rubbish', { state: 'fine', rate_per_s: '10' }],
  ['no number', { state: 'slow', rate_per_s: 'fast' }],
  ['less than nothing', { state: 'slow', rate_per_s: '-4' }],
  ['something else', { backlog: '7' }],
])('%s is no hint', async (_, hash) => {
  const { ask, ended, pacer } = make(hash as Record<string, string>);
  ask();
  await settled();
  expect(ended).toEqual([1000]);
  expect(pacer.state.hint).toBe('none');
});

test.each([
  [{ read: undefined }, /^read is no function/],
  [{ share: 0 }, /^share is 0: it must be from/],
  [{ share: 1.5 }, /^share is 1.5/],
  [{ waitersMax: Number.NaN }, /^waitersMax is NaN/],
  [{ pollMs: 1 }, /^pollMs is 1/],
  [{ waitMsMax: '5' }, /^waitMsMax is 5/],
])('%j cannot be', (options, message) => {
  const read = () => Promise.resolve(null);
  const wrong = () => createPacer({ read, ...options } as PacerOptions);
  expect(wrong).toThrow(PacerError);
  expect(wrong).toThrow(message);
});

test('the package exports it, and it imports nothing', async () => {
  const { default: manifest } = await import('../package.json', { with: { type: 'json' } });
  expect(manifest.exports['./pacing']).toBe('./src/client/pacing.ts');
  const { readFileSync } = await import('node:fs');
  expect(readFileSync('src/client/pacing.ts', 'utf8')).not.toMatch(/^import /m);
});

describe('with ioredis', () => {
  const clients: Redis[] = [];
  afterEach(() => {
    for (const client of clients.splice(0)) client.disconnect();
  });

  test('as the README shows it: paced, through a restart of Redis', async () => {
    const server = await startRedis();
    try {
      const redis = new Redis(server.url);
      redis.on('error', () => undefined);
      clients.push(redis);
      await redis.hset('{events}:hints', { state: 'slow', rate_per_s: '100' });
      const pacer = createPacer({ read: () => redis.hgetall('{events}:hints'), readMsMax: 200 });
      const send = async (count: number) => {
        const beganMs = performance.now();
        for (let i = 0; i < count; i += 1) {
          await pacer.turn();
          await redis.xadd('events', '*', 'key', 'u', 'data', '{}');
        }
        return performance.now() - beganMs;
      };
      // Eleven without waiting, the others at 100 a second.
      expect(await send(51)).toBeGreaterThan(350);
      await server.kill();
      const during = pacer.turn();
      await expect(during).resolves.toBeUndefined();
      await server.restart();
      await send(5);
      expect(pacer.state.turns).toBe(57);
    } finally {
      await server.stop();
    }
  });
});
