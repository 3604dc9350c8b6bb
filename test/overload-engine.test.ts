// Events that are too late, too many or not wanted any more, through a real engine, with real workers and
// Redis. A worker stands still while the test holds its gate, so nothing here depends on how fast anything
// is.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { auditStream } from '../src/ledger/audit.ts';
import { connectControl } from '../src/redis/control.ts';
import { endpointOf, until } from './support/core.ts';
import { entriesOf, FIXTURE_MODELS, modelsDir, startTestEngine, type TestEngine } from './support/engine.ts';
import { type Player, player } from './support/gateway.ts';
import { counts, offences } from './support/ledger.ts';

/** Writes down which events it is given, and goes on when the gate is open. */
const GATED = `
import { appendFileSync, readFileSync } from 'node:fs';
const cell = new Int32Array(new SharedArrayBuffer(4));
export const handler = {
  fields: [], predicts: [],
  create: ({ dir }) => ({
    decode(data, row) {
      appendFileSync(dir + '/../seen', data.x + ' ');
      while (readFileSync(dir + '/../gate', 'utf8') === 'shut') Atomics.wait(cell, 0, 0, 2);
      row.x[0] = data.x;
    },
    encode: (outputs) => ({ y: outputs.y[0] }),
  }),
};`;

const from = join(FIXTURE_MODELS, 'no_batch');
const manifests: Record<string, string> = {
  free: 'batch: { max: 1 }',
  quick: 'batch: { max: 1 }\ndeadline_ms: 2000',
  patient: 'batch: { max: 1 }\ndeadline_ms: 3600000',
  newest: 'batch: { max: 1 }\nlatest_only: true',
};
const models = modelsDir(
  Object.fromEntries(Object.entries(manifests).map(([name, manifest]) => [name, { from, manifest }])),
);
for (const name of Object.keys(manifests)) writeFileSync(join(models, name, 'handler.ts'), GATED);
const gate = (how: 'open' | 'shut') => writeFileSync(join(models, 'gate'), how);
gate('open');

const STREAMS = [
  { name: 'events', model: 'free' },
  { name: 'none', predictions: 'p-none', deadletters: 'd-none' },
  { name: 'short', predictions: 'p-short', deadletters: 'd-short', deadline_ms: 2000 },
  { name: 'long', predictions: 'p-long', deadletters: 'd-long', deadline_ms: 3_600_000 },
];
/** Nothing was heard of a model for so long: the engine does not know what it takes, and tries. */
const STALE_MS = 300;

let running: TestEngine;
let players: Player[] = [];

beforeAll(async () => {
  running = await startTestEngine(models, { streams: STREAMS, workers: { min: 1, max: 1 } });
}, 60_000);
afterAll(async () => {
  gate('open');
  await running.stop();
  rmSync(models, { recursive: true });
});
beforeEach(() => {
  gate('open');
  for (const { socket } of players) socket.terminate();
  players = [];
});

const seen = () => readFileSync(join(models, 'seen'), 'utf8').trim().split(' ').map(Number);
interface Stats {
  readonly inflightRows: number;
  readonly connections: number;
  readonly totals: { readonly cancelled: number };
}
const stats = () => running.engine.backend.stats() as Stats;

async function open(): Promise<Player> {
  const one = await player(running.engine.url.replace('http', 'ws').concat('/ws'));
  players.push(one);
  return one;
}

async function add(stream: string, fields: Record<string, string | number>, id = '*'): Promise<string> {
  const values = Object.entries(fields).flatMap(([name, value]) => [name, String(value)]);
  return (await running.client.xadd(stream, id, ...values)) as string;
}

const data = (x: number) => JSON.stringify({ x });

