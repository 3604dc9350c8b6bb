// Models that fail, hang and heal under a real engine, with real workers and a real Redis: the ladder answers
// for them, marked, and nobody else notices.
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { unpack } from 'msgpackr';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { connect } from '../src/client/client.ts';
import { collectNotices, until } from './support/core.ts';
import { entriesOf, FIXTURE_MODELS, modelsDir, startTestEngine, type TestEngine } from './support/engine.ts';
import { STAND_IN } from './support/stand-in-provider.ts';

const LADDER_MS_MAX = 1000;
const HEAL_MS_MAX = 5000;
const INFER_MS_MAX = 400;

/** While the file beside it says so, its events never come back from decoding. */
const HANGING = `
import { readFileSync } from 'node:fs';
export const handler = {
  fields: [], predicts: [],
  create: ({ dir }) => ({
    decode(data, row) {
      if (readFileSync(dir + '/hangs', 'utf8') === 'yes') for (;;);
      row.x[0] = data.x;
    },
    encode: (outputs) => ({ y: outputs.y[0] }),
  }),
};`;

/** y = x; version 1 says one too much. */
const from = join(FIXTURE_MODELS, 'same_float32');
const constant = '{ constant: { y: [9, 9, 9] } }';
const models = modelsDir({
  before: { from, manifest: 'degrade: [previous]' },
  known: { from, manifest: `degrade: [last_known, ${constant}]` },
  fixed: { from, manifest: `degrade: [${constant}]` },
  nothing: { from, manifest: 'breaker: {}' },
  other: { from, manifest: '' },
  misfit: { from, manifest: 'degrade: [{ constant: { z: 1 } }]' },
  hangs: { from: join(FIXTURE_MODELS, 'no_batch'), manifest: 'degrade: [{ constant: { y: -1 } }]' },
});
cpSync(join(from, '1'), join(models, 'before', '2'), { recursive: true });
writeFileSync(join(models, 'before', '1', 'wrong'), 'cpu');
// Which holds for version 2 alone.
const golden = { cases: [{ inputs: { x: [1, 2, 3] }, outputs: { y: [1, 2, 3] } }] };
writeFileSync(join(models, 'before', 'golden.json'), JSON.stringify(golden));
writeFileSync(join(models, 'hangs', 'handler.ts'), HANGING);
const hangs = (how: 'yes' | 'no') => writeFileSync(join(models, 'hangs', 'hangs'), how);
hangs('no');

const LABELS = ['before', 'known', 'fixed', 'nothing'] as const;
const version = (model: string) => (model === 'before' ? '2' : '1');
const fault = (providers: string) => {
  for (const model of LABELS) writeFileSync(join(models, model, version(model), 'fault'), providers);
};

const notices = collectNotices();
let running: TestEngine;

beforeAll(async () => {
  const limits = { infer_ms_max: INFER_MS_MAX, claim_idle_ms: 15_000 };
  running = await startTestEngine(models, { workers: { min: 2, max: 2 }, limits }, { opener: STAND_IN });
}, 60_000);
afterEach(() => {
  notices.all.length = 0;
});
afterAll(async () => {
  await running.stop();
  notices.stop();
  rmSync(models, { recursive: true });
});

interface Seen {
  readonly sentMs: number;
  readonly tookMs: number;
  readonly status: string;
  readonly rung: string;
  readonly outputs: unknown;
  readonly retryMs: number;
}

function ask(model: string, x: number, key = 'u'): Promise<Seen> {
  const sentMs = performance.now();
  const data = Buffer.from(JSON.stringify({ x: model === 'hangs' ? x : [x, 0, 0] }));
  return new Promise((resolve) => {
    const event = { model, key, event: '', data, json: false, deadlineMs: 60_000 };
    running.engine.backend.infer(event, ({ status, rung = '', outputs, retryMs }) => {
      const tookMs = performance.now() - sentMs;
      const value = outputs.length === 0 ? null : unpack(outputs.slice());
      resolve({ sentMs, tookMs, status, rung, outputs: value, retryMs });
    });
  });
}

