// The reader against real servers: what Redis gave out is taken, whatever happens to connection, group,
// stream.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type ReaderOptions, StreamReader } from '../src/ingest/reader.ts';
import { ensureGroup } from '../src/ingest/regroup.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { Fence } from '../src/redis/fence.ts';
import { ENTRY_FIELDS } from '../src/schedule/entry.ts';
import { collectNotices, endpointOf, Relay, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const GROUP = { stream: 'events', group: 'subito', predictions: 'predictions', deadletters: 'deadletters' };
const cleanups: (() => unknown)[] = [];
let server: TestRedis;
let redis: Redis;
let control: Control;

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
  control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
});
afterAll(async () => {
  control.close();
  await server.stop();
});
beforeEach(() => redis.flushall());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A reader whose entries land in a list; `room` is what it may still take. */
class Intake {
  room = Number.POSITIVE_INFINITY;
  readonly ids: string[] = [];
  readonly payloads: string[] = [];
  readonly rejected: string[] = [];
  flushes = 0;
  readonly reader: StreamReader;

  constructor(options: Partial<ReaderOptions> = {}) {
    this.reader = new StreamReader({
      endpoint: endpointOf(server),
      stream: 'events',
      group: 'subito',
      consumer: () => 'me',
      fields: ENTRY_FIELDS,
      entryBytesMax: 10_000,
      countMax: 512,
      blockMs: 1000,
      claimIdleMs: 15_000,
      deliveriesMax: 5,
      fence: new Fence(),
      demand: () => this.demand(),
      demandAlone: () => this.demand(),
      alone: { suspects: 0, exclusive: 0 },
      isInHand: (id) => this.ids.includes(id),
      received: () => {},
      take: (buffer, entry) => {
        if (this.room <= 0) return false;
        this.room -= 1;
        this.ids.push(buffer.toString('latin1', entry.idStart, entry.idEnd));
        this.payloads.push(
          entry.deleted ? 'deleted' : buffer.toString('latin1', entry.fields[6], entry.fields[7]),
        );
        return true;
      },
      reject: (id, _deliveries, detail) => {
        if (this.room <= 0) return false;
        this.room -= 1;
        this.rejected.push(`${id} ${detail}`);
        return true;
      },
      flush: () => {
        this.flushes += 1;
      },
      createGroup: group,
      unblock: (clientId) => control.unblock(clientId, 'events'),
      ...options,
    });
    cleanups.push(() => this.reader.close());
  }

  /** What it says it has room for; a test may let it promise more than it keeps. */
  demand: () => number = () => Math.min(this.room, 1000);

  async start(): Promise<this> {
    this.reader.start();
    await until('connected', () => this.reader.connected);
    return this;
  }

  free(rows: number): void {
    this.room += rows;
    this.reader.kick();
  }

  got(count: number, msMax?: number): Promise<void> {
    return until(
      `${count} entries are taken, have ${this.ids.length}`,
      () => this.ids.length >= count,
      msMax,
    );
  }
}

async function add(count: number, bytes = 5): Promise<string[]> {
  const pipeline = redis.pipeline();
  for (let i = 0; i < count; i += 1)
    pipeline.xadd('events', '*', 'key', 'k', 'data', `${i}`.padEnd(bytes, '.'));
  return ((await pipeline.exec()) ?? []).map(([, id]) => String(id));
}

async function pending(): Promise<number> {
  const [count] = (await redis.xpending('events', 'subito')) as [number];
  return count;
}

const byId = (one: string, other: string) =>
  Number.parseInt(one, 10) - Number.parseInt(other, 10) ||
  Number(one.split('-')[1]) - Number(other.split('-')[1]);

const group = () => ensureGroup(control, GROUP);

