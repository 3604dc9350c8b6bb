// The committer against real servers: one settlement per event, whatever is lost, refused or raced.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { collectNotices, endpointOf, Relay, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { deliver, entries, pendingCount, SECOND, Settling, STREAM } from './support/settle.ts';

const cleanups: (() => unknown)[] = [];
let server: TestRedis;
let redis: Redis;

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
});
afterAll(() => server.stop());
beforeEach(() => redis.flushall());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function settling(port = server.port, to = server): Promise<Settling> {
  const made = new Settling(endpointOf(to, port));
  cleanups.push(() => made.committer.close());
  await made.connected();
  return made;
}

async function relayTo(port: number): Promise<Relay> {
  const relay = await Relay.to(port);
  cleanups.push(() => relay.close());
  return relay;
}

function notices() {
  const collected = collectNotices();
  cleanups.push(collected.stop);
  return collected;
}

test('a prediction says where it comes from', async () => {
  const [first, second] = (await deliver(redis, 2)) as [string, string];
  const one = await settling();
  const outputs = Buffer.from([0x81, 0xa1, 0x61, 0x0d, 0x0a, 0xff]);
  one.settle([
    { id: first, key: 'ключ', event: 'mine', output: outputs },
    { id: second, key: '' },
  ]);
  await one.done(1);
  const found = (await redis.xrangeBuffer('predictions', '-', '+')) as [Buffer, Buffer[]][];
  const [withEvent, without] = found.map(([, values]) => values);
  const names = (values: Buffer[] | undefined) => values?.filter((_, i) => i % 2 === 0).map(String);
  expect(names(withEvent)).toEqual([
    'source',
    'event',
    'key',
    'model',
    'status',
    'outputs',
    'wait_us',
    'infer_us',
  ]);
  expect(names(without)).toEqual(['source', 'key', 'model', 'status', 'outputs', 'wait_us', 'infer_us']);
  expect(withEvent?.[11]).toEqual(outputs);
  expect((await entries(redis, 'predictions'))[0]).toMatchObject({
    source: first,
    event: 'mine',
    key: 'ключ',
    model: 'm@1',
    status: 'ok',
    infer_us: '77',
  });
  expect(await pendingCount(redis)).toBe(0);
});

test('mixed outcomes of several streams in one batch go each to its own place', async () => {
  const a = await deliver(redis, 4);
  const b = await deliver(redis, 3, SECOND);
  const one = await settling();
  const batch = one.settle([
    { id: a[0]!, output: 'A0' },
    { id: b[0]!, stream: 1, output: 'B0' },
    { id: a[1]!, result: 'invalid', output: 'a: not a number' },
    { id: b[1]!, stream: 1, result: 'failed', output: 'run: out of memory' },
    { id: '' },
    { id: a[2]!, output: 'A2' },
  ]);
  await one.done(1);
  const outputs = async (stream: string) =>
    (await entries(redis, stream)).map(({ source, outputs }) => [source, outputs]);
  expect(await outputs('predictions')).toEqual([
    [a[0], 'A0'],
    [a[2], 'A2'],
  ]);
  expect(await outputs('more-predictions')).toEqual([[b[0], 'B0']]);
  expect(await entries(redis, 'deadletters')).toEqual([
    { key: 'k1', data: 'd1', source: a[1], reason: 'invalid', detail: 'a: not a number', deliveries: '1' },
  ]);
  expect(await entries(redis, 'more-deadletters')).toEqual([
    { key: 'k1', data: 'd1', source: b[1], reason: 'failed', detail: 'run: out of memory', deliveries: '1' },
  ]);
  expect([await pendingCount(redis), await pendingCount(redis, SECOND)]).toEqual([1, 1]);
  expect([batch.duplicatesOk, batch.duplicatesDead, batch.unsettled]).toEqual([0, 0, 0]);
});

