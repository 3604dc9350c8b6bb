// The tail against a real server: all that is appended since it was wanted, once, over reconnects and
// rubbish.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Prediction } from '../src/publish/prediction.ts';
import { PredictionTail, type TailOptions } from '../src/publish/tail.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { collectNotices, endpointOf, Relay, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

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

interface Following {
  readonly tail: PredictionTail;
  readonly seen: Prediction[];
  /** The outputs, copied while they were valid. */
  readonly outputs: string[];
  readonly sids: () => string[];
}

function follow(options: Partial<TailOptions> = {}): Following {
  const seen: Prediction[] = [];
  const outputs: string[] = [];
  const tail = new PredictionTail({
    endpoint: endpointOf(server),
    stream: 'predictions',
    entryBytesMax: 10_000,
    countMax: 100,
    blockMs: 500,
    lastId: () => control.lastId('predictions'),
    interested: () => true,
    onPrediction: (prediction) => {
      seen.push(prediction);
      outputs.push(Buffer.from(prediction.outputs).toString('latin1'));
    },
    ...options,
  });
  cleanups.push(() => tail.close());
  tail.start();
  return { tail, seen, outputs, sids: () => seen.map(({ sid }) => sid) };
}

async function predict(count: number, size = 5): Promise<string[]> {
  const pipeline = redis.pipeline();
  for (let i = 0; i < count; i += 1) {
    const fields = [
      'source',
      `${i}-0`,
      'key',
      `k${i}`,
      'model',
      'm@1',
      'status',
      'ok',
      'outputs',
      `${i}`.padEnd(size, '.'),
    ];
    pipeline.xadd('predictions', '*', ...fields, 'wait_us', '12', 'infer_us', '34');
  }
  return ((await pipeline.exec()) ?? []).map(([, id]) => String(id));
}

/** Appends until one is seen: from here on the tail follows. Returns what was appended meanwhile. */
async function placed({ seen }: Following): Promise<void> {
  const before = seen.length;
  await until('the tail follows', async () => {
    await redis.xadd('predictions', '*', 'key', 'probe');
    await sleep(10);
    return seen.length > before;
  });
  const last = await control.lastId('predictions');
  await until('the probes are seen', () => seen.at(-1)?.sid === last);
  seen.length = 0;
}

test('sees what comes after it was wanted, as it was written, and nothing older', async () => {
  await predict(50);
  const followed = follow();
  const { tail, seen, outputs } = followed;
  await sleep(50);
  tail.want(true);
  await placed(followed);
  outputs.length = 0;
  const started = performance.now();
  const id = await redis.xadd(
    'predictions',
    '*',
    'source',
    '5-1',
    'event',
    'mine',
    'key',
    'ключ',
    'model',
    'm@1',
    'status',
    'ok',
    'outputs',
    Buffer.from([0, 13, 10, 255]),
    'wait_us',
    '12',
    'infer_us',
    '34',
  );
  await until('seen', () => seen.length === 1);
  expect(performance.now() - started).toBeLessThan(200);
  expect(seen[0]).toMatchObject({
    sid: id,
    source: '5-1',
    event: 'mine',
    key: 'ключ',
    model: 'm@1',
    status: 'ok',
    waitUs: 12,
    inferUs: 34,
  });
  expect(outputs).toEqual(['\0\r\n\xff']);
});

test('a degraded prediction says what it came from; any other says nothing', async () => {
  const followed = follow();
  followed.tail.want(true);
  await placed(followed);
  for (const more of [['rung', 'last_known'], []]) {
    await redis.xadd('predictions', '*', 'key', 'k', 'model', 'm@1', 'status', 'degraded', ...more);
  }
  await until('seen', () => followed.seen.length === 2);
  expect(followed.seen.map(({ rung }) => rung)).toEqual(['last_known', '']);
});

test('an entry appended right after want(true) is seen, in an empty stream too', async () => {
  for (const empty of [true, false]) {
    const followed = follow();
    await sleep(30);
    if (!empty) await predict(3);
    followed.tail.want(true);
    // On the control connection, behind the question for the last id.
    await control.append('predictions', ['key', 'first']);
    await until('seen', () => followed.seen.some(({ key }) => key === 'first'));
    expect(followed.seen).toHaveLength(1);
    followed.tail.close();
  }
});

