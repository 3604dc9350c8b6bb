// The whole path on real parts: Redis, worker threads, sockets.
import { pack } from 'msgpackr';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { startEngine } from '../src/engine.ts';
import { Relay, until } from './support/core.ts';
import {
  entriesOf,
  FIXTURE_MODELS,
  MLP,
  modelsDir,
  predictionOf,
  startTestEngine,
  type TestEngine,
  threeWays,
} from './support/engine.ts';
import { startRedis } from './support/redis.ts';

describe('models that are only an ONNX file', () => {
  let running: TestEngine;
  beforeAll(async () => {
    running = await startTestEngine(FIXTURE_MODELS);
  });
  afterAll(() => running.stop());

  test.each([
    ['same_float32', { x: [1.5, -2, 0.1] }, { y: [1.5, -2, Math.fround(0.1)] }],
    ['same_float16', { x: [1.5, -2, 0.1] }, { y: [1.5, -2, 0.0999755859375] }],
    ['same_int64', { x: [1, -2, 3] }, { y: [1, -2, 3] }],
    ['same_bool', { x: [true, false, true] }, { y: [true, false, true] }],
    ['same_string', { x: ['a', 'ü', ''] }, { y: ['a', 'ü', ''] }],
    ['mixed', { x: [1, 2], n: 3, flag: true }, { score: 133 }],
    ['fixed_one', { x: [[1, 2, 3, 4]] }, { y: [[2, 4, 6, 8]] }],
    ['no_batch', { x: [1, 2, 3, 4] }, { y: [2, 4, 6, 8] }],
  ])('%s answers alike over Redis, WebSocket and HTTP', async (model, data, expected) => {
    const { stream, ws, http } = await threeWays(running, model, data);
    expect(rounded(stream)).toEqual(rounded(expected));
    expect(rounded(ws)).toEqual(rounded(stream));
    expect(rounded(http)).toEqual(rounded(stream));
  });

  test('one that cannot be served is reported and does not stop the others', () => {
    expect(running.engine.problems.map(({ model }) => model)).toEqual(['free_dim@1']);
    expect(running.engine.problems[0]?.message).toContain('model.yaml');
  });

  test('raw features give the same as named data', async () => {
    const { client } = running;
    const features = Buffer.from(new Float32Array([1.5, -2, 0.25]).buffer);
    const id = await client.xadd('events', '*', 'key', 'u', 'model', 'same_float32@1', 'features', features);
    const { fields, outputs } = await predictionOf(client, id as string);
    expect(outputs).toEqual({ y: [1.5, -2, 0.25] });
    expect(String(fields['model'])).toBe('same_float32@1');
    expect(String(fields['status'])).toBe('ok');
    expect(Number(fields['wait_us'])).toBeGreaterThanOrEqual(0);
    expect(Number(fields['infer_us'])).toBeGreaterThan(0);
  });
});

describe('while Redis refuses to be read', () => {
  let running: TestEngine;
  beforeAll(async () => {
    running = await startTestEngine(modelsDir({ mlp: { from: MLP } }));
  });
  afterAll(() => running.stop());

  /** The status of the readiness check, with its reasons. */
  async function ready(): Promise<string> {
    const response = await fetch(`${running.engine.url}/v2/health/ready`);
    const { reasons } = (await response.json()) as { reasons?: string[] };
    return [response.status, ...(reasons ?? [])].join(' ');
  }

  const cases: readonly (readonly [string, string, string[][], string[][]])[] = [
    [
      'a key of another type',
      'WRONGTYPE',
      [
        ['DEL', 'events'],
        ['SET', 'events', 'x'],
      ],
      [['DEL', 'events']],
    ],
    [
      'a user who may not',
      'NOPERM',
      [['ACL', 'SETUSER', 'default', '-xreadgroup']],
      [['ACL', 'SETUSER', 'default', '+xreadgroup']],
    ],
    ['a replica', 'READONLY', [['REPLICAOF', '127.0.0.1', '1']], [['REPLICAOF', 'NO', 'ONE']]],
  ];
  test.each(cases)('%s: readiness says so until it is put right', async (_, code, wrong, right) => {
    const say = async (commands: string[][]) => {
      for (const [name = '', ...args] of commands) await running.client.call(name, args);
    };
    const settings = { timeout: 10_000 };
    await expect.poll(ready, settings).toBe('200');
    await say(wrong);
    // A reader of a replica connects again and again; whether it is connected just now is another reason.
    await expect.poll(ready, settings).toMatch(new RegExp(`^503 .*Redis refuses to be read: ${code}`));
    expect(running.engine.backend.stats()).toMatchObject({ state: 'reconnecting' });
    await say(right);
    await expect.poll(ready, settings).toBe('200');
    const features = Buffer.alloc(256);
    const id = await running.client.xadd('events', '*', 'key', 'u', 'features', features);
    await predictionOf(running.client, id as string);
  });
});