test('recorded answers are appended without an event to acknowledge; others leave no trace', async () => {
  const [id] = (await deliver(redis, 1)) as [string];
  const one = await settling();
  one.settle(
    [
      { id: '', key: 'p', event: 'e', output: 'direct' },
      { id, output: 'streamed' },
    ],
    { record: 0 },
  );
  one.settle([{ id: '', output: 'not recorded' }]);
  expect(one.settled, 'nothing to tell Redis').toHaveLength(1);
  await one.done(2);
  const found = await entries(redis, 'predictions');
  expect(found.map(({ source, outputs }) => [source, outputs])).toEqual([
    ['', 'direct'],
    [id, 'streamed'],
  ]);
});

test('two committers race for the same events: one prediction each', async () => {
  const ids = await deliver(redis, 1000);
  const racers = [await settling(), await settling()];
  let batches = 0;
  for (let at = 0; at < ids.length; at += 20) {
    const rows = ids.slice(at, at + 20).map((id) => ({ id }));
    for (const racer of racers) racer.settle(rows.toReversed());
    batches += 1;
    if (at % 200 === 0) await sleep(1);
  }
  for (const racer of racers) await racer.done(batches);
  const sources = (await entries(redis, 'predictions')).map(({ source }) => source);
  expect(sources.toSorted()).toEqual(ids.toSorted());
  const duplicates = racers
    .flatMap(({ settled }) => settled)
    .reduce((sum, batch) => sum + batch.duplicatesOk, 0);
  expect(duplicates).toBe(1000);
});

describe('lost connections', () => {
  test('answers lost after the commit: sent again, and nothing is doubled', async () => {
    const ids = await deliver(redis, 60);
    const relay = await relayTo(server.port);
    const one = await settling(relay.port);
    for (let round = 0; round < 5; round += 1) {
      relay.dropReplies = true;
      const rows = ids
        .slice(round * 12, round * 12 + 12)
        .map((id, i) => ({ id, result: i % 4 === 0 ? 'failed' : 'ok' }) as const);
      one.settle(rows.slice(0, 6));
      one.settle(rows.slice(6));
      await until('Redis has it', async () => (await pendingCount(redis)) === 48 - round * 12);
      relay.dropReplies = false;
      expect(one.settled).toHaveLength(round * 2);
      relay.cut();
      await one.done(round * 2 + 2);
    }
    const sources = [...(await entries(redis, 'predictions')), ...(await entries(redis, 'deadletters'))];
    expect(sources.map(({ source }) => source).toSorted()).toEqual(ids.toSorted());
    expect(one.settled.reduce((sum, batch) => sum + batch.duplicatesOk + batch.duplicatesDead, 0)).toBe(60);
  });

  test('the connection is killed while commits run', async () => {
    const ids = await deliver(redis, 2000);
    const one = await settling();
    for (let at = 0; at < ids.length; at += 20) {
      one.settle(ids.slice(at, at + 20).map((id) => ({ id })));
      if (at % 400 === 0) await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    }
    await one.done(100);
    const sources = (await entries(redis, 'predictions')).map(({ source }) => source);
    expect(sources.toSorted()).toEqual(ids.toSorted());
    expect(one.committer.unsettledCommands).toBe(0);
  });

  test('what is settled while there is no connection waits for one', async () => {
    const ids = await deliver(redis, 3);
    const relay = await relayTo(server.port);
    const one = await settling(relay.port);
    relay.cut();
    await until('lost', () => !one.committer.connected);
    one.settle(ids.map((id) => ({ id })));
    await one.done(1);
    expect(await entries(redis, 'predictions')).toHaveLength(3);
  });

  test('a server that falls silent is given up, and found again', { timeout: 30_000 }, async () => {
    const ids = await deliver(redis, 3);
    const relay = await relayTo(server.port);
    const one = await settling(relay.port);
    relay.silent = true;
    one.settle(ids.map((id) => ({ id })));
    await until('given up', () => !one.committer.connected, 10_000);
    relay.silent = false;
    await one.done(1);
    expect(await entries(redis, 'predictions')).toHaveLength(3);
  });
});