/** What became of an event, in the predictions stream. */
async function outcome(source: string, stream = 'predictions'): Promise<Record<string, string>> {
  let found: Record<string, string> | undefined;
  await until(`an outcome of ${source}`, async () => {
    const all = await entriesOf(running.client, stream);
    const fields = all.find((one) => String(one['source']) === source);
    if (fields === undefined) return false;
    found = Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, String(value)]));
    return true;
  });
  return found!;
}

/** The only worker stands still with an event of this model until the gate is opened. */
async function hold(x: number, model = 'free'): Promise<string> {
  await until('all is settled', () => stats().inflightRows === 0);
  await sleep(STALE_MS);
  gate('shut');
  const id = await add('events', { key: 'hold', model, data: data(x) });
  await until('a worker has it', () => seen().includes(x));
  return id;
}

test('an event whose deadline passed before it was read is expired, and no worker sees it', async () => {
  const late = `${Date.now() - 10_000}-1`;
  await add('events', { key: 'k', event: 'mine', data: data(101), deadline_ms: 5000 }, late);
  const next = await add('events', { key: 'k', data: data(102) });
  expect(await outcome(next)).toMatchObject({ status: 'ok' });
  const told = await outcome(late);
  expect(told).toMatchObject({ status: 'expired', key: 'k', event: 'mine', model: 'free@1' });
  expect(Number(told['wait_us'])).toBeGreaterThanOrEqual(10_000_000);
  expect(told).not.toHaveProperty('outputs');
  expect(seen()).toContain(102);
  expect(seen()).not.toContain(101);
});

test("the deadline is the event's own, else the stream's, else the model's", async () => {
  // Each is as old as that: what has a short deadline has passed it.
  const atMs = Date.now() - 10_000;
  const [short, long] = [1000, 3_600_000];
  const cases: [stream: string, model: string, own: number, status: string][] = [
    ['none', 'free', 0, 'ok'],
    ['none', 'quick', 0, 'expired'],
    ['none', 'quick', long, 'ok'],
    ['none', 'patient', short, 'expired'],
    ['short', 'free', 0, 'expired'],
    ['short', 'patient', 0, 'expired'],
    ['short', 'free', long, 'ok'],
    ['long', 'quick', 0, 'ok'],
    ['long', 'quick', short, 'expired'],
  ];
  const found: typeof cases = [];
  for (const [i, [stream, model, own]] of cases.entries()) {
    const fields = { key: 'k', model, data: data(200 + i), ...(own > 0 ? { deadline_ms: own } : {}) };
    const id = await add(stream, fields, `${atMs}-${i + 1}`);
    found.push([stream, model, own, (await outcome(id, `p-${stream}`))['status'] as string]);
  }
  expect(found).toEqual(cases);
  const ran = cases.flatMap(([, , , status], i) => (status === 'ok' ? [200 + i] : []));
  expect(seen().filter((x) => x >= 200 && x < 300)).toEqual(ran);
});

test('where only the newest of a key counts, one that still waits is superseded', async () => {
  const held = await hold(301, 'newest');
  const older = await add('events', { key: 'k', model: 'newest', data: data(302) });
  const other = await add('events', { key: 'other', model: 'newest', data: data(303) });
  const newer = await add('events', { key: 'k', model: 'newest', data: data(304) });
  await until('all have been read', () => stats().inflightRows === 4);
  gate('open');
  const statuses = [];
  for (const id of [held, older, other, newer]) statuses.push((await outcome(id))['status']);
  expect(statuses).toEqual(['ok', 'superseded', 'ok', 'ok']);
  expect(seen()).not.toContain(302);
});

