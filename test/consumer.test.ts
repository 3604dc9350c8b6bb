// Who an engine is in its consumer groups: names, slots, heartbeats; with real processes where they matter.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Consumer, type ConsumerOptions, takeConsumer } from '../src/ingest/consumer.ts';
import { type Machine, readMachine, startIn } from '../src/ingest/machine.ts';
import { consumerName, isDead, type SlotTable, takeSlot, tokenOf } from '../src/ingest/names.ts';
import { seededRandom } from '../src/random.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { aliveKey } from '../src/redis/keys.ts';
import { collectNotices, endpointOf, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const MACHINE: Machine = {
  host: 'box',
  bootId: '0123456789abcdef',
  pid: 100,
  start: '5000',
  pidNamespace: '77',
  startOf: (pid) => ({ 200: '6000', 300: '' })[pid] ?? null,
};

describe('names', () => {
  test('say host, boot and slot, in characters that are safe in a key and a shell', () => {
    expect(consumerName(MACHINE, 3)).toBe('box-01234567-3');
    const odd = { ...MACHINE, host: `a{b}:c d/ü${'x'.repeat(200)}`, bootId: '' };
    expect(consumerName(odd, 0)).toMatch(/^a_b__c_d__x{54}-0-0$/);
    expect(consumerName({ ...MACHINE, host: '' }, 0)).toBe('host-01234567-0');
  });
});

describe('a token of a process', () => {
  const token = (machine: Partial<Machine>) => tokenOf({ ...MACHINE, ...machine }, 'n');
  test.each([
    ['this process, another engine in it', {}, false],
    ['this process number, started before us', { start: '4000' }, true],
    ['a process that lives', { pid: 200, start: '6000' }, false],
    ['its number, given out again', { pid: 200, start: '5999' }, true],
    ['a process that nobody is any more', { pid: 999 }, true],
    ['a process of which only the number can be seen', { pid: 300 }, false],
    ['the same number in another container', { pid: 999, pidNamespace: '78' }, false],
    ['our number in another container', { start: '4000', pidNamespace: '78' }, false],
    ['one that could not tell its container', { pid: 999, pidNamespace: '' }, false],
    ['one that could not tell its start', { pid: 999, start: '' }, false],
  ])('%s', (_, machine, dead) => expect(isDead(token(machine), MACHINE)).toBe(dead));

  test('none can be judged from where processes cannot be compared, nor any of another shape', () => {
    expect(isDead(token({ pid: 999 }), { ...MACHINE, pidNamespace: '' })).toBe(false);
    expect(isDead(token({ pid: 999, pidNamespace: '' }), { ...MACHINE, pidNamespace: '' })).toBe(false);
    for (const odd of ['', 'x', '999', '999:1:77', '999:1:77:n:m', '-1:1:77:n', '0:1:77:n', 'a:1:77:n'])
      expect(isDead(odd, MACHINE), odd).toBe(false);
  });

  test('of this machine: living, zombie and gone', () => {
    const machine = readMachine();
    expect(machine.pidNamespace).toMatch(/^\d+$/);
    expect(machine.startOf(process.pid)).toBe(machine.start);
    expect(isDead(tokenOf(machine, 'n'), machine)).toBe(false);
    expect(machine.startOf(1)).toMatch(/^\d+$/);
    expect(machine.startOf(2 ** 22 + 1)).toBeNull();
    const stat = (state: string) => `7 (odd ) name) ${state} 1 7 7 0 -1 4 1 0 0 0 1 2 0 0 20 0 11 0 8484 9 9`;
    expect(startIn(stat('S'))).toBe('8484');
    expect(startIn(stat('Z'))).toBeNull();
    expect(startIn('')).toBe('');
  });
});

describe('the choice of a slot', () => {
  /** Who holds what, in memory, with answers after a while. */
  function tableOf(held: Map<string, string>, me: string, partitions: readonly number[], pause = () => {}) {
    const at = (slot: number, index: number) => `${slot}/${partitions[index]}`;
    return {
      partitions: partitions.length,
      async take(slot, index) {
        await pause();
        const key = at(slot, index);
        if (!held.has(key)) held.set(key, me);
        return held.get(key) === me;
      },
      async giveBack(slot, index) {
        await pause();
        expect(held.get(at(slot, index))).toBe(me);
        held.delete(at(slot, index));
      },
    } satisfies SlotTable;
  }

  test('is the lowest that is free in every partition; of others nothing is kept', async () => {
    const held = new Map([
      ['0/2', 'other'],
      ['1/0', 'other'],
    ]);
    expect(await takeSlot(tableOf(held, 'me', [0, 1, 2]))).toBe(2);
    expect([...held].filter(([, who]) => who === 'me').map(([key]) => key)).toEqual(['2/0', '2/1', '2/2']);
  });

  test('of many at once: each has one of its own, whatever partitions they share', async () => {
    for (let seed = 0; seed < 200; seed += 1) {
      const random = seededRandom(seed);
      const held = new Map<string, string>();
      const pause = () => new Promise<void>((done) => setTimeout(done, random() * 2));
      const engines = Array.from({ length: 6 }, (_, i) => {
        const partitions = [0, 1, 2, 3].filter(() => random() < 0.6);
        return { name: `e${i}`, partitions: partitions.length === 0 ? [1] : partitions };
      });
      const slots = await Promise.all(
        engines.map(({ name, partitions }) => takeSlot(tableOf(held, name, partitions, pause))),
      );
      for (const [i, { name, partitions }] of engines.entries()) {
        const own = [...held].filter(([, who]) => who === name).map(([key]) => key);
        expect(own, `seed ${seed}`).toEqual(partitions.map((partition) => `${slots[i]}/${partition}`));
      }
      expect(Math.max(...slots), `seed ${seed}`).toBeLessThan(engines.length);
    }
  });

  test('ends', async () => {
    const table = { partitions: 1, take: async () => false, giveBack: async () => {} };
    await expect(takeSlot(table)).rejects.toThrow('all 1000 consumer names');
  });
});

let server: TestRedis;
let redis: Redis;
let control: Control;
const cleanups: (() => unknown)[] = [];

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
  control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 1000 });
});
afterAll(async () => {
  control.close();
  await server.stop();
});
beforeEach(() => redis.flushall());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const PARTITIONS = [
  { name: 'events:{1}', group: 'subito' },
  { name: 'events:{0}', group: 'subito' },
];
const keysOf = (name: string) => PARTITIONS.map((each) => aliveKey(each.name, each.group, name));
const NAME = (slot: number) => consumerName(readMachine(), slot);