describe('reading', () => {
  beforeEach(async () => {
    await group();
  });

  test('an entry wakes a waiting read at once', async () => {
    const intake = await new Intake().start();
    await sleep(100);
    for (let i = 1; i <= 5; i += 1) {
      const started = performance.now();
      await add(1);
      await intake.got(i);
      expect(performance.now() - started).toBeLessThan(200);
    }
    expect(intake.flushes).toBeGreaterThanOrEqual(5);
  });

  test('a backlog of 5,000 comes in order, each entry once', async () => {
    const ids = await add(5000);
    const intake = await new Intake().start();
    await intake.got(5000);
    expect(intake.ids).toEqual(ids);
    expect(intake.payloads[4999]).toBe('4999.');
  });

  test('without demand nothing is read; with some, no more than that is given out', async () => {
    await add(100);
    const intake = new Intake();
    intake.room = 0;
    await intake.start();
    await sleep(50);
    expect(await pending()).toBe(0);
    for (const rows of [1, 7, 30]) {
      const before = intake.ids.length;
      intake.free(rows);
      await intake.got(before + rows);
      await sleep(30);
      expect(await pending()).toBe(before + rows);
    }
    intake.free(1000);
    await intake.got(100);
  });

  test('demand that is not kept holds the entry until there is room; none is lost or doubled', async () => {
    const ids = await add(3000, 200);
    const intake = new Intake();
    intake.room = 0;
    intake.demand = () => 500;
    await intake.start();
    for (let i = 0; intake.ids.length < 3000; i += 1) {
      if (i > 5000) throw new Error(`stuck at ${intake.ids.length}`);
      intake.free([1, 3, 50, 200][i % 4] as number);
      if (i % 3 === 0) await sleep(1);
      else await new Promise(setImmediate);
    }
    expect(intake.ids).toEqual(ids);
    expect(intake.payloads.every((payload, i) => payload === `${i}`.padEnd(200, '.'))).toBe(true);
  });

  test('an entry too large to keep is rejected by its id, the ones around it are taken', async () => {
    const before = await add(2);
    const large = String(await redis.xadd('events', '*', 'data', Buffer.alloc(3_000_000, 'x')));
    const many = String(await redis.xadd('events', '*', ...Array.from({ length: 4000 }, (_, i) => `f${i}`)));
    const after = await add(2);
    const intake = new Intake();
    intake.room = 0;
    intake.demand = () => 10;
    await intake.start();
    for (let i = 0; i < 6; i += 1) {
      intake.free(1);
      await sleep(20);
    }
    await until('all', () => intake.ids.length + intake.rejected.length === 6);
    expect(intake.ids).toEqual([...before, ...after]);
    expect(intake.rejected).toEqual([large, many].map((id) => `${id} the entry is larger than 10000 bytes`));
  });
});

describe('stopping', () => {
  beforeEach(async () => {
    await group();
  });

  test('ends a waiting read at once', async () => {
    const intake = await new Intake({ blockMs: 4000 }).start();
    await sleep(50);
    const started = performance.now();
    await intake.reader.stop();
    expect(performance.now() - started).toBeLessThan(1000);
    await add(3);
    await sleep(50);
    expect([intake.ids.length, await pending()]).toEqual([0, 0]);
  });

  test('under load, what was given out has been taken', async () => {
    for (let round = 0; round < 10; round += 1) {
      await redis.flushall();
      await group();
      await add(500);
      const intake = await new Intake({ countMax: 20 }).start();
      const adding = add(500);
      await sleep(round * 2);
      await intake.reader.stop();
      intake.reader.close();
      await adding;
      expect(await pending()).toBe(intake.ids.length);
    }
  });

  test('an entry that waits for room is waited for', async () => {
    await add(10);
    const intake = new Intake();
    intake.room = 4;
    intake.demand = () => 10;
    await intake.start();
    await intake.got(4);
    let stopped = false;
    const stop = intake.reader.stop().then(() => {
      stopped = true;
    });
    await sleep(50);
    expect(stopped).toBe(false);
    intake.free(100);
    await stop;
    expect([intake.ids.length, await pending()]).toEqual([10, 10]);
  });

  test('before it was ever connected', async () => {
    const intake = new Intake();
    await intake.reader.stop();
    intake.reader.start();
    await intake.reader.stop();
  });
});