test('wanted before there is a connection', async () => {
  const followed = follow();
  followed.tail.want(true);
  const ids: string[] = [];
  await until('seen', async () => {
    ids.push(...(await predict(1)));
    await sleep(5);
    return followed.seen.length > 3;
  });
  await until('all', () => followed.sids().at(-1) === ids.at(-1));
  expect(followed.sids()).toEqual(ids.slice(-followed.seen.length));
});

test('each entry once and in order, across connections that break', async () => {
  const relay = await Relay.to(server.port);
  cleanups.push(() => relay.close());
  const followed = follow({ endpoint: endpointOf(server, relay.port) });
  followed.tail.want(true);
  await placed(followed);
  const ids: string[] = [];
  for (let round = 0; round < 12; round += 1) {
    ids.push(...(await predict(200, 500)));
    if (round % 2 === 0) relay.cut();
    else await sleep(20);
  }
  await until(`all, have ${followed.seen.length}`, () => followed.seen.length >= ids.length);
  expect(followed.sids()).toEqual(ids);
});

test('off and on again: what came in between is not seen, what comes later is, once', async () => {
  const followed = follow();
  followed.tail.want(true);
  await placed(followed);
  for (let round = 0; round < 5; round += 1) {
    followed.tail.want(false);
    await predict(20);
    followed.tail.want(true);
    await placed(followed);
    const later = await predict(20);
    await until('seen', () => followed.seen.length >= 20);
    await sleep(20);
    expect(followed.sids()).toEqual(later);
    followed.seen.length = 0;
  }
  followed.tail.want(false);
  await predict(20);
  await sleep(100);
  expect(followed.seen).toEqual([]);
});

test('on and off in quick turns ends in the last state', async () => {
  const followed = follow();
  for (let i = 0; i < 51; i += 1) {
    followed.tail.want(i % 2 === 0);
    if (i % 7 === 0) await sleep(1);
    if (i % 5 === 0) await predict(1);
  }
  await placed(followed);
  const ids = await predict(50);
  await until('seen', () => followed.seen.length >= 50);
  expect(followed.sids()).toEqual(ids);
});

test('foreign entries are handed on as far as they go, and stop nothing', async () => {
  const followed = follow();
  followed.tail.want(true);
  await placed(followed);
  await redis.xadd('predictions', '*', 'somebody', 'else');
  await redis.xadd('predictions', '*', 'key', 'k', 'wait_us', 'soon', 'infer_us', '');
  await redis.xadd('predictions', '*', 'key', 'large', 'outputs', Buffer.alloc(50_000));
  const [last] = await predict(1);
  await until('seen', () => followed.sids().includes(last as string));
  expect(followed.seen).toHaveLength(3);
  expect(followed.seen[0]).toMatchObject({ key: '', model: '', status: '', waitUs: 0, inferUs: 0 });
  // Not a number would not survive its way to a subscriber.
  expect(followed.seen[1]).toMatchObject({ key: 'k', waitUs: 0, inferUs: 0 });
});

test('only what somebody is interested in is read', async () => {
  const followed = follow({ interested: (key, model) => key === 'k7' && model === 'm@1' });
  followed.tail.want(true);
  await sleep(100);
  await predict(20);
  await until('seen', () => followed.seen.length > 0);
  expect(followed.seen.map(({ key }) => key)).toEqual(['k7']);
});

test('a key of another type, and a stream that is deleted, are waited out', async () => {
  await redis.set('predictions', 'in the way');
  const notices = collectNotices();
  cleanups.push(notices.stop);
  const followed = follow();
  followed.tail.want(true);
  await sleep(150);
  await redis.del('predictions');
  await placed(followed);
  await redis.del('predictions');
  const ids = await predict(5);
  await until('seen', () => followed.seen.length >= 5);
  expect(followed.sids()).toEqual(ids);
});