describe('malformed events', () => {
  let running: TestEngine;
  const manifest = `
name: strict
inputs:
  - name: x
    fields: [danceability, energy, { name: tempo, default: 120 }]
    finite: true
`;
  beforeAll(async () => {
    const models = modelsDir({
      strict: { from: `${FIXTURE_MODELS}same_float32`, manifest },
      mlp: { from: MLP },
    });
    running = await startTestEngine(models, { streams: [{ name: 'events', model: 'strict' }] });
  });
  afterAll(() => running.stop());

  test('each is dead-lettered with reason and detail while its neighbours are answered', async () => {
    const { client } = running;
    const good = pack({ danceability: 0.5, energy: 0.25 });
    const nan = Buffer.from(new Float32Array([1, Number.NaN, 1]).buffer);
    const bad: [string[] | (string | Buffer)[], RegExp][] = [
      [['features', 'abc'], /^features: 3 bytes; a row of strict has 12/],
      [['features', nan], /^energy: must be finite, got NaN/],
      [['data', Buffer.from([0xc1, 0x00])], /data/],
      [['data', Buffer.from([0x81, 0xa1])], /data/],
      [['data', '{"danceability":'], /data/],
      [['model', 'nobody', 'data', good], /^model: "nobody" is not served here/],
      [['data', pack({ danceability: 1, energy: 1, temqo: 3 })], /temqo/],
      [['data', pack({ danceability: 1 })], /energy/],
      [['data', pack({ danceability: 'loud', energy: 1 })], /danceability/],
      [['datum', good], /^datum: unknown field of an entry/],
      [['key', 'x'.repeat(129), 'data', good], /^key: 129 bytes/],
      [['deadline_ms', '-5', 'data', good], /^deadline_ms/],
      [['key', 'nothing'], /^data: missing/],
      [['data', Buffer.alloc(10_000_000, 7)], /^the entry is larger than|^data: 10000000 bytes/],
    ];
    // One transaction: Redis hands all of it out together, so good and bad share a batch.
    const all = client.multi();
    for (const [fields] of bad) {
      all.xadd('events', '*', 'event', 'good', 'data', good);
      all.xadd('events', '*', ...fields);
    }
    const ids = ((await all.exec()) ?? []).map(([, id]) => id as string);
    for (const [i, [, detail]] of bad.entries()) {
      const source = ids[2 * i + 1] as string;
      await expect
        .poll(async () => (await deadletter(running, source))?.['detail'], { timeout: 5000 })
        .toBeDefined();
      const letter = await deadletter(running, source);
      expect(String(letter?.['detail'])).toMatch(detail);
      expect(String(letter?.['reason'])).toBe('invalid');
      expect(String(letter?.['deliveries'])).toBe('1');
      const { outputs } = await predictionOf(client, ids[2 * i] as string);
      expect(outputs).toEqual({ y: [0.5, 0.25, 120] });
    }
    const letters = await entriesOf(client, 'deadletters');
    expect(letters.length).toBe(bad.length);
    // The payload is kept, whatever its size.
    expect(letters.some((letter) => letter['data']?.length === 10_000_000)).toBe(true);
    expect(await client.xpending('events', 'subito')).toEqual([0, null, null, null]);
  });
});

async function deadletter(running: TestEngine, source: string) {
  return (await entriesOf(running.client, 'deadletters')).find(
    (letter) => String(letter['source']) === source,
  );
}

/** JSON carries the shortest digits of a float32, MessagePack its exact value. */
function rounded(value: unknown): unknown {
  if (typeof value === 'number') return Number(value.toPrecision(6));
  if (Array.isArray(value)) return value.map(rounded);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, rounded(inner)]));
}

test('Redis that goes away in the middle of the start is an error that may be tried again', async () => {
  const redis = await startRedis();
  const relay = await Relay.to(redis.port);
  const overrides = {
    redis: { url: `redis://127.0.0.1:${relay.port}` },
    models: { path: MLP },
    gateway: { port: 0 },
  };
  const starting = startEngine(loadConfig({ env: {}, overrides }));
  // It has said hello by then, and asks for groups and a name next.
  await until('connected', () => relay.repliedBytes > 1000);
  relay.close();
  await expect(starting).rejects.toMatchObject({ code: 'REDIS_UNREACHABLE', retryable: true });
  await redis.stop();
});