describe('refusals of the server', () => {
  test('READONLY: a server that became a replica is left, and asked again where the name leads', async () => {
    const ids = await deliver(redis, 2);
    const one = await settling();
    const { codes } = notices();
    await redis.replicaof('127.0.0.1', 1);
    one.settle(ids.map((id) => ({ id })));
    await until('left', () => codes().includes('COMMITTER_DISCONNECTED'));
    expect(one.committer.refusal).toContain('READONLY');
    expect(one.settled).toHaveLength(0);
    await redis.replicaof('NO', 'ONE');
    await one.done(1);
    expect(one.committer.refusal).toBe('');
    expect(await entries(redis, 'predictions')).toHaveLength(2);
  });

  test('SCRIPT FLUSH: the scripts are loaded again', async () => {
    const ids = await deliver(redis, 4);
    const one = await settling();
    await redis.script('FLUSH');
    one.settle(ids.slice(0, 2).map((id) => ({ id })));
    one.settle(ids.slice(2).map((id) => ({ id, result: 'invalid' })));
    await one.done(2);
    expect(await entries(redis, 'predictions')).toHaveLength(2);
    expect(await entries(redis, 'deadletters')).toHaveLength(2);
  });

  test('scripts that come back between two commits: answers are not mixed up', async () => {
    const ids = await deliver(redis, 2);
    const relay = await relayTo(server.port);
    const one = await settling(relay.port);
    relay.keepReplies();
    await redis.script('FLUSH');
    one.settle([{ id: ids[0]! }]);
    await until('NOSCRIPT is on its way', () => relay.keptReplies === 1);
    // Another engine finds out first, and loads the scripts.
    await settling();
    one.settle([{ id: ids[1]! }]);
    await until('the second is settled', async () => (await pendingCount(redis)) === 1);
    await until('and its answer on its way', () => relay.keptReplies === 2);
    relay.passReplies();
    await one.done(2);
    const sources = (await entries(redis, 'predictions')).map(({ source }) => source);
    expect(sources.toSorted()).toEqual(ids);
  });

  test.each(['predictions', 'deadletters'])(
    'a key of the wrong type at %s: nothing is acknowledged until it is gone',
    async (key) => {
      const ids = await deliver(redis, 2);
      const one = await settling();
      const { codes, all } = notices();
      await redis.set(key, 'in the way');
      one.settle(ids.map((id) => ({ id, result: key === 'predictions' ? 'ok' : 'failed' })));
      await until('refused twice', () => codes().filter((code) => code === 'COMMIT_REFUSED').length >= 2);
      expect(all[0]?.message).toContain('WRONGTYPE');
      expect([await pendingCount(redis), one.settled.length]).toEqual([2, 0]);
      await redis.del(key);
      await one.done(1);
      expect(await entries(redis, key)).toHaveLength(2);
      expect(await pendingCount(redis)).toBe(0);
    },
  );

  test.each(['-xadd', '-xack', '-xtrim', '-type', '-xpending', '-xrange'])(
    'a user without %s: nothing is lost, and all is settled when the right is given',
    async (right) => {
      await redis.acl('SETUSER', 'narrow', 'reset', 'on', '>pass', '~*', '+@all', right);
      const ids = await deliver(redis, 4);
      const endpoint = { ...endpointOf(server), username: 'narrow', password: 'pass' };
      const one = new Settling(endpoint);
      cleanups.push(() => one.committer.close());
      await one.connected();
      const { codes } = notices();
      for (const [id, result] of [
        [ids[0], 'ok'],
        [ids[1], 'failed'],
        [ids[2], 'ok'],
        [ids[3], 'failed'],
      ] as const) {
        one.settle([{ id: id!, result }]);
      }
      await until('refused', () => codes().filter((code) => code === 'COMMIT_REFUSED').length >= 4);
      const count = async () => (await redis.xlen('predictions')) + (await redis.xlen('deadletters'));
      expect((await pendingCount(redis)) + (await count())).toBe(4);
      await redis.acl('SETUSER', 'narrow', '+@all');
      await one.done(4);
      const sources = [...(await entries(redis, 'predictions')), ...(await entries(redis, 'deadletters'))];
      expect(sources.map(({ source }) => source).toSorted()).toEqual(ids);
      expect(await pendingCount(redis)).toBe(0);
    },
  );

  test('streams that have run out of ids: the events stay pending until that is put right', async () => {
    const ids = await deliver(redis, 4);
    for (const key of ['predictions', 'deadletters']) {
      await redis.xadd(key, '18446744073709551615-18446744073709551615', 'foreign', 'entry');
    }
    const one = await settling();
    const { codes } = notices();
    one.settle(ids.slice(0, 2).map((id) => ({ id })));
    one.settle(ids.slice(2).map((id) => ({ id, result: 'failed' })));
    await until('refused', () => codes().filter((code) => code === 'COMMIT_REFUSED').length >= 6);
    expect([await pendingCount(redis), one.settled.length]).toEqual([4, 0]);
    await redis.del('predictions', 'deadletters');
    await one.done(2);
    const sources = [...(await entries(redis, 'predictions')), ...(await entries(redis, 'deadletters'))];
    expect(sources.map(({ source }) => source)).toEqual(ids);
  });

  test('a suspect that cannot be settled keeps its count of deliveries', async () => {
    const [id] = await deliver(redis, 1);
    await redis.xclaim(STREAM.name, STREAM.group, 'me', 0, id!, 'RETRYCOUNT', 4, 'JUSTID');
    await redis.xadd('predictions', '18446744073709551615-18446744073709551615', 'a', 'b');
    const one = await settling();
    const { codes } = notices();
    one.settle([{ id: id! }], { firstHand: false });
    await until('refused', () => codes().includes('COMMIT_REFUSED'));
    const rows = await redis.xpending(STREAM.name, STREAM.group, '-', '+', 1);
    expect((rows[0] as unknown[])[3]).toBe(4);
    await redis.del('predictions');
    await one.done(1);
  });

  test('out of memory: nothing is acknowledged until there is room', async () => {
    const small = await startRedis({ config: { 'maxmemory-policy': 'noeviction' } });
    cleanups.push(() => small.stop());
    const control = small.connect();
    const ids = await deliver(control, 4);
    const one = await settling(small.port, small);
    const { codes } = notices();
    await control.config('SET', 'maxmemory', '1mb');
    await control.config('SET', 'maxmemory', '1');
    one.settle(ids.slice(0, 2).map((id) => ({ id })));
    one.settle(ids.slice(2).map((id) => ({ id, result: 'failed' })));
    await until('refused', () => codes().filter((code) => code === 'COMMIT_REFUSED').length >= 4);
    expect([await pendingCount(control), one.settled.length]).toEqual([4, 0]);
    expect(await control.exists('predictions', 'deadletters')).toBe(0);
    await control.config('SET', 'maxmemory', '0');
    await one.done(2);
    expect((await entries(control, 'predictions')).length).toBe(2);
    expect((await entries(control, 'deadletters')).length).toBe(2);
  });

  test('a server that was restarted has the scripts again, and the events still pending', async () => {
    const kept = await startRedis({ appendonly: true });
    cleanups.push(() => kept.stop());
    const ids = await deliver(kept.connect(), 40);
    const one = await settling(kept.port, kept);
    one.settle(ids.slice(0, 20).map((id) => ({ id })));
    await kept.kill();
    one.settle(ids.slice(20).map((id) => ({ id })));
    await kept.restart();
    await one.done(2);
    const found = (await entries(kept.connect(), 'predictions')).map(({ source }) => source);
    expect(found.toSorted()).toEqual(ids.toSorted());
  });
});

test('predictions are kept to about their number', async () => {
  const limited = new Settling(endpointOf(server), [{ ...STREAM, predictionsMax: 100 }]);
  cleanups.push(() => limited.committer.close());
  await limited.connected();
  const ids = await deliver(redis, 1000);
  for (let at = 0; at < 1000; at += 50) limited.settle(ids.slice(at, at + 50).map((id) => ({ id })));
  await limited.done(20);
  const length = await redis.xlen('predictions');
  expect(length).toBeGreaterThanOrEqual(100);
  expect(length).toBeLessThan(300);
});

test('close stops trying', async () => {
  const ids = await deliver(redis, 1);
  const one = await settling();
  await redis.set('predictions', 'in the way');
  const { codes } = notices();
  one.settle(ids.map((id) => ({ id })));
  await until('refused', () => codes().includes('COMMIT_REFUSED'));
  one.committer.close();
  await redis.del('predictions');
  await sleep(150);
  expect(one.settled).toEqual([]);
  expect(await pendingCount(redis)).toBe(1);
});
