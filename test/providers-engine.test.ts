// An engine whose models run on providers that are not there, or stop working while events flow. The
// providers are played by the CPU (support/stand-in-provider.ts).
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, expect, test } from 'vitest';
import { collectNotices, until } from './support/core.ts';
import { entriesOf, FIXTURE_MODELS, modelsDir, startTestEngine, type TestEngine } from './support/engine.ts';
import { STAND_IN, standInRuns } from './support/stand-in-provider.ts';

const notices = collectNotices();
const from = join(FIXTURE_MODELS, 'same_float32');
let models = '';
let running: TestEngine | null = null;

afterEach(async () => {
  await running?.stop();
  running = null;
  rmSync(models, { recursive: true, force: true });
  notices.all.length = 0;
});
afterAll(() => notices.stop());

async function start(manifests: Record<string, string>): Promise<TestEngine> {
  models = modelsDir(
    Object.fromEntries(Object.entries(manifests).map(([name, manifest]) => [name, { from, manifest }])),
  );
  running = await startTestEngine(models, { workers: { min: 2, max: 2 } }, { opener: STAND_IN });
  return running;
}

const say = (model: string, file: string, text: string) =>
  writeFileSync(join(models, model, '1', file), text);

async function get(engine: TestEngine, path: string): Promise<{ status: number; body: unknown }> {
  const response = await fetch(engine.engine.url + path);
  return { status: response.status, body: await response.json() };
}

/** Lines of the metrics page that begin with `name`, without it. */
async function metric(engine: TestEngine, name: string): Promise<string[]> {
  const text = await (await fetch(`${engine.engine.url}/metrics`)).text();
  return text.split('\n').flatMap((line) => (line.startsWith(`${name}{`) ? [line.slice(name.length)] : []));
}

/**
 * Adds events, waits for as many outcomes, and returns statuses and dead letters. Only their number is asked
 * for while it waits: to read them all each time would take the engine's thread, which is this one.
 */
async function settle({ client }: TestEngine, count: number, model: string): Promise<Map<string, string[]>> {
  const settled = async () => (await client.xlen('predictions')) + (await client.xlen('deadletters'));
  const before = await settled();
  const all = client.multi();
  for (let i = 0; i < count; i++)
    all.xadd('events', '*', 'key', 'u', 'model', model, 'data', `{"x":[${i % 600},0,0]}`);
  const ids = ((await all.exec()) ?? []).map(([, id]) => id as string);
  await until('all are settled', async () => (await settled()) >= before + count, 30_000);
  const outcomes = new Map(ids.map((id) => [id, [] as string[]]));
  for (const { source, status } of await entriesOf(client, 'predictions')) {
    outcomes.get(String(source))?.push(String(status));
  }
  for (const { source, detail } of await entriesOf(client, 'deadletters')) {
    outcomes.get(String(source))?.push(String(detail));
  }
  return outcomes;
}

test('a provider that stops working under load: each event is predicted once, on the next one', async () => {
  const engine = await start({ m: 'batch: { max: 64, run_ms: 20 }\nproviders: [cuda, cpu]' });
  const batchRows = async () => Number((await metric(engine, 'subito_model_batch_rows'))[0]!.split(' ')[1]);
  // Next to nothing a row; a busy machine may still make it look like more.
  expect(await batchRows()).toBeGreaterThanOrEqual(32);
  expect(await metric(engine, 'subito_model_info')).toEqual(['{model="m",version="1",provider="cuda"} 1']);
  const ask = () => get(engine, '/v2/health/ready');
  await expect.poll(ask, { timeout: 10_000 }).toEqual({ status: 200, body: { ready: true } });
  const first = await settle(engine, 300, 'm');
  const settling = settle(engine, 3000, 'm');
  say('m', 'slow', '{ "cpu": 1 }');
  say('m', 'fault', 'cuda');
  for (const outcomes of [first, await settling, await settle(engine, 500, 'm')]) {
    for (const [id, outcome] of outcomes) expect(outcome, id).toEqual(['ok']);
  }
  expect(standInRuns(join(models, 'm', '1')).filter(({ provider }) => provider === 'cpu')).not.toEqual([]);
  await until('both workers have moved', async () => {
    const sessions = await metric(engine, 'subito_provider_sessions');
    return sessions.join() === '{model="m",provider="cpu"} 2';
  });
  expect(await metric(engine, 'subito_provider_fallbacks_total')).toEqual(['{model="m",provider="cuda"} 2']);
  expect(await metric(engine, 'subito_model_info')).toEqual(['{model="m",version="1",provider="cpu"} 1']);
  const rows = (await metric(engine, 'subito_model_run_seconds')).filter((line) => line.includes('"0.99"'));
  expect(rows[0]).toMatch(/^\{model="m",provider="cpu",rows="1",quantile="0.99"\} \d/);
  // Where a row takes a millisecond, there are fewer of them in a batch from now on.
  expect(await batchRows()).toBeLessThanOrEqual(16);
  const before = standInRuns(join(models, 'm', '1')).length;
  await settle(engine, 200, 'm');
  const ran = standInRuns(join(models, 'm', '1')).slice(before);
  expect(Math.max(...ran.map((run) => run.rows))).toBeLessThanOrEqual(await batchRows());
  // It serves, so it is ready; and it does not hide what is wrong.
  expect(await ask()).toEqual({
    status: 200,
    body: {
      ready: true,
      reasons: [expect.stringMatching(/^m@1 runs on cpu in 2 workers, not on cuda: cuda failure 700/)],
    },
  });
  expect(await get(engine, '/v2/models/m')).toMatchObject({ body: { parameters: { provider: 'cpu' } } });
  expect(notices.all.filter(({ code }) => code === 'PROVIDER_FALLBACK')).toHaveLength(1);
  expect(notices.all.filter(({ code }) => code === 'WORKER_DIED')).toEqual([]);
}, 60_000);

