// Settled events leave the input streams; unread and pending ones never do.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startTrimmer, type TrimmedStream, trim } from '../src/ingest/trimmer.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { ledgerKey } from '../src/redis/keys.ts';
import { collectNotices, endpointOf, until } from './support/core.ts';
import { Random, seeds } from './support/random.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const STREAM: TrimmedStream = { name: 'events', group: 'g', predictions: 'predictions', eventsKeepMs: 0 };
const LEDGER = ledgerKey('events');
/** Whole nodes go; with one entry in each, the tests see single entries go. */
const NODES = { 'stream-node-max-entries': '1' };

let server: TestRedis;
let redis: Redis;
let control: Control;

async function open(config: Record<string, string> = NODES): Promise<void> {
  server = await startRedis({ config });
  redis = server.connect();
  control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
}
beforeEach(() => open());
afterEach(async () => {
  control.close();
  await server.stop();
});

const read = (count: number, group = 'g') =>
  redis.xreadgroup('GROUP', group, 'c', 'COUNT', count, 'STREAMS', 'events', '>');
const there = async () => (await redis.xrange('events', '-', '+')).map(([id]) => id);
const nothing = { events: 0, predictions: 0, more: false };

/** Entries 1-0 to COUNT-0: old ones. */
async function add(count: number, from = 1): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, n) => `${from + n}-0`);
  const pipeline = redis.pipeline();
  for (const id of ids) pipeline.xadd('events', id, 'key', 'k');
  await pipeline.exec();
  return ids;
}

test('a group that was set back keeps what it has to read again, whatever is pending beyond', async () => {
  const ids = await add(10);
  for (const group of ['g', 'archive']) await redis.xgroup('CREATE', 'events', group, '0');
  await read(10);
  await redis.xack('events', 'g', ...ids);
  await read(10, 'archive');
  await redis.xack('events', 'archive', ...ids.slice(0, 9));
  await redis.xgroup('SETID', 'events', 'archive', ids[3]!);
  expect(await trim(control, STREAM)).toMatchObject({ events: 3 });
  expect(await there()).toEqual(ids.slice(3));
  // Its own floor, from which a lost group is made again, likewise.
  await redis.xgroup('SETID', 'events', 'g', ids[1]!);
  await read(1);
  await trim(control, STREAM);
  await redis.xgroup('SETID', 'events', 'g', ids[0]!);
  await trim(control, STREAM);
  expect(await redis.hget(LEDGER, 'g:floor')).toBe(ids[0]);
});

test('what is settled goes; the oldest pending entry and all after it stay', async () => {
  expect(await trim(control, STREAM)).toEqual(nothing);
  const ids = await add(10);
  // No group yet, or none that has read: who knows what it will read.
  expect(await trim(control, STREAM)).toEqual(nothing);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  expect(await trim(control, STREAM)).toEqual(nothing);
  await read(6);
  expect(await trim(control, STREAM)).toEqual(nothing);
  await redis.xack('events', 'g', ...ids.slice(0, 3), ids[4]!);
  expect(await trim(control, STREAM)).toEqual({ ...nothing, events: 3 });
  expect(await there()).toEqual(ids.slice(3));
  await redis.xack('events', 'g', ids[3]!, ids[5]!);
  expect(await trim(control, STREAM)).toEqual({ ...nothing, events: 2 });
  expect(await there()).toEqual(ids.slice(5));
});

test('a slow second group loses nothing, nor does one whose entries are pending', async () => {
  const ids = await add(10);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await redis.xgroup('CREATE', 'events', 'slow', '0');
  await read(10);
  await redis.xack('events', 'g', ...ids);
  expect(await trim(control, STREAM)).toEqual(nothing);
  await read(4, 'slow');
  expect(await trim(control, STREAM)).toEqual(nothing);
  await redis.xack('events', 'slow', ids[0]!, ids[1]!, ids[3]!);
  await trim(control, STREAM);
  expect(await there()).toEqual(ids.slice(2));
  // The engine's own group is lost: what it has not read must not go.
  await redis.xack('events', 'slow', ids[2]!);
  await redis.xgroup('DESTROY', 'events', 'g');
  expect(await trim(control, STREAM)).toEqual(nothing);
});

