// `subito load --pace` against a real Redis whose hints are written by hand.
import type { Redis } from 'ioredis';
import { afterAll, beforeEach, expect, test } from 'vitest';
import { loadOptions } from '../src/commands/load.ts';
import { type LoadOptions, loadDefaults } from '../src/load/options.ts';
import { formatReport } from '../src/load/report.ts';
import { runLoad } from '../src/load/run.ts';
import { hintsKey } from '../src/redis/keys.ts';
import { startRedis } from './support/redis.ts';

const server = await startRedis();
const redis = server.connect();
const base: LoadOptions = {
  ...loadDefaults,
  redisUrl: server.url,
  ratePerS: 400,
  durationS: 1,
  warmupS: 0,
  featuresBytes: 16,
  timeoutS: 8,
  pace: true,
};

afterAll(() => server.stop());
beforeEach(() => redis.flushall());

/** Answers everything in `events` until the run is over. */
async function echoed<T>(run: Promise<T>): Promise<T> {
  let over = false;
  const reader: Redis = server.connect();
  const loop = async () => {
    let last = '0-0';
    while (!over) {
      const [[, entries] = ['', []]] = (await reader.xread('BLOCK', 20, 'STREAMS', 'events', last)) ?? [];
      for (const [id, fields] of entries) {
        last = id;
        const event = fields[fields.indexOf('event') + 1] as string;
        await redis.xadd('predictions', '*', 'source', id, 'event', event, 'status', 'ok');
      }
    }
  };
  const looping = loop();
  try {
    return await run;
  } finally {
    over = true;
    await looping;
  }
}

test('without a hint it is an open loop as ever, and says so', async () => {
  const report = await echoed(runLoad(base));
  expect(report).toMatchObject({ lost: 0, errors: {}, ok: true, answered: report.sent });
  expect(report.pacing).toMatchObject({ hint: 'none', ratePerS: null, givenUp: 0 });
  expect(formatReport(report)).toContain('pacing    hints none, no limit');
  const other = await echoed(runLoad({ ...base, durationS: 0.2, pace: false }));
  expect(other.pacing).toBeUndefined();
});

test('at a quarter of the rate all is sent in four times the time, and the waiting shows', async () => {
  await redis.hset(hintsKey('events'), { state: 'slow', rate_per_s: '100' });
  const report = await echoed(runLoad(base));
  expect(report).toMatchObject({ lost: 0, errors: {}, ok: true, answered: report.sent });
  const { pacing, latencyMs } = report;
  expect(pacing).toMatchObject({ hint: 'slow', ratePerS: 100, givenUp: 0 });
  expect(pacing?.waited).toBeGreaterThan(200);
  expect(pacing?.waitMsMax).toBeGreaterThan(1500);
  // From the time that an event was due, as without pacing.
  expect(latencyMs.max).toBeGreaterThan(1500);
  expect(formatReport(report)).toMatch(/pacing {4}hints slow, 100\/s {3}waited \d+ events, .* given up 0/);
});

test('a stop that lasts: events are given up, each counted once', async () => {
  await redis.hset(hintsKey('events'), { state: 'stop', rate_per_s: '0' });
  const report = await runLoad({ ...base, ratePerS: 100, durationS: 0.5, timeoutS: 1 });
  expect(report).toMatchObject({ answered: 0, lost: 0, ok: false });
  expect(report.errors).toEqual({ PACING_TIMEOUT: report.sent });
  expect(report.pacing).toMatchObject({ hint: 'stop', givenUp: report.sent });
  expect(await redis.exists('events')).toBe(0);
});

test('it goes with streams only', async () => {
  await expect(runLoad({ ...base, via: 'ws' })).rejects.toThrow(/--pace goes with --via stream/);
  expect(loadOptions({ pace: true }).pace).toBe(true);
});