async function take(options: Partial<ConsumerOptions> = {}): Promise<Consumer> {
  const consumer = await takeConsumer({ control, partitions: PARTITIONS, ttlMs: 600, ...options });
  cleanups.push(() => consumer.stop());
  return consumer;
}

describe('heartbeats', () => {
  test('one per partition, refreshed for as long as the consumer is, then gone', async () => {
    const consumer = await take();
    expect(consumer.name).toBe(NAME(0));
    expect(consumer.name.startsWith(`${hostname()}-`)).toBe(true);
    for (let round = 0; round < 5; round += 1) {
      await sleep(300);
      expect(await redis.mget(keysOf(NAME(0)))).toEqual([consumer.token, consumer.token]);
    }
    await consumer.stop();
    await consumer.stop();
    expect(await redis.dbsize()).toBe(0);
    await sleep(500);
    expect(await redis.dbsize()).toBe(0);
  });

  test('are set again after FLUSHALL, under the same name', async () => {
    const consumer = await take();
    await redis.flushall();
    await until('they are back', async () => (await redis.exists(keysOf(NAME(0)))) === 2);
    expect(consumer.name).toBe(NAME(0));
  });

  test('outlive a server without memory', async () => {
    const consumer = await take();
    await redis.config('SET', 'maxmemory', '1');
    cleanups.push(() => redis.config('SET', 'maxmemory', '0'));
    await expect(redis.set('x', 'y')).rejects.toThrow('OOM');
    await sleep(1500);
    expect(await redis.mget(keysOf(NAME(0)))).toEqual([consumer.token, consumer.token]);
  });

  test('a server that is away for longer than they live takes no name', async () => {
    const own = await startRedis();
    cleanups.push(() => own.stop());
    const ownControl = await connectControl({ endpoint: endpointOf(own), commandMsMax: 300 });
    cleanups.push(() => ownControl.close());
    const notices = collectNotices();
    const consumer = await take({ control: ownControl });
    await own.kill();
    await sleep(1500);
    await own.restart();
    const client = own.connect();
    await until('they are back', async () => (await client.exists(keysOf(NAME(0)))) === 2);
    expect(consumer.name).toBe(NAME(0));
    notices.stop();
    expect(notices.codes().filter((code) => code.startsWith('CONSUMER'))).toEqual([]);
    await own.kill();
    await consumer.stop();
  });
});