describe('recovery', () => {
  test('entries given to the process before are taken in pieces, between the new ones', async () => {
    await group();
    const old = await add(1000);
    await redis.xreadgroup('GROUP', 'subito', 'me', 'COUNT', 600, 'STREAMS', 'events', '>');
    await redis.xdel('events', old[5]!);
    const intake = await new Intake({ countMax: 100 }).start();
    await intake.got(1000);
    expect(intake.ids.slice(0, 5)).toEqual(old.slice(0, 5));
    expect(intake.ids.toSorted(byId)).toEqual(old);
    expect(intake.payloads[intake.ids.indexOf(old[5]!)]).toBe('deleted');
  });

  test('a connection lost within a reply loses no entry', async () => {
    await group();
    const relay = await Relay.to(server.port);
    cleanups.push(() => relay.close());
    const ids = await add(2000, 1000);
    const intake = new Intake({ endpoint: endpointOf(server, relay.port) });
    await intake.start();
    for (let cuts = 0; cuts < 6; cuts += 1) {
      const bytes = relay.repliedBytes;
      await until('bytes', () => relay.repliedBytes > bytes + 100_000 || intake.ids.length >= 2000);
      relay.cut();
      await sleep(30);
    }
    await until('all', () => new Set(intake.ids).size === 2000);
    expect([...new Set(intake.ids)].toSorted()).toEqual(ids.toSorted());
  });

  test.each(['DEL', 'FLUSHALL', 'XGROUP'] as const)(
    '%s while waiting: the group is made again and no later event is lost',
    async (how) => {
      await group();
      const intake = await new Intake().start();
      await sleep(50);
      const notices = collectNotices();
      cleanups.push(notices.stop);
      if (how === 'DEL') await redis.del('events');
      else if (how === 'FLUSHALL') await redis.flushall();
      else await redis.xgroup('DESTROY', 'events', 'subito');
      const ids = await add(3);
      await intake.got(3, 5000);
      expect(intake.ids).toEqual(ids);
    },
  );

  test('DEL between reads', async () => {
    await group();
    const intake = new Intake();
    intake.room = 0;
    await intake.start();
    await redis.del('events');
    const ids = await add(3);
    intake.free(10);
    await intake.got(3);
    expect(intake.ids).toEqual(ids);
  });

  test('a key of another type is waited out', async () => {
    await redis.set('events', 'in the way');
    const notices = collectNotices();
    cleanups.push(notices.stop);
    const intake = await new Intake().start();
    await until('refused', () => notices.codes().includes('READER_REFUSED'));
    await until('says so', () => intake.reader.refusal.startsWith('WRONGTYPE'));
    await redis.del('events');
    const ids = await add(2);
    await intake.got(2);
    expect(intake.ids).toEqual(ids);
    await until('says nothing more', () => intake.reader.refusal === '');
  });

  test('a server that became a replica is asked for anew, where its name leads by then', async () => {
    await group();
    const relay = await Relay.to(server.port);
    cleanups.push(() => relay.close());
    const intake = await new Intake({ endpoint: endpointOf(server, relay.port), blockMs: 50 }).start();
    cleanups.push(() => redis.replicaof('NO', 'ONE'));
    await redis.replicaof('127.0.0.1', 1);
    await until('asks again', () => relay.connections > 2);
    expect(intake.reader.refusal).toMatch(/^(READONLY|UNBLOCKED force unblock)/);
    await redis.replicaof('NO', 'ONE');
    const ids = await add(1);
    await intake.got(1);
    expect(intake.ids).toEqual(ids);
    expect(intake.reader.refusal).toBe('');
  });

  test('a read that somebody else ends is asked again', async () => {
    await group();
    const intake = await new Intake({ blockMs: 60_000 }).start();
    await sleep(50);
    const list = String(await redis.client('LIST'));
    const id = /id=(\d+) .*name=subito:reader:events/.exec(list)?.[1] ?? '';
    await redis.client('UNBLOCK', id, 'ERROR');
    const ids = await add(1);
    await intake.got(1, 5000);
    expect(intake.ids).toEqual(ids);
  });

  test('a server that is killed and comes back', async () => {
    const kept = await startRedis({ appendonly: true });
    cleanups.push(() => kept.stop());
    const other = await connectControl({ endpoint: endpointOf(kept), commandMsMax: 5000 });
    cleanups.push(() => other.close());
    await ensureGroup(other, GROUP);
    const intake = await new Intake({ endpoint: endpointOf(kept) }).start();
    const first = await kept.connect().xadd('events', '*', 'data', '1');
    await intake.got(1);
    await kept.kill();
    await until('lost', () => !intake.reader.connected);
    await kept.restart();
    const second = await kept.connect().xadd('events', '*', 'data', '2');
    await until('both', () => new Set(intake.ids).size === 2);
    expect([...new Set(intake.ids)]).toEqual([first, second]);
  });
});