test('a provider that is required and not there: the model is not served, the others are', async () => {
  models = '';
  const engine = await start({ free: '', needs: 'providers: [tensorrt]' });
  await engine.stop();
  running = null;
  say('needs', 'absent', 'tensorrt');
  running = await startTestEngine(models, { workers: { max: 1 } }, { opener: STAND_IN });
  const why = /none of its providers can run it \(tensorrt: tensorrt: no such device is detected\); add cpu/;
  expect(running.engine.problems).toMatchObject([{ model: 'needs@1', message: expect.stringMatching(why) }]);
  expect(await get(running, '/v2/models/needs/ready')).toEqual({
    status: 503,
    body: { name: 'needs', ready: false, reasons: [expect.stringMatching(why)] },
  });
  const ready = { status: 503, body: { ready: false, reasons: [expect.stringMatching(why)] } };
  // Once it is connected to Redis, too.
  const ask = () => get(running as TestEngine, '/v2/health/ready');
  await expect.poll(ask, { timeout: 10_000 }).toEqual(ready);
  expect((await get(running, '/v2/models/needs')).status).toBe(404);
  for (const [id, outcome] of await settle(running, 20, 'free')) expect(outcome, id).toEqual(['ok']);
}, 60_000);

test('a provider that is required and lost: events wait, readiness says why, none is blamed', async () => {
  const engine = await start({ m: 'providers: [cuda]' });
  await settle(engine, 10, 'm');
  say('m', 'fault', 'cuda');
  const settling = settle(engine, 200, 'm');
  await until('readiness says why', async () => {
    const { status, body } = await get(engine, '/v2/health/ready');
    return (
      status === 503 && /no worker can be started: .*cuda.*illegal memory access/.test(JSON.stringify(body))
    );
  });
  say('m', 'fault', '');
  for (const [id, outcome] of await settling) expect(outcome, id).toEqual(['ok']);
  await until('it is ready again', async () => (await get(engine, '/v2/health/ready')).status === 200);
}, 60_000);

test('where batches are limited by what they take, batches are no larger', async () => {
  const engine = await start({ m: 'batch: { max: 64, run_ms: 6 }\nproviders: [cuda]' });
  await engine.stop();
  running = null;
  say('m', 'slow', '{ "cuda": 1 }');
  rmSync(join(models, 'm', '1', 'runs.ndjson'));
  running = await startTestEngine(models, { workers: { max: 1 } }, { opener: STAND_IN });
  const [line] = await metric(running, 'subito_model_batch_rows');
  const rows = Number(line!.split(' ')[1]);
  // A millisecond a row, at least.
  expect(rows).toBeGreaterThanOrEqual(1);
  expect(rows).toBeLessThanOrEqual(4);
  const before = standInRuns(join(models, 'm', '1')).length;
  await settle(running, 100, 'm');
  const ran = standInRuns(join(models, 'm', '1')).slice(before);
  expect(Math.max(...ran.map((run) => run.rows))).toBeLessThanOrEqual(rows);
  // Whoever asks over HTTP may still ask for as many rows as the manifest says.
  expect(await get(running, '/v2/models/m')).toMatchObject({ body: { parameters: { rows_max: 64 } } });
}, 60_000);