/** Asks each of these models every few milliseconds until `signal`; resolves with all answers, by model. */
async function traffic(names: readonly string[], signal: AbortSignal): Promise<Map<string, Seen[]>> {
  const asked = new Map<string, Promise<Seen>[]>(names.map((name) => [name, []]));
  while (!signal.aborted) {
    for (const [name, answers] of asked) answers.push(ask(name, 5));
    await sleep(5);
  }
  const seen = new Map<string, Seen[]>();
  for (const [name, answers] of asked) seen.set(name, await Promise.all(answers));
  return seen;
}

const health = () => running.engine.backend.health();
const marks = (answers: readonly Seen[]) => [
  ...new Set(answers.map(({ status, rung, outputs }) => `${status} ${rung} ${JSON.stringify(outputs)}`)),
];

test('a model whose ladder does not fit never takes traffic, and says why', async () => {
  expect(running.engine.problems).toEqual([
    {
      model: 'misfit@1',
      message: expect.stringMatching(
        /misfit\/model\.yaml: degrade: constant\.z: the model has no such output/,
      ),
    },
  ]);
  expect(await ask('misfit', 1)).toMatchObject({ status: 'unknown_model' });
  expect(running.engine.backend.models().map(({ name, version: v }) => `${name}@${v}`)).toEqual([
    'before@2',
    'fixed@1',
    'hangs@1',
    'known@1',
    'nothing@1',
    'other@1',
  ]);
});

test('events that fail the model run beside good ones open no breaker', async () => {
  for (let i = 0; i < 30; i += 1) {
    const bad = ask('known', 666, 'bad');
    expect(await Promise.all([ask('known', 1), bad, ask('known', 2)])).toMatchObject([
      { status: 'ok' },
      { status: 'failed' },
      { status: 'ok' },
    ]);
  }
  await ask('known', 666, 'bad');
  expect(await ask('known', 1)).toMatchObject({ status: 'ok' });
  expect(health().reasons).toEqual([]);
});

test('models that fail: within a second the ladder answers, once healed they do', async () => {
  const end = new AbortController();
  const flowing = traffic([...LABELS, 'other'], end.signal);
  await sleep(300);
  fault('cpu');
  const faultMs = performance.now();
  await sleep(LADDER_MS_MAX + 1500);
  const { ready, reasons } = health();
  expect(ready).toBe(true);
  expect(reasons).toHaveLength(4);
  expect(reasons[0]).toMatch(/^before@2 on cpu: circuit breaker .*; its events are answered by before@1$/);
  fault('');
  const healedMs = performance.now();
  await sleep(HEAL_MS_MAX + 500);
  end.abort();
  const seen = await flowing;
  const during = (model: string) =>
    marks(
      (seen.get(model) ?? []).filter(
        ({ sentMs, tookMs }) => sentMs > faultMs + LADDER_MS_MAX && sentMs + tookMs < healedMs,
      ),
    );
  expect(during('before')).toEqual(['degraded previous {"y":[6,1,1]}']);
  expect(during('known')).toEqual(['degraded last_known {"y":[5,0,0]}']);
  expect(during('fixed')).toEqual(['degraded constant {"y":[9,9,9]}']);
  // Nothing to answer instead: as soon as it is known, and with the time to come back.
  const refused = (seen.get('nothing') ?? []).filter(({ status }) => status === 'unavailable');
  expect(refused.length).toBeGreaterThan(10);
  expect(Math.min(...refused.map(({ retryMs }) => retryMs))).toBeGreaterThan(0);
  expect(marks(seen.get('other') ?? [])).toEqual(['ok  {"y":[5,0,0]}']);
  for (const model of LABELS) {
    const after = (seen.get(model) ?? []).filter(({ sentMs }) => sentMs > healedMs + HEAL_MS_MAX);
    expect(after.length).toBeGreaterThan(10);
    expect(marks(after), model).toEqual(['ok  {"y":[5,0,0]}']);
  }
  expect(health().reasons).toEqual([]);
  // Each change of state once, not each batch.
  const told = notices.all.filter(({ code, message }) => code === 'BREAKER' && message.startsWith('fixed'));
  expect(told[0]?.message).toMatch(/^fixed@1 on cpu: circuit breaker open: 5 batches in a row failed/);
  expect(told.at(-1)?.message).toBe('fixed@1 on cpu: circuit breaker closed');
  expect(told.length).toBeLessThan(30);
}, 30_000);