test('settled events are kept for a while; ids of the future never go', async () => {
  const old = String(await redis.xadd('events', `${Date.now() - 20_000}-0`, 'key', 'k'));
  const young = String(await redis.xadd('events', '*', 'key', 'k'));
  const future = String(await redis.xadd('events', `${Date.now() + 60_000}-0`, 'key', 'k'));
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(3);
  await redis.xack('events', 'g', old, young, future);
  await trim(control, { ...STREAM, eventsKeepMs: 10_000 });
  expect(await there()).toEqual([young, future]);
  await trim(control, STREAM);
  expect(await there()).toEqual([future]);
});

test('predictions go by age where that is asked for; dead letters stay', async () => {
  await add(1);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  for (const stream of ['predictions', 'deadletters']) {
    await redis.xadd(stream, `${Date.now() - 20_000}-0`, 'source', '1-0');
    await redis.xadd(stream, '*', 'source', '1-0');
  }
  expect(await trim(control, STREAM)).toEqual(nothing);
  const byAge = { ...STREAM, predictionsKeepMs: 10_000 };
  expect(await trim(control, byAge)).toEqual({ ...nothing, predictions: 1 });
  expect([await redis.xlen('predictions'), await redis.xlen('deadletters')]).toEqual([1, 2]);
});

test('the ledger notes what has to outlive the group', async () => {
  const ledger = () => redis.hgetall(LEDGER);
  await redis.xadd('events', '5-7', 'key', 'k');
  await redis.xadd('events', '5-8', 'key', 'k');
  await redis.xadd('events', '9-0', 'key', 'k');
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await control.backlog('events', 'g');
  await trim(control, STREAM);
  expect(await ledger()).toMatchObject({ 'g:floor': '0-0', 'g:last': '0-0', 'g:added': '3' });
  await read(2);
  await redis.xack('events', 'g', '5-7');
  await control.backlog('events', 'g');
  await trim(control, STREAM);
  // Everything up to the floor is settled: it lies below what is pending.
  expect(await ledger()).toMatchObject({ 'g:floor': '5-7', 'g:last': '5-8', 'g:read': '2' });
  await read(1);
  await redis.xack('events', 'g', '5-8');
  await trim(control, STREAM);
  expect(await ledger()).toMatchObject({
    'g:floor': '8-18446744073709551615',
    'g:last': '9-0',
    'g:read': '3',
  });
  await redis.xack('events', 'g', '9-0');
  await trim(control, STREAM);
  expect(await ledger()).toMatchObject({ 'g:floor': '9-0', 'g:last': '9-0', 'g:added': '3' });
});

test('memory that is used up does not keep it from making room', async () => {
  await add(2000);
  await redis.xgroup('CREATE', 'events', 'g', '0');
  await read(2000);
  await redis.xack('events', 'g', ...(await there()));
  await redis.config('SET', 'maxmemory', '1');
  await expect(redis.xadd('events', '*', 'key', 'k')).rejects.toThrow('OOM');
  expect((await trim(control, STREAM)).events).toBe(1999);
  expect(await redis.hget(LEDGER, 'g:floor')).toBe('2000-0');
});

test('a million entries go in short calls', { timeout: 60_000 }, async () => {
  control.close();
  await server.stop();
  await open({});
  const fill = `for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], i, 'key', 'k', 'data', ARGV[2]) end`;
  await redis.eval(fill, 1, 'events', 1_000_000, 'x'.repeat(64));
  await redis.xgroup('CREATE', 'events', 'g', '$');
  await redis.config('RESETSTAT');
  const trimmer = startTrimmer({ control, partitions: [STREAM] });
  await until('all is trimmed', async () => (await redis.xlen('events')) < 100, 40_000);
  await trimmer.stop();
  const stats = await redis.info('commandstats');
  const [, calls, usec] = /cmdstat_evalsha:calls=(\d+),usec=(\d+)/.exec(stats)!.map(Number);
  expect(calls).toBeGreaterThan(49);
  // A millisecond or two on a machine at rest.
  expect(usec! / calls!).toBeLessThan(20_000);
});