describe('slots', () => {
  test('engines side by side in one process have names of their own, the lowest free', async () => {
    const [a, b, c] = [await take(), await take(), await take()];
    expect([a.name, b.name, c.name]).toEqual([NAME(0), NAME(1), NAME(2)]);
    await b.stop();
    expect((await take()).name).toBe(NAME(1));
  });

  test('ten at once have ten names', async () => {
    const all = await Promise.all(Array.from({ length: 10 }, () => take()));
    expect(new Set(all.map(({ name }) => name)).size).toBe(10);
    expect(await redis.dbsize()).toBe(20);
  });

  test("two that name the partitions in another order do not stand in each other's way", async () => {
    const all = await Promise.all([take(), take({ partitions: PARTITIONS.toReversed() })]);
    expect(all.map(({ name }) => name).sort()).toEqual([NAME(0), NAME(1)]);
  });

  test('one that is held in a single partition is given up in the others', async () => {
    await take({ partitions: PARTITIONS.slice(0, 1) });
    const second = await take();
    expect(second.name).toBe(NAME(1));
    expect((await redis.keys('*-0')).sort()).toEqual(keysOf(NAME(0)).slice(0, 1));
    // What the first does not read is free.
    expect((await take({ partitions: PARTITIONS.slice(1) })).name).toBe(NAME(0));
  });

  test('those of other containers and unknown tokens are respected until they expire', async () => {
    const machine = readMachine();
    const elsewhere = tokenOf({ ...machine, pid: 2 ** 22 + 1, pidNamespace: '1' }, 'n');
    for (const [i, token] of [elsewhere, 'what is this'].entries())
      for (const key of keysOf(NAME(i))) await redis.set(key, token, 'PX', 700);
    expect((await take()).name).toBe(NAME(2));
    expect(await redis.get(keysOf(NAME(0))[0] as string)).toBe(elsewhere);
    await until('they expired', async () => (await redis.exists(keysOf(NAME(1)))) === 0);
    expect((await take()).name).toBe(NAME(0));
  });

  test('of a dead process: taken over at once, by one of many that want it', async () => {
    const dead = tokenOf({ ...readMachine(), pid: 2 ** 22 + 1 }, 'n');
    for (const key of keysOf(NAME(0))) await redis.set(key, dead, 'PX', 600_000);
    const all = await Promise.all(Array.from({ length: 5 }, () => take()));
    const names = all.map(({ name }) => name).sort();
    expect(names).toEqual([0, 1, 2, 3, 4].map(NAME));
    expect(await redis.dbsize()).toBe(10);
  });

  test.each([0, 1])(
    'lost in partition %i: another is taken, the rest given back, and it is told',
    async (at) => {
      const notices = collectNotices();
      const renamed: string[] = [];
      const consumer = await take({ onRename: (name) => renamed.push(name) });
      // Of a process that looks dead: no reason to take the name back, or two would do so in turns.
      const thief = tokenOf({ ...readMachine(), pid: 2 ** 22 + 1 }, 'thief');
      const [stolen, kept] = [keysOf(NAME(0))[at] as string, keysOf(NAME(0))[1 - at] as string];
      await redis.set(stolen, thief, 'PX', 600_000);
      await until('it has another name', () => consumer.name === NAME(1));
      expect(renamed).toEqual([NAME(1)]);
      expect(await redis.get(stolen)).toBe(thief);
      expect(await redis.exists(kept)).toBe(0);
      expect(await redis.mget(keysOf(NAME(1)))).toEqual([consumer.token, consumer.token]);
      notices.stop();
      expect(notices.all).toMatchObject([{ code: 'CONSUMER_RENAMED', level: 'warn' }]);
      await consumer.stop();
      expect(await redis.keys('*')).toEqual([stolen]);
    },
  );
});