test('over a socket: too late is 114, superseded 117, and over HTTP 504 and 409', async () => {
  const socket = await open();
  await hold(401, 'newest');
  socket.send({ t: 'event', id: 2, key: 'late', model: 'free', d: { x: 402 }, deadline: 100 });
  const late = post('free', { data: { x: 403 }, deadline_ms: 100 });
  socket.send({ t: 'event', id: 3, key: 'k', model: 'newest', d: { x: 404 } });
  await until('the first is taken', () => stats().inflightRows === 4);
  const superseded = post('newest', { key: 'k', data: { x: 405 } });
  await until('the second is taken', () => stats().inflightRows === 5);
  socket.send({ t: 'event', id: 4, key: 'k', model: 'newest', d: { x: 406 } });
  await until('the third is taken', () => stats().inflightRows === 6);
  await sleep(150);
  gate('open');
  expect(await socket.answer(2)).toMatchObject({ t: 'error', code: 114, msg: 'deadline_exceeded' });
  expect(await socket.answer(3)).toMatchObject({ t: 'error', code: 117, msg: 'superseded' });
  expect(await socket.answer(4)).toMatchObject({ t: 'pred', st: 'ok' });
  expect([(await late).status, (await superseded).status]).toEqual([504, 409]);
  for (const x of [402, 403, 404, 405]) expect(seen()).not.toContain(x);
});

test('no room is 113 over a socket and 429 over HTTP, with the time to wait', async () => {
  const socket = await open();
  await hold(501);
  // As many as there are rows.
  let id = 10;
  const before = stats().inflightRows;
  let refused: Record<string, unknown> | undefined;
  for (; refused === undefined && id < 100; id += 1) {
    socket.send({ t: 'event', id, key: 'k', model: 'free', d: { x: 502 } });
    await until(
      'it is taken or refused',
      () => stats().inflightRows > before + id - 10 || socket.frames.length > 0,
    );
    refused = socket.frames.find(({ t }) => t === 'error');
  }
  expect(refused).toMatchObject({ code: 113, msg: 'overloaded', retry: true });
  expect(refused?.['after']).toBeGreaterThanOrEqual(50);
  const answer = await post('free', { data: { x: 503 } });
  expect(answer.status).toBe(429);
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  gate('open');
  await until('those that were taken are answered', () => stats().inflightRows === 0);
  expect(seen()).not.toContain(503);
});

test('of who goes away while waiting the event is not run', async () => {
  const socket = await open();
  await hold(601);
  const cancelled = () => stats().totals.cancelled;
  const before = cancelled();
  socket.send({ t: 'event', id: 2, key: 'k', model: 'free', d: { x: 602 } });
  const url = `${running.engine.url}/v2/models/free/infer`;
  const asking = request(url, { method: 'POST', headers: { 'content-type': 'application/json' } });
  asking.on('error', () => {});
  asking.end(JSON.stringify({ data: { x: 603 } }));
  const patient = post('free', { data: { x: 604 } });
  await until('they wait', () => stats().inflightRows === 4);
  socket.socket.terminate();
  asking.destroy();
  await until('the socket is gone', () => stats().connections === 0);
  // The other's end is told to the engine on the same loop: some turns of it later.
  for (let i = 0; i < 5; i += 1) await fetch(`${running.engine.url}/v2/health/live`);
  gate('open');
  expect((await patient).status).toBe(200);
  await until('they are counted', () => cancelled() === before + 2);
  expect(seen()).toContain(604);
  for (const x of [602, 603]) expect(seen()).not.toContain(x);
});

test('the ledger is clean, and knows every outcome', async () => {
  await until('all is settled', () => stats().inflightRows === 0);
  const control = await connectControl({ endpoint: endpointOf(running.redis), commandMsMax: 10_000 });
  try {
    const streams = {
      stream: 'events',
      group: 'subito',
      predictions: 'predictions',
      deadletters: 'deadletters',
    };
    const report = await auditStream(control, streams);
    expect(offences(report)).toEqual({});
    expect(report.clean).toBe(true);
    expect(counts(report)).toMatchObject({ expired: 1, superseded: 1 });
    expect(counts(report)).not.toHaveProperty('other');
  } finally {
    control.close();
  }
});

function post(model: string, body: object): Promise<Response> {
  return fetch(`${running.engine.url}/v2/models/${model}/infer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
}