test.each(seeds(6))(
  'several groups, whatever they do: nothing unread or pending goes: seed %i',
  async (seed) => {
    const random = new Random(seed);
    const groups = ['g', 'h', 'i'];
    /** Per group: unread or pending. */
    const open = new Map(groups.map((group) => [group, new Set<string>()]));
    for (const group of groups) await redis.xgroup('CREATE', 'events', group, '0', 'MKSTREAM');
    for (let step = 0, next = 1; step < 200; step += 1) {
      const group = random.pick(groups);
      const rows = (await redis.xpending('events', group, '-', '+', 100)) as [string][];
      switch (random.int(0, 3)) {
        case 0: {
          const ids = await add(random.int(1, 5), next);
          next += ids.length;
          for (const each of open.values()) for (const id of ids) each.add(id);
          break;
        }
        case 1:
          await read(random.int(1, 6), group);
          break;
        case 2:
          for (const [id] of rows) {
            if (random.chance(0.4)) continue;
            await redis.xack('events', group, id);
            open.get(group)!.delete(id);
          }
          break;
        default:
          await trim(control, STREAM);
      }
      const left = new Set(await there());
      const lost = [...open.values()].flatMap((ids) => [...ids].filter((id) => !left.has(id)));
      expect(lost, `step ${step}`).toEqual([]);
    }
  },
);

/** Scripts that are answered when the test says so, on simulated time. */
class Simulation {
  nowMs = 0;
  calls: { readonly atMs: number; readonly stream: string; answer: (value: unknown) => void }[] = [];
  #timers: { atMs: number; run: () => void }[] = [];
  readonly control: Pick<Control, 'script'> = {
    script: (_name, [stream = '']) =>
      new Promise((resolve, reject) => {
        const answer = (value: unknown) => (value instanceof Error ? reject(value) : resolve(value));
        this.calls.push({ atMs: this.nowMs, stream, answer });
      }),
  };
  readonly after = (ms: number, run: () => void) => {
    const timer = { atMs: this.nowMs + ms, run };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((each) => each !== timer);
    };
  };

  get timers(): number {
    return this.#timers.length;
  }

  /** Time passes until the next call. */
  async next(): Promise<void> {
    const [timer] = this.#timers.sort((a, b) => a.atMs - b.atMs).splice(0, 1);
    this.nowMs = timer!.atMs;
    timer!.run();
    await settled();
  }

  async answer(value: unknown): Promise<void> {
    this.calls.at(-1)!.answer(value);
    await settled();
  }
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test('rounds: about each second, jittered; soon again while there is more; one call at a time', async () => {
  const simulation = new Simulation();
  const { calls } = simulation;
  const numbers = [0.5, 0, 1, 0.5];
  const { after } = simulation;
  const second = { ...STREAM, name: 'more' };
  const trimmer = startTrimmer({
    control: simulation.control,
    partitions: [STREAM, second],
    after,
    random: () => numbers.shift()!,
  });
  await simulation.next();
  expect(calls.map(({ atMs, stream }) => [atMs, stream])).toEqual([[500, 'events']]);
  // A call that takes its time holds up what comes after it.
  simulation.nowMs = 5000;
  expect(simulation.timers).toBe(0);
  await simulation.answer([10, 0, '1-0', 0]);
  expect(calls.map(({ stream }) => stream)).toEqual(['events', 'more']);
  await simulation.answer([10, 0, '1-0', 0]);
  await simulation.next();
  expect(calls[2]).toMatchObject({ atMs: 5750, stream: 'events' });
  await simulation.answer([20_000, 0, '1-0', 1]);
  await simulation.answer([10, 0, '1-0', 0]);
  await simulation.next();
  expect(calls[4]).toMatchObject({ atMs: 5770, stream: 'events' });
  // What fails is said, keeps nothing else from going on, and is tried again.
  const notices = collectNotices();
  await simulation.answer(new Error('LOADING'));
  expect(notices.codes()).toEqual(['TRIM_FAILED']);
  notices.stop();
  await simulation.answer([10, 0, '1-0', 0]);
  await simulation.next();
  expect(calls[6]).toMatchObject({ atMs: 7020, stream: 'events' });
  // It stops when the call that is under way is answered, and no other follows.
  let stopped = false;
  const stopping = trimmer.stop().then(() => {
    stopped = true;
  });
  await settled();
  expect(stopped).toBe(false);
  await simulation.answer([10, 0, '1-0', 1]);
  await stopping;
  expect([calls.length, simulation.timers]).toEqual([7, 0]);
});