describe('processes', () => {
  interface Holder {
    readonly process: ChildProcess;
    readonly names: string[];
    kill(): Promise<void>;
  }

  async function hold(ttlMs = 600_000): Promise<Holder> {
    const args = ['test/support/hold-consumer.ts', server.url, String(ttlMs)];
    const child = spawn(process.execPath, [...args, ...PARTITIONS.map(({ name }) => name)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    cleanups.push(() => child.kill('SIGKILL'));
    const names: string[] = [];
    createInterface({ input: child.stdout }).on('line', (line) => names.push(line));
    await until('it has a name', () => names.length > 0, 15_000);
    const kill = async () => {
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
    };
    return { process: child, names, kill };
  }

  test('killed and started again, each gets its name back, long before the heartbeat expires', async () => {
    const [first, second] = [await hold(), await hold()];
    expect([first.names, second.names]).toEqual([[NAME(0)], [NAME(1)]]);
    for (let round = 0; round < 2; round += 1) {
      const third = await hold();
      expect(third.names).toEqual([NAME(2)]);
      await third.kill();
    }
    await first.kill();
    expect((await hold()).names).toEqual([NAME(0)]);
    await second.kill();
    expect((await hold()).names).toEqual([NAME(1)]);
    expect((await hold()).names).toEqual([NAME(2)]);
  }, 60_000);

  test('one that stood still and lost its name takes another, and lets go of it at the end', async () => {
    const paused = await hold(500);
    paused.process.kill('SIGSTOP');
    await until('its heartbeat expired', async () => (await redis.dbsize()) === 0);
    const other = await hold(500);
    expect(other.names).toEqual([NAME(0)]);
    paused.process.kill('SIGCONT');
    await until('it has another name', () => paused.names.length === 2);
    expect(paused.names).toEqual([NAME(0), NAME(1)]);
    await sleep(700);
    expect((await redis.keys('*')).sort()).toEqual([...keysOf(NAME(0)), ...keysOf(NAME(1))].sort());
    const exit = once(paused.process, 'exit');
    paused.process.kill('SIGTERM');
    expect(await exit).toEqual([0, null]);
    expect((await redis.keys('*')).sort()).toEqual(keysOf(NAME(0)).sort());
    expect(other.names).toEqual([NAME(0)]);
  }, 40_000);

  test('one that stood still while nobody wanted its name keeps it', async () => {
    const paused = await hold(500);
    paused.process.kill('SIGSTOP');
    await until('its heartbeat expired', async () => (await redis.dbsize()) === 0);
    paused.process.kill('SIGCONT');
    await until('its heartbeat is back', async () => (await redis.dbsize()) === 2);
    expect(paused.names).toEqual([NAME(0)]);
  }, 40_000);
});