/** Asks until its breaker is open. */
const fail = (model: string) =>
  until(`${model} is open`, async () => {
    await ask(model, 5);
    return health().reasons.some((reason) => reason.startsWith(model));
  });
const heal = () =>
  until('all are well', async () => {
    for (const model of LABELS) await ask(model, 5);
    return health().reasons.length === 0;
  });

test('over HTTP and WebSocket an answer says that it is degraded, and by what', async () => {
  fault('cpu');
  await fail('fixed');
  const post = async (body: object) => {
    const response = await fetch(`${running.engine.url}/v2/models/fixed/infer`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    return (await response.json()) as object;
  };
  const y = [9, 9, 9];
  expect(await post({ data: { x: [1, 2, 3] } })).toMatchObject({
    status: 'degraded',
    rung: 'constant',
    outputs: { y },
  });
  const inputs = [{ name: 'x', datatype: 'FP32', shape: [1, 3], data: [1, 2, 3] }];
  expect(await post({ inputs })).toMatchObject({
    parameters: { status: 'degraded', rung: 'constant' },
    outputs: [{ name: 'y', data: y }],
  });
  const client = connect(running.engine.url.replace('http', 'ws'));
  const answer = await client.infer({ model: 'fixed', data: { x: [1, 2, 3] } });
  expect(answer).toMatchObject({ status: 'degraded', rung: 'constant', outputs: { y } });
  client.close();
  fault('');
  await heal();
}, 30_000);

test('events of a stream are all settled, each once, whatever becomes of their models', async () => {
  const { client } = running;
  const settled = async () => (await client.xlen('predictions')) + (await client.xlen('deadletters'));
  const all = client.multi();
  const names = [...LABELS, 'other'];
  fault('cpu');
  for (const model of LABELS) await fail(model);
  for (let i = 0; i < 2000; i += 1) {
    const model = names[i % names.length] as string;
    all.xadd('events', '*', 'key', `u${i}`, 'model', model, 'data', '{"x":[5,0,0]}');
  }
  const ids = ((await all.exec()) ?? []).map(([, id]) => String(id));
  await until('all are settled', async () => (await settled()) >= ids.length, 20_000);
  fault('');
  await heal();
  const sources = [
    ...(await entriesOf(client, 'predictions')),
    ...(await entriesOf(client, 'deadletters')),
  ].flatMap(({ source }) => (String(source) === '' ? [] : [String(source)]));
  expect(sources.toSorted()).toEqual(ids.toSorted());
  expect((await client.xpending('events', 'subito'))[0]).toBe(0);
  // Only what could not be answered at all is among the dead letters.
  const dead = await entriesOf(client, 'deadletters');
  expect(dead.map(({ model }) => String(model))).toEqual(dead.map(() => 'nothing'));
  const reasons = dead.map(({ detail }) => String(detail));
  expect(reasons.filter((reason) => reason.startsWith('nothing@1 cannot be asked'))).not.toEqual([]);
}, 60_000);

test('a model that hangs: its workers are replaced, then the ladder answers; then it is back', async () => {
  expect(await ask('hangs', 3)).toMatchObject({ status: 'ok', outputs: { y: 6 } });
  hangs('yes');
  const answers: Promise<Seen>[] = [];
  await until(
    'its breaker is open',
    async () => {
      if (answers.length < 50) answers.push(ask('hangs', 3));
      await sleep(20);
      return health().reasons.some((reason) => reason.startsWith('hangs@1 on cpu: circuit breaker'));
    },
    30_000,
  );
  for (const { status } of await Promise.all(answers)) expect(['failed', 'degraded']).toContain(status);
  // One batch at a time is let through on trial; all others have their answers.
  for (let i = 0; i < 20; i += 1) {
    expect(await ask('hangs', 3)).toMatchObject({ status: 'degraded', rung: 'constant', outputs: { y: -1 } });
    expect(await ask('other', 5)).toMatchObject({ status: 'ok' });
  }
  hangs('no');
  await until(
    'it is back',
    async () => (await ask('hangs', 3)).status === 'ok' && health().reasons.length === 0,
    HEAL_MS_MAX + 10 * INFER_MS_MAX,
  );
}, 60_000);
